#!/usr/bin/env python
"""Templates and blueprints, from the table in templates/: `python tests/comfy/write_workflows.py`.

Each template becomes workflows/<name>.json (what the frontend opens) and workflows/api/<name>.json (the same for the HTTP API);
one with a blueprint also subgraphs/<the blueprint's name>.json, its core as one node. Node types, sockets and widgets are asked
of the running ComfyUI's definitions, so the files fit the nodes as they are; write them with the oldest ComfyUI that the pack
runs on.
"""

import json
import sys
import uuid
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path += [str(HERE), str(HERE.parent), str(HERE.parents[1])]  # last: `nodes` is ComfyUI's module first

from rig import host
from rig.blueprint import blueprint
from rig.layout import Box, Note, frontend_graph
from templates import TEMPLATES, Template

WORKFLOWS, SUBGRAPHS = host.PACK / "workflows", host.PACK / "subgraphs"
ENDS = {  # not in a blueprint
    "LoadImage", "LoadVideo", "SaveImage", "SaveVideo", "CreateVideo", "GetVideoComponents", "DeepExPoSampleFace",
    "DeepExPoSaveIdentity", "DeepExPoSaveSemantics",
}  # fmt: skip


def main() -> None:
    if reason := host.start():
        sys.exit(reason)
    from rig.pack import node_definitions

    definitions = node_definitions()
    for name, build in TEMPLATES.items():
        template = build()
        ids = {key: str(number) for number, key in enumerate(template.boxes, start=1)}
        api = {ids[key]: box.api(ids, definitions) for key, box in template.boxes.items()}
        drawn = draw(name, template, ids, api, definitions)
        write(WORKFLOWS / f"{name}.json", drawn)
        write(WORKFLOWS / "api" / f"{name}.json", api)
        if template.blueprint:
            write(SUBGRAPHS / f"{template.blueprint.name}.json", core(template, ids, drawn))


def draw(name: str, template: Template, ids: dict[str, str], api: dict, definitions: dict[str, type]) -> dict:
    columns = [(width, [ids[key] for key in boxes]) for width, boxes in template.columns]
    boxes = {ids[key]: box for key, box in template.boxes.items()}
    note = Note(template.note, template.note_below, template.note_height)
    drawn = frontend_graph(api, boxes, columns, note, definitions)
    drawn["id"] = str(uuid.uuid5(uuid.NAMESPACE_URL, f"deepexpo/{name}"))
    if template.app_inputs:  # the frontend's App mode, from 1.41 on
        inputs = [[int(ids[key]), widget] for key, widget in template.app_inputs]
        drawn["extra"] |= {
            "linearMode": True, "linearData": {"inputs": inputs, "outputs": [int(ids[key]) for key in template.app_outputs]},
        }  # fmt: skip
    return {**drawn, "models": template.models} if template.models else drawn


def core(template: Template, ids: dict[str, str], drawn: dict) -> dict:
    made = template.blueprint
    return blueprint(
        drawn,
        titles={int(ids[key]): box.title for key, box in template.boxes.items()},
        inside={int(ids[key]) for key in inside(template)},
        given={(int(ids[key]), output): label for label, (key, output) in made.inputs.items()},
        named={label: (int(ids[key]), output) for label, (key, output) in made.outputs.items()},
        widgets=[(int(ids[key]), widget) for key, widget in made.widgets],
        head={"name": made.name, "description": made.description},
    )


def inside(template: Template) -> set[str]:
    """Boxes that the blueprint's outputs and the boxes at the template's ends need, as far back as the blueprint's inputs."""
    made, boxes = template.blueprint, template.boxes
    ends = {key for key, box in boxes.items() if box.type in ENDS} - set(made.inside)
    stop = ends | {key for key, _ in made.inputs.values()}
    found, left = set(), [key for key, _ in made.outputs.values()] + [key for end in ends for key in origins(boxes[end])]
    while left:
        key = left.pop()
        if key not in found | stop:
            found.add(key)
            left += origins(boxes[key])
    return found


def origins(box: Box) -> list[str]:
    return [value[0] for value in box.inputs.values() if isinstance(value, tuple)]


def write(path: Path, content: dict) -> None:
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()

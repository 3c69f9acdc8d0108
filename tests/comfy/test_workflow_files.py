"""The templates as files: what the frontend opens is, node by node, what the tests run from api/."""

import json
import re
from pathlib import Path

import pytest
from PIL import Image

from rig.graphs import WORKFLOWS, read_workflow
from rig.layout import WIDGETS
from rig.pack import node_definitions
from templates import TEMPLATES

NAMES = sorted(path.stem for path in WORKFLOWS.glob("*.json"))
NOTES = {"Note", "MarkdownNote"}  # the frontend's own: not sent to the server
FOLDERS = {
    "CheckpointLoaderSimple": "models/checkpoints",
    "LoraLoader": "models/loras",
    "ControlNetLoader": "models/controlnet",
    "DeepExPoFindLandmarks": "models/detection",
}  # loader -> where its files go
TITLE = 30  # height of a node's title, which lies above its pos


@pytest.fixture(scope="module")
def definitions() -> dict[str, type]:
    return node_definitions()


def ui(name: str) -> dict:
    return json.loads((WORKFLOWS / f"{name}.json").read_text(encoding="utf-8"))


def real_nodes(workflow: dict) -> list[dict]:
    return [node for node in workflow["nodes"] if node["type"] not in NOTES]


def declared(definition: type) -> dict[str, tuple]:
    """Input name -> (type, options), in the order of the widgets."""
    parts = definition.INPUT_TYPES()
    inputs = parts.get("required", {}) | parts.get("optional", {})
    return {name: (spec[0], spec[1] if len(spec) > 1 else {}) for name, spec in inputs.items()}


def widget_values(node: dict, definition: type) -> dict:
    """Input name -> value; raises unless every value in the file belongs to a widget and every widget has one."""
    values, found = iter(node["widgets_values"]), {}
    for name, (kind, options) in declared(definition).items():
        if not (isinstance(kind, list) or kind in WIDGETS) or options.get("forceInput"):
            continue
        found[name] = next(values)
        if options.get("control_after_generate"):
            assert next(values) == "fixed"
        if options.get("image_upload") or options.get("video_upload"):
            assert next(values) == "image"
    assert not list(values), f"{node['type']} {node['id']} has more values than widgets"
    return found


def links(workflow: dict) -> dict[tuple[int, int], list]:
    """(node id, input slot) -> [origin id, origin slot], as the API format has it."""
    return {(target, slot): [str(origin), output] for _, origin, output, target, slot, _ in workflow["links"]}


def to_api(workflow: dict, definitions: dict[str, type]) -> dict:
    connected = links(workflow)
    graph = {}
    for node in real_nodes(workflow):
        inputs = widget_values(node, definitions[node["type"]])
        for slot, socket in enumerate(node["inputs"]):
            if (node["id"], slot) in connected:
                inputs[socket["name"]] = connected[node["id"], slot]
        graph[str(node["id"])] = {"class_type": node["type"], "inputs": inputs}
    return graph


def test_every_workflow_has_a_thumbnail_and_an_api_twin():
    assert NAMES == list(TEMPLATES)
    assert NAMES == sorted(path.stem for path in WORKFLOWS.glob("*.jpg"))
    assert NAMES == sorted(path.stem for path in (WORKFLOWS / "api").glob("*.json"))


@pytest.mark.parametrize("name", NAMES)
def test_thumbnail(name):
    path = WORKFLOWS / f"{name}.jpg"
    with Image.open(path) as picture:
        assert picture.format == "JPEG"
        assert 600 <= picture.width <= 1000
    assert path.stat().st_size < 120_000


@pytest.mark.parametrize("name", NAMES)
def test_only_core_nodes_and_ours(name, definitions):
    assert {node["type"] for node in real_nodes(ui(name))} <= set(definitions)


@pytest.mark.parametrize("name", NAMES)
def test_file_describes_its_api_twin(name, definitions):
    kinds = [kind for node in real_nodes(ui(name)) for kind, _ in declared(definitions[node["type"]]).values()]
    if any(str(kind).startswith("COMFY_DYNAMICCOMBO") for kind in kinds):
        pytest.skip("Save Video has other inputs than on 0.3.64, for which it is drawn; the frontend converts it")
    twin = read_workflow(name)
    for node in twin.values():
        del node["_meta"]  # titles
        known = declared(definitions[node["class_type"]])
        node["inputs"] = {name: value for name, value in node["inputs"].items() if name in known}  # later ComfyUIs know more
    assert to_api(ui(name), definitions) == twin


@pytest.mark.parametrize("name", NAMES)
def test_links_agree_with_the_sockets_at_both_ends(name, definitions):
    workflow = ui(name)
    nodes = {node["id"]: node for node in workflow["nodes"]}
    for link, origin, output, target, slot, kind in workflow["links"]:
        source, sink = nodes[origin]["outputs"][output], nodes[target]["inputs"][slot]
        assert link in source["links"] and sink["link"] == link
        assert kind == source["type"] == definitions[nodes[origin]["type"]].RETURN_TYPES[output]
        assert kind == sink["type"] == declared(definitions[nodes[target]["type"]])[sink["name"]][0]
    at_inputs = [socket["link"] for node in nodes.values() for socket in node["inputs"] if socket["link"] is not None]
    at_outputs = [link for node in nodes.values() for socket in node["outputs"] for link in socket["links"] or []]
    assert sorted(at_inputs) == sorted(at_outputs) == sorted(link[0] for link in workflow["links"])


@pytest.mark.parametrize("name", NAMES)
def test_sockets_stand_as_the_frontend_puts_them(name, definitions):
    """Required ones first. Another order in the file is mended when it is opened, by frontends that do that."""
    for node in real_nodes(ui(name)):
        sockets = [socket["name"] for socket in node["inputs"] if "widget" not in socket]
        assert sockets == [given for given in declared(definitions[node["type"]]) if given in sockets], node["type"]


@pytest.mark.parametrize("name", NAMES)
def test_one_note_names_the_files(name):
    workflow = ui(name)
    (note,) = (node for node in workflow["nodes"] if node["type"] in NOTES)
    (text,) = note["widgets_values"]
    loaded = [node for node in workflow["nodes"] if node["type"] in {"DeepExPoLoadDSID", "DeepExPoLoadMEAF"}]
    files = [Path(value) for node in loaded for value in node["widgets_values"][:1]]
    names = [path.stem for path in files if not (WORKFLOWS.parent / "weights" / path.name).exists()]
    folders = [FOLDERS[node["type"]] for node in workflow["nodes"] if node["type"] in FOLDERS]
    ours = [] if any("/" in str(path) for path in files) or not names else ["models/deepexpo"]
    wanted = [*names, *folders, *ours]
    assert files and not [word for word in wanted or ["comes with the pack"] if word not in text]


@pytest.mark.parametrize("name", NAMES)
def test_nodes_do_not_overlap(name):
    nodes = ui(name)["nodes"]
    assert not [(a["id"], b["id"]) for i, a in enumerate(nodes) for b in nodes[:i] if overlap(box(a), box(b))]


def box(node: dict) -> tuple[float, float, float, float]:
    (x, y), (width, height) = node["pos"], node["size"]
    return x, y - TITLE, x + width, y + height


def overlap(a: tuple, b: tuple) -> bool:
    return a[0] < b[2] and b[0] < a[2] and a[1] < b[3] and b[1] < a[3]


@pytest.mark.parametrize("name", NAMES)
def test_nothing_of_the_machine_it_was_made_on(name):
    text = (WORKFLOWS / f"{name}.json").read_text(encoding="utf-8")
    assert not re.findall(r"https?://(?!huggingface\.co/)|localhost|127\.0\.0\.1|[A-Z]:\\|\"/|/(?:root|home|tmp|Users)/", text)


@pytest.mark.parametrize("name", [name for name in NAMES if ui(name)["extra"].get("linearMode")])
def test_app_mode_shows_widgets_and_outputs_that_are_there(name, definitions):
    workflow = ui(name)
    nodes = {node["id"]: node for node in workflow["nodes"]}
    shown = workflow["extra"]["linearData"]
    assert shown["inputs"] and shown["outputs"]
    for node, widget in shown["inputs"]:
        assert widget in widget_values(nodes[node], definitions[nodes[node]["type"]])
    assert {nodes[node]["type"] for node in shown["outputs"]} == {"SaveImage"}


def test_the_photo_template_is_an_app_too():
    assert [name for name in NAMES if ui(name)["extra"].get("linearMode")] == ["16_photo_sd15_app"]

"""Workflows in API format: read, changed (always a copy), and the files that they need."""

from __future__ import annotations

import copy
import io
import json
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

import random_weights

from .adapters import ADAPTERS, red_face, write_adapter, write_in_place
from .checkpoints import write_checkpoint, write_controlnet
from .host import PACK
from .photos import astronaut, group_photo

if TYPE_CHECKING:
    from .server import Server

WORKFLOWS = PACK / "workflows"
GRAPHS = Path(__file__).parents[1] / "graphs"
FAMILY_OF = {"v1-5-pruned-emaonly-fp16.safetensors": "sd15", "sd_xl_base_1.0.safetensors": "sdxl"}


def read_workflow(name: str) -> dict:
    return json.loads((WORKFLOWS / "api" / f"{name}.json").read_text())


def read_graph(name: str) -> dict:
    """A graph of the tests' own, on files that nobody can download yet."""
    return json.loads((GRAPHS / f"{name}.json").read_text())


def with_inputs(graph: dict, class_type: str, **inputs) -> dict:
    """The graph with these inputs on every node of a type."""
    graph = copy.deepcopy(graph)
    for node in graph.values():
        if node["class_type"] == class_type:
            node["inputs"].update(inputs)
    return graph


def small(graph: dict, size: int, steps: int) -> dict:
    """The graph at a size for a CPU."""
    return with_inputs(with_inputs(graph, "EmptyLatentImage", width=size, height=size), "KSampler", steps=steps)


def values(graph: dict, class_type: str, name: str) -> list[str]:
    """The different values of one input over the nodes of a type, in the graph's order."""
    found = [node["inputs"][name] for node in graph.values() if node["class_type"] == class_type]
    return list(dict.fromkeys(found))


def write_models(base: Path, graphs: list[dict]) -> None:
    """Random checkpoints, DSID, MEAF and imported adapters under the names that the graphs ask for, in ComfyUI's folders."""
    names = {name for graph in graphs for name in values(graph, "CheckpointLoaderSimple", "ckpt_name")}
    encoder = random_weights.write_dsid(base / "models" / "deepexpo", "base")
    for name in sorted(names):
        write_checkpoint(base / "models" / "checkpoints" / name, FAMILY_OF[name])
        random_weights.write_meaf(base / "models" / "deepexpo", FAMILY_OF[name], "base", encoder)
    for name in {name for graph in graphs for name in values(graph, "ControlNetLoader", "control_net_name")}:
        write_controlnet(base / "models" / "controlnet" / name)
    in_place = {name for graph in graphs for name in values(graph, "DeepExPoLoadMEAF", "meaf_name") if "/" in name}
    for name in in_place:
        write_in_place(base / "models", name.split("/")[1])
    imported = {name for graph in graphs for name in values(graph, "DeepExPoLoadMEAF", "meaf_name")} & ADAPTERS.keys()
    for name in sorted(imported):
        write_adapter(base / "models", name)


def recognisers(graph: dict) -> list[str]:
    """The model packs of insightface that the graph needs."""
    return [name for name in values(graph, "DeepExPoEncodeIdentity", "recogniser") if name != "dsid"]


def upload_photos(server: Server, graph: dict) -> None:
    """Two pictures in turn, for every one that the graph loads: real photographs, one with a large face where landmarks are
    looked for, or what the synthetic packs of insightface see (the astronaut's orange too)."""
    if values(graph, "DeepExPoFindLandmarks", "faces"):
        photos = (astronaut(), np.ascontiguousarray(astronaut()[:, ::-1]))
    else:
        photos = (red_face(1), red_face(2)) if recognisers(graph) else (astronaut(), group_photo())
    for number, name in enumerate(values(graph, "LoadImage", "image")):
        server.upload_image(png(photos[number % 2]), name)


def png(photo: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(photo).save(buffer, "PNG")
    return buffer.getvalue()


def decode(picture: bytes) -> np.ndarray:
    """(H, W, 3) uint8."""
    return np.asarray(Image.open(io.BytesIO(picture)).convert("RGB"))

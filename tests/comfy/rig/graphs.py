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

from .adapters import IN_PLACE, red_face, write_in_place
from .checkpoints import write_checkpoint, write_controlnet
from .host import PACK
from .photos import astronaut, group_photo

if TYPE_CHECKING:
    from .server import Server

WORKFLOWS = PACK / "workflows"
GRAPHS = Path(__file__).parents[1] / "graphs"
FAMILY_OF = {"v1-5-pruned-emaonly-fp16.safetensors": "sd15", "sd_xl_base_1.0.safetensors": "sdxl"}
CONTROLNETS = {  # name -> arguments of write_controlnet
    "control_v2p_sd15_mediapipe_face.safetensors": {"family": "sd15"},
    "instantid-controlnet.safetensors": {"family": "sdxl"},
    "controlnet-union-sdxl-promax.safetensors": {"family": "sdxl", "union": True},
}


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
    """The different values of one input over the nodes of a type, in the graph's order; links are none."""
    found = [node["inputs"][name] for node in graph.values() if node["class_type"] == class_type]
    return list(dict.fromkeys(value for value in found if not isinstance(value, list)))


def has(graph: dict, *class_types: str) -> bool:
    return any(node["class_type"] in class_types for node in graph.values())


def write_models(base: Path, graphs: list[dict]) -> None:
    """Random checkpoints, DSID, MEAF, ControlNets and adapters under the names in the graphs, in ComfyUI's folders."""
    names = {name for graph in graphs for name in values(graph, "CheckpointLoaderSimple", "ckpt_name")}
    encoder = random_weights.write_dsid(base / "models" / "deepexpo", "base")
    for name in sorted(names):
        write_checkpoint(base / "models" / "checkpoints" / name, FAMILY_OF[name])
    for family in FAMILY_OF.values():  # for every one, so that a wrong one can be chosen
        random_weights.write_meaf(base / "models" / "deepexpo", family, "base", encoder)
    for name in {name for graph in graphs for name in values(graph, "ControlNetLoader", "control_net_name")}:
        write_controlnet(base / "models" / "controlnet" / name, **CONTROLNETS[name])
    for name in {name for graph in graphs for name in values(graph, "DeepExPoLoadMEAF", "meaf_name")} & IN_PLACE.keys():
        write_in_place(base / "models", name)


def recognisers(graph: dict) -> list[str]:
    """The model packs of insightface that the graph needs."""
    return [name for name in values(graph, "DeepExPoEncodeIdentity", "recogniser") if name != "dsid"]


def upload_photos(server: Server, graph: dict) -> None:
    """Two pictures in turn, for every one that the graph loads: real photographs, one with a large face where landmarks are
    looked for, or what the synthetic packs of insightface see (the astronaut's orange too); and a clip of the first."""
    if has(graph, "DeepExPoFindLandmarks", "MadeUpLandmarks"):
        photos = (astronaut(), np.ascontiguousarray(astronaut()[:, ::-1]))
    else:
        photos = (red_face(1), red_face(2)) if recognisers(graph) else (astronaut(), group_photo())
    for number, name in enumerate(values(graph, "LoadImage", "image")):
        server.upload_image(png(photos[number % 2]), name)
    for name in values(graph, "LoadVideo", "file"):
        write_clip(server.base / "input" / name, photos[0])


def write_clip(path: Path, picture: np.ndarray, frames: int = 4) -> None:
    """A film of one picture that moves sideways."""
    import av

    with av.open(str(path), "w") as file:
        stream = file.add_stream("libx264", rate=8)
        stream.height, stream.width, stream.pix_fmt = *picture.shape[:2], "yuv420p"
        for number in range(frames):
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(np.roll(picture, 4 * number, axis=1)), format="rgb24")
            file.mux(stream.encode(frame))
        file.mux(stream.encode())


def read_clip(data: bytes) -> list[np.ndarray]:
    """Its frames, (H, W, 3) uint8."""
    import av

    with av.open(io.BytesIO(data)) as file:
        return [frame.to_ndarray(format="rgb24") for frame in file.decode(video=0)]


def png(photo: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(photo).save(buffer, "PNG")
    return buffer.getvalue()


def decode(picture: bytes) -> np.ndarray:
    """(H, W, 3) uint8."""
    return np.asarray(Image.open(io.BytesIO(picture)).convert("RGB"))

"""The pack's own socket types and what every node shares."""

import dataclasses
from collections.abc import Sequence
from typing import Any

from comfy_api.latest import io, ui

from .words import ESSENTIAL, aliases

CATEGORY = "DeepExPo"

DSID = io.Custom("DEEPEXPO_DSID")
MEAF = io.Custom("DEEPEXPO_MEAF")
Identity = io.Custom("DEEPEXPO_IDENTITY")
Semantics = io.Custom("DEEPEXPO_SEMANTICS")
Sheet = io.Custom("DEEPEXPO_SHEET")
Landmarks = io.Custom("FACE_LANDMARKS")  # as ComfyUI's core names it since 0.23
BoundingBox = io.Custom("BOUNDING_BOX")
PoseKeypoint = io.Custom("POSE_KEYPOINT")
SavedName = io.Custom("STRING,COMBO")  # a text that also links to a list of names

DSID_TOOLTIP = "The face encoders, from Load DSID. Use the same one for everything in a workflow."

NEWER = {"search_aliases", "essentials_category", "has_intermediate_output"}  # ComfyUI 0.3.64 knows none, 0.33 all of them
KNOWN = {field.name for field in dataclasses.fields(io.Schema)}


def schema(node_id: str, **fields) -> io.Schema:
    """A node's schema in the pack's category, with what it is searched by, less the fields that the running ComfyUI lacks."""
    found = {"search_aliases": aliases(node_id), "essentials_category": ESSENTIAL.get(node_id)}
    fields = {"node_id": node_id, "category": CATEGORY, **found, **fields}
    return io.Schema(**{name: value for name, value in fields.items() if name in KNOWN or name not in NEWER})


def folded(socket: io.Input) -> io.Input:
    """The input behind "show advanced inputs", where the frontend has that; ComfyUI 0.3.64 passes what it does not know."""
    socket.extra_dict = {**(socket.extra_dict or {}), "advanced": True}
    return socket


def shown(picture: Any, cls: type[io.ComfyNode], text: Sequence[str] | None = None) -> dict:
    """For NodeOutput's ui: a picture (B, H, W, 3) in [0, 1] on the node, where there is one, and lines of text."""
    drawn = {} if picture is None else ui.PreviewImage(picture, cls=cls).as_dict()
    return drawn if text is None else {**drawn, "text": list(text)}


def numbered(name: str, numbers: tuple[int, ...], inputs: dict) -> list:
    """What is connected to the inputs name_2, name_3, ..., in order."""
    return [value for number in numbers if (value := inputs.get(f"{name}_{number}")) is not None]

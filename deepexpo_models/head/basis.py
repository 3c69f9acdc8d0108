"""The canonical face and what ARKit's 52 expression units do to it."""

from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import torch
from torch import Tensor

from ..weights import PACK_WEIGHTS, check_shapes, load_tensors, save_tensors
from .landmarks import FIVE, IBUG68, OVAL, POINTS

PACK_FILE = PACK_WEIGHTS / "head.safetensors"
ARKIT52 = (
    *("browDownLeft", "browDownRight", "browInnerUp", "browOuterUpLeft", "browOuterUpRight"),
    *("cheekPuff", "cheekSquintLeft", "cheekSquintRight", "eyeBlinkLeft", "eyeBlinkRight"),
    *("eyeLookDownLeft", "eyeLookDownRight", "eyeLookInLeft", "eyeLookInRight"),
    *("eyeLookOutLeft", "eyeLookOutRight", "eyeLookUpLeft", "eyeLookUpRight"),
    *("eyeSquintLeft", "eyeSquintRight", "eyeWideLeft", "eyeWideRight"),
    *("jawForward", "jawLeft", "jawOpen", "jawRight", "mouthClose", "mouthDimpleLeft", "mouthDimpleRight"),
    *("mouthFrownLeft", "mouthFrownRight", "mouthFunnel", "mouthLeft", "mouthLowerDownLeft", "mouthLowerDownRight"),
    *("mouthPressLeft", "mouthPressRight", "mouthPucker", "mouthRight", "mouthRollLower", "mouthRollUpper"),
    *("mouthShrugLower", "mouthShrugUpper", "mouthSmileLeft", "mouthSmileRight", "mouthStretchLeft", "mouthStretchRight"),
    *("mouthUpperUpLeft", "mouthUpperUpRight", "noseSneerLeft", "noseSneerRight", "tongueOut"),
)  # the order of MediaPipe's scores, which lack the last
FACES = 898  # triangles of MediaPipe's mesh


@dataclass(frozen=True, eq=False)
class HeadBasis:
    """The canonical frame: x to the person's left, y up, z to the viewer, in cm; MediaPipe's canonical face model."""

    points: Tensor  # (478, 3) the resting face
    offsets: Tensor  # (52, 478, 3) what each unit of ARKIT52 adds at 1
    triangles: Tensor  # (898, 3) indices of points, counter-clockwise seen from outside; some span the eyes and the mouth
    rigid_weights: Tensor  # (478,) of the fit to a head's pose: MediaPipe's 33 points, the less the more expressions move them


SHAPES = {
    "points": (POINTS, 3),
    "offsets": (len(ARKIT52), POINTS, 3),
    "triangles": (FACES, 3),
    "rigid_weights": (POINTS,),
    "ibug68": (len(IBUG68),),
    "five": (len(FIVE),),
    "oval": (len(OVAL),),
}


@lru_cache(maxsize=1)
def load_basis(path: Path = PACK_FILE) -> HeadBasis:
    """The basis that comes with the pack. Its tensors are shared: do not write into them. Raises ValueError as
    `weights.load_tensors`."""
    header, tensors = load_tensors(path, "head")
    check_shapes(header.path.name, header.shapes, SHAPES)
    return HeadBasis(
        points=tensors["points"].float(),
        offsets=tensors["offsets"].float(),
        triangles=tensors["triangles"].long(),
        rigid_weights=tensors["rigid_weights"].float(),
    )


def save_basis(path: Path, basis: HeadBasis) -> None:
    """One file below 0.3 MB, with the subsets of `landmarks` for readers that are not Python."""
    tensors = {
        "points": basis.points.float(),
        "offsets": basis.offsets.half(),
        "triangles": basis.triangles.short(),
        "rigid_weights": basis.rigid_weights.float(),
        **{name: torch.tensor(ids, dtype=torch.int16) for name, ids in (("ibug68", IBUG68), ("five", FIVE), ("oval", OVAL))},
    }
    save_tensors(path, "head", tensors, name="head", config={"units": list(ARKIT52), "frame": "MediaPipe canonical, cm"})

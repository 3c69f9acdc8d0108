"""What files beside a clip say of its frames: points, pose, expression, captions."""

import itertools
import json
import math
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from ...errors import first_line
from ...head import ARKIT52

# A label: five points x, y in pixels of the frame; yaw, pitch, roll in degrees; ARKit's numbers in [0, 1], in ARKIT52's order.
# NaN where unknown.
PARTS = (10, 3, len(ARKIT52))
UNKNOWN = (math.nan,) * sum(PARTS)


def points_in_square(points: Tensor, height: int, width: int) -> Tensor:
    """points (..., 2) in pixels of a frame -> in crop coordinates of its `square_frame`, -1 to 1 from border to border."""
    side = min(height, width)
    corner = torch.tensor([(width - side) // 2, (height - side) // 2], dtype=points.dtype)
    return (points - corner) / side * 2 - 1


def read_labels(path: Path, skipped: list) -> tuple[dict[int, tuple[float, ...]], float | None, tuple[float, ...]]:
    """A JSON file -> what `Clip.labels` holds, and the fps and `Clip.times` where it tells them. A broken file counts as none
    and is told."""
    if not path.is_file():
        return {}, None, ()
    try:
        held = json.loads(path.read_text(encoding="utf-8"))
        labels = {int(index): _label(entry) for index, entry in held.get("frames", {}).items()}
        fps = held.get("fps")
        if fps is not None and not 0 < float(fps) < math.inf:
            raise ValueError(f"fps is {fps}")
        times = tuple(float(time) for time in held.get("times", ()))
        if any(not before < after < math.inf for before, after in itertools.pairwise(times)):
            raise ValueError("times do not rise")
        return labels, fps and float(fps), times
    except (OSError, ValueError, TypeError, AttributeError, RecursionError) as error:
        skipped.append((path, f"labels not used ({first_line(error)})"))
        return {}, None, ()


def read_caption(*places: Path) -> str:
    """The sentence in the first of the files that is there, on one line; "" without any."""
    for path in places:
        if path.is_file():
            return " ".join(path.read_text(encoding="utf-8", errors="replace").split())
    return ""


def _label(entry: dict) -> tuple[float, ...]:
    points = np.asarray(entry.get("points") or np.full((5, 2), np.nan), dtype=float)
    pose = np.asarray(entry.get("pose") or np.full(3, np.nan), dtype=float)
    if points.shape != (5, 2) or pose.shape != (3,):
        raise ValueError(f"points must be 5 x 2 numbers and pose 3, got {points.shape} and {pose.shape}")
    units = (float((entry.get("blendshapes") or {}).get(name, math.nan)) for name in ARKIT52)
    return (*points.flatten().tolist(), *pose.tolist(), *units)

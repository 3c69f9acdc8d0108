"""Labels that MediaPipe's face landmarker reads off a crop, in the form of `labels`, and the 478 landmarks beside them."""

from collections.abc import Callable
from pathlib import Path
from typing import cast

import numpy as np
import torch
from torch import Tensor

from ...dsid.mesh import semantics_of, units_of
from ...dsid.rotation import matrix_to_euler, rotation_to_matrix
from ...faces.landmarks import FaceMesh, Track
from ...head import ARKIT52, load_basis
from ...weights import save_whole

Detect = Callable[[Tensor], list[FaceMesh]]
LANDMARKS = "landmarks.safetensors"  # in a folder of frames; beside name.jpg it is name.landmarks.safetensors


def read_label(detect: Detect, crop: Tensor) -> tuple[dict, Tensor | None]:
    """crop (S, S, 3) in [0, 1] -> points in its pixels, pose in degrees and blendshapes of its largest face, and its landmarks
    (478, 3) in pixels; empty and None where the landmarker, as `faces.landmarks.open_landmarker` gives it, finds none."""
    meshes = detect(crop)
    if not meshes:
        return {}, None
    mesh = max(meshes, key=lambda each: each.face.side)
    track = Track(mesh.points[None], (mesh.scores,), (crop.shape[0], crop.shape[1]), "")
    angles = matrix_to_euler(rotation_to_matrix(semantics_of(track, load_basis()).rotation))[0]
    label = {
        "points": np.round(cast(np.ndarray, mesh.face.points), 2).tolist(),
        "pose": [round(angle, 2) for angle in angles.tolist()],
        "blendshapes": {name: round(number, 4) for name, number in zip(ARKIT52, units_of(mesh.scores).tolist())},
    }
    return label, mesh.points


def save_landmarks(path: Path, found: dict[int, Tensor]) -> None:
    """found: frame -> landmarks (478, 3). For programs of others; no training of ours reads the file.

    frames (N,) int32, from 0, those in which a face was found; points (N, 478, 3) float32: x right, y down, z away from the
    viewer, all in pixels of the crop.
    """
    frames, points = torch.tensor(list(found), dtype=torch.int32), torch.stack(list(found.values()))
    save_whole(path, {"frames": frames, "points": points.float()}, {"kind": "landmarks"})

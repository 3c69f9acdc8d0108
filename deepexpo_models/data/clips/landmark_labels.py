"""Labels that MediaPipe's face landmarker reads off a crop, in the form of `labels`, and the 478 landmarks beside them."""

from collections.abc import Callable
from pathlib import Path
from typing import cast

import numpy as np
import torch
from torch import Tensor

from ...dsid.mesh import semantics_of
from ...dsid.rotation import matrix_to_euler, rotation_to_matrix
from ...faces.landmarks import POINTS, FaceMesh, Track
from ...head import ARKIT52, load_basis
from ...safetensors_file import open_safetensors
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
        "blendshapes": {name: round(mesh.scores.get(name, 0.0), 4) for name in ARKIT52},  # MediaPipe tells no tongueOut
    }
    return label, mesh.points


def save_landmarks(path: Path, found: dict[int, Tensor]) -> None:
    """Frame -> landmarks (478, 3) in pixels of the crop."""
    frames, points = torch.tensor(list(found), dtype=torch.int32), torch.stack(list(found.values()))
    save_whole(path, {"frames": frames, "points": points.float()}, {"kind": "landmarks"})


def load_landmarks(path: Path) -> dict[int, Tensor]:
    """What `save_landmarks` wrote. Raises ValueError, in one sentence, for any other or damaged file."""
    with open_safetensors(path) as file:
        shapes = {name: entry.shape for name, entry in file.entries.items()}
        count = shapes.get("frames", (0,))[0]
        if shapes != {"frames": (count,), "points": (count, POINTS, 3)}:
            raise ValueError(f"{Path(path).name} holds no landmarks; write it again with deepexpo_models.data.prepare")
        tensors = file.tensors()
    return dict(zip(tensors["frames"].tolist(), tensors["points"]))

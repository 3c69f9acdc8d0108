"""Made-up FACE_LANDMARKS in core's form: the canonical face with an expression, turned and placed in a picture."""

import numpy as np
import torch

from deepexpo_models.dsid.rotation import euler_to_matrix
from deepexpo_models.head import ARKIT52, load_basis
from deepexpo_models.head.retarget import express, from_canonical

SIZE = (512, 512)


def scores(**values: float) -> torch.Tensor:
    """(1, 52); both sides of a name without Left or Right where there are two."""
    rows = {name: values.get(name, values.get(name.removesuffix("Left").removesuffix("Right"), 0.0)) for name in ARKIT52}
    return torch.tensor([list(rows.values())])


def points(units: torch.Tensor, angles=(0.0, 0.0, 0.0), scale=14.0, place=(256.0, 256.0, 0.0), shape=None) -> torch.Tensor:
    """(478, 3) in pixels."""
    basis = load_basis()
    shape = (basis.points if shape is None else shape) + express(units, basis)[0]
    rotation = euler_to_matrix(torch.tensor([angles], dtype=torch.float32))
    return from_canonical(shape[None], rotation, torch.tensor([scale]), torch.tensor([place]))[0]


def face(units: torch.Tensor | None = None, **placed) -> dict:
    units = scores() if units is None else units
    xyz = points(units, **placed).numpy()
    low, high = xyz[:, :2].min(0), xyz[:, :2].max(0)
    return {
        "bbox_xyxy": np.array([*low, *high], np.float32),
        "blendshapes": {"_neutral": 0.0, **dict(zip(ARKIT52[:-1], units[0].tolist()))},
        "landmarks_xy": xyz[:, :2].copy(),
        "landmarks_3d": (xyz * 0.4 + 3).copy(),  # a frame of its own, as the landmarker's crop has
        "presence": 1.0,
        "score": 1.0,
    }


def landmarks(*frames: list[dict], size=SIZE) -> dict:
    return {"frames": [list(faces) for faces in frames], "image_size": size, "connection_sets": {}}

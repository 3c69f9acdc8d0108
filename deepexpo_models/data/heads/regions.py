"""Where in a picture the face is, and what of it moves: soft masks from the labelled points."""

import torch
from torch import Tensor

EYES, MOUTH = (0.30, 0.26), (0.52, 0.32)  # half axes of the ellipses, in distances between the eyes
FACE_REACH = 1.15  # of the spread of the surface's points
EDGE = 8.0  # steepness of a border


def region_of(five: Tensor, size: int) -> Tensor:
    """five (B, 5, 2) in crop coordinates -> (B, 1, size, size) in [0, 1]: both eyes with their brows, and the mouth."""
    unit = (five[:, 1] - five[:, 0]).norm(dim=1).clamp(min=0.08)
    mouth = five[:, 3:].mean(1)
    lifted = five[:, :2] - torch.stack([torch.zeros_like(unit), 0.1 * unit], -1)[:, None]
    shapes = [(lifted[:, 0], EYES), (lifted[:, 1], EYES), (mouth, MOUTH)]
    planes = [_ellipse(centre, torch.stack([unit * x, unit * y], -1), size) for centre, (x, y) in shapes]
    return torch.stack(planes).amax(0)


def face_of(surface: Tensor, size: int) -> Tensor:
    """surface (B, N, 2) -> (B, 1, size, size) in [0, 1]: the ellipse around the surface's points."""
    low, high = surface.amin(1), surface.amax(1)
    return _ellipse((low + high) / 2, FACE_REACH * (high - low) / 2, size)


def _ellipse(centre: Tensor, half: Tensor, size: int) -> Tensor:
    axis = (torch.arange(size) * 2 + 1) / size - 1
    x = (axis[None, None, :] - centre[:, 0, None, None]) / half[:, 0, None, None]
    y = (axis[None, :, None] - centre[:, 1, None, None]) / half[:, 1, None, None]
    return (EDGE * (1 - torch.hypot(x, y))).sigmoid()[:, None]

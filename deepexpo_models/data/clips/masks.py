"""Soft masks made from the five landmarks of `dsid.alignment`, for pictures of which nothing else is known."""

import torch
from torch import Tensor

from ...dsid.alignment import TEMPLATE, TIGHT, invert_similarity, similarity_from_points, transform_points

SOFT = 0.25  # share of an ellipse's radius over which its border fades
# Middle and radii in aligned coordinates.
EYES = (((-0.34, -0.43), (0.30, 0.33)), ((0.34, -0.43), (0.30, 0.33)))  # with their brows
MOUTH = ((0.0, 0.50), (0.46, 0.30))
FACE = ((0.0, -0.20), (1.10, 1.38))  # fitted to `heads.regions.face_of` of about 1,200 rendered heads: mean IoU 0.66


def region_mask(points: Tensor, size: int) -> Tensor:
    """points (B, 5, 2) in crop coordinates -> (B, 1, size, size) in [0, 1]: eyes, brows and mouth; 1 all over where a point
    is NaN.

    The mouth's ellipse stands at the corners found, the eyes' at the eyes found, each of the size the whole face has.
    """
    known = points.isfinite().all(dim=-1).all(dim=-1)[:, None, None, None]
    found = torch.where(known[..., 0], points, _at_rest(points))
    aligned = transform_points(invert_similarity(similarity_from_points(found)), found)  # (B, 5, 2)
    template = points.new_tensor(TEMPLATE)
    shifts = (aligned[:, 0] - template[0], aligned[:, 1] - template[1], (aligned[:, 3:] - template[3:]).mean(1))
    parts = [_ellipse(found, size, *shape, shift) for shape, shift in zip((*EYES, MOUTH), shifts)]
    return torch.where(known, torch.stack(parts).amax(0), 1.0)


def face_ellipse(points: Tensor, size: int) -> Tensor:
    """points (B, 5, 2) in crop coordinates -> (B, 1, size, size) in [0, 1]: the face; that of a face at rest in the middle
    where a point is NaN.
    """
    known = points.isfinite().all(dim=-1).all(dim=-1)[:, None, None]
    found = torch.where(known, points, _at_rest(points))
    return _ellipse(found, size, *FACE, torch.zeros_like(found[:, 0]))


def _at_rest(points: Tensor) -> Tensor:
    return (points.new_tensor(TEMPLATE) * TIGHT).expand_as(points)


def _ellipse(points: Tensor, size: int, middle, radii, shift: Tensor) -> Tensor:
    """An ellipse of the aligned crop, its middle moved by shift (B, 2), seen in the crop."""
    axis = (torch.arange(size, device=points.device) * 2 + 1) / size - 1
    y, x = torch.meshgrid(axis, axis, indexing="ij")
    pixels = torch.stack([x, y], dim=-1).flatten(0, 1).expand(len(points), -1, -1)
    aligned = transform_points(invert_similarity(similarity_from_points(points)), pixels)
    offset = (aligned - aligned.new_tensor(middle) - shift[:, None]) / aligned.new_tensor(radii)
    distance = offset.norm(dim=-1).unflatten(-1, (size, size))[:, None]
    return (0.5 - (distance - 1) / SOFT).clamp(0, 1)

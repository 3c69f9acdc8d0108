"""Alignment of a face crop by a similarity: what expression is read from has no roll, place or scale.

A similarity is a tensor (B, 2, 3) that takes aligned coordinates to crop coordinates, p_crop = S p_aligned + t with
S = scale * rotation. Both coordinates run from -1 to 1 from border to border, x right and y down. `TEMPLATE` says where
the five points stand in the aligned crop; at rest (no roll, centred, log scale 0) the aligned square is the middle
`TIGHT` of the crop, so scale = TIGHT * exp(log_scale).
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from .rotation import matrix_to_euler, rotation_to_matrix

TIGHT = 0.6
TEMPLATE = (  # a frontal face, from above the brows to the chin; "left" is the picture's left
    (-0.36, -0.36),  # left eye
    (0.36, -0.36),  # right eye
    (0.0, 0.05),  # tip of the nose
    (-0.30, 0.47),  # left corner of the mouth
    (0.30, 0.47),  # right corner of the mouth
)


def similarity_from_pose(rotation: Tensor, translation: Tensor, log_scale: Tensor) -> Tensor:
    """rotation (B, 6), only its roll counts, translation (B, 2), log_scale (B, 1) -> similarity (B, 2, 3), float32."""
    roll = torch.deg2rad(matrix_to_euler(rotation_to_matrix(rotation.float()))[:, 2:])
    scale = TIGHT * log_scale.float().exp()
    return _similarity(scale * roll.cos(), scale * roll.sin(), translation.float())


def similarity_from_points(points: Tensor) -> Tensor:
    """points (B, 5, 2) in crop coordinates, in TEMPLATE's order -> similarity (B, 2, 3) from TEMPLATE to them, float32.

    Least squares in the crop: Umeyama's solution (1991), which in two dimensions is linear and needs no decomposition.
    A row with a NaN gives NaN.
    """
    points = points.float()
    template = points.new_tensor(TEMPLATE)
    middle, centre = template.mean(dim=0), points.mean(dim=1)
    (x, y), (u, v) = (template - middle).unbind(-1), (points - centre[:, None]).unbind(-1)
    energy = (x * x + y * y).sum()
    cosine = ((x * u + y * v).sum(-1, keepdim=True)) / energy  # both times the scale
    sine = ((x * v - y * u).sum(-1, keepdim=True)) / energy
    linear = _similarity(cosine, sine, torch.zeros_like(centre))
    return _similarity(cosine, sine, centre - transform_points(linear, middle.expand(len(points), 1, 2))[:, 0])


def place_of(similarity: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """similarity (B, 2, 3) -> roll (B, 1) in degrees, translation (B, 2), log_scale (B, 1).

    Undoes `similarity_from_pose`; so landmarks give in-plane pose labels.
    """
    cosine, sine = similarity[:, 0, :1], similarity[:, 1, :1]
    log_scale = torch.log(torch.hypot(cosine, sine) / TIGHT)
    return torch.rad2deg(torch.atan2(sine, cosine)), similarity[:, :, 2], log_scale


def invert_similarity(similarity: Tensor) -> Tensor:
    """(B, 2, 3) -> (B, 2, 3): from crop coordinates back to aligned ones."""
    cosine, sine = similarity[:, 0, :1], similarity[:, 1, :1]
    square = cosine**2 + sine**2
    linear = _similarity(cosine / square, -sine / square, torch.zeros_like(similarity[:, :, 2]))
    moved = transform_points(linear, similarity[:, None, :, 2])[:, 0]
    return torch.cat([linear[:, :, :2], -moved[:, :, None]], dim=-1)


def transform_points(similarity: Tensor, points: Tensor) -> Tensor:
    """similarity (B, 2, 3), points (B, N, 2) -> (B, N, 2)."""
    return points @ similarity[:, :, :2].transpose(1, 2) + similarity[:, None, :, 2]


def warp(crop: Tensor, similarity: Tensor, size: int) -> Tensor:
    """crop (B, C, H, W), similarity (B, 2, 3) -> the aligned crop (B, C, size, size), in the crop's dtype.

    Bilinear, without a low-pass filter; what lies outside the crop repeats its border. Computed in float32: in half
    precision a sampling position would be off by up to a pixel.
    """
    grid = F.affine_grid(similarity.float(), [*crop.shape[:2], size, size], align_corners=False)
    aligned = F.grid_sample(crop.float(), grid, mode="bilinear", padding_mode="border", align_corners=False)
    return aligned.to(crop.dtype)


def _similarity(cosine: Tensor, sine: Tensor, translation: Tensor) -> Tensor:
    """cosine, sine (B, 1), both times the scale, translation (B, 2) -> (B, 2, 3)."""
    columns = (torch.cat([cosine, sine], dim=-1), torch.cat([-sine, cosine], dim=-1), translation)
    return torch.stack(columns, dim=-1)

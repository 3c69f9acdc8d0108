"""Augmentation that makes a code forget what it must not hold. Pictures are (B, 3, S, S) in [-1, 1], every row
is changed on its own, all randomness comes from the generator.

The semantic encoders see wrong colours and slightly wrong proportions, the identity encoder other crops and never other
colours: skin and hair colour are identity.
"""

import torch
import torch.nn.functional as F
from torch import Generator, Tensor

from ..dsid.alignment import transform_points
from ..dsid.rotation import matrix_to_rotation, rotation_to_matrix
from .jpeg import quantise_blocks

GRID = 4  # control points a side of the low-frequency warp
FACE_REACH = 0.4  # half widths from the middle: eyes to mouth of a face at rest
CUT_SHARE, FLIP_SHARE, REPLACED_SHARE = 0.3, 0.5, 0.3
COARSEST = 0.25  # step of the strongest JPEG, in the unit of the pictures


def augment_semantic_input(images: Tensor, generator: Generator, strength: float = 1.0, face: Tensor | None = None) -> Tensor:
    """Colours and proportions made unreliable; roll, place and scale stay, so labels of the pose stay right.

    face (B, 1, S, S) in [0, 1]: what is around it gives way to another row's picture in REPLACED_SHARE of the cases.
    """
    if face is not None:
        images = replace_background(images, face, generator, REPLACED_SHARE * strength)
    return augment_colour(augment_shape(images, generator, strength), generator, strength)


def replace_background(images: Tensor, face: Tensor, generator: Generator, share: float) -> Tensor:
    """Around face (B, 1, S, S) the picture of the row before, upside down, in `share` of the rows."""
    other = images.roll(1, 0).flip(-2)
    replaced = (_uniform((len(images), 1, 1, 1), generator) < share).to(images)
    return torch.lerp(images, other, (1 - face.to(images)) * replaced)


def augment_colour(images: Tensor, generator: Generator, strength: float = 1.0) -> Tensor:
    """A random 3x3 colour mix, gain, offset and gamma, blur, JPEG and grain."""
    batch = len(images)
    mix = torch.eye(3) + 0.35 * strength * _normal((batch, 3, 3), generator)
    mixed = torch.einsum("bij,bjhw->bihw", mix.to(images), images)
    gain = (0.25 * strength * _normal((batch, 1, 1, 1), generator)).exp().to(images)
    offset = 0.15 * strength * _normal((batch, 3, 1, 1), generator).to(images)
    mixed = (mixed * gain + offset).clamp(-1, 1)
    gamma = (0.3 * strength * _normal((batch, 1, 1, 1), generator)).exp().to(images)
    mixed = ((mixed + 1) / 2).clamp(min=1e-4) ** gamma * 2 - 1
    blurred = F.avg_pool2d(F.pad(mixed, (1, 1, 1, 1), mode="replicate"), 3, stride=1)
    mixed = torch.lerp(mixed, blurred, _uniform((batch, 1, 1, 1), generator).to(images) * strength)
    mixed = quantise_blocks(mixed, COARSEST * strength * _uniform((batch, 1, 1, 1), generator).to(images) ** 2)
    grain = 0.06 * strength * _uniform((batch, 1, 1, 1), generator) * _normal(images.shape, generator)
    return (mixed + grain.to(images)).clamp(-1, 1)


def augment_shape(images: Tensor, generator: Generator, strength: float = 1.0) -> Tensor:
    """Width against height by up to 8 %, and a smooth random warp of 1.5 to 4 % of the width.

    `without_similarity` takes out what would move the face as a whole: its labels of roll, place and scale stay right to
    about 1 degree, 0.003 half widths and 2 % (standard deviations for a face at rest; proportions change by 3 %).
    """
    batch, size = len(images), images.shape[-1]
    stretch = 0.08 * strength * (2 * _uniform((batch, 1), generator) - 1)
    sigma = (0.03 + 0.05 * _uniform((batch, 1, 1), generator)) * strength  # of half a width
    control = (sigma * _normal((batch, GRID * GRID, 2), generator)).transpose(1, 2).unflatten(-1, (GRID, GRID))
    field = F.interpolate(control, (size, size), mode="bicubic", align_corners=True).movedim(1, -1)
    base = F.affine_grid(torch.eye(2, 3).expand(batch, 2, 3), [batch, 3, size, size], align_corners=False)
    factors = torch.cat([stretch, -stretch], dim=-1).exp()[:, None, None]
    grid = (base + without_similarity(base * (factors - 1) + field)).to(images)
    return F.grid_sample(images, grid, mode="bilinear", padding_mode="reflection", align_corners=False)


def without_similarity(field: Tensor) -> Tensor:
    """Displacements (B, S, S, 2), less the shift, turn and growth that fit them best in the middle: least squares over
    the pixels within FACE_REACH, since a fit over the whole picture would leave the face's own part of it in.
    """
    axis = (torch.arange(field.shape[1]) * 2 + 1) / field.shape[1] - 1
    y, x = torch.meshgrid(axis, axis, indexing="ij")
    points, turned = torch.stack([x, y], dim=-1), torch.stack([-y, x], dim=-1)
    inside = ((x.abs() < FACE_REACH) & (y.abs() < FACE_REACH)).float()[..., None]
    field = field - (field * inside).sum((1, 2), keepdim=True) / inside.sum()
    for direction in (points, turned):
        share = (field * direction * inside).sum((1, 2, 3)) / (direction.square() * inside).sum()
        field = field - share[:, None, None, None] * direction
    return field


def augment_identity_input(images: Tensor, generator: Generator, points: Tensor | None = None) -> Tensor:
    """Mirrored or not, moved, turned and scaled a little, eyes or mouth cut out in CUT_SHARE of the cases; colours stay.

    points (B, 5, 2): the landmarks in crop coordinates, NaN where unknown; a box in the middle is cut then.
    """
    batch, size = len(images), images.shape[-1]
    images = _cut_out(images, generator, points)
    flip = torch.where(_uniform((batch,), generator) < FLIP_SHARE, -1.0, 1.0)
    angle, growth = 0.10 * _normal((batch,), generator), (0.05 * _normal((batch,), generator)).exp()
    cosine, sine, shift = growth * angle.cos(), growth * angle.sin(), 0.04 * _normal((batch, 2), generator)
    matrix = torch.stack([torch.stack([cosine * flip, -sine], -1), torch.stack([sine * flip, cosine], -1)], dim=1)
    grid = F.affine_grid(torch.cat([matrix, shift[..., None]], -1).to(images), [batch, 3, size, size], align_corners=False)
    return F.grid_sample(images, grid, mode="bilinear", padding_mode="reflection", align_corners=False)


def _cut_out(images: Tensor, generator: Generator, points: Tensor | None) -> Tensor:
    batch, size = len(images), images.shape[-1]
    centre = torch.zeros(batch, 2)
    if points is not None:
        eyes, mouth = points[:, :2].mean(1).cpu(), points[:, 3:].mean(1).cpu()
        upper = _uniform((batch, 1), generator) < 0.5
        centre = torch.where(upper, eyes, mouth).nan_to_num(0.0)
    axis = (torch.arange(size) * 2 + 1) / size - 1
    near_x = (axis[None] - centre[:, :1]).abs() < 0.38
    near_y = (axis[None] - centre[:, 1:]).abs() < 0.14
    cut = (_uniform((batch, 1, 1), generator) < CUT_SHARE) & near_x[:, None, :] & near_y[:, :, None]
    return torch.where(cut[:, None].to(images.device), images.mean((2, 3), keepdim=True), images)


def random_similarity(count: int, generator: Generator, roll: float = 20, shift: float = 0.1, growth: float = 0.12) -> Tensor:
    """(count, 2, 3): a turn within +-roll degrees, a shift and a growth (its logarithm), for `transform_pose` and warps."""
    spread = lambda limit, n: limit * (2 * _uniform((count, n), generator) - 1)  # noqa: E731
    angle, scale = torch.deg2rad(spread(roll, 1)), spread(growth, 1).exp()
    cosine, sine, move = scale * angle.cos(), scale * angle.sin(), spread(shift, 2)
    return torch.stack([torch.cat([cosine, sine], -1), torch.cat([-sine, cosine], -1), move], dim=-1)


def transform_pose(pose: dict[str, Tensor], similarity: Tensor) -> dict[str, Tensor]:
    """The pose of a picture whose content was moved by similarity (B, 2, 3): p becomes S p + t. Yaw and pitch stay."""
    cosine, sine = similarity[:, 0, 0], similarity[:, 1, 0]
    scale = torch.hypot(cosine, sine)
    turn = torch.zeros(len(similarity), 3, 3, device=similarity.device)
    turn[:, :2, :2], turn[:, 2, 2] = similarity[:, :, :2] / scale[:, None, None], 1
    return {
        "rotation": matrix_to_rotation(turn @ rotation_to_matrix(pose["rotation"])),
        "translation": transform_points(similarity, pose["translation"][:, None])[:, 0],
        "log_scale": pose["log_scale"] + scale.log()[:, None],
    }


def _normal(shape, generator: Generator) -> Tensor:
    return torch.randn(tuple(shape), generator=generator)


def _uniform(shape, generator: Generator) -> Tensor:
    return torch.rand(tuple(shape), generator=generator)

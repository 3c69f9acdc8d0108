"""Rendered heads as a training sees them: mirrored, turned, moved, grown, in other colours; the labels go along."""

from dataclasses import dataclass, fields, replace

import torch
import torch.nn.functional as F
from torch import Generator, Tensor

from ...data.heads.shards import Heads, HeadStore
from ...data.heads.units import mirrored
from ...data.studio import same_expression
from ...dsid.alignment import transform_points

TURN, GROWTH, SHIFT = 8.0, 0.10, 0.06  # standard deviations: degrees, logarithm, half crop widths
MIRRORED_UNITS = torch.tensor(mirrored())
MIRRORED_FIVE = torch.tensor([1, 0, 2, 4, 3])
SOFT_SHARE, GREY_SHARE = 0.25, 0.2


@dataclass(frozen=True)
class Views:
    """images (B, 3, S, S) in [-1, 1] and the labels of `Heads`, the landmarker's among them; the second half of a batch plays
    the expressions of the first half, by other people in other poses. surface_known (B,): mirrored rows have no label of the
    surface's points.
    """

    images: Tensor
    rotation: Tensor
    units: Tensor
    gaze: Tensor
    five: Tensor
    surface: Tensor
    surface_known: Tensor
    judged: Tensor
    judged_rotation: Tensor

    def to(self, device: torch.device) -> "Views":
        return Views(**{field.name: getattr(self, field.name).to(device) for field in fields(self)})


def sample_views(store: HeadStore, count: int, generator: Generator, strength: float = 1.0) -> Views:
    """count, even: of pictures. strength of the changes of colour; 0 leaves them out."""
    first = store.sample(count // 2, generator)
    return augment(store.heads(torch.cat([first, same_expression(first, generator)])), generator, strength)


def plain_views(heads: Heads) -> Views:
    known = torch.ones(len(heads.images), dtype=torch.bool)
    labels = {
        name: getattr(heads, name) for name in ("rotation", "units", "gaze", "five", "surface", "judged", "judged_rotation")
    }
    return Views(heads.images, surface_known=known, **labels)


def augment(heads: Heads, generator: Generator, strength: float) -> Views:
    views, count = plain_views(heads), len(heads.images)
    flip = torch.rand(count, generator=generator) < 0.5
    views = _mirror(views, flip)
    angle = torch.deg2rad(TURN * torch.randn(count, generator=generator))
    growth = (GROWTH * torch.randn(count, generator=generator) + 0.03).exp()
    shift = SHIFT * torch.randn(count, 2, generator=generator)
    views = _move(views, angle, growth, shift)
    return replace(views, images=colours(views.images, generator, strength)) if strength else views


def _mirror(views: Views, flip: Tensor) -> Views:
    """flip (B,) bool. Left and right are exchanged: units, points, yaw, roll, gaze."""
    across = torch.tensor([-1.0, 1.0])
    signs = torch.tensor([-1.0, 1.0, 1.0])
    signs = signs[:, None] * signs
    of = lambda mirrored, plain: torch.where(flip.reshape(-1, *[1] * (plain.ndim - 1)), mirrored, plain)  # noqa: E731
    return Views(
        images=of(views.images.flip(-1), views.images),
        rotation=of(views.rotation * signs, views.rotation),
        units=of(views.units[:, MIRRORED_UNITS], views.units),
        gaze=of(views.gaze * across, views.gaze),
        five=of(views.five[:, MIRRORED_FIVE] * across, views.five),
        surface=of(views.surface * across, views.surface),
        surface_known=views.surface_known & ~flip,
        judged=of(views.judged[:, MIRRORED_UNITS], views.judged),
        judged_rotation=of(views.judged_rotation * signs, views.judged_rotation),
    )


def _move(views: Views, angle: Tensor, growth: Tensor, shift: Tensor) -> Views:
    """The content turned clockwise by angle (B,), grown (B,) and shifted (B, 2)."""
    cosine, sine = angle.cos(), angle.sin()
    turn = torch.stack([torch.stack([cosine, -sine], -1), torch.stack([sine, cosine], -1)], -2)
    similarity = torch.cat([turn * growth[:, None, None], shift[..., None]], -1)
    back = turn.transpose(1, 2) / growth[:, None, None]
    grid = F.affine_grid(torch.cat([back, -(back @ shift[..., None])], -1), list(views.images.shape), align_corners=False)
    spin = torch.eye(3).repeat(len(angle), 1, 1)
    spin[:, :2, :2] = turn
    return replace(
        views,
        images=F.grid_sample(views.images, grid, mode="bilinear", padding_mode="reflection", align_corners=False),
        rotation=spin @ views.rotation,
        judged_rotation=spin @ views.judged_rotation,
        five=transform_points(similarity, views.five),
        surface=transform_points(similarity, views.surface),
    )


def colours(images: Tensor, generator: Generator, strength: float) -> Tensor:
    """Gamma, saturation, tint, contrast, grain; a part of the pictures grey, another small and made large again."""
    count, pictures = len(images), (images + 1) / 2
    normal = lambda sd, channels=1: strength * sd * torch.randn(count, channels, 1, 1, generator=generator)  # noqa: E731
    chance = lambda: torch.rand(count, 1, 1, 1, generator=generator)  # noqa: E731
    pictures = pictures.clamp(1e-3, 1) ** normal(0.3).exp()
    grey = pictures.mean(1, keepdim=True)
    saturation = torch.where(chance() < GREY_SHARE, torch.zeros(1), normal(0.35).exp())
    pictures = (grey + (pictures - grey) * saturation) * (1 + normal(0.10, 3))
    pictures = (pictures - 0.5) * normal(0.25).exp() + 0.5 + normal(0.10)
    pictures = pictures + strength * 0.08 * chance() ** 2 * torch.randn(pictures.shape, generator=generator)
    soft = chance()[:, 0, 0, 0] < SOFT_SHARE * strength
    if soft.any():
        side = int(images.shape[-1] * (0.25 + 0.55 * torch.rand((), generator=generator)))
        small = F.interpolate(pictures[soft], (side, side), mode="bilinear", antialias=True)
        pictures[soft] = F.interpolate(small, images.shape[-2:], mode="bilinear")
    return pictures.clamp(0, 1) * 2 - 1

"""How far lips and lids are open and where the irises look, measured on a face and set on another.

Seven numbers a face, in the canonical frame: the gaps of the lips and of the lids (left, right) in cm, and the irises'
places from the middles of the eyes' corners over the eyes' widths (left x, y, right x, y). Seen on real pairs, landmarks
show these small things better than the 52 scores do.
"""

from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor

from .basis import HeadBasis
from .landmarks import EYE_RINGS, IRISES

LIPS, LIDS, GAZE = slice(0, 1), slice(1, 3), slice(3, 7)  # of the seven
MEASURES = 7
SIDES = ("left", "right")
ALMOST_CLOSED = 0.1  # cm


@dataclass(frozen=True)
class Opening:
    pairs: tuple[tuple[int, int], ...]  # (upper, lower) points of the rims, across the face; the middle one is measured
    corners: tuple[int, int]
    reach: float  # cm over which skin follows its rim: a Gaussian's sigma
    upper_share: float  # of a change, what the upper rim takes
    widest: float  # cm; no face is beyond


OPENINGS = {
    "lips": Opening(
        ((191, 95), (80, 88), (81, 178), (82, 87), (13, 14), (312, 317), (311, 402), (310, 318), (415, 324)),
        (61, 291),
        0.9,
        0.5,
        7.0,
    ),
    "left": Opening(
        ((398, 382), (384, 381), (385, 380), (386, 374), (387, 373), (388, 390), (466, 249)), (362, 263), 0.35, 0.9, 2.0
    ),
    "right": Opening(
        ((246, 7), (161, 163), (160, 144), (159, 145), (158, 153), (157, 154), (173, 155)), (33, 133), 0.35, 0.9, 2.0
    ),
}


def measure(shape: Tensor) -> Tensor:
    """shape (F, 478, 3) -> (F, 7)."""
    gaps = [_gap(shape, opening) for opening in OPENINGS.values()]
    return torch.cat([torch.stack(gaps, dim=-1), *(_iris(shape, side) for side in SIDES)], dim=-1)


def set_openings(shape: Tensor, target: Tensor, basis: HeadBasis) -> Tensor:
    """shape (F, 478, 3), target (F, 7) -> the shape with these openings, its proportions kept."""
    for number, (kind, opening) in enumerate(OPENINGS.items()):
        shape = _open(shape, kind, target[:, number].clamp(0, opening.widest), basis)
    for number, side in enumerate(SIDES):
        shape = _look(shape, side, target[:, GAZE][:, 2 * number : 2 * number + 2])
    return shape


def closed_lips(shape: Tensor, basis: HeadBasis) -> Tensor:
    """shape (F, 478, 3) -> the same with its lips just closed."""
    closed = _open(shape, "lips", shape.new_zeros(len(shape)), basis)
    upper, lower = (closed[:, list(ids), 2] for ids in zip(*OPENINGS["lips"].pairs))
    closed[..., 2] -= (upper - lower) @ rims_of("lips", basis).influence
    return closed


def straight_gaze(shape: Tensor, basis: HeadBasis) -> Tensor:
    """shape (F, 478, 3) -> the same with round irises that look as the canonical face's do."""
    shape = shape.clone()
    for side in SIDES:
        ring, ids = list(EYE_RINGS[side]), list(IRISES[side])
        own = basis.points[ids] - basis.points[ring].mean(0)
        shape[:, ids] = shape[:, ring].mean(1, keepdim=True) + own
        shape = _look(shape, side, _iris(basis.points[None], side).expand(len(shape), -1))
    return shape


def _look(shape: Tensor, side: str, target: Tensor) -> Tensor:
    """Moves an iris (its centre and ring) to target (F, 2)."""
    step = (target - _iris(shape, side)) * _width(shape, OPENINGS[side])[:, None]
    moved = shape.clone()
    moved[:, list(IRISES[side]), :2] += step[:, None]
    return moved


def _iris(shape: Tensor, side: str) -> Tensor:
    """(F, 2): x and y from the middle of the eye's corners, in eye widths."""
    middle = shape[:, list(OPENINGS[side].corners)].mean(1)
    return (shape[:, IRISES[side][0]] - middle)[:, :2] / _width(shape, OPENINGS[side])[:, None]


def _gap(shape: Tensor, opening: Opening) -> Tensor:
    """(F,): upper above lower, negative where they cross."""
    upper, lower = opening.pairs[len(opening.pairs) // 2]
    return shape[:, upper, 1] - shape[:, lower, 1]


def _width(shape: Tensor, opening: Opening) -> Tensor:
    start, end = opening.corners
    return torch.linalg.vector_norm(shape[:, start] - shape[:, end], dim=-1).clamp_min(1e-3)


def _open(shape: Tensor, kind: str, gap: Tensor, basis: HeadBasis) -> Tensor:
    """Moves the rims of one opening so that its middle is open by gap (F,) cm, and the skin around with them."""
    upper, lower = (shape[:, list(ids), 1] for ids in zip(*OPENINGS[kind].pairs))
    gaps = upper - lower  # (F, pairs)
    own = gaps[:, gaps.shape[1] // 2, None]
    rims = rims_of(kind, basis)
    seen = ((own - ALMOST_CLOSED) / ALMOST_CLOSED).clamp(0, 1)  # a gap too small to have a form takes the canonical one
    form = torch.lerp(rims.form.expand_as(gaps), (gaps / own.clamp_min(ALMOST_CLOSED)).clamp(0, 1.5), seen)
    moved = shape.clone()
    moved[..., 1] += (form * gap[:, None] - gaps) @ rims.influence
    return moved


@dataclass(frozen=True, eq=False)
class Rims:
    form: Tensor  # (pairs,) gaps of the canonical opening over its middle one
    influence: Tensor  # (pairs, 478) how far each point goes with a pair's change; upper rim up, lower rim down


@lru_cache(maxsize=8)
def rims_of(kind: str, basis: HeadBasis) -> Rims:
    """Skin follows the part of the rim that is nearest to it on the canonical face, whose lips and lids are apart."""
    opening, points = OPENINGS[kind], basis.points
    upper, lower = (points[list(ids)] for ids in zip(*opening.pairs))
    centre = (upper + lower) / 2
    spacing = (centre[1:, 0] - centre[:-1, 0]).mean()
    sideways = points[None, :, 0] - centre[:, None, 0]  # (pairs, 478)
    nearest = (1 - sideways.abs() / spacing).clamp_min(0)
    outside = sideways.abs().amin(0) * (nearest.sum(0) < 0.5)
    nearest = torch.where(nearest.sum(0) > 0, nearest, (sideways.abs() == sideways.abs().amin(0)).float())
    nearest = nearest / nearest.sum(0)
    height = points[:, 1] - nearest.T @ centre[:, 1]
    beyond = (
        torch.where(height > 0, points[:, 1] - nearest.T @ upper[:, 1], nearest.T @ lower[:, 1] - points[:, 1])
    ).clamp_min(0)
    fade = torch.exp(-(beyond.square() + outside.square()) / (2 * opening.reach**2))
    share = torch.where(height > 0, opening.upper_share, opening.upper_share - 1)
    influence = nearest * fade * share
    ids, count = [i for pair in opening.pairs for i in pair], len(opening.pairs)
    influence[:, ids] = 0.0
    influence[:, basis.rigid_weights > 0] = 0.0  # where faces are laid over each other, nothing of a reference may show
    for number, (up, down) in enumerate(opening.pairs):  # the rims themselves go all the way
        influence[number, up], influence[number, down] = opening.upper_share, opening.upper_share - 1
    return Rims((upper - lower)[:, 1] / (upper - lower)[count // 2, 1], influence)

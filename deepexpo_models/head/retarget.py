"""Another person's expression and head pose on this person's face.

With B_k the basis' units, w a code's 52 numbers and S landmarks taken back to the canonical frame:

    rest     = mean over photos of (S_id - sum_k w_id,k B_k), lips closed, eyes straight ahead
    shape    = openings(rest + sum_k w_k B_k, target)         (lips, lids and irises, see `openings`)
    points   = scale * R shape + place                        (R from the code; scale and place from the picture's framing)

Nothing of the reference's proportions is in it. Functions take batches of faces (F, ...) and compute in float32.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from .basis import HeadBasis
from .openings import LIDS, closed_lips, measure, set_openings, straight_gaze

FLIP = (1.0, -1.0, -1.0)  # between the canonical frame (y up, z to the viewer) and a picture's (y down, z away)
TOP, CHIN = 10, 152


@dataclass(frozen=True, eq=False)
class Observed:
    """Faces of a picture in the canonical frame: points = scale * (FLIP rotation FLIP) (FLIP shape) + place."""

    shape: Tensor  # (F, 478, 3) cm
    rotation: Tensor  # (F, 3, 3) from the face's coordinates to the camera's, both x right, y down, z away
    scale: Tensor  # (F,) pixels per cm
    place: Tensor  # (F, 3) pixels: where the canonical frame's origin, the middle of the head, lies


def to_canonical(points: Tensor, basis: HeadBasis) -> Observed:
    """points (F, 478, 3) in pixels, as `faces.FaceMesh` -> the faces in the canonical frame.

    The weighted similarity (Umeyama 1991) of the 33 rigid points; the depth is as true as the landmarker's.
    """
    flip = points.new_tensor(FLIP)
    weights = basis.rigid_weights / basis.rigid_weights.sum()
    own, seen = basis.points * flip, points.float()
    own_middle, seen_middle = weights @ own, torch.einsum("p,fpd->fd", weights, seen)
    a, b = own - own_middle, seen - seen_middle[:, None]
    u, singular, vt = torch.linalg.svd(torch.einsum("p,fpi,pj->fij", weights, b, a))
    sign = torch.ones_like(singular)
    sign[:, 2] = torch.linalg.det(u @ vt).sign()
    rotation = (u * sign[:, None]) @ vt
    scale = (singular * sign).sum(-1) / (weights @ a.square().sum(-1))
    place = seen_middle - scale[:, None] * (rotation @ own_middle)
    shape = ((seen - place[:, None]) @ rotation) / scale[:, None, None] * flip
    return Observed(shape, rotation, scale, place)


def from_canonical(shape: Tensor, rotation: Tensor, scale: Tensor, place: Tensor) -> Tensor:
    """Undoes `to_canonical`: shape (F, 478, 3) cm, rotation (F, 3, 3), scale (F,), place (F, 3) -> points (F, 478, 3)."""
    return (shape * shape.new_tensor(FLIP)) @ rotation.transpose(1, 2) * scale[:, None, None] + place[:, None]


def resting_face(shape: Tensor, scores: Tensor, basis: HeadBasis) -> Tensor:
    """shape (F, 478, 3) and scores (F, 52) of photos of one person, smiling ones too -> the resting face (478, 3)."""
    rest = (shape - express(scores, basis)).mean(dim=0, keepdim=True)
    return straight_gaze(closed_lips(rest, basis), basis)[0]


def average_face(basis: HeadBasis) -> Tensor:
    """The canonical face at rest, its lips closed: (478, 3) cm. Nobody's own."""
    return closed_lips(basis.points[None], basis)[0]


def express(scores: Tensor, basis: HeadBasis) -> Tensor:
    """scores (F, 52) -> what they add to a face (F, 478, 3) cm."""
    return torch.einsum("fk,kpd->fpd", scores.float(), basis.offsets)


def surplus(shape: Tensor, scores: Tensor, basis: HeadBasis) -> Tensor:
    """How far the openings of faces (F, 478, 3) are from what their 52 scores make of the canonical face: (F, 7)."""
    return measure(shape) - measure(_canonical(scores, basis))


def retarget(
    rest: Tensor, scores: Tensor, basis: HeadBasis, measured: Tensor | None = None, share: Tensor | None = None
) -> Tensor:
    """A resting face (478, 3) or (F, 478, 3) with the expressions scores (F, 52) -> (F, 478, 3).

    measured (F, 7): the `surplus` of the faces that the scores were read from; with it lips, lids and gaze open as far as
    theirs did. Without it they follow the scores alone. share (7,) or (F, 7): how much of that is applied.
    """
    rest = rest.float().expand(len(scores), -1, -1)
    shape = rest + express(scores, basis)
    if measured is None:
        return set_openings(shape, _natural(rest, scores, basis), basis)
    target = measure(_canonical(scores, basis)) + measured
    if share is not None:
        target = torch.lerp(measure(rest), target, share.expand_as(target))
    return set_openings(shape, target, basis)


def face_height(shape: Tensor) -> Tensor:
    """(..., 478, 3) -> (...): from the top of the forehead to the chin, in cm."""
    return torch.linalg.vector_norm(shape[..., TOP, :] - shape[..., CHIN, :], dim=-1)


def _natural(rest: Tensor, scores: Tensor, basis: HeadBasis) -> Tensor:
    """The openings (F, 7) of a resting face (F, 478, 3) whose scores change them as they change the canonical face's: lids
    by the same factor, so that a blink of 1 closes any eye, the rest by the same amount."""
    own, still, moved = measure(rest), measure(_canonical(scores * 0, basis)), measure(_canonical(scores, basis))
    natural = own + moved - still
    natural[:, LIDS] = own[:, LIDS] * (moved / still)[:, LIDS]
    return natural


def _canonical(scores: Tensor, basis: HeadBasis) -> Tensor:
    return average_face(basis) + express(scores, basis)

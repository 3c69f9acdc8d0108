"""Codes from face landmarks, and codes as a face's points in a picture: the way from two photographs to a control map.

The public encoder `arkit52` needs no weights of ours: its expression is the landmarker's 52 numbers, its rotation the turn of
the rigid points against the canonical face (see `head.retarget`).
"""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from ..faces.gaps import named_frames
from ..faces.landmarks import Track
from ..head import ARKIT52, HeadBasis
from ..head.expressions import GROUPS, group_mask
from ..head.openings import GAZE, LIDS, LIPS
from ..head.retarget import average_face, face_height, from_canonical, resting_face, retarget, surplus, to_canonical
from .codes import Identity, Semantics, require_aligned
from .edit import ARKIT, ReadOut, arkit_numbers
from .rotation import matrix_to_euler, matrix_to_rotation, rotation_to_matrix, scale_rotation

STEEPEST_YAW = 60.0  # degrees, beyond which half of the points are hidden
MOST_OUTSIDE = 0.15  # of a face's points
REST_SHARE = 0.5  # log scale 0: the face is that share of the picture's shorter side high


@dataclass(frozen=True)
class Framing:
    """Where the face stands in a picture: height of the face over the picture's, its middle as shares of width and height."""

    height: float = 0.4
    x: float = 0.5
    y: float = 0.45

    def __post_init__(self):
        if not 0 < self.height <= 3:
            raise ValueError(f"the face's height is {self.height} of the picture's; give more than 0, at most 3")


@dataclass(frozen=True)
class Strengths:
    """How much of a code's parts is drawn: 0 none, 1 as it is."""

    mouth: float = 1.0
    eyes: float = 1.0
    brows: float = 1.0
    cheeks: float = 1.0
    pose: float = 1.0


def semantics_of(track: Track, basis: HeadBasis) -> Semantics:
    """A face through the frames of a clip -> one arkit52 code per frame, with its openings. Raises ValueError for landmarks
    without blendshapes."""
    scores, seen = _scores(track), to_canonical(track.points, basis)
    height, width = track.size
    side = min(height, width)
    middle = seen.place.new_tensor([width, height]) / 2
    size = face_height(basis.points) * seen.scale / side / REST_SHARE
    return Semantics(
        expression=scores,
        rotation=matrix_to_rotation(seen.rotation),
        translation=(seen.place[:, :2] - middle) * 2 / side,
        log_scale=size.log()[:, None],
        encoder=ARKIT,
        openings=surplus(seen.shape, scores, basis),
    )


def cautions(track: Track, basis: HeadBasis) -> list[str]:
    """A sentence for each thing that makes a track's landmarks a guess; none for good ones."""
    count = len(track.points)
    yaw = matrix_to_euler(to_canonical(track.points, basis).rotation)[:, 0]
    limits = track.points.new_tensor([track.size[1], track.size[0]])
    outside = ((track.points[..., :2] < 0) | (track.points[..., :2] > limits)).any(-1).float().mean(-1)
    found = {
        f"the head is turned by more than {STEEPEST_YAW:g} degrees, and its far side is guessed": yaw.abs() > STEEPEST_YAW,
        "a part of the face lies outside the picture, and is guessed": outside > MOST_OUTSIDE,
    }
    return [f"{named_frames(torch.nonzero(x).flatten().tolist(), count)}: {words}" for words, x in found.items() if x.any()]


def face_shape_of(track: Track, basis: HeadBasis) -> Tensor:
    """Photos of one person, smiling ones too -> the resting face (1, 478 * 3) in cm."""
    seen = to_canonical(track.points, basis)
    return resting_face(seen.shape, _scores(track), basis).flatten()[None]


def face_points(
    identity: Identity | None,
    semantics: Semantics,
    basis: HeadBasis,
    size: tuple[int, int],
    framing: Framing = Framing(),
    strengths: Strengths = Strengths(),
    readout: ReadOut | None = None,
) -> Tensor:
    """The identity's resting face, or the average one, with the codes' expression and turn -> points (F, 478, 3) in pixels
    of a picture of size (height, width). Nothing of the reference's proportions is in them.

    readout: of the DSID that made the codes, where it was not the landmarker. Raises ValueError for an identity without a
    face shape, and for batches that do not fit.
    """
    rest = average_face(basis) if identity is None else _rest(identity)
    scores = arkit_numbers(semantics, readout)
    count = len(scores) if identity is None else require_aligned(identity, semantics)
    scores = (scores * _shares(strengths)).expand(count, -1)
    openings, share = semantics.openings, _opening_shares(strengths)
    openings = openings if openings is None else openings.float().expand(count, -1)
    shape = retarget(rest.expand(count, -1, -1), scores, basis, openings, share)
    rotation = scale_rotation(rotation_to_matrix(semantics.rotation.float()), strengths.pose).expand(count, -1, -1)
    height, width = size
    scale = framing.height * height / face_height(rest.expand(count, -1, -1))
    place = shape.new_tensor([framing.x * width, framing.y * height, 0.0]).expand(count, -1)
    return from_canonical(shape, rotation, scale, place)


def _scores(track: Track) -> Tensor:
    if not all(track.scores):
        raise ValueError(
            "these landmarks have no blendshapes; use MediaPipe's face landmarker, by Detect Face Landmarks or Find Landmarks"
        )
    return torch.stack([units_of(scores) for scores in track.scores])


def units_of(scores: Mapping[str, float], untold: float = 0.0) -> Tensor:
    """A landmarker's scores by ARKit's names -> (52,) of ARKIT52; untold: for names that it does not tell, as tongueOut."""
    return torch.tensor([float(scores.get(name, untold)) for name in ARKIT52])


def _rest(identity: Identity) -> Tensor:
    if identity.face_shape is None:
        raise ValueError("this identity has no face shape; connect landmarks of the same photo to Encode Identity")
    return identity.face_shape.float().unflatten(-1, (478, 3))


def _shares(strengths: Strengths) -> Tensor:
    """(52,)"""
    shares = torch.ones(len(ARKIT52))
    for group in GROUPS:
        shares[group_mask((group,))] = getattr(strengths, group)
    return shares


def _opening_shares(strengths: Strengths) -> Tensor:
    """(7,)"""
    shares = torch.empty(7)
    shares[LIPS], shares[LIDS], shares[GAZE] = strengths.mouth, strengths.eyes, strengths.eyes
    return shares

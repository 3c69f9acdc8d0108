"""One step as a module: pictures in, named loss terms out; and the heads that are thrown away after training."""

import torch
import torch.nn.functional as F
from torch import Generator, Tensor, nn

from ...data.heads.shards import LABELS
from ...dsid.alignment import invert_similarity, place_of, similarity_from_points, transform_points, warp
from ...dsid.encoders import MAX_LOG_SCALE, SemanticEncoder
from ...dsid.rotation import geodesic_angle, matrix_to_rotation, rotation_to_matrix
from ...head import ARKIT52
from .views import Views

POINT_NOISE = 0.015  # half crop widths, of all five points together and of each: at use the place is a found one
SPREAD_FLOOR = 0.08  # of units that hardly move in the data
BETA = 0.05  # of the smooth L1 of places and points, half crop widths
GAZE_SCALE = 5.0  # radians to about units of its spread
SURFACE = LABELS["surface"]
MAIN = (
    "jawOpen",
    "mouthSmile",
    "eyeBlink",
    "browInnerUp",
    "browDown",
    "mouthPucker",
    "eyeSquint",
    "mouthUpperUp",
    "mouthLowerDown",
)
MAIN_WEIGHT = 3.0  # of the units that people read a face by, against the others
UNIT_WEIGHTS = torch.tensor([MAIN_WEIGHT if name.startswith(MAIN) else 1.0 for name in ARKIT52])


class HeadsStep(nn.Module):
    """forward(views, generator) -> unweighted terms: rotation, place, units, judged, gaze, surface, aligned, same.

    apart: degrees by which the landmarker's reading of a rotation may differ from the renderer's to be learned in its place.
    spread, judged_spread (52,): standard deviations in the data of the units, and of the landmarker's numbers; NaN where it was
    never asked.
    """

    spread: Tensor
    judged_spread: Tensor

    def __init__(self, encoder: SemanticEncoder, spread: Tensor, judged_spread: Tensor, apart: float = 0.0):
        super().__init__()
        self.apart = apart
        config = encoder.config
        self.encoder = encoder
        self.read = nn.Linear(config.expression_width, len(ARKIT52) + 2)  # units, gaze
        self.told = nn.Linear(config.expression_width, len(ARKIT52))  # what the landmarker calls the same face
        self.surface = nn.Linear(config.pose_channels[-1], SURFACE[0] * SURFACE[1])
        self.aligned = nn.Linear(config.expression_channels[-1], SURFACE[0] * SURFACE[1])
        self.register_buffer("spread", spread.clamp(min=SPREAD_FLOOR))
        self.register_buffer("judged_spread", judged_spread.nan_to_num().clamp(min=SPREAD_FLOOR))

    def forward(self, views: Views, generator: Generator) -> dict[str, Tensor]:
        hidden = self.encoder.pose.pool(self.encoder.pose.trunk(views.images))
        turn, shift, size = self.encoder.pose.head(hidden).split([6, 2, 1], dim=-1)
        rotation = rotation_to_matrix(matrix_to_rotation(rotation_to_matrix(turn + turn.new_tensor([1, 0, 0, 0, 1, 0]))))
        noise = lambda points: POINT_NOISE * torch.randn(len(views.five), points, 2, generator=generator).to(views.five)  # noqa: E731
        similarity = similarity_from_points(views.five + noise(1) + noise(5))
        tight = warp(views.images, similarity, self.encoder.config.expression_size)
        look = self.encoder.expression.pool(self.encoder.expression.trunk(tight))
        code = self.encoder.expression.head(look)
        units, gaze = self.read(code).split([len(ARKIT52), 2], dim=-1)
        _, place, scale = place_of(similarity_from_points(views.five))
        aligned = transform_points(invert_similarity(similarity), views.surface)
        smooth = lambda found, true: F.smooth_l1_loss(found, true, beta=BETA)  # noqa: E731
        return {
            "rotation": (rotation - told_rotation(views, self.apart)).square().sum((1, 2)).mean(),
            "place": smooth(shift.tanh(), place) + smooth(size.tanh() * MAX_LOG_SCALE, scale.clamp(-1, 1)),
            "units": _units(units, views.units, self.spread),
            "judged": _units(self.told(code), views.judged, self.judged_spread),
            "gaze": F.smooth_l1_loss(gaze * GAZE_SCALE, views.gaze * GAZE_SCALE),
            "surface": _of_known(self.surface(hidden), views.surface, views.surface_known),
            "aligned": _of_known(self.aligned(look), aligned, views.surface_known),
            "same": _same_expression(code),
        }


def told_rotation(views: Views, apart: float) -> Tensor:
    """(B, 3, 3): as the landmarker reads it where it was asked and is at most `apart` degrees off the renderer's, which stands
    elsewhere: farther off it did not find the face."""
    told = views.judged_rotation
    known = told.isfinite().all(-1).all(-1) & (torch.rad2deg(geodesic_angle(told.nan_to_num(), views.rotation)) <= apart)
    return torch.where(known[:, None, None], told, views.rotation)


def _units(found: Tensor, true: Tensor, spread: Tensor) -> Tensor:
    """Squared errors over the units' spread: an L1 would find rare units at rest always. NaN: not told."""
    known = UNIT_WEIGHTS.to(found) * true.isfinite()
    errors = ((found - true.nan_to_num()) / spread).square()
    return (errors * known).sum() / known.sum().clamp(min=1) / 2


def _of_known(found: Tensor, true: Tensor, known: Tensor) -> Tensor:
    error = F.smooth_l1_loss(found.unflatten(-1, SURFACE), true, beta=BETA, reduction="none").mean((1, 2))
    return (error * known).sum() / known.sum().clamp(min=1)


def _same_expression(code: Tensor) -> Tensor:
    """By how much codes of one expression by two people (halves of the batch) differ, entry by entry in its variance: 1 for
    codes that have nothing in common, 0 for equal ones. A sum of all entries would let the jaw's drown the others.
    """
    first, second = code.chunk(2)
    return ((first - second).square().mean(0) / code.var(0).clamp(min=1e-4)).mean() / 2

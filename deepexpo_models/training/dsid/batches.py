"""What one DSID step is shown, from rendered heads and from real faces alike."""

from dataclasses import dataclass

from torch import Tensor

from ..engine.feed import Movable
from ..heads.step import SPREAD_FLOOR

UNIFORM = 12**0.5  # range over standard deviation of evenly spread numbers


@dataclass(frozen=True)
class Labels:
    """What a kind of faces tells: ranges of its expression labels (F,), that losses measure errors in, and the number of
    traits of a person.
    """

    spans: Tensor
    traits: int


@dataclass(frozen=True)
class Batch(Movable):
    """Pictures (B, 3, S, S) in [-1, 1]. `source`: the target's person in another frame. `expression`, `pose`: who lends
    the target's expression and pose; other people where the data can have that (`triples`), else the target itself.
    region, face (B, 1, S, S) belong to the target, source_points (B, 5, 2) to the source. target_pose: the pose codes of
    target and of its pose lender, expression_pose those of the expression lender, NaN where unknown.
    label (B, F): the target's expression, ARKit's 52 units and the gaze in radians, as `readout.FACTORS` names them; traits
    (B, T): what is known of the person, see `heads.identity.TRAITS`; NaN where unknown. person (B,): equal numbers are one
    person. still (B,) bool: source is target, for the person has one picture only; None: none is.
    """

    source: Tensor
    target: Tensor
    expression: Tensor
    pose: Tensor
    region: Tensor
    face: Tensor
    source_points: Tensor
    target_pose: dict[str, Tensor]
    expression_pose: dict[str, Tensor]
    label: Tensor
    traits: Tensor
    person: Tensor
    triples: bool
    still: Tensor | None = None


def spans_of(labels: Tensor) -> Tensor:
    """Labels (N, F), NaN where unknown -> (F,) > 0: the ranges of evenly spread numbers of their standard deviations."""
    spread = (labels - labels.nanmean(0)).square().nanmean(0).sqrt()
    return UNIFORM * spread.nan_to_num().clamp(min=SPREAD_FLOOR)

"""What a judge reads in a rendered head, and the truth of one."""

from dataclasses import dataclass, fields

import torch
from torch import Tensor

from ...data.heads.build import HAIRS
from ...data.heads.people import HAIR_COLOURS, SHORT_HAIRS
from ...data.heads.scenery import BACKGROUNDS, COLOURS, LIGHTS, PATTERNS
from ...data.heads.shards import CONTEXT, Heads
from ...dsid.alignment import place_of, similarity_from_points
from ...dsid.rotation import matrix_to_euler
from ..factors import FACTORS, MAIN, factors_of

LARGEST_UNIT = 1.2  # of the looks; the others end at 1.1
UNKNOWN = -1  # a class that is not to be seen, as the colour of no hair
RENDERED = "rendered heads"  # as `weights.TRAINED_ON` names them


@dataclass(frozen=True)
class Factor:
    """A number in [low, high]; with choices, the index of one of them."""

    name: str
    low: float
    high: float
    choices: tuple[str, ...] = ()


def choice(name: str, *choices: str) -> Factor:
    return Factor(name, 0, len(choices) - 1, choices)


@dataclass(frozen=True)
class Shown:
    """What B pictures show, in the units of HEADS: looks (B, L), expression (B, E), pose (B, 6), context (B, C): class indices,
    float, UNKNOWN where there is none.
    """

    looks: Tensor
    expression: Tensor
    pose: Tensor
    context: Tensor

    def __len__(self) -> int:
        return len(self.pose)

    def to(self, device: torch.device) -> "Shown":
        return Shown(**{field.name: getattr(self, field.name).to(device) for field in fields(Shown)})


@dataclass(frozen=True)
class Kind:
    """What a judge reads: looks, numbers that a person keeps; pose: yaw, pitch, roll in degrees, and x, y, log scale of
    `dsid.alignment`; context: what a caption names; main: of the expression, what a face is read by before all; words:
    expression factor and bound, the first beyond which names the face; flipped: what changes its sign in a mirror; groups: of
    people, by a factor of looks.
    """

    looks: tuple[Factor, ...]
    expression: tuple[Factor, ...]
    pose: tuple[Factor, ...]
    context: tuple[Factor, ...]
    main: tuple[str, ...]
    words: tuple[tuple[str, float], ...]
    flipped: frozenset[str]
    groups: tuple[str, str, dict[str, tuple[float, float]]]

    @property
    def main_columns(self) -> list[int]:
        """Where the main factors stand in an expression."""
        names = [factor.name for factor in self.expression]
        return [names.index(name) for name in self.main]


def _by_sums(row: dict[str, int]) -> tuple[float, float]:
    """The range of a sum of units."""
    low, high = (LARGEST_UNIT * sum(sign for sign in row.values() if sign * way > 0) for way in (-1, 1))
    return low, high


HEADS = Kind(
    looks=(Factor("male", 0, 1), Factor("age", 0, 2), Factor("beard", 0, 1)),
    expression=tuple(Factor(name, *_by_sums(row)) for name, row in FACTORS.items()),
    pose=(
        Factor("yaw", -90.0, 90.0), Factor("pitch", -45.0, 45.0), Factor("roll", -50.0, 50.0),
        Factor("x", -0.4, 0.4), Factor("y", -0.4, 0.4), Factor("log_scale", -0.7, 0.5),
    ),
    context=(
        choice("hair", "none", "short", "long"), choice("hair colour", *HAIR_COLOURS), choice("beard", "no", "yes"),
        choice("glasses", "no", "clear", "dark"), choice("hat", "no", "yes"), choice("background", *BACKGROUNDS),
        choice("background colour", *COLOURS), choice("clothes", *COLOURS), choice("pattern", *PATTERNS),
        choice("light", *LIGHTS),
    ),
    main=MAIN,
    words=(("jaw", 0.5), ("smile", 0.8), ("pucker", 0.5), ("blink", 1.4), ("brows down", 1.0), ("brows up", 1.5)),
    flipped=frozenset({"wink", "gaze x", "yaw", "roll", "x"}),
    groups=("sex", "male", {"female": (0.0, 0.5), "male": (0.5, 1.01)}),
)  # fmt: skip
LENGTHS = torch.tensor([1.0 if name in SHORT_HAIRS else 2.0 for name in HAIRS] + [0.0])  # place in HAIRS, none last -> "hair"
BEARD = 0.5  # from which on captions name it


def shown_in_heads(heads: Heads) -> Shown:
    """The truth of rendered heads; sums of units in place of units."""
    seen = {name: heads.context[:, column] for column, name in enumerate(CONTEXT)}
    hair = LENGTHS[seen["hair"].long()]
    classes = {
        **seen,
        "hair": hair,
        "hair colour": torch.where(hair > 0, seen["hair_colour"], UNKNOWN),
        "beard": (seen["beard"] > BEARD).float(),
        "background colour": seen["background_colour"],
        "clothes": seen["cloth"],
    }
    _, place, scale = place_of(similarity_from_points(heads.five))
    return Shown(
        looks=torch.stack([seen[factor.name] for factor in HEADS.looks], 1),
        expression=factors_of(heads.units),
        pose=torch.cat([matrix_to_euler(heads.rotation), place, scale], 1),
        context=torch.stack([classes[factor.name] for factor in HEADS.context], 1),
    )

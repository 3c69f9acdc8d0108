"""What a DSID's expression code says in named numbers: linear read-outs, kept in its file."""

import json
import math
from dataclasses import dataclass

import torch
from torch import Tensor

from ..errors import first_line
from ..head import ARKIT52
from ..safetensors_file import parse_json

PREFIX = "readout."  # of the tensors in a file
GAZE = ("gazeYaw", "gazePitch")  # degrees: to the picture's right, up


@dataclass(frozen=True)
class Factor:
    """low, high: the safe range, in unit: `ARKit` (0 at rest, 1 full) or `degrees`."""

    name: str
    unit: str
    low: float
    high: float


FACTORS = (*(Factor(name, "ARKit", 0.0, 1.0) for name in ARKIT52), *(Factor(name, "degrees", -30.0, 30.0) for name in GAZE))


@dataclass(frozen=True, eq=False)
class ReadOut:
    """values = code @ weight.T + bias. factors: F of them; weight (F, expression_width), bias (F,).

    Raises ValueError when the shapes do not fit together.
    """

    factors: tuple[Factor, ...]
    weight: Tensor
    bias: Tensor

    def __post_init__(self):
        count = len(self.factors)
        if self.weight.ndim != 2 or len(self.weight) != count or self.bias.shape != (count,):
            raise ValueError(
                f"a read-out of {count} factors needs weight ({count}, width) and bias ({count},), "
                f"got {tuple(self.weight.shape)} and {tuple(self.bias.shape)}"
            )

    @classmethod
    def of_units(cls, weight: Tensor, bias: Tensor) -> "ReadOut":
        """From a layer that reads ARKIT52 and the gaze in radians."""
        scale = torch.tensor([1.0] * len(ARKIT52) + [math.degrees(1)] * len(GAZE), device=weight.device)
        return cls(FACTORS, (weight.detach() * scale[:, None]).float().cpu(), (bias.detach() * scale).float().cpu())

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(factor.name for factor in self.factors)

    def read(self, expression: Tensor) -> Tensor:
        """expression (B, width) -> values (B, F) in the factors' units, float32; not limited to the safe ranges."""
        return expression.float() @ self.weight.T.to(expression.device) + self.bias.to(expression.device)

    def unlimited(self, expression: Tensor) -> Tensor:
        """expression (B, width) -> (B, 52) in ARKIT52's order, also below 0 and above 1."""
        return self.read(expression)[:, [self.names.index(name) for name in ARKIT52]]

    def arkit52(self, expression: Tensor) -> Tensor:
        """expression (B, width) -> (B, 52) in ARKIT52's order, in [0, 1]."""
        return self.unlimited(expression).clamp(0, 1)

    def direction(self, name: str) -> Tensor:
        """(width,): the shortest change of a code that raises the named factor by 1 of its unit and leaves the others."""
        return torch.linalg.pinv(self.weight)[:, self.names.index(name)]

    def tensors(self) -> dict[str, Tensor]:
        return {f"{PREFIX}weight": self.weight, f"{PREFIX}bias": self.bias}

    def described(self) -> str:
        """JSON for a file's metadata."""
        return json.dumps([[factor.name, factor.unit, factor.low, factor.high] for factor in self.factors])

    @classmethod
    def from_file(cls, tensors: dict[str, Tensor], described: str) -> "ReadOut | None":
        """None for a file that has none. Raises ValueError for a damaged one."""
        if f"{PREFIX}weight" not in tensors:
            return None
        try:
            factors = tuple(
                Factor(str(name), str(unit), float(low), float(high)) for name, unit, low, high in parse_json(described)
            )
            if len({factor.name for factor in factors}) != len(factors):
                raise ValueError("a factor is named twice")
            return cls(factors, tensors[f"{PREFIX}weight"].float(), tensors[f"{PREFIX}bias"].float())
        except (KeyError, TypeError, ValueError) as error:
            raise ValueError(f"its read-outs are damaged ({first_line(error)}); download it again") from error

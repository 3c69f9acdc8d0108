"""Several named expressions as one batch of codes."""

import re

import torch

from ..head.expressions import PRESETS, REST, preset_units
from .codes import Semantics
from .edit import arkit_semantics


def preset_semantics(names: str, strength: float = 1.0) -> Semantics:
    """Names of `head.expressions.PRESETS`, or "none" for a resting face, separated by commas or lines -> one frontal arkit52
    code each, in that order. Raises ValueError for an unknown name and for none at all."""
    given = [name.strip() for name in re.split(r"[,\n]", names) if name.strip()]
    if not given:
        raise ValueError(f"no expression is named; write some of {', '.join((REST, *PRESETS))}, separated by commas")
    return arkit_semantics(torch.stack([preset_units(name.lower()) for name in given]) * strength)

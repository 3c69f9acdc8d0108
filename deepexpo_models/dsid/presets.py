"""Several named expressions as one batch of codes."""

import re

import torch

from ..head.expressions import PRESETS, REST, preset_units
from .codes import Semantics
from .edit import arkit_semantics


def preset_semantics(names: str, strength: float = 1.0) -> Semantics:
    """Names as `preset_names` takes them -> one frontal arkit52 code each, in that order."""
    return arkit_semantics(torch.stack([preset_units(name) for name in preset_names(names)]) * strength)


def preset_names(text: str) -> tuple[str, ...]:
    """Names of `head.expressions.PRESETS`, or "none" for a resting face, in any case, as `split_names` takes them. Raises
    ValueError for an unknown name and for none at all."""
    names = tuple(name.lower() for name in split_names(text))
    if not names:
        raise ValueError(f"no expression is named; write some of {', '.join((REST, *PRESETS))}, separated by commas")
    for name in names:
        preset_units(name)
    return names


def split_names(text: str) -> list[str]:
    """Names separated by commas or lines."""
    return [name.strip() for name in re.split(r"[,\n]", text) if name.strip()]

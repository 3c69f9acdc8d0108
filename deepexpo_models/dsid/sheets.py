"""What stands in the columns of a sheet: references, presets, or the steps of a slider."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from ..head.expressions import SLIDERS
from .codes import Semantics
from .edit import ANGLES, ReadOut
from .pairs import join_semantics, presets_of, slider_of
from .presets import preset_names, split_names

REFERENCES, PRESETS_NAMED, STEPS = COLUMN_KINDS = ("references", "presets", "slider")
STEPPED = (*SLIDERS, *ANGLES)  # what a slider sheet can step through
MOST_STEPS = 32


@dataclass(frozen=True)
class Columns:
    """kind: of COLUMN_KINDS. presets: names with commas between. slider: of STEPPED, from low to high in `steps` steps.
    names: of the columns, with commas between; empty for those that the kind gives."""

    kind: str = REFERENCES
    presets: str = "happy, surprised, sad, angry"
    slider: str = "smile"
    low: float = 0.0
    high: float = 1.0
    steps: int = 5
    names: str = ""


def sheet_columns(
    columns: Columns, semantics: Sequence[Semantics], readout: ReadOut | None
) -> tuple[Semantics, tuple[str, ...]]:
    """The codes of the columns and their names. semantics: the connected ones; presets and sliders start from the first of
    them, or from a resting face. Raises ValueError for references without codes, and for names that fit nothing."""
    if columns.kind == REFERENCES:
        if not semantics:
            raise ValueError(
                "no semantics is connected to Pair Sheet; connect references, or choose the columns presets or slider"
            )
        codes = join_semantics(*semantics)
        given = tuple(f"reference {number}" for number in range(1, len(codes.expression) + 1))
    elif columns.kind == PRESETS_NAMED:
        given = preset_names(columns.presets)
        codes = presets_of(semantics[0] if semantics else None, given, readout)
    else:
        values = torch.linspace(columns.low, columns.high, columns.steps).tolist()
        digits = 0 if columns.slider in ANGLES else 2
        given = tuple(f"{columns.slider} {value:.{digits}f}" for value in values)
        codes = slider_of(semantics[0] if semantics else None, columns.slider, values, readout)
    return codes, sheet_names(columns.names, given, "columns")


def sheet_names(text: str, given: Sequence[str], what: str) -> tuple[str, ...]:
    """Names with commas between, as many as are given; empty text takes the given ones. Raises ValueError for another
    number."""
    names = split_names(text)
    if names and len(names) != len(given):
        raise ValueError(
            f"{len(names)} names are given for {len(given)} {what}; give one for each, with commas between, or none"
        )
    return tuple(names or given)

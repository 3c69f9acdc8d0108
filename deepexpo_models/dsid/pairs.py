"""Batches of codes: joined, and every identity with every expression."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from .codes import SEMANTIC_FIELDS, Identity, Semantics, require_same_encoder
from .edit import ANGLES, Edit, ReadOut, edit_semantics

MOST_PAIRS = 256  # of one sheet: as many pictures are sampled at once


@dataclass(frozen=True)
class Sheet:
    """What stands beside the rows and above the columns of a sheet, read by rows."""

    rows: tuple[str, ...]
    columns: tuple[str, ...]

    @property
    def count(self) -> int:
        return len(self.rows) * len(self.columns)


def join_identities(*codes: Identity) -> Identity:
    """All rows, one after another; parts that not all of them have are left out. Raises ValueError for codes of different
    encoders."""
    encoder = require_same_encoder(*codes)
    return Identity(torch.cat([code.embedding for code in codes]), encoder, **_joined_extras(codes))


def join_semantics(*codes: Semantics) -> Semantics:
    """All rows, one after another; parts that not all of them have are left out. Raises ValueError for codes of different
    encoders."""
    encoder = require_same_encoder(*codes)
    fields = {name: torch.cat([getattr(code, name) for code in codes]) for name in SEMANTIC_FIELDS}
    return Semantics(**fields, encoder=encoder, **_joined_extras(codes))


def every_pair(identity: Identity, semantics: Semantics) -> tuple[Identity, Semantics]:
    """N identities and M semantics -> N * M of each, identity by identity: a sheet of N rows and M columns, read by rows.

    Raises ValueError for more than MOST_PAIRS.
    """
    people, looks = len(identity.embedding), len(semantics.expression)
    if people * looks > MOST_PAIRS:
        raise ValueError(
            f"{people} identities with {looks} expressions are {people * looks} pictures, at most {MOST_PAIRS} go into one "
            f"sheet; take fewer of either"
        )
    extras: dict[str, Any] = {name: _each(value, looks) for name, value in identity.extras().items()}
    rows = replace(identity, embedding=_each(identity.embedding, looks), **extras)
    repeated = {name: getattr(semantics, name).repeat(people, 1) for name in (*SEMANTIC_FIELDS, *semantics.extras())}
    return rows, replace(semantics, **repeated)


def presets_of(base: Semantics | None, names: Sequence[str], readout: ReadOut | None = None) -> Semantics:
    """One code, or a resting face, moved to each of the named presets. Raises ValueError as `edit_semantics`, and for more
    than one code."""
    return join_semantics(*(edit_semantics(_one(base), Edit(preset=name), readout=readout) for name in names))


def slider_of(base: Semantics | None, name: str, values: Sequence[float], readout: ReadOut | None = None) -> Semantics:
    """One code, or a resting face, with a slider of `head.expressions` (-1 to 1) or an angle (degrees) at each value.
    Raises ValueError as `edit_semantics`, and for more than one code."""
    fields: list[dict[str, Any]] = [{name: value} if name in ANGLES else {"sliders": {name: value}} for value in values]
    edits = (Edit(**field) for field in fields)
    return join_semantics(*(edit_semantics(_one(base), edit, readout=readout) for edit in edits))


def _one(base: Semantics | None) -> Semantics | None:
    if base is not None and len(base.expression) > 1:
        raise ValueError(
            f"presets and sliders start from one code, not from {len(base.expression)}; connect one semantics, or none for a "
            f"resting face"
        )
    return base


def _joined_extras(codes: Sequence[Identity | Semantics]) -> dict[str, Tensor]:
    """Parts that all have, as wide: averages of several numbers of photos share none."""
    widths = ({(name, value.shape[1]) for name, value in code.extras().items()} for code in codes)
    names = sorted(name for name, _ in set.intersection(*widths))
    return {name: torch.cat([code.extras()[name] for code in codes]) for name in names}


def _each(value: Tensor, times: int) -> Tensor:
    return value.repeat_interleave(times, dim=0)

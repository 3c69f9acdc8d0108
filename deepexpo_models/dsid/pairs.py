"""Batches of codes: joined, and every identity with every expression."""

from dataclasses import replace

import torch
from torch import Tensor

from .codes import SEMANTIC_FIELDS, Identity, Semantics, require_same_encoder


def join_identities(*codes: Identity) -> Identity:
    """All rows, one after another; parts that not all of them have are left out. Raises ValueError for codes of different
    encoders."""
    encoder, shared = require_same_encoder(*codes), set.intersection(*(set(code.extras()) for code in codes))
    extras = {name: torch.cat([code.extras()[name] for code in codes]) for name in sorted(shared)}
    return Identity(torch.cat([code.embedding for code in codes]), encoder, **extras)


def join_semantics(*codes: Semantics) -> Semantics:
    """All rows, one after another. Raises ValueError for codes of different encoders."""
    encoder = require_same_encoder(*codes)
    return Semantics(**{name: torch.cat([getattr(code, name) for code in codes]) for name in SEMANTIC_FIELDS}, encoder=encoder)


def every_pair(identity: Identity, semantics: Semantics) -> tuple[Identity, Semantics]:
    """N identities and M semantics -> N * M of each, identity by identity: a sheet of N rows and M columns, read by rows."""
    people, looks = len(identity.embedding), len(semantics.expression)
    extras = {name: _each(value, looks) for name, value in identity.extras().items()}
    rows = replace(identity, embedding=_each(identity.embedding, looks), **extras)
    repeated = {name: getattr(semantics, name).repeat(people, 1) for name in SEMANTIC_FIELDS}
    return rows, replace(semantics, **repeated)


def _each(value: Tensor, times: int) -> Tensor:
    return value.repeat_interleave(times, dim=0)

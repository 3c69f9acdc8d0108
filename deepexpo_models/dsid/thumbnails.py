"""The small picture that a saved code shows itself by."""

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from ..head import ARKIT52, load_basis
from ..image import comfy_to_model, model_to_bytes, resize
from .codes import Identity, Semantics
from .edit import ARKIT, arkit_semantics
from .files import THUMBNAIL_SIZE
from .mesh import Framing
from .preview import head_picture

CLOSE_UP = Framing(height=0.7, y=0.5)


def thumbnail(code: Identity | Semantics, picture: Tensor | None = None) -> Tensor | None:
    """The first of picture (B, H, W, C) in [0, 1], else the head that the first code describes -> (S, S, 3) uint8.

    None where there is no picture and the code tells of no head: an identity without a face shape, a DSID's semantics.
    """
    if picture is None:
        picture = _head(code)
    return None if picture is None else model_to_bytes(resize(comfy_to_model(picture[:1]), THUMBNAIL_SIZE))[0].movedim(0, -1)


def _head(code: Identity | Semantics) -> Tensor | None:
    """(1, S, S, 3) in [0, 1]"""
    rows: dict[str, Any] = {name: value[:1] for name, value in vars(code).items() if isinstance(value, Tensor)}
    first = replace(code, **rows)
    if isinstance(first, Identity):
        who, look = first, arkit_semantics(torch.zeros(1, len(ARKIT52)))
    else:
        who, look = None, first
    told = look.encoder == ARKIT if who is None else who.face_shape is not None
    return head_picture(who, look, load_basis(), side=THUMBNAIL_SIZE, framing=CLOSE_UP) if told else None

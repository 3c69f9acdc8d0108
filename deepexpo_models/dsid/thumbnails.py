"""The small picture that a saved code shows itself by."""

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from ..head import ARKIT52, load_basis
from ..head.control import draw_control
from ..image import comfy_to_model, model_to_bytes, resize
from .codes import Identity, Semantics
from .edit import ARKIT, arkit_semantics
from .files import THUMBNAIL_SIZE
from .mesh import Framing, face_points

CLOSE_UP = Framing(height=0.7, y=0.5)


def thumbnail(code: Identity | Semantics, picture: Tensor | None = None) -> Tensor | None:
    """The first of picture (B, H, W, C) in [0, 1], else the head that the first code describes -> (S, S, 3) uint8.

    None where there is no picture and the code tells of no head: an identity without a face shape, a DSID's semantics.
    """
    if picture is None:
        picture = _drawn(code)
    return None if picture is None else model_to_bytes(resize(comfy_to_model(picture[:1]), THUMBNAIL_SIZE))[0].movedim(0, -1)


def _drawn(code: Identity | Semantics) -> Tensor | None:
    """(1, S, S, 3) in [0, 1]"""
    if isinstance(code, Identity):
        if code.face_shape is None:
            return None
        extras: dict[str, Any] = {name: value[:1] for name, value in code.extras().items()}
        who = replace(code, embedding=code.embedding[:1], **extras)
        look = arkit_semantics(torch.zeros(1, len(ARKIT52)))
    elif code.encoder == ARKIT:
        who, openings = None, None if code.openings is None else code.openings[:1]
        look = replace(arkit_semantics(code.expression[:1]), rotation=code.rotation[:1], openings=openings)
    else:
        return None
    basis, size = load_basis(), (THUMBNAIL_SIZE, THUMBNAIL_SIZE)
    return draw_control(face_points(who, look, basis, size, CLOSE_UP), size, "shaded", basis)

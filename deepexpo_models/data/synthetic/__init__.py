"""Drawn faces with known factors: the data that proves the method."""

from .captions import CAPTION_WORDS, captions, context_caption
from .clips import smooth_clip
from .factors import (
    COLUMN,
    CONTEXT,
    EXPRESSION,
    GROUPS,
    IDENTITY,
    NUISANCE,
    POSE,
    Factor,
    Scene,
    concatenate,
    is_extreme,
    is_held_out,
    sample_contexts,
    sample_expressions,
    sample_nuisance,
    sample_people,
    sample_poses,
    sample_scenes,
)
from .render import Rendered, render

__all__ = [
    "CAPTION_WORDS",
    "COLUMN",
    "CONTEXT",
    "EXPRESSION",
    "GROUPS",
    "IDENTITY",
    "NUISANCE",
    "POSE",
    "Factor",
    "Rendered",
    "Scene",
    "captions",
    "concatenate",
    "context_caption",
    "is_extreme",
    "is_held_out",
    "render",
    "sample_contexts",
    "sample_expressions",
    "sample_nuisance",
    "sample_people",
    "sample_poses",
    "sample_scenes",
    "smooth_clip",
]

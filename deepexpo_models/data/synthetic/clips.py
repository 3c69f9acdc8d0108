"""Drawn clips: one person whose face and head move as in a film."""

import math

import torch
from torch import Generator, Tensor

from .factors import COLUMN, Scene, sample_contexts, sample_expressions, sample_nuisance, sample_people, sample_poses

KEY_SECONDS = 0.8  # from one drawn expression and pose to the next


def smooth_clip(count_frames: int, generator: Generator, split: str = "train", fps: float = 25) -> Scene:
    """One person for count_frames at fps frames a second: expression and pose glide from key to key, each at rest there
    (half a cosine wave), and stay within their usual ranges; person, light and context stay, grain changes.

    Raises ValueError for less than one frame, for an fps that is not positive and for an unknown split.
    """
    if count_frames < 1 or not fps > 0:
        raise ValueError(f"{count_frames} frames at {fps} a second are no clip; use at least 1 frame and an fps above 0")
    times = torch.arange(count_frames) / (fps * KEY_SECONDS) + torch.rand(1, generator=generator)
    keys = math.floor(times[-1].item()) + 2
    nuisance = sample_nuisance(1, generator).repeat(count_frames, 1)
    nuisance[:, COLUMN["noise_seed"][1]] = sample_nuisance(count_frames, generator)[:, COLUMN["noise_seed"][1]]
    return Scene(
        identity=sample_people(1, generator, split).repeat(count_frames, 1),
        expression=_apart(_glide(_one_brow(sample_expressions(keys, generator)), times)),
        pose=_glide(sample_poses(keys, generator), times),
        nuisance=nuisance,
        context=sample_contexts(1, generator).repeat(count_frames, 1),
    )


def _glide(keys: Tensor, times: Tensor) -> Tensor:
    """keys (K, D), times (N,) in keys from the first -> (N, D)."""
    before = times.floor().long()
    share = 0.5 - 0.5 * torch.cos(math.pi * (times - before))
    return torch.lerp(keys[before], keys[before + 1], share[:, None])


def _one_brow(expressions: Tensor) -> Tensor:
    """Raise and frown as one movement, -1 to 1: halfway between the two a brow is at rest, not both at once."""
    joined = expressions.clone()
    for up, down in _BROWS:
        joined[:, up] -= expressions[:, down]
    return joined


def _apart(joined: Tensor) -> Tensor:
    """Undoes `_one_brow`."""
    expressions = joined.clone()
    for up, down in _BROWS:
        expressions[:, up], expressions[:, down] = joined[:, up].clamp(min=0), (-joined[:, up]).clamp(min=0)
    return expressions


_BROWS = [[COLUMN[f"brow_{way}_{side}"][1] for way in ("raise", "frown")] for side in ("left", "right")]

"""Batches of real faces for a MEAF: captioned clips and stills, pairs of one person, and pairs that have no true picture."""

import re

import torch
from torch import Generator, Tensor

from ...data.clips.frame_store import FrameBatch, FrameStore
from ...data.clips.masks import face_ellipse, region_mask
from ...dsid import DSID
from ...image import resize
from ...pipeline.base import Base
from ..dsid.clips import index_faces
from .batches import AT_REST_SHARE, MEAFBatch, latent_masks, read_codes

TOLD_SHARE = 0.5  # of the captions keep what they say about the expression: always told, it would win over the code
EXPRESSION_WORDS = re.compile(
    r"\b(smil|laugh|grin|frown|scowl|cry|wink|blink|surpris|angr|sad\b|happ|fear|disgust|neutral|expression|mouth|eyes)", re.I
)


class CaptionedFaces:
    """Targets from settings.clips and settings.stills; `without_target` of the rows are asked for another person's expression
    and pose, of which no true picture exists.

    Raises ValueError for folders without usable files, and where no caption lies beside any of them.
    """

    def __init__(self, settings, dsid: DSID, base: Base, say=print):
        self.dsid, self.base, self.stills_share = dsid, base, settings.stills_share
        self.without_target = settings.without_target if settings.image_rows else 0.0
        clips = index_faces(settings, say)
        if not any(clip.captions for clip in clips):
            raise ValueError("none of the clips and pictures has a caption; put name.txt beside name.mp4 or name.png")
        self.store = FrameStore(clips, base.size)

    def sample(self, count: int, generator: Generator) -> MEAFBatch:
        pairs = self.store.sample_pairs(count, generator, far=0.5, stills_share=self.stills_share)
        at_rest = torch.rand(count, generator=generator) < AT_REST_SHARE
        strange = torch.rand(count, generator=generator) < self.without_target
        told = torch.rand(count, generator=generator) < TOLD_SHARE
        device = next(self.dsid.parameters()).device
        identity = torch.where(at_rest[:, None, None, None], pairs.second, pairs.first)
        reference = torch.where(strange[:, None, None, None], pairs.second.roll(1, 0), pairs.second)
        size = self.dsid.config.image_size
        codes = read_codes(self.dsid, *(resize(pictures, size).to(device) for pictures in (identity, reference)))
        side = self.base.size // 8
        face, region = latent_masks(*self._masks(pairs), side)
        return MEAFBatch(
            latents=self.base.encode(pairs.second.to(device)).cpu(),
            captions=[text if keep else without_expression(text) for text, keep in zip(pairs.second_caption, told.tolist())],
            codes={name: code.float().cpu() for name, code in codes.items()},
            face=face,
            region=region,
            images=resize(pairs.second, size),
            has_target=~strange,
        )

    def _masks(self, pairs: FrameBatch) -> tuple[Tensor, Tensor]:
        return face_ellipse(pairs.second_points, self.base.size), region_mask(pairs.second_points, self.base.size)


def without_expression(caption: str) -> str:
    """The caption less the parts between commas that tell an expression; the first part stays."""
    first, *rest = caption.split(",")
    return ",".join([first, *[part for part in rest if not EXPRESSION_WORDS.search(part)]])

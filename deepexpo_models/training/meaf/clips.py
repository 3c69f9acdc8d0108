"""Batches of real faces for a MEAF: captioned clips and stills, pairs of one person, and pairs that have no true picture."""

import math
import re
from dataclasses import dataclass

import torch
from torch import Generator, Tensor

from ...data.clips.frame_store import FrameBatch, FrameStore
from ...data.clips.masks import face_ellipse, region_mask
from ...dsid import DSID
from ...dsid.rotation import euler_to_matrix, matrix_to_rotation
from ...image import resize
from ...pipeline.base import Base
from ..dsid.clips import index_faces
from ..engine.feed import Movable
from .batches import AT_REST_SHARE, MEAFBatch, latent_masks, read_codes

KEPT_SHARE = 0.5  # of the captions keep what they say about the expression: always kept, it would win over the code
EXPRESSION_WORDS = re.compile(
    r"\b(smil|laugh|grin|frown|scowl|cry|wink|blink|surpris|angr|sad\b|happ|fear|disgust|neutral|expression|mouth|eyes)", re.I
)


@dataclass(frozen=True)
class Pictures(Movable):
    """identity, reference (B, 3, S, S) as the DSID reads them, target (B, 3, size, size) as the base makes them, in [-1, 1];
    labels: codes that no encoder makes; the rest as `MEAFBatch` has it."""

    identity: Tensor
    reference: Tensor
    target: Tensor
    captions: list[str]
    face: Tensor
    region: Tensor
    has_target: Tensor
    labels: dict[str, Tensor]


class CaptionedFaces:
    """Targets from settings.clips and settings.stills; `without_target` of the rows are asked for another person's expression
    and pose, of which no true picture exists.

    Raises ValueError for folders without usable files, and where no caption lies beside any of them.
    """

    def __init__(self, settings, dsid: DSID | None, base: Base, say=print):
        self.dsid, self.base, self.stills_share = dsid, base, settings.stills_share
        self.without_target = settings.without_target if settings.image_rows else 0.0
        clips = index_faces(settings, say)
        if not any(clip.captions for clip in clips):
            raise ValueError("none of the clips and pictures has a caption; put name.txt beside name.mp4 or name.png")
        self.labelled = bool(settings.public)
        if self.labelled and not any(math.isfinite(label[-1]) for clip in clips for label in clip.labels.values()):
            raise ValueError(
                "none of the clips and pictures has blendshapes beside it; label them with deepexpo_models.data.prepare "
                "--landmarker, or train on the codes of a DSID"
            )
        self.store = FrameStore(clips, base.size)

    def sample(self, count: int, generator: Generator) -> Pictures:
        """Read and decoded, on the CPU; `encoded` is what the device does with it."""
        pairs = self.store.sample_pairs(count, generator, far=0.5, stills_share=self.stills_share)
        at_rest = torch.rand(count, generator=generator) < AT_REST_SHARE
        strange = torch.rand(count, generator=generator) < self.without_target
        kept = torch.rand(count, generator=generator) < KEPT_SHARE
        identity = torch.where(at_rest[:, None, None, None], pairs.second, pairs.first)
        reference = torch.where(strange[:, None, None, None], pairs.second.roll(1, 0), pairs.second)
        size = self.dsid.config.image_size if self.dsid else self.base.size
        face, region = latent_masks(*self._masks(pairs), self.base.size // 8)
        return Pictures(
            identity=resize(identity, size),
            reference=resize(reference, size),
            target=pairs.second,
            captions=[text if keep else without_expression(text) for text, keep in zip(pairs.second_caption, kept.tolist())],
            face=face,
            region=region,
            has_target=~strange,
            labels=self._labels(pairs, strange),
        )

    def _labels(self, pairs: FrameBatch, strange: Tensor) -> dict[str, Tensor]:
        """Expression and rotation as labels tell them, NaN where they do not; nothing where the DSID reads them."""
        if not self.labelled:
            return {}
        rotation = matrix_to_rotation(euler_to_matrix(pairs.second_euler))
        labels = {"expression": pairs.second_units, "rotation": rotation}
        return {name: torch.where(strange[:, None], label.roll(1, 0), label) for name, label in labels.items()}

    def encoded(self, pictures: Pictures) -> MEAFBatch:
        """The frozen encoders' and the VAE's part, on their device."""
        pictures = pictures.to(next(self.base.unet.parameters()).device)
        codes = read_codes(self.dsid, pictures.identity, pictures.reference) if self.dsid else {}
        return MEAFBatch(
            latents=self.base.encode(pictures.target),
            captions=pictures.captions,
            codes={name: code.float() for name, code in (codes | pictures.labels).items()},
            face=pictures.face,
            region=pictures.region,
            images=resize(pictures.target, pictures.identity.shape[-1]),
            has_target=pictures.has_target,
        )

    def _masks(self, pairs: FrameBatch) -> tuple[Tensor, Tensor]:
        return face_ellipse(pairs.second_points, self.base.size), region_mask(pairs.second_points, self.base.size)


def without_expression(caption: str) -> str:
    """The caption less the parts between commas that tell an expression; the first part stays."""
    first, *rest = caption.split(",")
    return ",".join([first, *[part for part in rest if not EXPRESSION_WORDS.search(part)]])

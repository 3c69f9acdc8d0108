"""One step of the identity encoder on rendered people: two pictures of a person, in two places and lights, belong together."""

from dataclasses import dataclass, fields

import torch
import torch.nn.functional as F
from torch import Generator, Tensor, nn

from ...data.heads.shards import CONTEXT, FRAMES, Heads, HeadStore
from ...data.transforms import augment_identity_input
from ...dsid.encoders import IdentityEncoder
from ...dsid.losses import info_nce
from ...evaluation.metrics import area_under_curve
from ..engine.processes import gather_with_grad
from .views import colours

TRAITS = ("male", "age", "beard", "glasses")  # of the context, read linearly from a code as a help
COLOUR_STRENGTH = 0.4  # light and camera differ from photo to photo; skin and hair must stay what they are


@dataclass(frozen=True)
class PairsOfPeople:
    """Two pictures (B, 3, S, S) of each of B people, in two places and lights; traits (B, len(TRAITS)); told (2 B, D): what a
    recogniser sees in the first and the second pictures, NaN where it was not asked."""

    first: Tensor
    second: Tensor
    traits: Tensor
    told: Tensor

    def to(self, device: torch.device) -> "PairsOfPeople":
        return PairsOfPeople(*(getattr(self, field.name).to(device) for field in fields(self)))


class IdentityStep(nn.Module):
    """forward(people) -> unweighted terms: identity, traits, told, alike.

    recognised (N, D): what a recogniser saw in a part of the data; its mean says nothing of a person and is taken off, since
    all its faces lie to one side.
    """

    middle: Tensor

    def __init__(self, encoder: IdentityEncoder, recognised: Tensor):
        super().__init__()
        self.encoder = encoder
        self.traits = nn.Linear(encoder.config.identity_width, len(TRAITS))
        self.told = nn.Linear(encoder.config.identity_width, recognised.shape[1])
        self.register_buffer("middle", recognised.nanmean(0).nan_to_num())

    def forward(self, people: PairsOfPeople) -> dict[str, Tensor]:
        codes = [self.encoder(images) for images in (people.first, people.second)]
        found = [self.traits(code * code.shape[-1] ** 0.5) for code in codes]
        known = people.told.isfinite().all(1)
        told, code = F.normalize(people.told[known] - self.middle, dim=-1), torch.cat(codes)[known]
        return {
            "identity": info_nce(gather_with_grad(codes[0]), gather_with_grad(codes[1])),
            "traits": sum((row - people.traits).square().mean() for row in found) / 2,
            "told": (1 - F.cosine_similarity(self.told(code), told, dim=-1)).sum() / max(1, len(code)),
            "alike": unlikeness(code, told),
        }


def unlikeness(codes: Tensor, told: Tensor) -> Tensor:
    """Mean squared difference of the cosines between all pairs of rows, of codes (N, W) and of told (N, D), all of unit norm
    (relational distillation: Park et al. 2019). 0 for fewer than two rows."""
    pairs = torch.ones(len(codes), len(codes), dtype=torch.bool, device=codes.device).triu(1)
    return (codes @ codes.T - told @ told.T)[pairs].square().sum() / pairs.sum().clamp(min=1)


def sample_pairs(store: HeadStore, count: int, generator: Generator) -> PairsOfPeople:
    """count people -> a picture of each from its first clip, one from its second; augmented."""
    people = torch.randperm(len(store) // FRAMES, generator=generator)[:count] * FRAMES
    half = FRAMES // 2
    rows = [people + torch.randint(half, (len(people),), generator=generator) + start for start in (0, half)]
    first, second = (store.heads(row) for row in rows)
    told = store.recognised(torch.cat(rows))
    return PairsOfPeople(_augment(first, generator), _augment(second, generator), traits_of(first), told)


def traits_of(heads: Heads) -> Tensor:
    """(B, len(TRAITS))."""
    return heads.context[:, [CONTEXT.index(name) for name in TRAITS]].clamp(max=1)


def _augment(heads, generator: Generator) -> Tensor:
    return augment_identity_input(colours(heads.images, generator, COLOUR_STRENGTH), generator, heads.five)


@torch.no_grad()
def recognition(encoder: IdentityEncoder, store: HeadStore, people: int, device: torch.device) -> dict[str, float]:
    """Top-1 among people of the store, from one clip to the other, and the area under the curve of same against other."""
    rows = torch.arange(min(people, len(store) // FRAMES)) * FRAMES
    gallery, probe = (
        torch.cat([encoder(part.to(device)) for part in store.images(rows + frame).split(64)]) for frame in (1, FRAMES - 2)
    )
    cosines = probe.float() @ gallery.float().T
    same = torch.eye(len(rows), dtype=torch.bool, device=cosines.device)
    return {
        "held-out top1": (cosines.argmax(1) == torch.arange(len(rows), device=cosines.device)).float().mean().item(),
        "held-out AUC": area_under_curve(cosines[same], cosines[~same]),
    }

"""One step of the identity encoder on rendered people: two pictures of a person, in two places and lights, belong together."""

import torch
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


class IdentityStep(nn.Module):
    """forward(first, second, traits) -> unweighted terms: identity, traits. Pictures (B, 3, S, S), traits (B, len(TRAITS))."""

    def __init__(self, encoder: IdentityEncoder):
        super().__init__()
        self.encoder = encoder
        self.traits = nn.Linear(encoder.config.identity_width, len(TRAITS))

    def forward(self, first: Tensor, second: Tensor, traits: Tensor) -> dict[str, Tensor]:
        codes = [self.encoder(images) for images in (first, second)]
        found = [self.traits(code * code.shape[-1] ** 0.5) for code in codes]
        return {
            "identity": info_nce(gather_with_grad(codes[0]), gather_with_grad(codes[1])),
            "traits": sum((row - traits).square().mean() for row in found) / 2,
        }


def sample_pairs(store: HeadStore, count: int, generator: Generator) -> tuple[Tensor, Tensor, Tensor]:
    """count people -> a picture of each from its first clip, one from its second, and TRAITS; augmented."""
    people = torch.randperm(len(store) // FRAMES, generator=generator)[:count] * FRAMES
    half = FRAMES // 2
    frames = [torch.randint(half, (len(people),), generator=generator) + start for start in (0, half)]
    first, second = (store.heads(people + frame) for frame in frames)
    return _augment(first, generator), _augment(second, generator), traits_of(first)


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

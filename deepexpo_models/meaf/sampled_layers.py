"""A MEAF's layers laid out before the U-Net is called, for hosts that know a call's rows and size (see `formulations`)."""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from .formulations import Group, LayerStreams, lay_out
from .fusion import SiteTokens, resize_mask
from .model import MEAF


@dataclass(frozen=True)
class Latents:
    """What the U-Net will be called with: rows of the batch, height and width of the latents."""

    rows: int
    height: int
    width: int

    def size(self, site: str, levels: int) -> tuple[int, int]:
        """Height and width at a layer, named by its diffusers path, of a U-Net with that many levels."""
        block, *path = site.split(".")
        level = levels - 1  # of the middle
        if block != "mid_block":
            level = int(path[0]) if block == "down_blocks" else levels - 1 - int(path[0])
        half = 2**level
        return -(-self.height // half), -(-self.width // half)


def lay_out_layers(
    meaf: MEAF,
    heads: Mapping[str, int],
    tokens: Mapping[str, Tensor],
    strengths: Mapping[str, float],
    masks: Mapping[str, Tensor | None],
    latents: Latents,
    like: Tensor,
    steady: bool = False,
) -> dict[str, LayerStreams]:
    """Site -> the streams there. heads: of each site; tokens (B or 1, N, D), strengths and masks (B or 1, H, W) of streams;
    like: a tensor of the U-Net's device and dtype.

    steady: keep streams of strength 0 and a mask for each, so that a compiled U-Net sees the same shapes whatever acts.
    """
    acting = {name: each.to(like) for name, each in tokens.items() if steady or strengths.get(name, 1.0) != 0}
    if not acting:
        return {}
    groups, variants = _groups(list(acting.values()), latents.rows)
    chosen = {name: each.expand(latents.rows, -1, -1)[variants] for name, each in acting.items()}
    fusion = meaf.config.fusion
    found = {}
    for site, count in heads.items():
        projected = [_scaled(meaf.project(name, site, each), strengths.get(name, 1.0)) for name, each in chosen.items()]
        shown = [masks.get(name) for name in chosen]
        size = latents.size(site, len(meaf.config.unet.channels))
        gate = _gate(shown, latents.rows, size, like) if steady or any(mask is not None for mask in shown) else None
        found[site] = lay_out(projected, groups, count, gate, None if fusion == "tokens" else fusion)
    return found


def _groups(tokens: list[Tensor], rows: int) -> tuple[tuple[Group, ...], list[int]]:
    """Rows that follow each other and have the same tokens of all streams, and the first row of each group."""
    flat = torch.cat([each.flatten(1).expand(rows, -1) for each in tokens], dim=1)
    begins = [0, *(number for number, same in enumerate((flat[1:] == flat[:-1]).all(1).tolist(), 1) if not same)]
    counts = [end - begin for begin, end in zip(begins, [*begins[1:], rows])]
    return tuple((count, number) for number, count in enumerate(counts)), begins


def _scaled(tokens: SiteTokens, strength: float) -> SiteTokens:
    return SiteTokens(tokens.key, tokens.value * strength, tokens.null_logit)


def _gate(masks: list[Tensor | None], rows: int, size: tuple[int, int], like: Tensor) -> Tensor:
    """(rows, h * w, streams)"""
    whole = like.new_ones(rows, size[0] * size[1], 1)
    shown = [whole if mask is None else resize_mask(mask.to(like.device), *size).to(like).expand_as(whole) for mask in masks]
    return torch.cat(shown, dim=-1)

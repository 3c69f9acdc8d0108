"""The dual branch: a trainable copy of the base's U-Net, joined to the frozen one by 1x1 convolutions that begin at zero.

The copy sees the latents, the time step, an empty prompt and, in its own cross-attention layers, MEAF's streams; never the
user's prompt. `control` copies the way down and the middle and joins every skip connection and the middle, as a ControlNet
does (Zhang et al. 2023); `full` copies the whole U-Net and joins the middle and the output of every block of the way up.
Layers have the names that diffusers gives them, so a base's weights are copied as they are; hosts run this same code.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ..config_fields import check_fields
from .fusion import resize_mask
from .sites import UNetShape, unet_sites
from .unet_copy import Fuse, UNetCopy

PREFIX = "branch."  # of the copy's layers among the sites of a MEAF
SIZE_EMBEDDING = 6 * 256  # SDXL: original size, crop and target size, each embedded in 256 channels
COPIED = {"control": ("down_blocks", "mid_block"), "full": ("down_blocks", "mid_block", "up_blocks")}


@dataclass(frozen=True)
class BranchConfig:
    """What the copy is, beside the U-Net's shape.

    size: key of COPIED; heads: of the attention, per level; linear: whether an attention's projections are linear layers
    (SD2, SDXL) or 1x1 convolutions; latents: their channels; vector_width: of SDXL's pooled text and sizes, 0 for none;
    text_tokens: of the empty prompt; light_too: whether the streams act in the frozen U-Net as well.
    """

    size: str
    heads: tuple[int, ...]
    linear: bool
    latents: int = 4
    vector_width: int = 0
    text_tokens: int = 77
    light_too: bool = False

    def __post_init__(self):
        check_fields(self, zero=("vector_width",), most={"text_tokens": 4096})
        if self.size not in COPIED:
            raise ValueError(f"unknown size {self.size!r} of a branch; known: {', '.join(COPIED)}")


@dataclass(frozen=True)
class Residuals:
    """What is added to the frozen U-Net: to its skip connections in the order they are made, to the middle block's output,
    and to the output of each block of the way up. Empty lists where a size joins nothing."""

    skips: list[Tensor]
    mid: Tensor
    ups: list[Tensor]

    def scaled(self, strengths: list[float], masks: list[Tensor | None]) -> "Residuals":
        """Times how far the streams reach: per place the largest strength (1 at most) times mask.

        One strength and mask (B or 1, H, W) per stream that acts. So all strengths near zero, or black masks, mean a
        branch near zero, though the copy's own features are not.
        """
        limited = [min(strength, 1.0) for strength in strengths]
        if all(mask is None for mask in masks):
            return self._each(lambda x: x * max(limited))
        return self._each(lambda x: x * _reach(limited, masks, x))

    def _each(self, change) -> "Residuals":
        return Residuals([change(x) for x in self.skips], change(self.mid), [change(x) for x in self.ups])


def site_names(shape: UNetShape, config: BranchConfig | None) -> dict[str, int]:
    """Name of each cross-attention that the streams act in -> its channels; the copy's begin with PREFIX."""
    base = unet_sites(shape)
    if config is None:
        return base
    copied = {PREFIX + path: channels for path, channels in base.items() if path.startswith(COPIED[config.size])}
    return {**(base if config.light_too else {}), **copied}


class Branch(nn.Module):
    """The copy, its joins, and the empty prompt it sees. Weight names: `copy.<diffusers path>`, `joins.<number>`.

    operations: as in `model.MEAF`.
    """

    null_text: Tensor  # (tokens, D)
    null_pooled: Tensor  # (P,), of bases with a vector

    def __init__(self, shape: UNetShape, config: BranchConfig, operations=nn):
        super().__init__()
        self.config = config
        whole = "up_blocks" in COPIED[config.size]
        self.copy = UNetCopy(shape, config.heads, config.linear, config.latents, config.vector_width, whole, operations)
        self.joins = nn.ModuleList([_zero(operations.Conv2d(width, width, 1)) for width in _joined(shape, config)])
        self.register_buffer("null_text", torch.zeros(config.text_tokens, shape.context_width))
        if config.vector_width:
            self.register_buffer("null_pooled", torch.zeros(config.vector_width - SIZE_EMBEDDING))

    def forward(self, latents: Tensor, times: Tensor, sizes: Tensor | None, fuse: Fuse) -> Residuals:
        """latents (B, C, h, w) as the U-Net sees them, times (B,) of 1000, sizes (B, SIZE_EMBEDDING): SDXL's, embedded."""
        text = self.null_text.to(latents).expand(len(latents), -1, -1)
        vector = None
        if self.config.vector_width:
            if sizes is None:
                raise ValueError("a branch for this base reads the picture's embedded sizes; none were given")
            pooled = self.null_pooled.to(latents).expand(len(latents), -1)
            vector = torch.cat([pooled, sizes.to(latents)], dim=1)
        skips, mid, ups = self.copy(latents, times, text, vector, fuse)
        if self.config.size == "full":
            mid, *ups = [join(x) for join, x in zip(self.joins, [mid, *ups], strict=True)]
            return Residuals([], mid, ups)
        *skips, mid = [join(x) for join, x in zip(self.joins, [*skips, mid], strict=True)]
        return Residuals(skips, mid, [])

    @torch.no_grad()
    def copy_base(self, unet: nn.Module, null_text: Tensor, null_pooled: Tensor | None = None) -> None:
        """Begin as the base: a diffusers U-Net's weights, and the empty prompt (tokens, D) and its pooled text (P,)."""
        weights = unet.state_dict()
        self.copy.load_state_dict({name: weights[name] for name in self.copy.state_dict()})
        self.null_text.copy_(null_text)
        if null_pooled is not None:
            self.null_pooled.copy_(null_pooled)


def _joined(shape: UNetShape, config: BranchConfig) -> list[int]:
    """Channels of each join, in the order of `Branch.forward`."""
    mid = shape.channels[-1]
    if config.size == "full":
        return [mid, *reversed(shape.channels)]
    skips = [shape.channels[0]] + [width for width in shape.channels for _ in range(shape.layers + 1)]
    return [*skips[:-1], mid]  # the last level has no downsampler


def _reach(strengths: list[float], masks: list[Tensor | None], x: Tensor) -> Tensor:
    """(B or 1, 1, h, w), at the size of x."""
    height, width = x.shape[-2:]
    whole = x.new_ones(1, height * width, 1)
    maps = [s * (whole if mask is None else resize_mask(mask, height, width).to(x)) for s, mask in zip(strengths, masks)]
    reach = maps[0]
    for other in maps[1:]:
        reach = torch.maximum(reach, other)
    return reach.mT.unflatten(2, (height, width))


def _zero(layer: nn.Module) -> nn.Module:
    """Weights and bias of zero, unless they are made to be loaded."""
    for parameter in layer.parameters():
        if not parameter.is_meta:
            nn.init.zeros_(parameter)
    return layer

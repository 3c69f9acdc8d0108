"""Stable Diffusion's U-Net (Rombach et al. 2022; SDXL: Podell et al. 2023) in plain PyTorch, as far as a branch copies it.

Layers are named as in diffusers. One class for training and for ComfyUI's casting layers, see `operations` in `model.MEAF`.
"""

import math
from collections.abc import Callable, Iterable
from functools import partial
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from .fusion import join_heads, split_heads
from .sites import UNetShape

GROUPS = 32  # of Stable Diffusion's GroupNorm

# (layer's name, query (B, L, C), text attention (B, L, C), heads, (height, width) of L) -> text attention with the streams
Fuse = Callable[[str, Tensor, Tensor, int, tuple[int, int]], Tensor]


class UNetCopy(nn.Module):
    """The way down and the middle, and with `up` the way up, but not the last normalisation and convolution.

    heads: of the attention, per level; linear: whether an attention's projections are linear layers (SD2, SDXL) or 1x1
    convolutions; latents: their channels; vector: width of what SDXL is told beside the text, 0 for nothing.
    checkpointing: recompute in the backward pass instead of keeping.
    """

    def __init__(
        self, shape: UNetShape, heads: tuple[int, ...], linear: bool, latents: int, vector: int, up: bool, operations=nn
    ):  # fmt: skip
        super().__init__()
        self.checkpointing = False
        first, time_width = shape.channels[0], 4 * shape.channels[0]
        self.conv_in = operations.Conv2d(latents, first, 3, padding=1)
        self.time_embedding = Embedding(first, time_width, operations)
        if vector:
            self.add_embedding = Embedding(vector, time_width, operations)
        levels = list(zip(shape.channels, shape.depth, heads, strict=True))
        level = partial(Level, context=shape.context_width, time=time_width, linear=linear, operations=operations)
        self.down_blocks = nn.ModuleList()
        skips, width = [first], first
        for number, (channels, depth, parts) in enumerate(levels):
            last = number == len(levels) - 1
            in_channels = [width] + [channels] * (shape.layers - 1)
            self.down_blocks.append(level(in_channels, channels, depth, parts, down=not last))
            skips += [channels] * (shape.layers + (not last))
            width = channels
        self.mid_block = level([width, width], width, shape.mid_depth, heads[-1], attentions=1)
        self.up_blocks = nn.ModuleList()
        for number, (channels, depth, parts) in enumerate(reversed(levels if up else [])):
            in_channels = [before + skips.pop() for before in [width] + [channels] * shape.layers]
            self.up_blocks.append(level(in_channels, channels, depth, parts, up=number < len(levels) - 1))
            width = channels

    def forward(self, x: Tensor, times: Tensor, text: Tensor, vector: Tensor | None, fuse: Fuse):
        """-> (features of the skip connections, of the middle, of each block of the way up)."""
        time = self.time_embedding(wave_embedding(times, self.conv_in.out_channels).to(x))
        if vector is not None:
            time = time + self.add_embedding(vector)
        run = lambda layer, *inputs: _recomputed(layer, *inputs) if self.checkpointing else layer(*inputs)  # noqa: E731
        x = self.conv_in(x)
        skips, ups = [x], []
        for number, level in enumerate(cast(Iterable[Level], self.down_blocks)):
            named = _prefixed(fuse, f"down_blocks.{number}")
            for index in range(len(level.resnets)):
                x = run(level.layer, index, x, time, text, named)
                skips.append(x)
            for sampler in level.downsamplers:
                x = sampler(x)
                skips.append(x)
        mid = x = run(self._middle, x, time, text, _prefixed(fuse, "mid_block"))
        left = list(skips)
        for number, level in enumerate(cast(Iterable[Level], self.up_blocks)):
            named = _prefixed(fuse, f"up_blocks.{number}")
            for index in range(len(level.resnets)):
                x = run(level.layer, index, torch.cat([x, left.pop()], dim=1), time, text, named)
            for sampler in level.upsamplers:
                x = sampler(x, left[-1].shape[-2:])
            ups.append(x)
        return skips, mid, ups

    def _middle(self, x: Tensor, time: Tensor, text: Tensor, fuse: Fuse) -> Tensor:
        return self.mid_block.resnets[1](self.mid_block.layer(0, x, time, text, fuse), time)


class Level(nn.Module):
    """The layers of one resolution: pairs of a residual block and, where depth is not 0, a transformer."""

    def __init__(
        self, in_channels: list[int], width: int, depth: int, heads: int, *, context: int, time: int, linear: bool, operations,
        attentions: int | None = None, down: bool = False, up: bool = False,
    ):  # fmt: skip
        super().__init__()
        self.resnets = nn.ModuleList([TimedBlock(channels, width, time, operations) for channels in in_channels])
        count = (len(in_channels) if attentions is None else attentions) if depth else 0
        self.attentions = nn.ModuleList([Transformer(width, depth, heads, context, linear, operations) for _ in range(count)])
        self.downsamplers = nn.ModuleList([Downsampler(width, operations)] if down else [])
        self.upsamplers = nn.ModuleList([Upsampler(width, operations)] if up else [])

    def layer(self, index: int, x: Tensor, time: Tensor, text: Tensor, fuse: Fuse) -> Tensor:
        x = self.resnets[index](x, time)
        if index < len(self.attentions):
            x = self.attentions[index](x, text, _prefixed(fuse, f"attentions.{index}"))
        return x


class TimedBlock(nn.Module):
    """(B, in, H, W), time (B, T) -> (B, out, H, W)."""

    def __init__(self, in_channels: int, out_channels: int, time: int, operations=nn):
        super().__init__()
        self.norm1 = operations.GroupNorm(GROUPS, in_channels)
        self.conv1 = operations.Conv2d(in_channels, out_channels, 3, padding=1)
        self.time_emb_proj = operations.Linear(time, out_channels)
        self.norm2 = operations.GroupNorm(GROUPS, out_channels)
        self.conv2 = operations.Conv2d(out_channels, out_channels, 3, padding=1)
        self.conv_shortcut = nn.Identity() if in_channels == out_channels else operations.Conv2d(in_channels, out_channels, 1)

    def forward(self, x: Tensor, time: Tensor) -> Tensor:
        hidden = self.conv1(F.silu(self.norm1(x))) + self.time_emb_proj(F.silu(time))[:, :, None, None]
        return self.conv_shortcut(x) + self.conv2(F.silu(self.norm2(hidden)))


class Transformer(nn.Module):
    """(B, C, H, W), text (B, N, D) -> (B, C, H, W): `depth` blocks over the positions."""

    def __init__(self, width: int, depth: int, heads: int, context: int, linear: bool, operations=nn):
        super().__init__()
        project = (lambda: operations.Linear(width, width)) if linear else (lambda: operations.Conv2d(width, width, 1))
        self.norm = operations.GroupNorm(GROUPS, width, eps=1e-6)
        self.proj_in, self.proj_out = project(), project()
        self.transformer_blocks = nn.ModuleList([TransformerBlock(width, heads, context, operations) for _ in range(depth)])
        self.linear = linear

    def forward(self, x: Tensor, text: Tensor, fuse: Fuse) -> Tensor:
        size = tuple(x.shape[-2:])
        rows = lambda image: image.flatten(2).mT  # noqa: E731
        image = lambda rows: rows.mT.unflatten(2, size)  # noqa: E731
        hidden = self.norm(x)
        hidden = self.proj_in(rows(hidden)) if self.linear else rows(self.proj_in(hidden))
        for number, block in enumerate(self.transformer_blocks):
            hidden = block(hidden, text, size, _prefixed(fuse, f"transformer_blocks.{number}"))
        return x + (image(self.proj_out(hidden)) if self.linear else self.proj_out(image(hidden)))


class TransformerBlock(nn.Module):
    """Self-attention, cross-attention with the streams, feed-forward; each added to its input."""

    def __init__(self, width: int, heads: int, context: int, operations=nn):
        super().__init__()
        self.norm1, self.norm2, self.norm3 = (operations.LayerNorm(width) for _ in range(3))
        self.attn1 = Attention(width, width, heads, operations)
        self.attn2 = Attention(width, context, heads, operations)
        self.ff = FeedForward(width, operations)

    def forward(self, x: Tensor, text: Tensor, size: tuple[int, int], fuse: Fuse) -> Tensor:
        hidden = self.norm1(x)
        x = x + self.attn1(hidden, hidden)
        x = x + self.attn2(self.norm2(x), text, lambda query, found, heads: fuse("attn2", query, found, heads, size))
        return x + self.ff(self.norm3(x))


class Attention(nn.Module):
    """x (B, L, C) asks context (B, N, D) -> (B, L, C). add(query, found, heads): what is put between attention and to_out."""

    def __init__(self, width: int, context: int, heads: int, operations=nn):
        super().__init__()
        self.heads = heads
        self.to_q = operations.Linear(width, width, bias=False)
        self.to_k = operations.Linear(context, width, bias=False)
        self.to_v = operations.Linear(context, width, bias=False)
        self.to_out = nn.ModuleList([operations.Linear(width, width)])

    def forward(self, x: Tensor, context: Tensor, add=None) -> Tensor:
        query = self.to_q(x)
        q, k, v = (split_heads(part, self.heads) for part in (query, self.to_k(context), self.to_v(context)))
        found = join_heads(F.scaled_dot_product_attention(q, k, v))
        return self.to_out[0](found if add is None else add(query, found, self.heads))


class FeedForward(nn.Module):
    """(B, L, C) -> (B, L, C): a gated linear unit of GELU, four times as wide (Shazeer 2020)."""

    def __init__(self, width: int, operations=nn):
        super().__init__()
        first = nn.Module()
        first.proj = operations.Linear(width, 8 * width)
        self.net = nn.ModuleList([first, nn.Identity(), operations.Linear(4 * width, width)])

    def forward(self, x: Tensor) -> Tensor:
        hidden, gate = cast(Any, self.net[0]).proj(x).chunk(2, dim=-1)
        return self.net[2](hidden * F.gelu(gate))


class Downsampler(nn.Module):
    def __init__(self, width: int, operations=nn):
        super().__init__()
        self.conv = operations.Conv2d(width, width, 3, stride=2, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(x)


class Upsampler(nn.Module):
    def __init__(self, width: int, operations=nn):
        super().__init__()
        self.conv = operations.Conv2d(width, width, 3, padding=1)

    def forward(self, x: Tensor, size: tuple[int, int]) -> Tensor:
        """To the size of the skip connection that comes next: twice, or one less where that was odd."""
        return self.conv(F.interpolate(x, size, mode="nearest"))


class Embedding(nn.Module):
    """(B, in) -> (B, width)."""

    def __init__(self, in_channels: int, width: int, operations=nn):
        super().__init__()
        self.linear_1 = operations.Linear(in_channels, width)
        self.linear_2 = operations.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        return self.linear_2(F.silu(self.linear_1(x)))


def wave_embedding(numbers: Tensor, width: int) -> Tensor:
    """numbers (B,) -> (B, width), float32: cosines, then sines, of wavelengths from 2 pi to 10000 times that (Vaswani 2017)."""
    half = width // 2
    speeds = torch.exp(-math.log(10000) / half * torch.arange(half, dtype=torch.float32, device=numbers.device))
    angles = numbers.float()[:, None] * speeds
    return torch.cat([angles.cos(), angles.sin()], dim=1)


def _prefixed(fuse: Fuse, prefix: str) -> Fuse:
    return lambda name, *rest: fuse(f"{prefix}.{name}", *rest)


def _recomputed(layer, *inputs):
    return checkpoint(layer, *inputs, use_reentrant=False)

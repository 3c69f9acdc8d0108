"""The fusion formula: attention of a U-Net's own queries over each stream's few tokens, added to the text attention.

    A_s(q) = softmax over keys of [ q k^T / sqrt(d), null ] times [ v ; 0 ]
    out    = A_text(q) + sum over s of  strength_s * mask_s * A_s(q)          (the gate is in v, see model.SiteAttention)

A null key with a learned logit and the value zero makes even a one-token stream a spatial gate, sigmoid(q k / sqrt(d) - null).
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from einops import rearrange
from torch import Tensor


@dataclass(frozen=True)
class SiteTokens:
    """One stream's tokens at one layer: key (B or 1, N, C), value (B or 1, N, C) times the gate, null_logit ()."""

    key: Tensor
    value: Tensor
    null_logit: Tensor


@dataclass(frozen=True)
class FusedStream:
    """One stream's part in a call: its tokens at this layer, the strength, a mask (B or 1, L, 1) in [0, 1] or None."""

    tokens: SiteTokens
    strength: float
    mask: Tensor | None


def fuse(text: Tensor, query: Tensor, heads: int, streams: list[FusedStream], fusion: str = "tokens") -> Tensor:
    """Add the streams to the text attention's output, both before the layer's to_out.

    text, query: (B, L, C); fusion: key of FUSIONS -> (B, L, C) in text's dtype.
    The formula as it is trained and tested against; `formulations` has faster ones for sampling. The softmax runs per stream,
    in float32 whatever the model's dtype, and so do float16's products, which overflow at |q| = |k| = 300.
    """
    keys, values = (_join_streams(streams, part, query, heads) for part in ("key", "value"))  # (B, H, sum of N, d)
    exact = torch.float32 if query.dtype == torch.float16 else query.dtype
    scores = split_heads(query, heads).to(exact) @ (keys.to(exact) * keys.shape[-1] ** -0.5).mT
    parts = scores.float().split([stream.tokens.key.shape[1] for stream in streams], dim=-1)
    weights = [_weights(part, stream, fusion) for part, stream in zip(parts, streams, strict=True)]
    return text + join_heads(torch.cat(weights, dim=-1).to(values) @ values).to(text.dtype)


def token_weights(scores: Tensor, null_logit: Tensor) -> Tensor:
    """scores (B, H, L, N), null_logit () -> weights (B, H, L, N): softmax over the keys and the null key."""
    null = null_logit.float().expand(*scores.shape[:-1], 1)
    return torch.cat([scores, null], dim=-1).softmax(dim=-1)[..., :-1]


def paper_weights(scores: Tensor, null_logit: Tensor) -> Tensor:
    """The published formula, kept as a reference: one token, softmax over the L query positions, times L so that the mean
    weight is 1 (as printed it vanishes as 1/L). Shapes as `token_weights`; null_logit takes no part.
    """
    if scores.shape[-1] != 1:
        raise ValueError(
            f"fusion 'paper' is defined for one token per stream, this stream has {scores.shape[-1]}; use 'tokens'"
        )
    return scores.softmax(dim=-2) * scores.shape[-2]


FUSIONS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {"tokens": token_weights, "paper": paper_weights}


def resize_mask(mask: Tensor, height: int, width: int) -> Tensor:
    """mask (B, H, W) in [0, 1] -> (B, height * width, 1). Area averaging keeps an all-one mask exactly one."""
    return torch.nn.functional.interpolate(mask[:, None].float(), (height, width), mode="area").flatten(2).mT


def split_heads(x: Tensor, heads: int) -> Tensor:
    """(B, L, H * d) -> (B, H, L, d)."""
    return rearrange(x, "b l (h d) -> b h l d", h=heads)


def join_heads(x: Tensor) -> Tensor:
    """(B, H, L, d) -> (B, L, H * d)."""
    return rearrange(x, "b h l d -> b l (h d)")


def _join_streams(streams: list[FusedStream], part: str, query: Tensor, heads: int) -> Tensor:
    """The keys or values of all streams, side by side."""
    tensors = [getattr(stream.tokens, part).expand(len(query), -1, -1) for stream in streams]
    return split_heads(torch.cat(tensors, dim=1), heads)


def _weights(scores: Tensor, stream: FusedStream, fusion: str) -> Tensor:
    weights = FUSIONS[fusion](scores, stream.tokens.null_logit) * stream.strength
    return weights if stream.mask is None else weights * stream.mask[:, None]

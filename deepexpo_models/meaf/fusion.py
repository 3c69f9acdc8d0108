"""The fusion formula: attention of a U-Net's own queries over one stream's few tokens.

    A(q) = softmax over keys of [ q k^T / sqrt(d), null ] times [ v ; 0 ]

A null key with a learned logit and the value zero makes even a one-token stream a spatial gate, sigmoid(q k / sqrt(d) - null).
"""

from collections.abc import Callable

import torch
from einops import rearrange
from torch import Tensor


def token_attention(query: Tensor, key: Tensor, value: Tensor, null_logit: Tensor, heads: int) -> Tensor:
    """query (B, L, C), key and value (B or 1, N, C), null_logit () -> (B, L, C) in query's dtype.

    Explicit rather than through a fused kernel: N is below 20, and the softmax must be float32 whatever the model's dtype.
    """
    query, key, value = (split_heads(x, heads) for x in (query, key, value))
    scores = (query * query.shape[-1] ** -0.5) @ key.transpose(-1, -2)  # (B, H, L, N)
    null = null_logit.float().expand(*scores.shape[:-1], 1)
    weights = torch.cat([scores.float(), null], dim=-1).softmax(dim=-1)[..., :-1]
    return join_heads(weights.to(value) @ value)


def paper_attention(query: Tensor, key: Tensor, value: Tensor, null_logit: Tensor, heads: int) -> Tensor:
    """The published formula, kept as a reference: one token, softmax over the L query positions, times L so that the mean
    weight is 1 (as printed it vanishes as 1/L). Shapes as `token_attention`; null_logit takes no part.
    """
    if key.shape[1] != 1:
        raise ValueError(
            f"fusion 'paper' is defined for one token per stream, this stream has {key.shape[1]}; use 'tokens'"
        )
    query, key, value = (split_heads(x, heads) for x in (query, key, value))
    scores = (query * query.shape[-1] ** -0.5) @ key.transpose(-1, -2)
    weights = scores.float().softmax(dim=-2) * query.shape[-2]
    return join_heads(weights.to(value) @ value)


FUSIONS: dict[str, Callable[[Tensor, Tensor, Tensor, Tensor, int], Tensor]] = {
    "tokens": token_attention,
    "paper": paper_attention,
}


def resize_mask(mask: Tensor, height: int, width: int) -> Tensor:
    """mask (B, H, W) in [0, 1] -> (B, height * width, 1). Area averaging keeps an all-one mask exactly one."""
    return torch.nn.functional.interpolate(mask[:, None].float(), (height, width), mode="area").flatten(2).mT


def split_heads(x: Tensor, heads: int) -> Tensor:
    """(B, L, H * d) -> (B, H, L, d)."""
    return rearrange(x, "b l (h d) -> b h l d", h=heads)


def join_heads(x: Tensor) -> Tensor:
    """(B, H, L, d) -> (B, L, H * d)."""
    return rearrange(x, "b h l d -> b l (h d)")

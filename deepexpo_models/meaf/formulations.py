"""The fusion formula for sampling, as tensors laid out once and a few kernels per layer and step.

What does not depend on the queries is made by `lay_out`, before the U-Net is called: keys over heads, values with gate and
strength, null logits as the bias of a null key whose value is zero. A `LayerStreams` holds nothing else, so torch.compile sees
one graph for any strength, code and mask. All formulations equal `fusion.fuse` to one rounding of the dtype.

    columns  one column of scores per query, (H, tokens, rows * L), the queries a view: nothing is copied, and the softmax runs
             over a dimension whose neighbours in memory are other softmaxes, as wide as the machine's vectors like
    sdpa     one fused attention per stream, the null logit as its mask: scores in float32, never written

Chosen by `choose`, from measurements on a CPU by hand; on a GPU by their kernels and bytes, which were counted.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from .fusion import FUSIONS, FusedStream, SiteTokens, fuse

LOOPED_GROUPS = (
    4  # `columns` runs once per group of equal rows; with more of them sdpa needs fewer kernels, which counts on a GPU
)

Group = tuple[int, int]  # rows that follow each other and share their tokens: (how many, which variant of the tokens)


@dataclass(frozen=True, eq=False)
class LayerStreams:
    """All streams at one layer of one U-Net call, ready to be added.

    keys, values, bias: per group (sdpa: per stream), in the formulation's layout; gate: (B, L, S) masks in the dtype of the
    queries, or None; rows: of each group; kind: key of FORMULATIONS; heads, streams: their numbers.
    """

    keys: tuple[Tensor, ...]
    values: tuple[Tensor, ...]
    bias: tuple[Tensor, ...]
    gate: Tensor | None
    rows: tuple[int, ...]
    heads: int
    streams: int
    kind: str

    @property
    def dtype(self) -> torch.dtype:
        return self.keys[0].dtype

    def with_gate(self, gate: Tensor | None) -> "LayerStreams":
        return self if gate is self.gate else replace(self, gate=gate)

    def add(self, text: Tensor, query: Tensor) -> Tensor:
        """Add the streams to text, in place: (B, L, C) both, contiguous, and before the layer's to_out."""
        return FORMULATIONS[self.kind].add(self, text, query)


@dataclass(frozen=True)
class Formulation:
    """lay_out(tokens of each stream (V, N, C), groups, heads) -> (keys, values, bias); add: see LayerStreams."""

    lay_out: Callable
    add: Callable


def choose(device: torch.device, dtype: torch.dtype, counts: Sequence[int], groups: int) -> str:
    """Key of FORMULATIONS for streams of these token counts and this many groups of rows."""
    if device.type == "cpu":
        return "sdpa" if dtype == torch.float16 else "columns"
    return "sdpa" if groups > LOOPED_GROUPS or (dtype == torch.float16 and len(counts) < 3) else "columns"


def lay_out(
    tokens: Sequence[SiteTokens], groups: Sequence[Group], heads: int, gate: Tensor | None = None, kind: str | None = None
) -> LayerStreams:
    """tokens: one per stream, (V, N, C) for V variants (strength and gate in the values); groups: the rows of the call;
    gate: (B, L, S) or None; kind: chosen unless given."""
    first = tokens[0].key
    counts = [part.key.shape[1] for part in tokens]
    kind = kind or choose(first.device, first.dtype, counts, len(groups))
    keys, values, bias = FORMULATIONS[kind].lay_out(tokens, groups, heads)
    return LayerStreams(keys, values, bias, gate, tuple(count for count, _ in groups), heads, len(tokens), kind)


def _columns(tokens: Sequence[SiteTokens], variant: int, heads: int) -> tuple[Tensor, Tensor, Tensor]:
    """keys and values (H, S, M, d), bias (S, M): each stream's tokens, its null key, and columns that never act, up to the M of
    the largest stream."""
    longest = 1 + max(part.key.shape[1] for part in tokens)
    first = tokens[0].key
    width = first.shape[-1] // heads
    keys, values = (first.new_zeros(heads, len(tokens), longest, width) for _ in range(2))
    bias = first.new_full((len(tokens), longest), float("-inf"))
    for number, part in enumerate(tokens):
        count = part.key.shape[1]
        keys[:, number, :count] = (part.key[variant] * width**-0.5).unflatten(-1, (heads, width)).transpose(0, 1)
        values[:, number, :count] = part.value[variant].unflatten(-1, (heads, width)).transpose(0, 1)
        bias[number, :count] = 0
        bias[number, count] = part.null_logit
    return keys, values, bias


def _lay_columns(tokens, groups, heads):
    """Per group: keys (H, S * M, d), values (H, S * M, d), bias (1, S * M, 1)."""
    laid = {}
    for _, variant in groups:
        if variant not in laid:
            keys, values, bias = _columns(tokens, variant, heads)
            scale = HALF_SCALE if keys.dtype == torch.float16 else 1.0
            laid[variant] = (keys.flatten(1, 2) * scale, values.flatten(1, 2), bias.reshape(1, -1, 1) * scale)
    return tuple(zip(*(laid[variant] for _, variant in groups)))


# float16's products overflow beyond 65504, reached at |q| = |k| = 300: the keys are laid out this much smaller (a power of two
# costs no digit), and the scores, in float32 by then, are made as much larger before the softmax.
HALF_SCALE = 2.0**-8


def _add_columns(layer: LayerStreams, text: Tensor, query: Tensor) -> Tensor:
    begin, heads, width = 0, layer.heads, query.shape[-1] // layer.heads
    for rows, keys, values, bias in zip(layer.rows, layer.keys, layer.values, layer.bias):
        part = slice(begin, begin + rows)
        begin += rows
        by_head = query[part].reshape(-1, heads, width).permute(1, 2, 0)  # (H, d, rows * L), a view
        weights = _softmax(torch.baddbmm(bias, keys, by_head).unflatten(1, (layer.streams, -1)))
        if layer.gate is not None:
            weights = weights * layer.gate[part].reshape(-1, layer.streams).T[:, None]
        _add_product(text[part], weights.flatten(1, 2).mT.to(values), values)
    return text


def _add_product(text: Tensor, weights: Tensor, values: Tensor) -> None:
    """text (rows, L, C) += weights (H, rows * L, M) @ values (H, M, C / H), heads beside each other: in place, in one kernel.
    torch.compile, whose functions change nothing in place, cannot undo these views; it fuses the plain sum by itself."""
    if torch.compiler.is_compiling():
        text.add_(torch.bmm(weights, values).transpose(0, 1).reshape(text.shape))
    else:
        text.view(-1, len(values), values.shape[-1]).transpose(0, 1).baddbmm_(weights, values)


def _softmax(scores: Tensor) -> Tensor:
    """Over the tokens of each stream: scores (H, S, M, rows * L)."""
    if scores.dtype != torch.float16:
        return scores.softmax(2)
    return (scores * scores.new_full((1,), 1 / HALF_SCALE, dtype=torch.float32)).softmax(2)


def _lay_sdpa(tokens, groups, heads):
    """Per stream: keys and values (B or 1, H, N, d) with the null key, masks (1, 1, 1, N)."""
    variants = [variant for rows, variant in groups for _ in range(rows)]
    same = len(set(variants)) == 1
    chosen = torch.tensor(variants[:1] if same else variants, device=tokens[0].key.device)
    laid = []
    for part in tokens:
        count = part.key.shape[1]
        length = -(-(count + 1) // 8) * 8
        keys, values = (
            torch.nn.functional.pad(x[chosen].unflatten(-1, (heads, -1)).transpose(1, 2), (0, 0, 0, length - count))
            for x in (part.key, part.value)
        )
        bias = keys.new_full((1, 1, 1, length), float("-inf"))
        bias[..., :count] = 0
        bias[..., count] = part.null_logit
        laid.append((keys, values, bias))
    return tuple(zip(*laid))


def _add_sdpa(layer: LayerStreams, text: Tensor, query: Tensor) -> Tensor:
    by_head = query.unflatten(-1, (layer.heads, -1)).transpose(1, 2)
    for number, (keys, values, bias) in enumerate(zip(layer.keys, layer.values, layer.bias)):
        size = (len(query), *keys.shape[1:])
        mask = bias.expand(*by_head.shape[:3], -1)
        found = torch.nn.functional.scaled_dot_product_attention(
            by_head, keys.expand(size), values.expand(size), attn_mask=mask
        )
        found = found.transpose(1, 2).reshape(text.shape)
        if layer.gate is None:
            text.add_(found)
        else:
            text.addcmul_(found, layer.gate[..., number : number + 1])
    return text


def _lay_reference(tokens, groups, heads):
    variants = [variant for rows, variant in groups for _ in range(rows)]
    chosen = torch.tensor(variants, device=tokens[0].key.device)
    return tuple(zip(*((part.key[chosen], part.value[chosen], part.null_logit) for part in tokens)))


def _add_reference(fusion: str) -> Callable:
    def add(layer: LayerStreams, text: Tensor, query: Tensor) -> Tensor:
        parts = enumerate(zip(layer.keys, layer.values, layer.bias))
        masks = [None if layer.gate is None else layer.gate[..., number : number + 1] for number in range(layer.streams)]
        streams = [FusedStream(SiteTokens(*part), 1.0, masks[number]) for number, part in parts]
        return text.copy_(fuse(text, query, layer.heads, streams, fusion))

    return add


FORMULATIONS = {
    "columns": Formulation(_lay_columns, _add_columns),
    "sdpa": Formulation(_lay_sdpa, _add_sdpa),
    **{fusion: Formulation(_lay_reference, _add_reference(fusion)) for fusion in FUSIONS},
}

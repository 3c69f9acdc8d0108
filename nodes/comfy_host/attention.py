"""Our part in one cross-attention of the U-Net, for one call: the text attention of whoever was there, plus the streams.

Made before the U-Net is called, of tensors and plain numbers only, so that torch.compile sees one graph.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from comfy.ldm.modules import attention
from torch import Tensor

from ...deepexpo_models.meaf import LayerStreams
from .rows import Row, fingerprints
from .sampling import PatchStream, SamplingRun

UNKNOWN = Row(None, None, None)
SKIPPED = (
    "DeepExPo is skipped for rows of the batch that another node changes beyond recognition: whether they are positive or "
    "negative, or which picture they are, cannot be read off them; remove that node, or use one code without a mask"
)


@dataclass(frozen=True, eq=False)
class FusedAttention:
    """The attn2 replacement of one layer for one call; inner: the replacement that stood there, if any; layers: what acts,
    per fusion; size, rows: the height, width and batch they were made for."""

    layers: tuple[LayerStreams, ...]
    size: tuple[int, int]
    rows: int
    inner: Callable | None
    others: "Others"

    def __call__(self, q: Tensor, k: Tensor, v: Tensor, extra: dict) -> Tensor:
        text = self._text(q, k, v, extra)
        size = tuple(extra["activations_shape"][-2:])
        layers = self.layers
        if self.others.watch is not None or len(q) != self.rows or size != self.size or q.dtype != layers[0].dtype:
            layers = self.others.layers(q, extra["n_heads"], size)
        for layer in layers:
            text = layer.add(text, q)
        return text

    def _text(self, q: Tensor, k: Tensor, v: Tensor, extra: dict) -> Tensor:
        """A tensor that we may write to."""
        if self.inner is not None:
            return self.inner(q, k, v, extra).clone(memory_format=torch.contiguous_format)
        text = attention.optimized_attention(  # looked up now: nodes that bring an attention of their own put it there
            q, k, v, extra["n_heads"], attn_precision=extra.get("attn_precision"), transformer_options=extra
        )
        ours = not torch.is_grad_enabled() and "optimized_attention_override" not in extra
        return text.contiguous() if ours else text.clone(memory_format=torch.contiguous_format)


@dataclass(frozen=True, eq=False)
class Others:
    """For layers where another pack changed the rows, the size or the dtype: the streams are laid out anew there."""

    run: SamplingRun
    by_fusion: tuple[tuple[PatchStream, ...], ...]
    known: tuple[Row, ...]
    site: str
    watch: "Watch | None"
    acting: tuple[PatchStream, ...] | None

    def layers(self, q: Tensor, heads: int, size: tuple[int, int]) -> tuple[LayerStreams, ...]:
        origins: Sequence[int | None] = range(len(self.known)) if self.watch is None else self.watch.origins(self.known)
        if len(origins) != len(q):
            origins = [None] * len(q)
        rows = tuple(UNKNOWN if origin is None else self.known[origin] for origin in origins)
        if None in origins and (self.watch is None or self.watch.lost()):
            self.run.warn_once(SKIPPED)
        layer = self.run.layer
        return tuple(layer(streams, rows, self.site, heads, size, q, self.acting) for streams in self.by_fusion)


class Watch:
    """Which row of the call each row at a layer is, where other packs' attn2 patches repeat, reorder or drop rows.

    Stands first and last among those patches and compares what goes in with what comes out, bit by bit. Before the first
    text attention positive and negative queries are equal; what the texts leave open there is taken from the pattern that
    later layers showed.
    """

    def __init__(self, run: SamplingRun):
        self.run = run
        self._first: tuple[Tensor, Tensor]
        self._last: tuple[Tensor, Tensor]
        self._losses = 0

    def before(self, n: Tensor, context: Tensor, value: Tensor, extra: dict):
        self._first = n, context
        return n, context, value

    def after(self, n: Tensor, context: Tensor, value: Tensor, extra: dict):
        self._last = n, context
        return n, context, value

    def lost(self) -> bool:
        """Whether rows stayed unknown at more than the first layer."""
        self._losses += 1
        return self._losses > 1

    def origins(self, known: tuple[Row, ...]) -> tuple[int | None, ...]:
        """Number of the call's row that each row is, None where that cannot be read."""
        (first, context), (last, changed) = self._first, self._last
        if last is first and (changed is context or len(changed) == len(context)):
            return tuple(range(len(first)))
        by_query, by_text = _matches(first, last), _matches(context, changed)
        candidates = [(query & text) or query for query, text in zip(by_query, by_text)]
        pattern = (len(first), len(last))
        if len(first) == len(last) and all(number in found for number, found in enumerate(candidates)):
            return tuple(range(len(first)))
        found = tuple(_one(numbers, known) for numbers in candidates)
        if None not in found:
            self.run.patterns[pattern] = found
            return found
        seen = self.run.patterns.get(pattern, ())
        return seen if seen and all(number in numbers for number, numbers in zip(seen, candidates)) else found


def _matches(before: Tensor, after: Tensor) -> list[set[int]]:
    """Per row of `after`, the rows of `before` with the same bits; lengths of texts may have grown."""
    width = min(before.shape[1], after.shape[1])
    names = torch.cat([fingerprints(before[:, :width]), fingerprints(after[:, :width])]).tolist()
    return [{n for n in range(len(before)) if names[n] == name} for name in names[len(before) :]]


def _one(numbers: set[int], known: tuple[Row, ...]) -> int | None:
    """Any of the rows, if all of them are the same thing."""
    return min(numbers) if len({known[number] for number in numbers}) == 1 else None

"""The formulations for sampling equal the formula (`fusion.fuse`) to one rounding, count few kernels, and never overflow."""

import pytest
import torch

from deepexpo_models.meaf.formulations import FORMULATIONS, choose, lay_out
from deepexpo_models.meaf.fusion import FusedStream, SiteTokens, fuse
from kernels import Kernels

HEADS, WIDTH = 4, 32
FAST = ("columns", "sdpa")
ROUNDING = {torch.float32: 1e-5, torch.bfloat16: 2**-6, torch.float16: 2**-9}  # of sums of up to four terms near 1
STREAMS = [(4,), (16,), (1,), (4, 8, 4)]


def draw(shape, seed, dtype=torch.float32):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)).to(dtype)


def streams_of(counts, variants=2, dtype=torch.float32):
    return [
        SiteTokens(
            draw((variants, count, WIDTH), seed, dtype),
            draw((variants, count, WIDTH), seed + 50, dtype),
            torch.tensor(0.4 * seed),
        )
        for seed, count in enumerate(counts)
    ]


def reference(text, query, tokens, groups, gate):
    rows = torch.tensor([variant for count, variant in groups for _ in range(count)])
    chosen = [SiteTokens(part.key[rows], part.value[rows], part.null_logit) for part in tokens]
    masks = [None if gate is None else gate[..., number : number + 1].float() for number in range(len(tokens))]
    streams = [FusedStream(SiteTokens(p.key.float(), p.value.float(), p.null_logit), 1.0, m) for p, m in zip(chosen, masks)]
    return fuse(text.float(), query.float(), HEADS, streams)


@pytest.mark.parametrize("groups", [((2, 0), (2, 1)), ((1, 1), (3, 0)), ((4, 0),), ((1, 0), (1, 1), (1, 0), (1, 1))])
@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("counts", STREAMS)
@pytest.mark.parametrize("kind", FAST)
@pytest.mark.parametrize("dtype", list(ROUNDING))
def test_equal_to_the_formula(kind, counts, masked, groups, dtype):
    query, text = draw((4, 9, WIDTH), 1, dtype), draw((4, 9, WIDTH), 2, dtype)
    gate = torch.rand(4, 9, len(counts), generator=torch.Generator().manual_seed(3)).to(dtype) if masked else None
    tokens = streams_of(counts, dtype=dtype)
    wanted = reference(text, query, tokens, groups, gate)
    found = lay_out(tokens, groups, HEADS, gate, kind).add(text.clone(), query)
    assert found.dtype == dtype
    assert (found.float() - wanted).abs().max() <= ROUNDING[dtype] * wanted.abs().max()


@pytest.mark.parametrize("counts", STREAMS)
@pytest.mark.parametrize("device", ["cpu", "cuda"])  # what is chosen there, run here
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_finite_and_right_where_scores_are_in_the_millions(dtype, device, counts):
    """The first token points along half of the queries, all others against them: it alone is seen there, they elsewhere."""
    query = torch.full((2, 6, WIDTH), 1000.0, dtype=dtype)
    query[:, 1::2] *= -1
    tokens, wanted = streams_of(counts, dtype=dtype), torch.zeros(2, 6, WIDTH)
    for part in tokens:
        part.key.fill_(-1000.0)[:, :1] *= -1
        wanted[:, ::2] += part.value[:, :1].float()
        if part.value.shape[1] > 1:  # else the null key wins
            wanted[:, 1::2] += part.value[:, 1:].float().mean(1, keepdim=True)
    text, groups = torch.zeros_like(query), ((1, 0), (1, 1))
    found = lay_out(tokens, groups, HEADS, kind=choose(torch.device(device), dtype, counts, 2)).add(text.clone(), query)
    formula = fuse(text, query, HEADS, [FusedStream(part, 1.0, None) for part in tokens])
    for result in (found, formula):
        assert (result.float() - wanted).abs().max() <= 2**-6 * wanted.abs().max()  # and so finite


def test_zero_values_and_a_zero_gate_are_bit_equal_to_off():
    query, text = draw((2, 9, WIDTH), 1), draw((2, 9, WIDTH), 2)
    tokens = streams_of((4, 8))
    silent = [SiteTokens(part.key, torch.zeros_like(part.value), part.null_logit) for part in tokens]
    for kind in FAST:
        assert torch.equal(lay_out(silent, ((1, 0), (1, 1)), HEADS, None, kind).add(text.clone(), query), text), kind
        black = lay_out(tokens, ((1, 0), (1, 1)), HEADS, torch.zeros(2, 9, 2), kind)
        assert torch.equal(black.add(text.clone(), query), text), kind


GOALS = {  # streams: kernels per layer at most; bytes at most, in units of reading queries and text and writing the result
    (4,): (6, 2.0), (16,): (6, 2.6), (4, 8, 4): (10, 3.0),
}  # fmt: skip


def sd15_layer(counts, dtype, device, masked, level=0):
    """Kernels and bytes of one layer of SD1.5 at 512 pixels, batch 2, with what is chosen on that device."""
    length, width, heads = 4096 // 4**level, 320 * 2 ** min(level, 2), 8
    query, text = (torch.zeros(2, length, width, dtype=dtype) for _ in range(2))
    tokens = [SiteTokens(*(torch.zeros(2, count, width, dtype=dtype) for _ in range(2)), torch.zeros(())) for count in counts]
    gate = torch.ones(2, length, len(counts), dtype=dtype) if masked else None
    layer = lay_out(tokens, ((1, 0), (1, 1)), heads, gate, choose(torch.device(device), dtype, counts, 2))
    with Kernels() as seen:
        layer.add(text, query)
    return seen.count, seen.bytes, 3 * query.numel() * query.element_size()


@pytest.mark.parametrize("counts", list(GOALS))
@pytest.mark.parametrize("device", ["cpu", "cuda"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_kernels_and_bytes_of_a_layer(counts, device, dtype):
    kernels, times = GOALS[counts]
    count, _, _ = sd15_layer(counts, dtype, device, False)
    assert count <= kernels
    if device == "cuda":
        levels = [sd15_layer(counts, dtype, device, False, level) for level in (0, 0, 1, 1, 2, 2, 3)]
        assert sum(row[1] for row in levels) <= times * sum(row[2] for row in levels)
    assert sd15_layer(counts, dtype, device, True)[0] <= kernels + 2


def test_every_choice_is_a_row_of_the_table():
    for device in ("cpu", "cuda", "mps"):
        for dtype in (torch.float32, torch.float16, torch.bfloat16):
            for counts in STREAMS:
                for groups in (1, 2, 40):
                    assert choose(torch.device(device), dtype, counts, groups) in FORMULATIONS

"""Laws of the fusion formula, without a U-Net."""

import pytest
import torch

from deepexpo_models.meaf.fusion import FusedStream, SiteTokens, fuse, resize_mask

HEADS = 2


def attention(query, key, value, null_logit, fusion: str):
    """What one stream of full strength adds."""
    return fuse(torch.zeros_like(query), query, HEADS, [FusedStream(SiteTokens(key, value, null_logit), 1.0, None)], fusion)


def token_attention(query, key, value, null_logit):
    return attention(query, key, value, null_logit, "tokens")


def paper_attention(query, key, value, null_logit):
    return attention(query, key, value, null_logit, "paper")


def inputs(length: int, tokens: int, batch: int = 1, width: int = 16):
    generator = torch.Generator().manual_seed(0)
    shapes = ((batch, length, width), (batch, tokens, width), (batch, tokens, width))
    return [torch.randn(shape, generator=generator) for shape in shapes]


def test_one_token_is_a_sigmoid_gate():
    query, key, value = inputs(9, 1)
    out = token_attention(query, key, value, torch.tensor(0.3))
    q, k, v = (x.unflatten(-1, (HEADS, -1)) for x in (query, key, value))
    gate = torch.sigmoid((q * k).sum(-1, keepdim=True) / q.shape[-1] ** 0.5 - 0.3)
    torch.testing.assert_close(out, (gate * v).flatten(2))


def test_null_key_switched_off_is_plain_attention():
    query, key, value = inputs(9, 4)
    out = token_attention(query, key, value, torch.tensor(float("-inf")))
    split = [x.unflatten(-1, (HEADS, -1)).transpose(1, 2) for x in (query, key, value)]
    plain = torch.nn.functional.scaled_dot_product_attention(*split).transpose(1, 2).flatten(2)
    torch.testing.assert_close(out, plain)


def test_positions_do_not_see_each_other():
    query, key, value = inputs(12, 4)
    whole = token_attention(query, key, value, torch.zeros(()))
    part = token_attention(query[:, :5], key, value, torch.zeros(()))
    torch.testing.assert_close(whole[:, :5], part)


def test_streams_add_up_each_with_its_own_softmax_strength_and_mask():
    query, *_ = inputs(9, 4)
    text = torch.ones_like(query)
    streams, expected = [], text
    for count, strength in ((4, 0.5), (1, 2.0), (8, 1.0)):
        _, key, value = inputs(9, count)
        mask = torch.rand(1, 9, 1, generator=torch.Generator().manual_seed(count)) if count == 8 else None
        streams.append(FusedStream(SiteTokens(key, value, torch.tensor(0.1 * count)), strength, mask))
        added = token_attention(query, key, value, torch.tensor(0.1 * count)) * strength
        expected = expected + (added if mask is None else added * mask)
    torch.testing.assert_close(fuse(text, query, HEADS, streams), expected)


def test_printed_formula_times_length_is_a_different_function():
    """As printed the output depends on all positions together; times L only its mean is right."""
    query, key, value = inputs(12, 1)
    whole = paper_attention(query, key, value, torch.zeros(()))
    part = paper_attention(query[:, :5], key, value, torch.zeros(()))
    assert (whole[:, :5] - part).abs().max() > 0.01
    torch.testing.assert_close(whole.mean(1), value[:, 0])


def test_paper_formula_takes_one_token():
    query, key, value = inputs(12, 4)
    with pytest.raises(ValueError, match="one token"):
        paper_attention(query, key, value, torch.zeros(()))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_keeps_dtype_and_is_finite(dtype):
    query, key, value = (x.to(dtype) * 8 for x in inputs(64, 4))
    out = token_attention(query, key, value, torch.zeros((), dtype=dtype))
    assert out.dtype == dtype and out.isfinite().all()


@pytest.mark.parametrize("size", [(8, 8), (5, 7), (64, 64), (100, 30)])
def test_all_one_mask_stays_exactly_one(size):
    assert torch.equal(resize_mask(torch.ones(1, 33, 47), *size), torch.ones(1, size[0] * size[1], 1))


def test_mask_rows_and_columns_keep_their_places():
    mask = torch.zeros(1, 8, 8)
    mask[:, :4, 4:] = 1
    small = resize_mask(mask, 2, 2).reshape(2, 2)
    assert torch.equal(small, torch.tensor([[0.0, 1.0], [0.0, 0.0]]))


def test_a_mask_that_becomes_smaller_counts_by_area():
    corner = torch.tensor([[[1.0, 0.0], [0.0, 0.0]]])
    assert resize_mask(corner, 1, 1).item() == 0.25

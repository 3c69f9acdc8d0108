"""The linear read-out of codes, whose answer is known."""

import torch

from deepexpo_models.evaluation.probes import ridge_fit

ROWS = 300


def normal(width: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(ROWS, width, generator=torch.Generator().manual_seed(seed))


def test_a_line_is_found_in_any_unit():
    """Also of codes that are scaled and moved; noise is told by none."""
    codes, turn = normal(8), torch.randn(8, 2, generator=torch.Generator().manual_seed(1))
    linear = codes @ turn * 100 + 7
    for seen in (codes, codes * 1000 - 5):
        weight, bias = ridge_fit(seen, linear, 1e-6)
        assert weight.dtype == torch.float64 and weight.shape == (2, 8) and bias.shape == (2,)
        torch.testing.assert_close((seen.double() @ weight.T + bias).float(), linear, rtol=1e-3, atol=1e-1)
    weight, _ = ridge_fit(codes, normal(2, seed=2), 1e-2)
    assert weight.abs().max() < 0.3


def test_a_ridge_is_the_least_of_its_own_sum():
    """Squares of what is left, and of each entry's part by share and rows: no gradient is left, in any unit of the codes."""
    codes, targets = normal(5) * torch.tensor([1.0, 10.0, 0.1, 3.0, 1.0]) + 7, normal(2, seed=3) + 4
    weight, bias = (part.requires_grad_() for part in ridge_fit(codes, targets, 0.3))
    left = targets.double() - codes.double() @ weight.T - bias
    (left.square().sum() + 0.3 * len(codes) * (weight * codes.double().std(0)).square().sum()).backward()
    assert weight.grad.abs().max() < 1e-6 * len(codes) and bias.grad.abs().max() < 1e-6 * len(codes)
    assert ridge_fit(torch.ones(9, 2), torch.arange(9.0)[:, None], 0.3)[1].tolist() == [4.0], "the bias has no penalty"

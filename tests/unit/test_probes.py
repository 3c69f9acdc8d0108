"""What read-outs find in codes that are made so that the answer is known."""

import pytest
import torch

from deepexpo_models.evaluation import probes
from deepexpo_models.evaluation.probes import dci, leak_matrix, mlp_r2, r2, ridge_fit, ridge_predict, ridge_r2, split_people

PEOPLE = torch.arange(60).repeat_interleave(5)


def normal(width: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(len(PEOPLE), width, generator=torch.Generator().manual_seed(seed))


def test_no_person_is_in_both_halves():
    people = PEOPLE[torch.randperm(len(PEOPLE), generator=torch.Generator().manual_seed(0))]
    train, test = split_people(people)
    assert (train ^ test).all()
    assert not set(people[train].tolist()) & set(people[test].tolist())
    assert len(people[train].unique()) == 42


def test_ridge_on_linear_data_and_on_noise():
    codes = normal(8)
    linear = codes @ torch.randn(8, 2, generator=torch.Generator().manual_seed(1)) * 100 + 7
    assert (ridge_r2(codes, linear, PEOPLE) > 0.999).all()
    assert (ridge_r2(codes, normal(2, seed=2), PEOPLE).abs() < 0.2).all()
    found, rows = ridge_predict(codes, linear, PEOPLE)
    assert (found - linear[rows]).abs().mean() < 0.02 * linear.std(), "predictions are in the targets' units"


def test_a_read_out_of_people_does_not_hold_for_others():
    """A code that is a number of its own for each person tells that person's factor, yet nothing about new people."""
    own = torch.nn.functional.one_hot(PEOPLE).float()
    factor = torch.randn(60, 1, generator=torch.Generator().manual_seed(3))[PEOPLE]
    assert ridge_r2(own, factor, PEOPLE).item() < 0.1


def test_scale_and_shift_of_a_code_do_not_matter():
    codes, factor = normal(4), normal(1, seed=5) + normal(4)[:, :1]
    torch.testing.assert_close(ridge_r2(codes * 1000 - 5, factor, PEOPLE), ridge_r2(codes, factor, PEOPLE), atol=1e-3, rtol=0)


def test_a_ridge_is_the_least_of_its_own_sum():
    """Squares of what is left, and of each entry's part by share and rows: no gradient is left, in any unit of the codes."""
    codes, targets = normal(5) * torch.tensor([1.0, 10.0, 0.1, 3.0, 1.0]) + 7, normal(2, seed=3) + 4
    weight, bias = (part.requires_grad_() for part in ridge_fit(codes, targets, 0.3))
    left = targets.double() - codes.double() @ weight.T - bias
    (left.square().sum() + 0.3 * len(codes) * (weight * codes.double().std(0)).square().sum()).backward()
    assert weight.grad.abs().max() < 1e-6 * len(codes) and bias.grad.abs().max() < 1e-6 * len(codes)
    assert ridge_fit(torch.ones(9, 2), torch.arange(9.0)[:, None], 0.3)[1].tolist() == [4.0], "the bias has no penalty"


def test_mlp_is_deterministic_and_sees_what_ridge_cannot(monkeypatch):
    monkeypatch.setattr(probes, "MLP_STEPS", 200)
    codes = normal(2)
    curved = codes[:, :1].abs()
    before = torch.random.get_rng_state()
    first = mlp_r2(codes, curved, PEOPLE)
    assert torch.equal(first, mlp_r2(codes, curved, PEOPLE))
    assert torch.equal(before, torch.random.get_rng_state()), "the global generator is left alone"
    assert not torch.equal(first, mlp_r2(codes, curved, PEOPLE, seed=1))
    assert first.item() > 0.7 > 0.2 > ridge_r2(codes, curved, PEOPLE).item()


def test_r2():
    true = torch.tensor([[0.0, 1.0], [2.0, 1.0]])
    assert r2(true, true).tolist() == [1, 0], "what does not vary cannot be explained"
    assert r2(true.mean(0).expand(2, 2), true).tolist() == [0, 0]


def test_leak_matrix_has_the_leak_where_it_was_put():
    pose, light = normal(2), normal(2, seed=1)
    codes = {"pose": pose @ torch.tensor([[1.0, 2.0], [2.0, -1.0]]), "identity": torch.cat([normal(3, seed=2), light], dim=1)}
    table = leak_matrix(codes, {"pose": pose, "light": light}, PEOPLE, probe=ridge_r2)
    assert table["pose"]["pose"] > 0.99 and table["identity"]["light"] > 0.99
    assert 0 <= table["pose"]["light"] < 0.1 and 0 <= table["identity"]["pose"] < 0.1


@pytest.mark.parametrize("order", [[0, 1, 2], [2, 0, 1]])
def test_dci_of_one_group_per_block_is_1(order):
    assert dci(torch.diag(torch.tensor([0.2, 1.0, 0.6]))[order]) == pytest.approx((1, 1))


def test_dci_of_uniform_importances_is_0():
    assert dci(torch.ones(3, 4)) == pytest.approx((0, 0), abs=1e-6)


def test_dci_of_mixed_blocks():
    """Two blocks that both hold one group alone: each is pure, the group is spread over both."""
    assert dci(torch.tensor([[1.0, 0.0], [1.0, 0.0]])) == pytest.approx((1, 0), abs=1e-6)
    disentangled, complete = dci(torch.tensor([[1.0, 0.1], [0.1, 1.0]]))
    assert 0.4 < disentangled < 1 and disentangled == pytest.approx(complete)


def test_dci_of_degenerate_matrices():
    assert dci(torch.zeros(3, 3)) == (0, 0)
    assert dci(torch.tensor([[0.5]])) == pytest.approx((1, 1))
    assert dci(torch.tensor([[1.0], [1.0]])) == pytest.approx((1, 0), abs=1e-6), "one group: every block is pure"

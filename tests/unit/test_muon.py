"""Muon: orthogonal steps for matrices, Adam for the rest."""

import torch
from torch import nn

from deepexpo_models.training.engine.muon import Muon, orthogonalise, split_parameters


def test_orthogonalised_matrices_have_singular_values_near_one():
    torch.manual_seed(0)
    for shape in ((16, 64), (64, 16), (32, 32)):
        values = torch.linalg.svdvals(orthogonalise(torch.randn(shape)))
        assert values.min() > 0.3 and values.max() < 1.5


def test_an_orthogonalised_matrix_keeps_its_singular_vectors():
    torch.manual_seed(0)
    matrix = torch.randn(8, 24)
    u, _, v = torch.linalg.svd(matrix, full_matrices=False)
    aligned = u.T @ orthogonalise(matrix) @ v.T
    assert (aligned - torch.diag(aligned.diag())).abs().max() < 1e-3


def test_every_parameter_is_in_exactly_one_group():
    net = nn.Sequential(nn.Conv2d(3, 8, 3), nn.GroupNorm(1, 8), nn.Linear(8, 1))
    matrices, rest = split_parameters([net])
    assert {id(p) for p in matrices} == {id(net[0].weight)}  # a single row cannot be made orthogonal
    assert {id(p) for p in matrices + rest} == {id(p) for p in net.parameters()}
    assert len(matrices) + len(rest) == len(list(net.parameters()))
    assert not split_parameters([net], ("0.weight",))[0]


def test_it_learns_and_resumes_bit_equal():
    torch.manual_seed(0)
    inputs = torch.randn(64, 8)
    targets = inputs @ torch.randn(8, 8)
    _, net = _run(inputs, targets, 20)
    first, half = _run(inputs, targets, 10)
    again, other = nn.Linear(8, 8), None
    again.load_state_dict(half.state_dict())
    other = Muon(*split_parameters([again]), 0.2)
    other.load_state_dict(first)
    _steps(again, other, inputs, targets, 10)
    assert torch.equal(again.weight, net.weight) and torch.equal(again.bias, net.bias)
    assert (net(inputs) - targets).square().mean() < 0.7 * targets.square().mean()


def _run(inputs, targets, steps):
    torch.manual_seed(1)
    net = nn.Linear(8, 8)
    optimizer = Muon(*split_parameters([net]), 0.2)
    _steps(net, optimizer, inputs, targets, steps)
    return optimizer.state_dict(), net


def _steps(net, optimizer, inputs, targets, steps):
    for _ in range(steps):
        optimizer.zero_grad()
        (net(inputs) - targets).square().mean().backward()
        optimizer.step()

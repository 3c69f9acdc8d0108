"""What a code holds of which factor: read-outs trained on some people and scored on others."""

import math
from collections.abc import Mapping

import torch
from torch import Tensor, nn

RIDGE = 1e-2  # share of the codes' variance
HIDDEN, MLP_STEPS, MLP_LR = 64, 300, 3e-3
TRAIN_SHARE = 0.7  # of the people


def split_people(people: Tensor) -> tuple[Tensor, Tensor]:
    """people (N,) -> rows for training and for the score (bool each): no person is in both."""
    known = people.unique()
    train = torch.isin(people, known[: max(1, int(len(known) * TRAIN_SHARE))])
    return train, ~train


def ridge_r2(codes: Tensor, factors: Tensor, people: Tensor) -> Tensor:
    """codes (N, D), factors (N, F) -> R2 (F,) of a linear read-out on people it was not fitted to; below 0 means useless."""
    found, test = ridge_predict(codes, factors, people)
    return r2(found, factors[test].float())


def ridge_predict(codes: Tensor, targets: Tensor, people: Tensor) -> tuple[Tensor, Tensor]:
    """The linear read-out itself: predictions (M, F) in the targets' units and the rows (N,) bool they are for."""
    train, test = split_people(people)
    weight, bias = ridge_fit(codes[train], targets[train], RIDGE)
    return (codes[test].double() @ weight.T + bias).float(), test


def ridge_fit(codes: Tensor, targets: Tensor, share: float) -> tuple[Tensor, Tensor]:
    """codes (N, D), targets (N, F) -> float64 weight (F, D) and bias (F,) of targets = codes @ weight.T + bias: least squares
    with a penalty of share times each entry's variance (Hoerl and Kennard 1970); the bias has none."""
    codes, targets = codes.double(), targets.double()
    mean, spread, middle = codes.mean(0), codes.std(0).clamp(min=1e-6), targets.mean(0)
    scaled = (codes - mean) / spread
    normal = scaled.T @ scaled + share * len(scaled) * torch.eye(scaled.shape[1], dtype=scaled.dtype)
    weight = (torch.linalg.solve(normal, scaled.T @ (targets - middle)) / spread[:, None]).T
    return weight, middle - weight @ mean


def mlp_r2(codes: Tensor, factors: Tensor, people: Tensor, seed: int = 0) -> Tensor:
    """As `ridge_r2` with a small network of one hidden layer; the same seed gives the same numbers."""
    train, test = split_people(people)
    inputs, targets = _standardised(codes, train), _standardised(factors, train)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        net = nn.Sequential(nn.Linear(inputs.shape[1], HIDDEN), nn.SiLU(), nn.Linear(HIDDEN, targets.shape[1]))
    optimizer = torch.optim.AdamW(net.parameters(), MLP_LR, weight_decay=0.05)
    with torch.enable_grad():
        for _ in range(MLP_STEPS):
            loss = (net(inputs[train]) - targets[train]).square().mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    with torch.no_grad():
        return r2(net(inputs[test]), targets[test])


def r2(found: Tensor, true: Tensor) -> Tensor:
    """(N, F) -> (F,) share of the variance explained. A factor that does not vary gives 0."""
    spread = (true - true.mean(0)).square().sum(0)
    return torch.where(spread > 1e-8, 1 - (found - true).square().sum(0) / spread.clamp(min=1e-8), 0.0)


def leak_matrix(
    codes: Mapping[str, Tensor], factors: Mapping[str, Tensor], people: Tensor, probe=mlp_r2
) -> dict[str, dict[str, float]]:
    """Code name -> factor group -> mean R2 over the group's factors, those below 0 counted as 0."""
    return {
        code: {group: probe(values, table, people).clamp(min=0).mean().item() for group, table in factors.items()}
        for code, values in codes.items()
    }


def dci(importances: Tensor) -> tuple[float, float]:
    """importances (blocks, factor groups), not negative -> disentanglement and completeness in [0, 1].

    Eastwood and Williams 2018: one minus the entropy of a block's importances over the groups, weighted by the block's share
    of all importance; completeness the same over the blocks of a group. Both are 0 where nothing is important.
    """
    shares = importances / importances.sum().clamp(min=1e-12)
    return _ordered(shares), _ordered(shares.T)


def _ordered(shares: Tensor) -> float:
    rows = shares / shares.sum(1, keepdim=True).clamp(min=1e-12)
    entropy = -(rows * rows.clamp(min=1e-12).log()).sum(1) / math.log(max(shares.shape[1], 2))  # one column: no entropy
    return (shares.sum(1) * (1 - entropy)).sum().item()


def _standardised(values: Tensor, train: Tensor) -> Tensor:
    values = values.float()
    mean, std = values[train].mean(0), values[train].std(0)
    return (values - mean) / std.clamp(min=1e-6)

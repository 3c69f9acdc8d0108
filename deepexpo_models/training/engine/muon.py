"""Muon: momentum whose matrices are made orthogonal before they are applied (Jordan et al. 2024).

torch.optim.Muon takes matrices only; here a convolution is the matrix (out, in * k * k), and what is no matrix (biases,
norms, single numbers) or is named as an exception (embeddings, first and last layers) is left to AdamW, in one optimizer.
"""

from collections.abc import Iterable

import torch
from torch import Tensor, nn

ITERATION = (3.4445, -4.7750, 2.0315)  # the quintic Newton-Schulz step of Jordan's Muon
ROUNDS = 5


def orthogonalise(matrix: Tensor) -> Tensor:
    """(rows, columns) -> about U V^T of its singular value decomposition: all singular values near 1."""
    a, b, c = ITERATION
    tall = matrix.shape[0] > matrix.shape[1]
    x = matrix.T if tall else matrix
    x = x / (x.norm() + 1e-7)
    for _ in range(ROUNDS):
        square = x @ x.T
        x = a * x + (b * square + c * square @ square) @ x
    return x.T if tall else x


def split_parameters(modules: Iterable[nn.Module], exceptions: tuple[str, ...] = ()) -> tuple[list, list]:
    """Parameters of modules -> (matrices for Muon, the rest for AdamW). exceptions: parts of names that go to the rest."""
    matrices: list[nn.Parameter] = []
    rest: list[nn.Parameter] = []
    for module in modules:
        for name, parameter in module.named_parameters():
            taken = parameter.ndim >= 2 and min(parameter.shape[0], parameter[0].numel()) > 1
            (matrices if taken and not any(part in name for part in exceptions) else rest).append(parameter)
    return matrices, rest


class Muon(torch.optim.Optimizer):
    """One optimizer over two groups: matrices by Muon, the rest by Adam. lr is Adam's; Muon's steps are scaled by
    0.2 sqrt(larger side), so that their size is that of Adam's (Liu et al. 2025, "Muon is Scalable").
    """

    def __init__(self, matrices: list, rest: list, lr: float, momentum: float = 0.95, betas=(0.9, 0.99), weight_decay=0.01):
        groups = [{"params": matrices, "orthogonal": True}, {"params": rest, "orthogonal": False}]
        defaults = {"lr": lr, "momentum": momentum, "betas": betas, "decay": weight_decay}
        super().__init__([group for group in groups if group["params"]], defaults)

    @classmethod
    def over(cls, groups: list[dict]) -> "Muon":
        """Over groups of one's own, at least one: {"params": [...], "orthogonal": whether they are matrices, "lr": ...}."""
        first, *others = groups
        optimizer = cls(*((first["params"], []) if first["orthogonal"] else ([], first["params"])), first["lr"])
        for group in others:
            optimizer.add_param_group(group)
        return optimizer

    @torch.no_grad()
    def step(self, closure=None):
        loss = closure() if closure is not None else None
        for group in self.param_groups:
            move = self._muon if group["orthogonal"] else self._adam
            for parameter in group["params"]:
                if parameter.grad is not None:
                    parameter.mul_(1 - group["lr"] * group["decay"])
                    move(parameter, group)
        return loss

    def _muon(self, parameter: Tensor, group: dict) -> None:
        state = self.state[parameter]
        if not state:
            state["momentum"] = torch.zeros_like(parameter)
        state["momentum"].mul_(group["momentum"]).add_(parameter.grad)
        ahead = parameter.grad + group["momentum"] * state["momentum"]  # Nesterov's
        matrix = ahead.flatten(1)
        size = 0.2 * max(matrix.shape) ** 0.5
        parameter.sub_(orthogonalise(matrix).view_as(parameter), alpha=group["lr"] * size)

    def _adam(self, parameter: Tensor, group: dict) -> None:
        state, (first, second) = self.state[parameter], group["betas"]
        if not state:
            state["mean"], state["square"] = torch.zeros_like(parameter), torch.zeros_like(parameter)
            state["step"] = 0
        state["step"] += 1
        state["mean"].lerp_(parameter.grad, 1 - first)
        state["square"].mul_(second).addcmul_(parameter.grad, parameter.grad, value=1 - second)
        mean = state["mean"] / (1 - first ** state["step"])
        deviation = (state["square"] / (1 - second ** state["step"])).sqrt() + 1e-8
        parameter.addcdiv_(mean, deviation, value=-group["lr"])

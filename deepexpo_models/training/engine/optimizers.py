"""What moves the weights: a table of optimizers over one form of parameter groups."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from .muon import Muon, split_parameters

GATE_SPEED = 10.0  # gates and null logits learn faster: from zero, nothing else can
ADAM: dict[str, Any] = {"betas": (0.9, 0.99), "weight_decay": 0.01}


@dataclass(frozen=True)
class Choice:
    """build: groups -> optimizer; shards: whether it works on the slices of FSDP."""

    build: Callable[[list[dict]], torch.optim.Optimizer]
    shards: bool


def parameter_groups(modules: Iterable[tuple[nn.Module, float]], lr: float, exceptions: tuple[str, ...] = ()) -> list[dict]:
    """Modules and their shares of lr -> groups of what learns, empty ones left out: matrices, vectors, and numbers, which
    have GATE_SPEED times the rate. exceptions: parts of names that are no matrices.
    """
    groups = []
    for module, share in modules:
        matrices, rest = ([p for p in part if p.requires_grad] for part in split_parameters([module], exceptions))
        groups += [
            {"params": matrices, "orthogonal": True, "lr": share * lr},
            {"params": [p for p in rest if p.ndim], "orthogonal": False, "lr": share * lr},
            {"params": [p for p in rest if not p.ndim], "orthogonal": False, "lr": GATE_SPEED * share * lr},
        ]
    return [group for group in groups if group["params"]]


def make_optimizer(name: str, groups: list[dict], sharded: bool = False) -> torch.optim.Optimizer:
    """The optimizer of that name in OPTIMIZERS. Raises ValueError when it cannot be had, or not on slices of weights."""
    if sharded and not OPTIMIZERS[name].shards:
        able = " or ".join(other for other, choice in OPTIMIZERS.items() if choice.shards)
        raise ValueError(f"--optimizer {name} needs whole weights, and FSDP cuts them into slices; choose --optimizer {able}")
    if not groups:
        raise ValueError("nothing is left to train; freeze fewer streams, or give --lora-rank")
    return OPTIMIZERS[name].build(groups)


def _adamw(groups: list[dict]) -> torch.optim.Optimizer:
    return torch.optim.AdamW(groups, **ADAM)


def _adamw8bit(groups: list[dict]) -> torch.optim.Optimizer:
    try:
        from bitsandbytes.optim import AdamW8bit
    except ImportError as error:
        raise ValueError(
            "--optimizer adamw8bit needs bitsandbytes, which is not installed; "
            "pip install bitsandbytes, or choose --optimizer adamw"
        ) from error
    return AdamW8bit(groups, **ADAM)


OPTIMIZERS = {
    "muon": Choice(Muon.over, shards=False),
    "adamw": Choice(_adamw, shards=True),
    "adamw8bit": Choice(_adamw8bit, shards=False),
}

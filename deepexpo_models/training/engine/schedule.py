"""The learning rate over a run."""

import math
from collections.abc import Mapping

import torch
from torch.optim.lr_scheduler import LambdaLR

from .processes import unwrap
from .settings import RunSettings


class Schedule(LambdaLR):
    """A learning rate that resumes by its step alone: another --lr, --warmup or --steps is in force at once."""

    def state_dict(self) -> dict[str, int]:
        return {"step": self.last_epoch}

    def load_state_dict(self, state: Mapping[str, int]) -> None:
        self.last_epoch, self._step_count = state["step"], state["step"] + 1
        self._last_lr = [lr * factor(state["step"]) for lr, factor in zip(self.base_lrs, self.lr_lambdas)]
        for group, lr in zip(self.optimizer.param_groups, self._last_lr):
            group["lr"] = lr


def make_scheduler(optimizer: torch.optim.Optimizer, settings: RunSettings) -> Schedule:
    """Learning rate: linear warm-up over settings.warmup steps, then constant, or half a cosine down to zero at settings.steps.

    Step it once per optimizer step; register it, do not prepare it.
    """
    warmup, total = settings.warmup, settings.steps

    def factor(step: int) -> float:
        if step < warmup:
            return (step + 1) / (warmup + 1)
        if settings.schedule == "constant":
            return 1.0
        return 0.5 * (1 + math.cos(math.pi * min(1.0, (step - warmup) / max(1, total - warmup))))

    return Schedule(unwrap(optimizer), factor)

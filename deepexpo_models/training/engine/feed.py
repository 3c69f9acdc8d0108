"""Batches made ahead of the steps: worker processes read and decode while the device computes.

A batch is a function of (seed, step, process, part) alone, as `Engine.generator` makes it, so any number of workers gives the
same batches, and a resumed run goes on with those that an uninterrupted one would have had.
"""

import multiprocessing
import os
import time
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Generator, Tensor
from torch.utils.data import DataLoader, Dataset

AUTOMATIC = -1  # workers: as many as the machine has cores for, where a GPU computes
MOST = 8  # workers that AUTOMATIC takes
PREFETCH = 4  # batches that a worker makes ahead


Sample = Callable[[int, Generator, Generator], Any]


class Movable:
    """A dataclass of tensors, and of dictionaries of tensors, that moves as a whole."""

    def to(self, device: torch.device):
        return self._each(lambda tensor: tensor.to(device, non_blocking=True))

    def pin_memory(self):
        return self._each(Tensor.pin_memory)

    def _each(self, move: Callable[[Tensor], Tensor]):
        return type(self)(**{name: _moved(value, move) for name, value in vars(self).items()})


class Feed:
    """Batches in the order of the steps. sample(count, generator, lead) -> a batch on the CPU; it must use no device. lead is
    the first process's generator, fresh: what is drawn from it is the same in all processes.

    `take(step, part)` gives the batch and its generator, as `sample` left it: what a step draws further (noise, times,
    augmentation) goes on from there. `waited`: seconds that steps stood still for data.
    """

    def __init__(self, engine, sample: Sample):
        settings = engine.settings
        self.parts = settings.accumulate
        self._end = settings.steps * self.parts
        self._draws = _Draws(engine, sample, settings.batch_size)
        self._workers = workers(settings.workers, engine.device.type == "cuda", engine.accelerator.num_processes)
        self._pinned = engine.device.type == "cuda"
        self._batches: Iterator | None = None
        self._next = -1
        self.waited, self._since = 0.0, time.perf_counter()

    def take(self, step: int, part: int = 0) -> tuple[Any, Generator]:
        began = time.perf_counter()
        number = step * self.parts + part
        if number != self._next or self._batches is None:
            self._batches = iter(self._loader(number))
        self._next = number + 1
        batch, state = next(self._batches)
        generator = Generator()
        generator.set_state(state)
        self.waited += time.perf_counter() - began
        return batch, generator

    def waiting_share(self) -> float:
        """Which share of the time since the last call (at first: since the feed was made) steps waited for data."""
        now = time.perf_counter()
        share = self.waited / max(now - self._since, 1e-9)
        self.waited, self._since = 0.0, now
        return share

    def _loader(self, start: int) -> DataLoader:
        ahead: dict[str, Any] = {"prefetch_factor": PREFETCH, "multiprocessing_context": "fork"} if self._workers else {}
        return DataLoader(
            self._draws,
            batch_size=None,
            sampler=range(start, self._end),
            num_workers=self._workers,
            pin_memory=self._pinned,
            worker_init_fn=_one_thread,
            collate_fn=_as_it_is,
            generator=Generator(),  # its own: the global one is part of a run's state
            **ahead,
        )


def workers(wanted: int, gpu: bool, processes: int = 1) -> int:
    """Worker processes: `wanted`, or for AUTOMATIC the cores that this process may count its own, at most MOST, beside a GPU
    and none without (they would take the cores from the training). None on systems that cannot fork: data that are opened
    once cannot be sent there."""
    if "fork" not in multiprocessing.get_all_start_methods():
        return 0
    if wanted != AUTOMATIC:
        return wanted
    return min(MOST, max(1, (os.cpu_count() or 2) // processes - 1)) if gpu else 0


class _Draws(Dataset):
    """number of a draw, step * parts + part -> its batch and its generator's state after it."""

    def __init__(self, engine, sample: Sample, count: int):
        self.engine, self.sample, self.count = engine, sample, count

    def __getitem__(self, number: int) -> tuple[Any, torch.Tensor]:
        turn = divmod(number, self.engine.settings.accumulate)
        generator, lead = self.engine.generator(*turn), self.engine.generator(*turn, process=0)
        return self.sample(self.count, generator, lead), generator.get_state()


def _as_it_is(drawn):
    return drawn


def _moved(value, move: Callable[[Tensor], Tensor]):
    if isinstance(value, dict):
        return {name: _moved(part, move) for name, part in value.items()}
    return move(value) if isinstance(value, Tensor) else value


def _one_thread(_worker: int) -> None:
    torch.set_num_threads(1)

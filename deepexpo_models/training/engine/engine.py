"""What every training loop stands on: devices and processes (accelerate), exact resume, logs, sample pictures, a clean end.

A loop, whole:

    engine = Engine(settings)
    model = Net()
    optimizer = torch.optim.AdamW(model.parameters(), settings.lr)
    ema = EMA(model, settings.ema)
    schedule = make_scheduler(optimizer, settings)
    model, optimizer = engine.prepare(model, optimizer)
    for name, thing in {"model": model, "optimizer": optimizer, "schedule": schedule, "ema": ema}.items():
        engine.register(name, thing)
    feed = engine.feed(sample)
    for step in engine.steps(engine.restore()):
        for part in range(settings.accumulate):
            batch, generator = feed.take(step, part)
            with engine.autocast():
                terms = losses(model, batch)
            engine.backward(sum(terms.values()), terms)
        norm = engine.clip(model.parameters())
        optimizer.step(), schedule.step(), optimizer.zero_grad()
        ema.update(model, step)
        engine.log(step, {**terms, "grad_norm": norm})
"""

import dataclasses
import hashlib
import math
import random
import signal
import threading
import time
import warnings
from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path

import numpy as np
import torch
from accelerate import Accelerator, DistributedDataParallelKwargs
from accelerate.state import AcceleratorState
from accelerate.utils import gather_object
from torch import Tensor, nn
from tqdm import tqdm

from ...dsid.precision import has_bfloat16
from ...errors import first_line
from .attention import AttentionInFp32
from .checkpoint import TrainingError, latest_state, load_state, prune, random_state, save_state, set_random_state, step_of
from .feed import Feed, Sample
from .processes import gather_with_grad, unwrap
from .run_folder import Averages, RunFolder
from .schedule import make_scheduler
from .settings import RunSettings
from .sharding import check_launch, load_into, shapes_of, shard, state_of, whole, without_scalars

__all__ = ["Engine", "TrainingError", "gather_with_grad", "make_scheduler"]

PRECISIONS = {"fp32": "no", "bf16": "bf16", "fp16": "fp16"}  # settings -> accelerate's names
TIME = 1 << 10  # beside the signal numbers: max_minutes are over
STOPS = {signal.SIGINT: "interrupted", signal.SIGTERM: "asked to terminate", TIME: "out of time"}
GRACE = 3.0  # seconds: torchrun passes on a Ctrl-C that the terminal has sent to the workers already


class Engine:
    """One run. Make it before the model, so that the weights start from the run's seed.

    Steps are counted from 0; a state, a log line or a picture is named by the steps done when it was made.
    """

    def __init__(self, settings: RunSettings, shards: bool = False):
        """shards: whether this trainer may be launched with FSDP; others refuse it."""
        check_launch(shards)
        self.settings = settings
        self.started = time.monotonic()
        gpu = torch.cuda.is_available()
        if settings.precision == "fp16" and not gpu:
            raise ValueError("precision fp16 needs a GPU; choose bf16 or fp32")
        if settings.threads:
            torch.set_num_threads(settings.threads)
        AcceleratorState._reset_state()  # or a second run in one process keeps the first one's precision
        self.accelerator = Accelerator(
            mixed_precision=PRECISIONS[settings.precision],
            gradient_accumulation_steps=settings.accumulate,
            cpu=not gpu,
            # A forward pass must not overwrite buffers that an earlier one of the same step still needs (two passes per step).
            kwargs_handlers=[DistributedDataParallelKwargs(broadcast_buffers=False)],
        )
        self.sharded = shard(self.accelerator)
        self.folder = RunFolder(settings.out, self.is_main, settings.tensorboard)
        self.folder.write_settings(settings, processes=self.processes, device=_device_name(self.device))
        self.finished = False
        self._things: dict[str, object] = {}
        self._log = Averages()
        self._state: Path | None = None  # path of the last whole state
        self._saved: int | None = None  # the step it is of
        self._step: int | None = None  # the step under way
        self._feed: Feed | None = None
        self._backwards = 0
        self._seed(0)
        if settings.precision == "bf16" and self.device.type in ("cpu", "cuda") and not has_bfloat16(self.device):
            self.say(f"this {self.device.type} has no units for bfloat16: bf16 takes many times as long; use --precision fp32")

    @property
    def device(self) -> torch.device:
        return self.accelerator.device

    @property
    def is_main(self) -> bool:
        """Whether this process writes files and prints."""
        return self.accelerator.is_main_process

    @property
    def processes(self) -> int:
        return self.accelerator.num_processes

    def autocast(self):
        """Context in which forward passes run in the settings' precision."""
        context = ExitStack()
        context.enter_context(self.accelerator.autocast())
        if self.settings.precision == "bf16" and self.device.type == "cpu":
            context.enter_context(AttentionInFp32())
        return context

    def prepare(self, *things):
        """Modules and optimizers -> the same on this run's device, wrapped for several processes; one alone, or a tuple.

        Under FSDP the weights become slices: make their EMA afterwards.
        Schedulers are left out: accelerate would step them once per process.
        """
        for thing in things:
            if not isinstance(thing, nn.Module | torch.optim.Optimizer):
                raise ValueError(f"prepare takes modules and optimizers, got a {type(thing).__name__}; only register that one")
            if self.sharded and isinstance(thing, nn.Module):
                without_scalars(thing)
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "`broadcast_buffers` is deprecated")  # torch 2.15; accelerate 1.15 knows no other
            return self.accelerator.prepare(*things)

    def register(self, name: str, thing) -> None:
        """Make a thing with state_dict and load_state_dict part of the states; register it before `restore`."""
        if name in self._things:
            raise ValueError(f"{name!r} is registered already; give each part of a run a name of its own")
        self._things[name] = unwrap(thing)

    def generator(self, step: int, part: int = 0, process: int | None = None) -> torch.Generator:
        """A CPU generator seeded from (seed, step, process, part): the data stream needs no state to resume. process: this
        one where not given."""
        process = self.accelerator.process_index if process is None else process
        return torch.Generator().manual_seed(_mix(self.settings.seed, step, process, part))

    def feed(self, sample: Sample) -> Feed:
        """Batches by `sample`, made ahead by settings.workers processes; the log says which share of the time was waited."""
        self._feed = Feed(self, sample)
        return self._feed

    def restore(self) -> int:
        """Load the newest whole state; return the step to start at, 0 where there is none.

        Raises ValueError when the state is of another model, another trainer, or other settings that must stay.
        """
        path = latest_state(self.folder.states, self.say)
        done = step_of(path) if path else 0
        if len(set(gather_object([done]))) > 1:
            raise ValueError(f"the processes of this run see different states in {self.folder.states}; use a folder they share")
        if path is None:
            self._seed(self.accelerator.process_index)
        else:
            self._load(path)
            self._state, self._saved = path, done
            self.say(f"resuming from {path.name}")
        self.folder.forget_after(done)
        return done

    def steps(self, start: int) -> Iterator[int]:
        """Step numbers from `start`, with states saved on the way and at the end.

        The end comes at settings.steps (then `finished` is True), after max_minutes, or at SIGINT/SIGTERM: the step under way
        is finished and saved; another signal seconds later stops at once.
        """
        done, total = start, self.settings.steps
        with closing(self.folder), self._stop_signals() as signals, self._progress(start) as progress:
            self._log.start(done)
            while done < total:
                self._step, self._backwards = done, 0
                try:
                    yield done
                finally:
                    self._step = None
                self._check_accumulation(done)
                done += 1
                progress.update()
                reason = self._agreed(signals[0] if signals else self._out_of_time())
                last = done == total or reason
                if last or done % self.settings.log_every == 0:
                    self._write_log(done, progress)
                if last or done % self.settings.save_every == 0:
                    self.save(done)
                if reason and done < total:
                    self.say(f"stopped after step {done} of {total} ({STOPS[reason]}); the same command goes on from there")
                    break
        self.finished = done >= total

    def save(self, done: int) -> None:
        """Write the state after `done` steps, then delete the oldest. All processes call it. TrainingError when it cannot."""
        if self._saved == done:
            return
        state = self._all_state(gather_object([random_state()]))
        if self.is_main:
            self._state = save_state(self.folder.states, done, state)
            prune(self.folder.states, self.settings.keep)
        self._saved = done
        self.accelerator.wait_for_everyone()

    def backward(self, loss: Tensor, terms: Mapping[str, Tensor] = {}) -> None:
        """Backward pass of a scalar loss (divided by settings.accumulate). terms: the summands, named in the error.

        Raises TrainingError when the loss is not finite: the weights are still those of the step before.
        """
        if not torch.isfinite(loss.detach()).all():
            broken = [name for name, term in terms.items() if not torch.isfinite(torch.as_tensor(term)).all()]
            self._broken("the loss", f" in {', '.join(broken)}" if broken else "")
        self._backwards += 1
        self.accelerator.backward(loss)

    def clip(self, parameters: Iterable[nn.Parameter]) -> Tensor:
        """Clip gradients to settings.grad_clip; return their norm before it. TrainingError when the norm is not finite.

        In fp16 a norm that is not finite is the loss scaler's business: it skips the step and lowers its scale.
        """
        norm = whole(self.accelerator.clip_grad_norm_(list(parameters), self.settings.grad_clip or math.inf))
        if self.accelerator.scaler is None and not torch.isfinite(norm):
            self._broken("the gradient norm", "")
        return norm

    def log(self, step: int, values: Mapping[str, float | Tensor]) -> None:
        """Add numbers (floats, 0-d tensors) to the averages of the line under way; outside `steps`, write a line at once.

        All processes call it; the line has the mean over those that have a name.
        """
        self._log.add(values)
        if self._step is None:
            self.folder.write_line(step, self._log.means(self.device))
            self._log.start(step)

    def images(self, step: int, name: str, images: Tensor, columns: int = 8) -> None:
        """(B, 3, H, W) in [-1, 1] -> samples/<name>-<step>.png, rows of `columns` pictures; main process only."""
        self.folder.write_images(step, name, images, columns)

    def say(self, sentence: str) -> None:
        """Print one line above the progress bar, on the main process."""
        if self.is_main:
            tqdm.write(sentence)

    def _all_state(self, randoms: list[dict]) -> dict:
        scaler = self.accelerator.scaler
        return {
            "trainer": type(self.settings).__name__,
            "settings": dataclasses.asdict(self.settings),
            "random": randoms,
            "scaler": scaler.state_dict() if scaler is not None else {},
            "things": {name: state_of(thing, self.is_main) for name, thing in self._things.items()},
        }

    def _load(self, path: Path) -> None:
        state = load_state(path)
        self._check_fits(path.name, state)
        # A schedule sets the learning rate of this run's settings anew; so optimizers, which bring the old one, come first.
        for name, thing in sorted(self._things.items(), key=lambda item: not isinstance(item[1], torch.optim.Optimizer)):
            try:
                load_into(thing, state["things"][name])
            except (RuntimeError, ValueError, KeyError) as error:
                raise ValueError(self._unfit(path.name, f"{name}: {first_line(error)}")) from error
        if self.accelerator.scaler is not None and state["scaler"]:
            self.accelerator.scaler.load_state_dict(state["scaler"])
        randoms = state["random"]
        if len(randoms) != self.processes:
            self.say(f"{path.name} is of {len(randoms)} processes, now there are {self.processes}: not a bit-equal resume")
        set_random_state(randoms[self.accelerator.process_index % len(randoms)])

    def _check_fits(self, name: str, state: dict) -> None:
        """Refuse a state of another run before anything of it is loaded."""
        if state["trainer"] != type(self.settings).__name__:
            raise ValueError(self._unfit(name, f"it is of {state['trainer']}, this is {type(self.settings).__name__}"))
        for field in dataclasses.fields(self.settings):
            now = getattr(self.settings, field.name)
            then = state["settings"].get(field.name, field.default)  # a setting that is newer than the state
            if field.metadata.get("fixed") and now != then:
                raise ValueError(self._unfit(name, f"{field.name} was {then}, now {now}"))
        if odd := sorted(state["things"].keys() ^ self._things.keys()):
            raise ValueError(self._unfit(name, f"one of both has no {odd[0]!r}"))
        for part, thing in self._things.items():
            if isinstance(thing, nn.Module):
                self._check_shapes(name, part, thing, state["things"][part])

    def _check_shapes(self, name: str, part: str, module: nn.Module, state: Mapping[str, Tensor]) -> None:
        now = shapes_of(module)
        then = {key: tuple(tensor.shape) for key, tensor in state.items() if isinstance(tensor, Tensor)}
        if wrong := [key for key in {**now, **then} if now.get(key) != then.get(key)]:
            first = wrong[0]
            found, expected = (shapes.get(first, "missing") for shapes in (then, now))
            raise ValueError(self._unfit(name, f"{part}.{first} is {found} there and {expected} here"))

    def _unfit(self, name: str, what: str) -> str:
        return (
            f"{name} in {self.folder.states} does not fit this run ({what}); "
            f"give the settings that the run began with, or another --out"
        )

    def _broken(self, what: str, where: str) -> None:
        safe = f"the last whole state is {self._state}" if self._state else "there is no state yet"
        raise TrainingError(
            f"{what} is not finite at step {self._step}{where}; {safe}: start again with a lower --lr, a longer --warmup or "
            f"--precision fp32, and look at what that step's data hold"
        )

    def _check_accumulation(self, step: int) -> None:
        parts = self.settings.accumulate
        if self._backwards % parts:
            raise TrainingError(
                f"step {step} made {self._backwards} backward passes while accumulate is {parts}, so gradients would be "
                f"too small; loop over range(settings.accumulate) inside a step, or set --accumulate 1"
            )

    def _write_log(self, done: int, progress: tqdm) -> None:
        rate = self._log.rate(done)
        values = self._log.means(self.device)
        self._log.start(done)
        if self._feed:
            values["waiting"] = self._feed.waiting_share()
        progress.set_postfix({name: f"{value:.3g}" for name, value in list(values.items())[:4]})
        optimizers = {name: thing for name, thing in self._things.items() if isinstance(thing, torch.optim.Optimizer)}
        rates = {"lr" if len(optimizers) == 1 else f"lr/{name}": o.param_groups[0]["lr"] for name, o in optimizers.items()}
        samples = self.settings.batch_size * self.settings.accumulate * self.processes
        self.folder.write_line(done, {**values, **rates, "steps/s": rate, "samples/s": rate * samples})

    def _progress(self, start: int) -> tqdm:
        return tqdm(total=self.settings.steps, initial=start, unit="step", disable=not self.is_main, dynamic_ncols=True)

    def _out_of_time(self) -> int:
        limit = self.settings.max_minutes * 60
        return TIME if limit and time.monotonic() - self.started >= limit else 0

    def _agreed(self, reason: int) -> int:
        """All processes stop together: the largest reason of any."""
        if self.processes == 1:
            return reason
        flag = torch.tensor(reason, device=self.device)
        torch.distributed.all_reduce(flag, torch.distributed.ReduceOp.MAX)
        return int(flag)

    @contextmanager
    def _stop_signals(self) -> Iterator[list[int]]:
        """Collects the first SIGINT or SIGTERM; a later one acts as it always did. Other threads cannot take signals."""
        caught: list[int] = []
        if threading.current_thread() is not threading.main_thread():
            yield caught
            return
        first = 0.0
        before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}

        def catch(number: int, _frame) -> None:
            nonlocal first
            if not caught:
                caught.append(number)
                first = time.monotonic()
            elif time.monotonic() - first > GRACE:
                signal.signal(number, before[signal.Signals(number)])
                signal.raise_signal(number)

        for number in before:
            signal.signal(number, catch)
        try:
            yield caught
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def _seed(self, process: int) -> None:
        """Seed this process's global generators."""
        seed = self.settings.seed if process == 0 else _mix(self.settings.seed, process)
        random.seed(seed)
        np.random.seed(seed % 2**32)
        torch.manual_seed(seed)


def _mix(*numbers: int) -> int:
    """Numbers -> one seed in [0, 2^63), unrelated for neighbours."""
    return int.from_bytes(hashlib.sha256(repr(numbers).encode()).digest()[:8], "little") >> 1


def _device_name(device: torch.device) -> str:
    return torch.cuda.get_device_name(device) if device.type == "cuda" else device.type

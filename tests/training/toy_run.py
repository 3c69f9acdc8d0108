"""A training run small enough for tests, with all that a real one has; as a script, its laws for several processes."""

import random
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

ROOT = Path(__file__).parents[2]
sys.path[:0] = [str(ROOT)] * (str(ROOT) not in sys.path)

from deepexpo_models.training.engine.checkpoint import load_state  # noqa: E402
from deepexpo_models.training.engine.ema import EMA  # noqa: E402
from deepexpo_models.training.engine.engine import Engine, gather_with_grad, make_scheduler  # noqa: E402
from deepexpo_models.training.engine.settings import RunSettings, option  # noqa: E402


@dataclass(frozen=True, kw_only=True)
class ToySettings(RunSettings):
    warmup: int = 2
    lr: float = 1e-2
    width: int = option(8, "width of the hidden layer")
    depth: int = option(1, "hidden layers", fixed=True)
    scales: tuple[float, ...] = option((1.0, 2.0), "factors of the input; 100 % by default")
    data: str | None = option(None, "folder of data")


@dataclass(frozen=True, kw_only=True)
class OtherSettings(RunSettings):
    pass


class Toy(nn.Module):
    """Dropout draws from torch's global generator; batch norm has buffers, an integer one among them."""

    def __init__(self, width: int):
        super().__init__()
        self.net = nn.Sequential(nn.Linear(4, width), nn.BatchNorm1d(width), nn.SiLU(), nn.Dropout(0.3), nn.Linear(width, 4))

    def forward(self, x):
        return self.net(x)


class Run:
    """Parts of a run, made in the order every trainer makes them."""

    def __init__(self, settings: RunSettings):
        self.engine = Engine(settings)
        self.module = Toy(getattr(settings, "width", 8))
        self.ema = EMA(self.module, settings.ema)
        self.plain_optimizer = torch.optim.AdamW(self.module.parameters(), settings.lr)
        self.schedule = make_scheduler(self.plain_optimizer, settings)
        self.model, self.optimizer = self.engine.prepare(self.module, self.plain_optimizer)
        parts = {"model": self.model, "optimizer": self.optimizer, "schedule": self.schedule, "ema": self.ema}
        for name, thing in parts.items():
            self.engine.register(name, thing)

    def train(self, each_step=lambda step: None) -> "Run":
        engine, settings = self.engine, self.engine.settings
        for step in engine.steps(engine.restore()):
            for part in range(settings.accumulate):
                x = torch.randn(settings.batch_size, 4, generator=engine.generator(step, part))
                x = x + 0.1 * random.random() + 0.1 * np.random.rand()
                with engine.autocast():
                    terms = {"square": self.model(x).float().square().mean()}
                engine.backward(sum(terms.values()), terms)
            norm = engine.clip(self.model.parameters())
            self.optimizer.step()
            self.schedule.step()
            self.optimizer.zero_grad()
            self.ema.update(self.model, step)
            engine.log(step, {**terms, "norm": norm})
            each_step(step)
        return self


def settings(out, **changes) -> ToySettings:
    return ToySettings(**{"out": str(out), "steps": 8, "save_every": 4, "log_every": 2, "batch_size": 4, "ema": 0.9} | changes)


def state(out, step: int) -> dict:
    """What the state of a step holds, without the settings (a resumed run may have others)."""
    held = load_state(Path(out) / "states" / f"state-{step:08d}")
    return {key: held[key] for key in ("random", "scaler", "things")}


def contrast_gradient(engine: Engine, batch: torch.Tensor) -> dict[str, torch.Tensor]:
    """Gradient of an InfoNCE loss and a batch statistic over the whole batch, each process holding its share of it."""
    torch.manual_seed(3)
    net = nn.Linear(4, 6)
    prepared = engine.prepare(net)
    share = batch.chunk(engine.processes)[engine.accelerator.process_index]
    mine = prepared(share)
    codes = gather_with_grad(F.normalize(mine, dim=-1))
    anchors = F.normalize(batch.flip(-1) @ torch.ones(4, 6), dim=-1)
    loss = F.cross_entropy(codes @ codes.T + codes @ anchors.T, torch.arange(len(codes))) + codes.std(0).mean()
    engine.accelerator.backward(loss)
    return {"codes": codes.detach(), "loss": loss.detach(), **{name: p.grad for name, p in net.named_parameters()}}


def several_processes(folder: Path) -> None:
    """Run under a launcher: writes what this process found to folder/rank<n>.txt and the gradient to folder/gradient."""
    from safetensors.torch import save_file

    engine = Engine(settings(folder / "contrast"))
    gradient = contrast_gradient(engine, torch.linspace(-1, 1, 32).reshape(8, 4).sin())
    if engine.is_main:
        save_file(gradient, folder / "gradient.safetensors")
    whole = Run(settings(folder / "whole", steps=4)).train()
    Run(settings(folder / "halves", steps=2, schedule="constant")).train()
    stopped = Run(settings(folder / "halves", steps=4, schedule="constant"))
    rank = float(engine.accelerator.process_index)
    stopped.train(lambda step: stopped.engine.log(step, {"rank": rank, f"only {rank:.0f}": rank}))
    Run(settings(folder / "constant", steps=4, schedule="constant")).train()
    noise = torch.rand(1).item(), float(torch.rand(1, generator=engine.generator(0)))
    (folder / f"rank{engine.accelerator.process_index}.txt").write_text(f"{whole.engine.processes} {noise[0]} {noise[1]}")


if __name__ == "__main__":
    several_processes(Path(sys.argv[1]))

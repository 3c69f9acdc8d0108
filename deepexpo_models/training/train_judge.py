"""Train the judge of rendered heads:

    python -m deepexpo_models.training.train_judge --out runs/judge --heads runs/heads/train --test runs/heads/test

It (`evaluation.judges.judge`) learns from pictures whose factors are known, blurred, compressed and tinted as generators do,
so that it judges generated pictures fairly. The released file, judge.safetensors, holds its own errors too.
"""

import copy
from dataclasses import dataclass, fields
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Generator, Tensor, nn

from ..dsid.losses import info_nce
from ..dsid.rotation import euler_to_matrix, geodesic_angle
from ..evaluation.judges.judge import (
    CHUNK,
    Judge,
    JudgeConfig,
    Judgement,
    by_factor,
    load_judge,
    save_judge,
    to_share,
)
from ..evaluation.judges.kinds import HEADS, UNKNOWN, Shown
from ..evaluation.metrics import correlation
from .engine.ema import EMA
from .engine.engine import Engine, make_scheduler
from .engine.muon import Muon, split_parameters
from .engine.settings import RunSettings, option, run_command
from .judge.data import VIEWS, People
from .judge.degradations import degrade, no_faces

NO_MATRICES = ("stem", "head")  # first and last layers are left to Adam
LOSS_WEIGHTS = {"expression": 16.0, "rotation": 4.0, "place": 2.0, "identity": 0.5, "looks": 2.0, "context": 0.3, "face": 0.3}
GALLERY = 200  # people among whom a person is found again


@dataclass(frozen=True, kw_only=True)
class JudgeSettings(RunSettings):
    """Training of the judge; batch_size counts people, two pictures of each."""

    steps: int = option(1500, "optimizer steps in all, those of resumed runs included")
    batch_size: int = option(24, "people per process and per backward pass, two pictures of each")
    lr: float = option(2e-3, "learning rate after the warm-up")
    warmup: int = option(50, "steps in which the learning rate rises from zero")
    ema: float = option(0.99, "decay of the averaged weights, per step; 0 keeps the last weights")
    grad_clip: float = option(5.0, "largest gradient norm; 0 does not clip")
    save_every: int = option(200, "steps between states that a run can be resumed from")
    sample_every: int = option(0, "steps between measurements on held-out people; 0 makes none")
    heads: str = option(help="folder of rendered heads (deepexpo_models.data.heads.generate)")
    test: str = option(help="folder of rendered heads of held-out people, whom the judge's own errors are measured on")
    init: str = option("", "a judge to start from")


class JudgeStep(nn.Module):
    """forward(images, shown, generator) -> named loss terms; DistributedDataParallel wraps it whole."""

    def __init__(self, judge: Judge):
        super().__init__()
        self.judge = judge

    def forward(self, images: Tensor, shown: Shown, generator: Generator) -> dict[str, Tensor]:
        return losses(self.judge, degrade(images, generator), shown, generator)


def train(settings: JudgeSettings, config: JudgeConfig | None = None) -> Path | None:
    """Run or resume; returns the released file, None when the run was stopped before its end. config: sizes of a new judge."""
    engine = Engine(settings)
    data = People(settings.heads, settings.test)
    judge = start_judge(settings.init, config or JudgeConfig())
    optimizer = Muon(*split_parameters([judge], NO_MATRICES), settings.lr)
    schedule, ema = make_scheduler(optimizer, settings), EMA(judge, settings.ema)
    step_module, optimizer = engine.prepare(JudgeStep(judge), optimizer)
    for name, thing in {"judge": judge, "optimizer": optimizer, "schedule": schedule, "ema": ema}.items():
        engine.register(name, thing)

    feed = engine.feed(data.sample)
    for step in engine.steps(engine.restore()):
        for part in range(settings.accumulate):
            (images, shown), generator = feed.take(step, part)
            with engine.autocast():
                terms = step_module(images.to(engine.device), shown.to(engine.device), generator)
            weighted = {name: LOSS_WEIGHTS[name] * term for name, term in terms.items()}
            engine.backward(sum(weighted.values()), weighted)
        norm = engine.clip(judge.parameters())
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
        ema.update(judge, step)
        engine.log(step, {**terms, "grad_norm": norm})
        if settings.sample_every and (step + 1) % settings.sample_every == 0:
            with ema.applied(judge):
                engine.log(step, own_errors(judge.eval(), *_held_out(data, judge, settings)))
            judge.train()

    if not engine.finished:
        return None
    with ema.applied(judge):
        return _release(engine, settings, data, judge)


def start_judge(init: str, config: JudgeConfig) -> Judge:
    """The judge of a file, or a new one."""
    return load_judge(Path(init)).requires_grad_(True).train() if init else Judge(config)


def _release(engine: Engine, settings: JudgeSettings, data: People, judge: Judge) -> Path:
    """The file, with the judge's own errors: what it holds, in half precision, is what is measured."""
    path = Path(settings.out) / "judge.safetensors"
    if engine.is_main:
        released = copy.deepcopy(judge).half().float().eval()
        images, shown, generator = _held_out(data, judge, settings)
        released.errors = {
            "steps": settings.steps,
            "pictures": own_errors(released, images, shown, generator),
            "degraded pictures": own_errors(released, degrade(images, generator), shown, generator),
        }
        save_judge(path, released)
    return path


def _held_out(data: People, judge: Judge, settings: JudgeSettings) -> tuple[Tensor, Shown, Generator]:
    generator = torch.Generator().manual_seed(settings.seed + 1)
    return *data.held_out(GALLERY, generator), generator


def losses(judge: Judge, images: Tensor, shown: Shown, generator: Generator) -> dict[str, Tensor]:
    """Named terms, before LOSS_WEIGHTS. images (2 P, 3, S, S): two of each person, one after the other."""
    found = judge.read_scene(images)
    noise = torch.randn(shown.pose.shape, generator=generator) * torch.tensor([0, 0, 3.0, 0.02, 0.02, 0.03])
    aligned_by = (shown.pose + noise.to(images.device)).float()  # as inexact as the judge's own pose
    rotation = euler_to_matrix(shown.pose[:, :3])
    present = torch.zeros(2 * len(images), 1, device=images.device)
    strangers = no_faces(images, generator)
    present[: len(images)] = 1
    faces = torch.cat([found["face"], judge.read_scene(strangers)["face"]])
    face = judge.read_face(images, aligned_by, found["identity"])
    context = [
        _class_error(logits, classes.long())
        for logits, classes in zip(by_factor(found["context"], HEADS.context), shown.context.T, strict=True)
    ]
    return {
        "expression": F.mse_loss(
            face["expression"], to_share(shown.expression, HEADS.expression)
        ),  # L1 would find brows at rest always
        "rotation": (found["rotation"] - rotation).square().sum((1, 2)).mean(),
        "place": F.smooth_l1_loss(found["place"], to_share(shown.pose[:, 3:], HEADS.pose[3:]), beta=0.2),
        "identity": info_nce(face["identity"][0::2], face["identity"][1::2]),
        "looks": F.mse_loss(face["looks"], to_share(shown.looks, HEADS.looks)),
        "context": torch.stack(context).mean(),
        "face": F.binary_cross_entropy_with_logits(faces, present[: len(faces)]),
    }


def _class_error(logits: Tensor, classes: Tensor) -> Tensor:
    """Mean cross-entropy of the rows whose class is known; 0 where none is."""
    error = F.cross_entropy(logits, classes, ignore_index=UNKNOWN, reduction="sum")
    return error / (classes != UNKNOWN).sum().clamp(min=1)


@torch.no_grad()
def own_errors(judge: Judge, images: Tensor, shown: Shown, generator: Generator) -> dict[str, float]:
    """The judge's errors on pictures (people * VIEWS, 3, S, S) of people it has never seen, a person's together.

    Per factor `<name> mae` (its units), `<name> r2` and `<name> r`; `rotation degrees` (mean geodesic); `<context> accuracy`;
    `identity top1` among so many `people`, `identity same` and `identity other` (mean cosines), and the shares of
    `faces missed` and of `no faces taken`.
    """
    device = next(judge.parameters()).device
    parts = [judge(part.to(device)) for part in images.split(CHUNK)]
    found = Judgement(**{f.name: torch.cat([getattr(part, f.name) for part in parts]).cpu() for f in fields(Judgement)})
    spoilers = [no_faces(part, generator) for part in images[: 2 * GALLERY].split(CHUNK)]
    strangers = torch.cat([judge(part.to(device)).face.cpu() for part in spoilers])
    turned = geodesic_angle(euler_to_matrix(found.pose[:, :3]), euler_to_matrix(shown.pose[:, :3]))
    known = shown.context != UNKNOWN
    return {
        **_regression_errors(found.expression, shown.expression, HEADS.expression),
        **_regression_errors(found.pose, shown.pose, HEADS.pose),
        "rotation degrees": torch.rad2deg(turned).mean().item(),
        **_regression_errors(found.looks, shown.looks, HEADS.looks),
        **{
            f"{factor.name} accuracy": (found.context == shown.context)[known[:, i], i].float().mean().item()
            for i, factor in enumerate(HEADS.context)
        },
        **_recognition(found.identity.unflatten(0, (-1, VIEWS))),
        "faces missed": (found.face < 0.5).float().mean().item(),
        "no faces taken": (strangers >= 0.5).float().mean().item(),
    }


def _regression_errors(found: Tensor, true: Tensor, factors: tuple) -> dict[str, float]:
    r2 = 1 - (found - true).square().mean(0) / true.var(0, unbiased=False)
    figures = {"mae": (found - true).abs().mean(0), "r2": r2, "r": correlation(found, true)}
    return {f"{f.name} {what}": row[i].item() for i, f in enumerate(factors) for what, row in figures.items()}


def _recognition(identity: Tensor) -> dict[str, float]:
    """identity (people, VIEWS, D)."""
    cosines = identity[:, 1] @ identity[:, 0].T
    same = torch.eye(len(cosines), dtype=torch.bool)
    return {
        "people": len(cosines),
        "identity top1": (cosines.argmax(1) == torch.arange(len(cosines))).float().mean().item(),
        "identity same": cosines[same].mean().item(),
        "identity other": cosines[~same].mean().item(),
    }


def main(argv: list[str] | None = None) -> None:
    run_command(train, JudgeSettings, argv, "Train the judge of rendered heads.")


if __name__ == "__main__":
    main()

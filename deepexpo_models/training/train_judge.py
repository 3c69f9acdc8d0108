"""Train the judge of drawn faces: python -m deepexpo_models.training.train_judge --out runs/judge --synthetic FACES

It (`evaluation.judges.drawn`) learns from drawn faces whose factors are known, blurred, compressed and tinted as generators do,
so that it judges generated pictures fairly. The released file, judge.safetensors, holds its own errors too.
"""

import copy
from dataclasses import dataclass, fields
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Generator, Tensor, nn

from ..data.synthetic import CONTEXT, EXPRESSION, GROUPS, POSE, Scene, concatenate, render
from ..data.synthetic.shards import ShardStore
from ..dsid.losses import info_nce
from ..dsid.rotation import euler_to_matrix, geodesic_angle
from ..evaluation.judges.drawn import (
    CHUNK,
    LOOKS,
    Judge,
    JudgeConfig,
    Judgement,
    by_context,
    load_judge,
    save_judge,
    to_share,
    true_looks,
)
from .engine.ema import EMA
from .engine.engine import Engine, make_scheduler
from .engine.muon import Muon, split_parameters
from .engine.settings import RunSettings, option, run_command
from .judge.data import ExtremePairs, sample_pairs, sample_views
from .judge.degradations import degrade, no_faces

NO_MATRICES = ("stem", "head")  # first and last layers are left to Adam
LOSS_WEIGHTS = {"expression": 16.0, "rotation": 4.0, "place": 2.0, "identity": 0.5, "looks": 2.0, "context": 0.3, "face": 0.3}
GALLERY = 200  # people among whom a person is found again
VIEWS = 3  # pictures of each of them
EXTREME_SHARE = 4  # one training picture in so many has an extreme pose: the shards have none, the reports do


@dataclass(frozen=True, kw_only=True)
class JudgeSettings(RunSettings):
    """Training of the judge of drawn faces; batch_size counts people, two pictures of each."""

    steps: int = option(1500, "optimizer steps in all, those of resumed runs included")
    batch_size: int = option(24, "people per process and per backward pass, two pictures of each")
    lr: float = option(2e-3, "learning rate after the warm-up")
    warmup: int = option(50, "steps in which the learning rate rises from zero")
    ema: float = option(0.99, "decay of the averaged weights, per step; 0 keeps the last weights")
    grad_clip: float = option(5.0, "largest gradient norm; 0 does not clip")
    save_every: int = option(200, "steps between states that a run can be resumed from")
    sample_every: int = option(0, "steps between measurements on held-out people; 0 makes none")
    synthetic: str = option(help="folder of drawn faces (deepexpo_models.data.draw)")
    extremes: int = option(600, "people in extreme poses, drawn at the start: the folder has none")
    init: str = option("", "a judge to start from")


class JudgeStep(nn.Module):
    """forward(images, scene, generator) -> named loss terms; DistributedDataParallel wraps it whole."""

    def __init__(self, judge: Judge):
        super().__init__()
        self.judge = judge

    def forward(self, images: Tensor, scene: Scene, generator: Generator) -> dict[str, Tensor]:
        return losses(self.judge, degrade(images, generator), scene, generator)


class DrawnPeople:
    """Pairs of pictures of people, one in EXTREME_SHARE of them in extreme poses."""

    def __init__(self, settings: JudgeSettings):
        self.store = ShardStore(settings.synthetic)
        self.turned = ExtremePairs(settings.extremes, self.store.size, torch.Generator().manual_seed(settings.seed))

    def sample(self, people: int, generator: Generator, lead: Generator) -> tuple[Tensor, Scene]:
        few = people // EXTREME_SHARE
        pairs = [sample_pairs(self.store, people - few, generator), self.turned.sample(few, generator)]
        return torch.cat([images for images, _ in pairs]), concatenate([scene for _, scene in pairs])


def train(settings: JudgeSettings, config: JudgeConfig | None = None) -> Path | None:
    """Run or resume; returns the released file, None when the run was stopped before its end. config: sizes of a new judge."""
    engine = Engine(settings)
    data = DrawnPeople(settings)
    judge = load_judge(Path(settings.init)).requires_grad_(True).train() if settings.init else Judge(config or JudgeConfig())
    optimizer = Muon(*split_parameters([judge], NO_MATRICES), settings.lr)
    schedule, ema = make_scheduler(optimizer, settings), EMA(judge, settings.ema)
    step_module, optimizer = engine.prepare(JudgeStep(judge), optimizer)
    for name, thing in {"judge": judge, "optimizer": optimizer, "schedule": schedule, "ema": ema}.items():
        engine.register(name, thing)

    feed = engine.feed(data.sample)
    for step in engine.steps(engine.restore()):
        for part in range(settings.accumulate):
            (images, scene), generator = feed.take(step, part)
            with engine.autocast():
                terms = step_module(images.to(engine.device), scene, generator)
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
                engine.log(step, own_errors(judge.eval(), torch.Generator().manual_seed(settings.seed + 1)))
            judge.train()

    if not engine.finished:
        return None
    with ema.applied(judge):
        return _release(engine, settings, judge)


def _release(engine: Engine, settings: JudgeSettings, judge: Judge) -> Path:
    """The file, with the judge's own errors: what it holds, in half precision, is what is measured."""
    path = Path(settings.out) / "judge.safetensors"
    if engine.is_main:
        released, kinds = copy.deepcopy(judge).half().float().eval(), {"pictures": False, "degraded pictures": True}
        measured = torch.Generator().manual_seed(settings.seed + 1)
        errors = {kind: own_errors(released, measured, spoilt=spoilt) for kind, spoilt in kinds.items()}
        released.errors = {"steps": settings.steps, **errors}
        save_judge(path, released)
    return path


def losses(judge: Judge, images: Tensor, scene: Scene, generator: Generator) -> dict[str, Tensor]:
    """Named terms, before LOSS_WEIGHTS. images (2 P, 3, S, S): two of each person, one after the other."""
    found = judge.read_scene(images)
    noise = torch.randn(scene.pose.shape, generator=generator) * torch.tensor([0, 0, 3.0, 0.02, 0.02, 0.03])
    aligned_by = (scene.pose.to(images.device) + noise.to(images.device)).float()  # as inexact as the judge's own pose
    scene = Scene(**{group: getattr(scene, group).to(images.device) for group in GROUPS})
    rotation = euler_to_matrix(scene.pose[:, :3])
    present = torch.zeros(2 * len(images), 1, device=images.device)
    strangers = no_faces(images, generator)
    present[: len(images)] = 1
    faces = torch.cat([found["face"], judge.read_scene(strangers)["face"]])
    expression = judge.read_expression(images, aligned_by)
    context = [
        F.cross_entropy(part, scene.context[:, i].long()) for i, part in enumerate(by_context(found["context"]).values())
    ]
    return {
        "expression": F.mse_loss(expression, to_share(scene.expression, EXPRESSION)),  # an L1 would find brows at rest always
        "rotation": (found["rotation"] - rotation).square().sum((1, 2)).mean(),
        "place": F.smooth_l1_loss(found["place"], to_share(scene.pose[:, 3:], POSE[3:]), beta=0.2),
        "identity": info_nce(found["identity"][0::2], found["identity"][1::2]),
        "looks": F.mse_loss(found["looks"], to_share(true_looks(scene), LOOKS)),
        "context": torch.stack(context).mean(),
        "face": F.binary_cross_entropy_with_logits(faces, present[: len(faces)]),
    }


@torch.no_grad()
def own_errors(judge: Judge, generator: Generator, people: int = GALLERY, spoilt: bool = False) -> dict[str, float]:
    """The judge's errors on people it has never seen; spoilt: on degraded pictures.

    Per factor `<name> mae` (its units) and `<name> r2`; `rotation degrees` (mean geodesic); `<context> accuracy`;
    `identity top1` among `people`, `identity same` and `identity other` (mean cosines), and the shares of `faces missed` and
    of `no faces taken`.
    """
    scene = sample_views(people, VIEWS, generator, "test")
    images = render(scene, judge.config.image_size).images
    images = degrade(images, generator) if spoilt else images
    device = next(judge.parameters()).device
    parts = [judge(part.to(device)) for part in images.split(CHUNK)]
    found = Judgement(**{f.name: torch.cat([getattr(part, f.name) for part in parts]).cpu() for f in fields(Judgement)})
    spoilers = [no_faces(part, generator) for part in images[: 2 * GALLERY].split(CHUNK)]
    strangers = torch.cat([judge(part.to(device)).face.cpu() for part in spoilers])
    turned = geodesic_angle(euler_to_matrix(found.pose[:, :3]), euler_to_matrix(scene.pose[:, :3]))
    return {
        **_regression_errors(found.expression, scene.expression, EXPRESSION),
        **_regression_errors(found.pose, scene.pose, POSE),
        "rotation degrees": torch.rad2deg(turned).mean().item(),
        **_regression_errors(found.looks, true_looks(scene), LOOKS),
        **{
            f"{factor.name} accuracy": (found.context[:, i] == scene.context[:, i]).float().mean().item()
            for i, factor in enumerate(CONTEXT)
        },
        **_recognition(found.identity.unflatten(0, (people, VIEWS))),
        "faces missed": (found.face < 0.5).float().mean().item(),
        "no faces taken": (strangers >= 0.5).float().mean().item(),
    }


def _regression_errors(found: Tensor, true: Tensor, factors: tuple) -> dict[str, float]:
    mae = (found - true).abs().mean(0)
    r2 = 1 - (found - true).square().mean(0) / true.var(0, unbiased=False)
    return {f"{f.name} {what}": row[i].item() for i, f in enumerate(factors) for what, row in (("mae", mae), ("r2", r2))}


def _recognition(identity: Tensor) -> dict[str, float]:
    """identity (people, VIEWS, D)."""
    cosines = identity[:, 1] @ identity[:, 0].T
    same = torch.eye(len(cosines), dtype=torch.bool)
    return {
        "identity top1": (cosines.argmax(1) == torch.arange(len(cosines))).float().mean().item(),
        "identity same": cosines[same].mean().item(),
        "identity other": cosines[~same].mean().item(),
    }


def main(argv: list[str] | None = None) -> None:
    run_command(train, JudgeSettings, argv, "Train the judge of drawn faces.")


if __name__ == "__main__":
    main()

"""Train the judge of drawn faces (`evaluation.judges.drawn`), from drawn faces whose factors are known, blurred, compressed
and tinted as generators do, so that it judges generated pictures fairly.

    python -m deepexpo_models.training.train_judge --out weights/judge.safetensors --synthetic runs/faces --minutes 20
"""

import argparse
import copy
import math
import time
from dataclasses import fields
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Generator, Tensor

from ..data.synthetic import CONTEXT, EXPRESSION, GROUPS, POSE, Scene, concatenate, render
from ..data.synthetic.shards import ShardStore
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
from .engine.muon import Muon, split_parameters
from .judge.data import ExtremePairs, sample_pairs, sample_views
from .judge.degradations import degrade, no_faces

TEMPERATURE = 0.1  # of InfoNCE
LOSS_WEIGHTS = {"expression": 16.0, "rotation": 4.0, "place": 2.0, "identity": 0.5, "looks": 2.0, "context": 0.3, "face": 0.3}
GALLERY = 200  # people among whom a person is found again
VIEWS = 3  # pictures of each of them
EXTREME_SHARE = 4  # one training picture in so many has an extreme pose: the shards have none, the reports do


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
        "identity": info_nce(found["identity"]),
        "looks": F.mse_loss(found["looks"], to_share(true_looks(scene), LOOKS)),
        "context": torch.stack(context).mean(),
        "face": F.binary_cross_entropy_with_logits(faces, present[: len(faces)]),
    }


def info_nce(embeddings: Tensor) -> Tensor:
    """embeddings (2 P, D) of unit norm, pairs together -> how badly each finds its partner among all others (van den Oord
    et al. 2018, "Representation Learning with Contrastive Predictive Coding")."""
    logits = embeddings @ embeddings.T / TEMPERATURE
    logits = logits.masked_fill(torch.eye(len(logits), dtype=torch.bool, device=logits.device), -math.inf)
    return F.cross_entropy(logits, torch.arange(len(logits), device=logits.device) ^ 1)


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


def train(
    out: Path, synthetic: Path, minutes: float, *, config: JudgeConfig | None = None, people: int = 24,
    learning_rate: float = 2e-3, seed: int = 0, device: str = "cpu", save_minutes: float = 5.0, extremes: int = 600,
    init: Path | None = None, log=print,
) -> Judge:  # fmt: skip
    """Train for `minutes` on drawn faces, from nothing or from the judge in the file `init`, save every `save_minutes` and
    at the end, with the judge's own errors; returns the averaged judge. A step takes pairs of `people`, one in EXTREME_SHARE
    of them of the `extremes` people drawn at the start. The learning rate follows the clock: a warm-up of 3%, then a cosine.
    """
    torch.manual_seed(seed)
    generator, store = torch.Generator().manual_seed(seed), ShardStore(synthetic)
    judge = (load_judge(init).requires_grad_(True).train() if init else Judge(config or JudgeConfig())).to(device)
    turned = ExtremePairs(extremes, store.size, generator)
    averaged = copy.deepcopy(judge).eval().requires_grad_(False)
    optimizer = Muon(*split_parameters([judge], ("stem", "head")), learning_rate)
    few = people // EXTREME_SHARE
    start, saved, step, means = time.monotonic(), 0.0, 0, {}
    while (elapsed := (time.monotonic() - start) / 60) < minutes or step == 0:
        share = min(elapsed / minutes, 1.0) if minutes else 1.0
        for group in optimizer.param_groups:
            group["lr"] = learning_rate * min(share / 0.03 + 0.02, 1) * (0.51 + 0.49 * math.cos(math.pi * share))
        pairs = [sample_pairs(store, people - few, generator), turned.sample(few, generator)]
        images, scene = torch.cat([part for part, _ in pairs]), concatenate([part for _, part in pairs])
        terms = losses(judge, degrade(images.to(device), generator), scene, generator)
        optimizer.zero_grad(set_to_none=True)
        sum(LOSS_WEIGHTS[name] * term for name, term in terms.items()).backward()
        torch.nn.utils.clip_grad_norm_(judge.parameters(), 5.0)
        optimizer.step()
        _average(averaged, judge, decay=min(0.99, (step + 1) / (step + 10)))
        step += 1
        means = {name: 0.95 * means.get(name, term.item()) + 0.05 * term.item() for name, term in terms.items()}
        if step % 50 == 0:
            log(f"{elapsed:5.1f} min, step {step}: " + ", ".join(f"{name} {mean:.3f}" for name, mean in means.items()))
        if elapsed - saved > save_minutes:
            save_judge(out, averaged)
            saved = elapsed
    measured = torch.Generator().manual_seed(seed + 1)
    save_judge(out, averaged)
    averaged.half().float()  # what the file holds is what is measured
    averaged.errors = {
        "steps": step,
        "pictures": own_errors(averaged, measured),
        "degraded pictures": own_errors(averaged, measured, spoilt=True),
    }
    save_judge(out, averaged)
    return averaged


@torch.no_grad()
def _average(averaged: Judge, judge: Judge, decay: float) -> None:
    for mean, new in zip(averaged.parameters(), judge.parameters(), strict=True):
        mean.lerp_(new, 1 - decay)


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, required=True, help="the safetensors file to write")
    parser.add_argument("--synthetic", type=Path, required=True, help="folder of drawn faces (deepexpo_models.data.draw)")
    parser.add_argument("--minutes", type=float, default=20.0)
    parser.add_argument("--init", type=Path, help="a judge to go on from")
    parser.add_argument("--threads", type=int, default=1, help="CPU threads")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--device", default="cpu")
    options = parser.parse_args(arguments)
    torch.set_num_threads(options.threads)
    judge = train(options.out, options.synthetic, options.minutes, seed=options.seed, device=options.device, init=options.init)
    for kind in ("pictures", "degraded pictures"):
        print(kind + ": " + ", ".join(f"{name} {value:.3f}" for name, value in judge.errors[kind].items()))


if __name__ == "__main__":
    main()

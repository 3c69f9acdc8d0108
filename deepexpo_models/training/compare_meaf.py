"""Sizes and formulas of MEAF at equal training, on rendered heads:

    python -m deepexpo_models.training.compare_meaf --out runs/compare --heads runs/heads/train --test runs/heads/test

Every row of ROWS is a run on the starter's base that differs in one thing from "light", with the same steps, batches and seed;
all are measured by the same judge on the same requests of held-out people. Rows that are done already are kept.
"""

import argparse
import json
import time
from dataclasses import replace
from pathlib import Path
from statistics import median
from typing import Any

import torch

from ..data.heads.shards import HeadStore
from ..dsid import load_dsid
from ..evaluation.judges.judge import judged, load_judge
from ..evaluation.meaf_report import CHUNK, draw, figures
from ..evaluation.requests import Request, Studio
from ..evaluation.run import add_files
from ..evaluation.tables import as_json, write_table
from ..meaf import load_meaf
from ..pipeline.base import load_base
from ..pipeline.generate import Pipeline
from ..whole_files import write_text
from .engine.engine import Engine
from .train_meaf import MEAFSettings, make_parts, train

ROWS: dict[str, dict[str, Any]] = {
    "light": {},
    "light, the printed formula": {"fusion": "paper"},
    "control": {"size": "control"},
    "control, light too": {"size": "control", "light_too": True},
    "full": {"size": "full"},
}
SHOWN = {
    "POSE": "POSE, degrees",
    "expression correlation, main": "expression correlation",
    "identity top-1": "identity top-1",
    "ID": "ID",
    "context, mean": "context right",
}
MEGABYTE = 2**20
TIMED = 5  # steps of which the median is given


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--heads", required=True, help="folder of rendered heads of the base's size")
    parser.add_argument("--test", type=Path, required=True, help="folder of rendered heads of held-out people")
    add_files(parser)
    parser.add_argument("--cache", default="", help="folder for the heads' codes and latents; default: in --out")
    parser.add_argument("--steps", type=int, default=500)
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--lr", type=float, default=4e-3)
    parser.add_argument("--copy-lr", type=float, default=0.25, help="of the copy, in shares of --lr")
    parser.add_argument("--pictures", type=int, default=50, help="of the measurement")
    parser.add_argument("--rows", nargs="+", choices=tuple(ROWS), default=tuple(ROWS))
    parser.add_argument("--threads", type=int, default=0)
    options = parser.parse_args(argv)
    try:
        table(options)
    except ValueError as error:
        parser.exit(2, f"{error}\n")


def table(options: argparse.Namespace) -> list[dict]:
    """Train and measure the rows, and the base alone; writes sizes.json and sizes.md."""
    if options.threads:
        torch.set_num_threads(options.threads)
    judge, base = load_judge(options.judge), load_base(str(options.base), torch.device("cpu"))
    dsid = load_dsid(options.dsid).float().eval()
    studio = Studio(HeadStore(options.test))
    request, single = studio.request(options.pictures, seed=5), studio.request(1, seed=6)
    rows = []
    for name in (*options.rows, "base alone"):
        done = options.out / _folder(name) / "measured.json"
        if not done.exists():
            settings = None if name == "base alone" else _settings(options, name)
            path = train(settings) if settings else None
            pipeline = Pipeline(base, load_meaf(path).float().eval() if path else None, dsid, batch=CHUNK)
            found = figures(request, judged(judge, draw(pipeline, request)), judge)
            costs = {**_drawing_cost(pipeline, single), **(_training_cost(settings) if settings else {})}
            write_text(done, as_json({**{title: found[key] for key, title in SHOWN.items()}, **costs}))
        rows.append({"row": name, **json.loads(done.read_text())})
    write_table(options.out, "sizes", rows)
    return rows


def _settings(options: argparse.Namespace, name: str) -> MEAFSettings:
    settings = MEAFSettings(
        out=str(options.out / _folder(name)), dsid=str(options.dsid), base=str(options.base), heads=options.heads,
        cache=options.cache or str(options.out / "cache"), steps=options.steps, batch_size=options.batch_size,
        expression_width=128, pose_width=64, lr=options.lr, copy_lr=options.copy_lr, snr_gamma=0.0, warmup=20, ema=0.99,
        grad_clip=0.0, sample_every=0, save_every=100, threads=options.threads,
    )  # fmt: skip
    return replace(settings, **ROWS[name])


def _folder(name: str) -> str:
    return name.replace(",", "").replace(" ", "-")


def _drawing_cost(pipeline: Pipeline, request: Request) -> dict[str, float]:
    """Of one step of the request's picture, with guidance, in processor time of this machine; and of the weights."""
    short = replace(pipeline, steps=1)
    more = replace(pipeline, steps=1 + TIMED)
    times = [[_processor_time(lambda one=one: draw(one, request)) for one in (more, short)] for _ in range(TIMED)]
    seconds = [longer - shorter for longer, shorter in times]
    found = {"ms per drawing step": 1000 * median(seconds) / TIMED}
    if pipeline.meaf is None:
        return found
    return {"weights, millions": sum(p.numel() for p in pipeline.meaf.parameters()) / 1e6, **found}


def _training_cost(settings: MEAFSettings) -> dict[str, float]:
    """Of one step: processor time, and memory: what forward keeps for backward, and weights, gradients and the optimizer's
    state of what learns."""
    timing = replace(settings, out=f"{settings.out}/cost", steps=TIMED)
    parts = make_parts(timing, Engine(timing))
    kept: dict[int, int] = {}

    def pack(tensor):
        kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    def step(number: int) -> None:
        generator = torch.Generator().manual_seed(number)
        batch = parts.data.encoded(parts.data.sample(timing.batch_size, generator))
        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            loss = sum(parts.step(batch, generator).values())
        loss.backward()
        parts.optimizer.step(), parts.optimizer.zero_grad()

    seconds = []
    for number in range(TIMED):
        kept.clear()
        seconds.append(_processor_time(lambda number=number: step(number)))
    learnt = [p for group in parts.optimizer.param_groups for p in group["params"]]
    states = [x for state in parts.optimizer.state.values() for x in state.values() if torch.is_tensor(x)]
    weights = {p.untyped_storage().data_ptr() for module in (parts.base.unet, parts.meaf) for p in module.parameters()}
    activations = sum(size for place, size in kept.items() if place not in weights)
    held = sum(2 * p.numel() * p.element_size() for p in learnt) + sum(x.numel() * x.element_size() for x in states)
    return {
        "s per training step": median(seconds),
        "MiB kept for backward": activations / MEGABYTE,
        "MiB of weights, gradients, optimizer": held / MEGABYTE,
    }


def _processor_time(call) -> float:
    """Seconds of all threads: other work on the machine does not count."""
    start = time.process_time()
    call()
    return time.process_time() - start


if __name__ == "__main__":
    main()

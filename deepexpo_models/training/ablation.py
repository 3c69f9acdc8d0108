"""What each measure buys: python -m deepexpo_models.training.ablation --out runs/ablation --synthetic FACES

FACES are drawn at 64 pixels (deepexpo_models.data.draw --size 64), what the config `small` reads. Every row of ROWS is a
short DSID run that differs in one thing from "all measures", at the same steps and seed. Rows that are done already are kept.

--heads runs/heads/train --frames runs/real/frames-FOLDER-30.npz instead trains HEADS_ROWS on rendered heads (what labels and
what pictures alone teach) and measures them on the real frames that `evaluation.real_faces` has kept.
"""

import argparse
import json
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import torch

from ..dsid import CONFIGS, DSID, load_dsid
from ..evaluation.dsid_report import measure_dsid
from ..evaluation.plots import panels_picture
from ..evaluation.real_faces import linear_row
from ..evaluation.real_frames import load_frames
from ..evaluation.tables import as_json, write_table
from ..whole_files import write_text
from .train_dsid import DSIDSettings, train

NO_LABELS = {"w_pose": 0.0, "w_label": 0.0, "w_traits": 0.0}
ROWS: dict[str, dict] = {  # name -> what differs from all measures
    "naive: pairs of one clip, pixels alone": {
        "augment": 0.0, "align": False, "triples": False, "same_clip": 1.0, "region_weight": 0.0, "w_identity": 0.0,
        "w_expression": 0.0, "w_pair": 0.0, "w_floor": 0.0, "w_cycle": 0.0, "w_equivariance": 0.0, **NO_LABELS,
    },
    "without augmentation": {"augment": 0.0},
    "without alignment": {"align": False},
    "without rendered triples": {"triples": False},
    "without region weight": {"region_weight": 0.0},
    "without InfoNCE of identity": {"w_identity": 0.0},
    "without correlation penalties": {"w_pair": 0.0, "w_frames": 0.0},
    "without cycle": {"w_cycle": 0.0},
    "without expression labels": {"w_label": 0.0},
    "without labels of the person": {"w_traits": 0.0},
    "without any labels": NO_LABELS,
    "all measures": {},
}  # fmt: skip
HEADS_ROWS: dict[str, dict] = {  # as ROWS, on rendered heads
    "labels alone": {
        "generated": 0, "w_identity": 0.0, "w_expression": 0.0, "w_pair": 0.0, "w_floor": 0.0, "w_size": 0.0, "w_cycle": 0.0,
        "w_equivariance": 0.0,
    },
    "pairs and swaps alone": {"labels": False},
    "both": {},
}  # fmt: skip
SHOWN = ("PSNR self", "PSNR swap", "identity top-1", "pose error, read linearly, degrees", "identity from semantics")


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--synthetic", default="", help="folder of drawn faces")
    parser.add_argument("--heads", default="", help="folder of rendered heads, instead of drawn faces")
    parser.add_argument("--frames", type=Path, help="with --heads: frames that evaluation.real_faces has kept")
    parser.add_argument("--steps", type=int, default=400)
    parser.add_argument("--batch-size", type=int, default=24)
    parser.add_argument("--lr", type=float, default=2e-3, help="learning rate after the warm-up")
    parser.add_argument("--config", default="small", help="of DSID")
    parser.add_argument("--people", type=int, default=100, help="held-out people of the measurement on drawn faces")
    parser.add_argument("--threads", type=int, default=0)
    options = parser.parse_args(argv)
    if bool(options.synthetic) == bool(options.heads) or bool(options.heads) != bool(options.frames):
        parser.error("give --synthetic, or --heads and --frames")
    if options.frames and not options.frames.is_file():
        parser.error(f"{options.frames} is no file; evaluation.real_faces makes it in its --out")
    if options.threads:
        torch.set_num_threads(options.threads)
    if options.heads:
        heads_table(options)
    else:
        table(options)


def table(options: argparse.Namespace) -> list[dict]:
    """Train and measure all ROWS; writes dsid.json, dsid.md and dsid.png."""
    rows = [{"row": name, **_drawn_row(_row(options, name, changes, _measure_drawn))} for name, changes in ROWS.items()]
    write_table(options.out, "dsid", rows)
    panels_picture(options.out / "dsid.png", rows, f"DSID without one measure each, {options.steps} steps, held-out people")
    return rows


def heads_table(options: argparse.Namespace) -> list[dict]:
    """Train and measure all HEADS_ROWS; writes heads.json and heads.md."""
    frames = load_frames(options.frames)
    measure = lambda model, _options: linear_row(model, frames)  # noqa: E731
    torch.manual_seed(0)
    rows = [{"row": "untrained", "minutes": 0.0, **linear_row(DSID(CONFIGS[options.config]).eval(), frames)}]
    rows += [{"row": name, **_row(options, name, changes, measure)} for name, changes in HEADS_ROWS.items()]
    write_table(options.out, "heads", rows)
    return rows


def _row(options: argparse.Namespace, name: str, changes: dict, measure: Callable[[DSID, argparse.Namespace], dict]) -> dict:
    folder = options.out / name.split(":")[0].replace(" ", "-")
    done = folder / "measured.json"
    if not done.exists():
        settings = DSIDSettings(
            out=str(folder), config=options.config, synthetic=options.synthetic, heads=options.heads, steps=options.steps,
            batch_size=options.batch_size, generated=options.batch_size // 2, warmup=20, ema=0.99, sample_every=0,
            save_every=options.steps, threads=options.threads, lr=options.lr, w_identity=0.5, w_pose=2.0, w_label=10.0,
            augment=0.5,
        )  # fmt: skip
        began = time.monotonic()
        path = train(replace(settings, **changes))
        if path is None:
            raise ValueError(f"{name} was stopped before its end; start the same command again")
        minutes = (time.monotonic() - began) / 60
        write_text(done, as_json({"minutes": minutes, **measure(load_dsid(path).float().eval(), options)}))
    return json.loads(done.read_text())


def _measure_drawn(model: DSID, options: argparse.Namespace) -> dict:
    torch.manual_seed(0)
    return measure_dsid(model, options.people)


def _drawn_row(found: dict) -> dict:
    factors = found["expression R2"].values()
    return {
        **{key: found[key] for key in SHOWN},
        "expression R2, mean": sum(max(0.0, r2) for r2 in factors) / len(factors),
        "pose in expression, R2": found["leak"]["expression"]["pose"],
        "pose in identity, R2": found["leak"]["identity"]["pose"],
    }


if __name__ == "__main__":
    main()

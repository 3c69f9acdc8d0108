"""What labels and what pictures alone teach a DSID:

    python -m deepexpo_models.training.ablation --out runs/ablation --heads runs/heads/train \\
        --frames runs/real/frames-FOLDER-30.npz

Every row of ROWS is a short run on rendered heads, at the same steps and seed, read on the real frames that
`evaluation.real_faces` has kept. Rows that are done already are kept.
"""

import argparse
import json
import time
from dataclasses import replace
from pathlib import Path

import torch

from ..dsid import CONFIGS, DSID, load_dsid
from ..evaluation.real_faces import linear_row
from ..evaluation.real_frames import RealFrames, load_frames
from ..evaluation.tables import as_json, write_table
from ..whole_files import write_text
from .train_dsid import DSIDSettings, train

ROWS: dict[str, dict] = {  # name -> what differs from "both"
    "labels alone": {
        "generated": 0, "w_identity": 0.0, "w_expression": 0.0, "w_pair": 0.0, "w_floor": 0.0, "w_size": 0.0, "w_cycle": 0.0,
        "w_equivariance": 0.0,
    },
    "pairs and swaps alone": {"labels": False},
    "both": {},
}  # fmt: skip


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description="What labels and what pictures alone teach a DSID.")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--heads", required=True, help="folder of rendered heads")
    parser.add_argument("--frames", type=Path, required=True, help="real frames that evaluation.real_faces has kept")
    parser.add_argument("--steps", type=int, default=400)
    parser.add_argument("--batch-size", type=int, default=24)
    parser.add_argument("--lr", type=float, default=2e-3, help="learning rate after the warm-up")
    parser.add_argument("--config", default="small", choices=tuple(CONFIGS), help="of DSID")
    parser.add_argument("--threads", type=int, default=0)
    options = parser.parse_args(argv)
    if not options.frames.is_file():
        parser.error(f"{options.frames} is no file; evaluation.real_faces makes it in its --out")
    if options.threads:
        torch.set_num_threads(options.threads)
    table(options)


def table(options: argparse.Namespace) -> list[dict]:
    """Train and measure all ROWS; writes ablation.json and ablation.md."""
    frames = load_frames(options.frames)
    torch.manual_seed(0)
    rows = [{"row": "untrained", "minutes": 0.0, **linear_row(DSID(CONFIGS[options.config]).eval(), frames)}]
    rows += [{"row": name, **_row(options, name, changes, frames)} for name, changes in ROWS.items()]
    write_table(options.out, "ablation", rows)
    return rows


def _row(options: argparse.Namespace, name: str, changes: dict, frames: RealFrames) -> dict:
    folder = options.out / name.replace(" ", "-")
    done = folder / "measured.json"
    if not done.exists():
        settings = DSIDSettings(
            out=str(folder), config=options.config, heads=options.heads, steps=options.steps, batch_size=options.batch_size,
            generated=options.batch_size // 2, warmup=20, ema=0.99, sample_every=0, save_every=options.steps,
            threads=options.threads, lr=options.lr, w_identity=0.5, w_pose=2.0, w_label=10.0, augment=0.5,
        )  # fmt: skip
        began = time.monotonic()
        path = train(replace(settings, **changes))
        if path is None:
            raise ValueError(f"{name} was stopped before its end; start the same command again")
        minutes = (time.monotonic() - began) / 60
        write_text(done, as_json({"minutes": minutes, **linear_row(load_dsid(path).float().eval(), frames)}))
    return json.loads(done.read_text())


if __name__ == "__main__":
    main()

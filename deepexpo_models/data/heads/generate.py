"""Render heads to disk: python -m deepexpo_models.data.heads.generate --model heads.npz --out FOLDER --shards 240

A shard is done or not there, so the same command goes on after an interruption. --sheet FILE draws a contact sheet instead.
"""

import argparse
import hashlib
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ...claims import claimed
from .model import HeadModel
from .render import HeadRenderer
from .shards import SHARD, SPLITS, render_shard, write_shard
from .work import work_off

_worker: dict = {}  # what a process keeps between shards: the renderer and its arguments


def main(argv: list[str] | None = None) -> None:
    options = _parse(argv)
    try:
        if options.sheet:
            _sheet(options)
        elif options.scheduler:
            from .generate_many import generate_many

            print(generate_many(options).summary())
        else:
            _generate(options)
    except (ValueError, OSError) as error:
        raise SystemExit(f"{error}") from error


def _parse(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=f"Render heads to disk, {SHARD} pictures per shard.")
    parser.add_argument("--model", required=True, help="the file that deepexpo_models.data.heads.build made")
    parser.add_argument("--out", help="folder for the shards; whole ones there are kept; with --scheduler a URL too (s3://...)")
    parser.add_argument("--sheet", type=Path, help="draw a contact sheet of 64 heads into this picture instead")
    parser.add_argument("--shards", type=int, default=240, help=f"how many shards of {SHARD} pictures")
    parser.add_argument("--first", type=int, default=0, help="number of the first one")
    parser.add_argument("--size", type=int, default=128, help="side of a picture in pixels")
    parser.add_argument("--split", choices=tuple(SPLITS), default="train", help="which people")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--backgrounds", help="folder of pictures without people, for a part of the backgrounds")
    parser.add_argument("--workers", type=int, default=1, help="processes; one a core")
    parser.add_argument("--scheduler", default="", help="address of a Dask scheduler, for many machines; its workers render")
    options = parser.parse_args(argv)
    if not options.out and not options.sheet:
        parser.error("name a folder with --out, or a picture with --sheet")
    return options


def _generate(options: argparse.Namespace) -> None:
    options.out = Path(options.out)
    wanted = range(options.first, options.first + options.shards)
    left = [index for index in wanted if not (options.out / f"shard-{index:05d}").exists()]
    with claimed(options.out):
        work_off(_write, left, len(wanted), SHARD, options.workers, _start, options)


def _start(options: argparse.Namespace) -> None:
    _worker.update(vars(opened(Path(options.model), options.size, options.backgrounds)), options=options)


def _write(index: int) -> Path:
    options = _worker["options"]
    return write_shard(
        _worker["renderer"], options.out, index, options.seed, options.split, _worker["pictures"], _worker["digest"]
    )


@dataclass(frozen=True)
class Opened:
    """What a process renders with; pictures: for backgrounds; digest: SHA-256 of the head model's file."""

    renderer: HeadRenderer
    pictures: list[np.ndarray]
    digest: str


def opened(model: Path, size: int, backgrounds: str | Path | None) -> Opened:
    """Raises ValueError for a model or pictures that cannot be used, and without OpenGL."""
    digest = hashlib.sha256(model.read_bytes()).hexdigest()
    return Opened(HeadRenderer(HeadModel(model), size), load_backgrounds(backgrounds), digest)


def load_backgrounds(folder: str | Path | None) -> list[np.ndarray]:
    """Pictures (H, W, 3) uint8, in the order of their names. Raises ValueError when there are none in the folder."""
    if not folder:
        return []
    import cv2

    read = [cv2.imread(str(path), cv2.IMREAD_COLOR) for path in sorted(Path(folder).iterdir())]
    found = [picture[..., ::-1] for picture in read if picture is not None and min(picture.shape[:2]) >= 64]
    if not found:
        raise ValueError(f"{folder} holds no pictures of 64 pixels or more; give another folder, or leave --backgrounds out")
    return found


def _sheet(options: argparse.Namespace) -> None:
    from PIL import Image

    renderer, start = HeadRenderer(HeadModel(Path(options.model)), options.size), time.process_time()
    shard = render_shard(renderer, options.first, options.seed, options.split, load_backgrounds(options.backgrounds))
    print(f"{1000 * (time.process_time() - start) / SHARD:.1f} ms of CPU a picture")
    rows = shard["images"].reshape(-1, 32, *shard["images"].shape[1:])[:, [0, 3, 9, 14, 18, 20, 27, 30]]
    Image.fromarray(np.concatenate([np.concatenate(list(row), 1) for row in rows], 0)).save(options.sheet)


if __name__ == "__main__":
    main()

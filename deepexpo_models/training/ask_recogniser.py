"""What a public face recogniser sees in rendered heads, kept beside them, for an identity encoder to learn from:

    python -m deepexpo_models.training.ask_recogniser --heads runs/heads/train --recogniser dlib
    python -m deepexpo_models.training.ask_recogniser --heads runs/heads/train --recogniser insightface \\
        --insightface-path FOLDER

A recogniser has seen millions of real people; which rendered heads it takes for alike says what matters in a face, and no
photograph is needed. `train_heads --part identity` takes its words in where it was asked (`--w-told`, `--w-alike`). A shard's
file is whole or not there, so the same command goes on after an interruption.
"""

import argparse
from pathlib import Path

import numpy as np
import torch

from ..data.heads.judged import shown
from ..data.heads.shards import RECOGNISED, SHARD
from ..data.heads.work import work_off
from ..evaluation.judges.photos import JudgeFiles, open_judge
from ..image import bytes_to_model
from ..whole_files import write_file

RECOGNISERS = ("dlib", "insightface", "antelopev2")  # of judges.photos
_worker: dict = {}


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description="Write what a public recogniser sees in rendered heads beside them.")
    parser.add_argument("--heads", type=Path, required=True, help="folder of rendered heads")
    parser.add_argument("--recogniser", choices=RECOGNISERS, required=True)
    parser.add_argument("--insightface-path", type=Path, help="folder that holds models/<pack>/*.onnx")
    parser.add_argument("--every", type=int, default=1, help="only every so many-th picture of a shard")
    parser.add_argument("--workers", type=int, default=1, help="processes; one a core")
    options = parser.parse_args(argv)
    shards = sorted(options.heads.glob("shard-*"))
    if not shards:
        parser.exit(2, f"{options.heads} holds no rendered heads; render some with deepexpo_models.data.heads.generate\n")
    try:
        open_judge(options.recogniser, JudgeFiles(insightface=options.insightface_path))
        left = [path for path in shards if not _is_asked(path / RECOGNISED, options.recogniser)]
    except ValueError as error:
        parser.exit(2, f"{error}\n")
    work_off(_write, left, len(shards), SHARD / options.every, options.workers, _start, options)


def _is_asked(file: Path, recogniser: str) -> bool:
    """Raises ValueError for the words of another recogniser, which are not comparable."""
    if not file.exists():
        return False
    with np.load(file) as kept:
        if (other := str(kept["recogniser"])) != recogniser:
            raise ValueError(f"{file.parent} was shown to {other}; ask {other} about the rest, or delete the files {file.name}")
    return True


def ask(images: torch.Tensor, judge, every: int = 1) -> np.ndarray:
    """images (B, 3, S, S) in [-1, 1] -> (B, D) float32; NaN where no face is found, and where it was not asked."""
    told = judge.measure(shown(images[::every]))["identity"]
    vectors = np.full((len(images), told.shape[1]), np.nan, np.float32)
    vectors[::every] = told.numpy()
    return vectors


def _start(options: argparse.Namespace) -> None:
    torch.set_num_threads(1)
    judge = open_judge(options.recogniser, JudgeFiles(insightface=options.insightface_path))
    _worker.update(judge=judge, every=options.every, name=options.recogniser)


def _write(shard: Path) -> None:
    images = bytes_to_model(torch.from_numpy(np.load(shard / "images.npy")).movedim(-1, 1))
    vectors = ask(images, _worker["judge"], _worker["every"])
    with write_file(shard / RECOGNISED) as path, open(path, "wb") as file:
        np.savez(file, vectors=vectors, recogniser=np.array(_worker["name"]))


if __name__ == "__main__":
    main()

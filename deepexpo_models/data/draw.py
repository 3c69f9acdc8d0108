"""Draw synthetic faces to disk: python -m deepexpo_models.data.draw --out FOLDER --shards 50 --workers 2"""

import argparse
import multiprocessing
import time
from pathlib import Path

import torch

from ..claims import claimed
from .synthetic.shards import SHARD, write_shard


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=f"Draw synthetic faces to disk, {SHARD} pictures per shard.")
    parser.add_argument("--out", type=Path, required=True, help="folder for the shards; whole ones there are kept")
    parser.add_argument("--shards", type=int, default=50, help=f"how many shards of {SHARD} pictures")
    parser.add_argument("--size", type=int, default=128, help="side of a picture in pixels")
    parser.add_argument("--split", choices=("train", "test"), default="train", help="which people")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--workers", type=int, default=2, help="processes")
    arguments = parser.parse_args(argv)
    jobs = [(arguments.out, i, arguments.seed, arguments.split, arguments.size) for i in range(arguments.shards)]
    try:
        with claimed(arguments.out):
            _draw(jobs, arguments.workers)
    except ValueError as error:
        parser.error(str(error))


def _draw(jobs: list[tuple], workers: int) -> None:
    start = time.monotonic()
    with multiprocessing.get_context("spawn").Pool(workers, torch.set_num_threads, (1,)) as pool:
        for done, _ in enumerate(pool.imap(_write, jobs), start=1):
            passed = time.monotonic() - start
            print(f"{done} of {len(jobs)} shards, {done * SHARD / passed:.0f} pictures a second", flush=True)


def _write(job: tuple) -> None:
    write_shard(*job)


if __name__ == "__main__":
    main()

"""`generate` on many workers, to any store: one job a shard (see `..scale`)."""

import argparse
import hashlib
import tempfile
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from tqdm import tqdm

from ..scale import Report, Store, dask_workers, fetch, filesystem, run_jobs
from .generate import Opened, opened
from .shards import write_shard


@dataclass(frozen=True)
class ShardJob:
    """Render the shard of a name; model: path or URL of the head model, backgrounds: folder or URL, or empty."""

    model: str
    size: int
    seed: int
    split: str
    backgrounds: str

    def __call__(self, name: str, folder: Path) -> None:
        with_what = _opened(self.model, self.size, self.backgrounds)
        index, shards = int(name.removeprefix("shard-")), folder.parent / "shards"
        parts = self.seed, self.split, with_what.pictures, with_what.digest
        write_shard(with_what.renderer, shards, index, *parts).rename(folder)


def generate_many(options: argparse.Namespace) -> Report:
    """options: those of `generate`."""
    store = Store(options.out, "settings.json")
    fs, path = filesystem(str(options.model))
    digest = hashlib.sha256(fs.cat_file(path)).hexdigest()
    store.require_same({"size": options.size, "seed": options.seed, "split": options.split, "model": digest})
    job = ShardJob(str(options.model), options.size, options.seed, options.split, str(options.backgrounds or ""))
    names = [f"shard-{index:05d}" for index in range(options.first, options.first + options.shards)]
    with dask_workers(scheduler=options.scheduler) as client, tqdm(total=len(names), unit="shard") as bar:
        return run_jobs(client, job, names, store, lambda _: bar.update())


@lru_cache(maxsize=1)
def _opened(model: str, size: int, backgrounds: str) -> Opened:
    """Files are fetched once per process; what is opened stays."""
    with tempfile.TemporaryDirectory(prefix="deepexpo-") as place:
        here, pictures = Path(place, "heads.npz"), Path(place, "backgrounds") if backgrounds else None
        fetch(model, here)
        if pictures:
            fetch(backgrounds, pictures)
        return opened(here, size, pictures)

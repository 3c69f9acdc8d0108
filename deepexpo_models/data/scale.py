"""Work on many machines by Dask: jobs that are done or not there, so the same command goes on after anything.

A job makes a folder, in a folder of its worker, which is then put into the store as a whole: a local folder is renamed into
its place, in an object store one file (the marker) is written last. A worker that dies costs the job that it was at; Dask
gives it to another. A job that fails is named with its reason, and tried again by the next run. Needs the extra `scale`.
"""

import json
import shutil
import tempfile
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path

from ..errors import first_line
from ..whole_files import WriteError, write_folder

FAILED = "failed.jsonl"
SETTINGS = "settings-of-all.json"
AHEAD = 10_000  # jobs that the scheduler knows of at a time


@dataclass(frozen=True)
class Store:
    """A folder by its path or URL (s3://..., gs://..., memory://...); marker: the file that makes a folder in it whole."""

    url: str
    marker: str

    def has(self, name: str) -> bool:
        fs, root = self._open()
        return fs.exists(f"{root}/{name}/{self.marker}")

    def names(self) -> set[str]:
        """Of all whole folders."""
        fs, root = self._open()
        end = f"/{self.marker}"
        return {path[len(root) + 1 : -len(end)] for path in fs.find(root) if path.endswith(end)} if fs.exists(root) else set()

    def put(self, folder: Path, name: str) -> bool:
        """Move a whole local folder there; False where another worker was first."""
        fs, root = self._open()
        if self.has(name):
            return False
        target = f"{root}/{name}"
        if _is_local(fs):
            return self._put_beside(folder, Path(target))
        files = sorted(path for path in folder.rglob("*") if path.is_file() and path.name != self.marker)
        for path in [*files, folder / self.marker]:
            fs.put_file(str(path), f"{target}/{path.relative_to(folder).as_posix()}")
        return True

    def require_same(self, settings: dict) -> None:
        """Note what all folders here are made with; raises ValueError where it was something else."""
        fs, root = self._open()
        path = f"{root}/{SETTINGS}"
        found = json.loads(fs.cat_file(path)) if fs.exists(path) else settings
        if found != settings:
            raise ValueError(f"{self.url} was made with {found}, not with {settings}; choose another --out or delete it")
        self.write(SETTINGS, json.dumps(settings))

    def write(self, name: str, text: str) -> None:
        fs, root = self._open()
        fs.makedirs(root, exist_ok=True)
        fs.pipe_file(f"{root}/{name}", text.encode())

    def _put_beside(self, folder: Path, target: Path) -> bool:
        try:
            with write_folder(target, replace=False) as beside:
                shutil.copytree(folder, beside, dirs_exist_ok=True)
        except WriteError:
            if not (target / self.marker).exists():
                raise
            return False
        return True

    def _open(self):
        return filesystem(self.url)


def filesystem(url: str):
    """fsspec's file system and the path in it. Raises ValueError where a package is missing."""
    try:
        from fsspec.core import url_to_fs
    except ImportError as error:
        raise ValueError('paths of object stores need fsspec; pip install ".[scale]" in the pack\'s folder') from error
    try:
        return url_to_fs(str(url))
    except (ImportError, ValueError) as error:
        raise ValueError(f"{url} cannot be opened ({first_line(error)})") from error


def _is_local(fs) -> bool:
    return "file" in ([fs.protocol] if isinstance(fs.protocol, str) else fs.protocol)


def fetch(url: str, target: Path) -> None:
    """A file or folder of a store -> the same on this machine."""
    fs, path = filesystem(url)
    target.parent.mkdir(parents=True, exist_ok=True)
    if fs.isdir(path):
        target.mkdir(parents=True, exist_ok=True)
        for found in fs.find(path):
            inside = target / found[len(path) + 1 :]
            inside.parent.mkdir(parents=True, exist_ok=True)
            fs.get_file(found, str(inside))
    else:
        fs.get_file(path, str(target))


@dataclass(frozen=True)
class Report:
    """Names of jobs: made since the run began, whole before, and failed with their reasons."""

    done: tuple[str, ...] = ()
    kept: tuple[str, ...] = ()
    failed: dict[str, str] = field(default_factory=dict)

    def summary(self) -> str:
        """One sentence, and a line for each of the first failed ones."""
        lines = [f"{len(self.done)} done, {len(self.kept)} were there, {len(self.failed)} failed"]
        lines += [f"  failed {name}: {reason}" for name, reason in list(self.failed.items())[:10]]
        return "\n".join(lines + ([f"  ... all are in {FAILED}"] if len(self.failed) > 10 else []))


@contextmanager
def dask_workers(count: int = 0, scheduler: str = "") -> Iterator:
    """A Dask client: of the scheduler at that address, or of `count` worker processes on this machine."""
    try:
        from distributed import Client, LocalCluster
    except ImportError as error:
        raise ValueError('many workers need Dask; pip install ".[scale]" in the pack\'s folder') from error
    if scheduler:
        with Client(scheduler) as client:
            yield client
        return
    with LocalCluster(n_workers=count, threads_per_worker=1, dashboard_address=None) as cluster, Client(cluster) as client:
        yield client


def run_jobs(
    client, make: Callable[[str, Path], None], names: Sequence[str], store: Store, told: Callable[[str], None] = lambda _: None
) -> Report:
    """make(name, folder) fills a folder for each name that the store does not have; told: called with each name that is
    finished. What make raises as ValueError or OSError is the job's reason to fail; any other exception ends the run.
    """
    from distributed import as_completed
    from distributed.scheduler import KilledWorker

    there = store.names()
    left = iter([name for name in names if name not in there])
    done: list[str] = []
    kept = [name for name in names if name in there]
    failed: dict[str, str] = {}
    waiting: dict = {}

    def submit(name: str):
        future = client.submit(_run, make, name, store, key=f"{name}-{uuid.uuid4().hex[:8]}")
        waiting[future] = name
        return future

    finished = as_completed([submit(name) for name in islice(left, AHEAD)])
    for future in finished:
        name = waiting.pop(future)
        if (following := next(left, None)) is not None:
            finished.add(submit(following))
        try:
            reason = future.result()
        except KilledWorker as error:
            reason = first_line(error)
        if reason:
            failed[name] = reason
        else:
            done.append(name)
        told(name)
    report = Report(tuple(sorted(done)), tuple(sorted(kept)), dict(sorted(failed.items())))
    store.write(FAILED, "".join(json.dumps({"job": n, "reason": r}) + "\n" for n, r in report.failed.items()))
    return report


def _run(make: Callable[[str, Path], None], name: str, store: Store) -> str:
    """On a worker: why it was not made, "" where it is whole. One that is there was made by a worker whose answer was lost."""
    if store.has(name):
        return ""
    with tempfile.TemporaryDirectory(prefix="deepexpo-") as place:
        folder = Path(place, "made")
        try:
            make(name, folder)
            store.put(folder, name)
        except (ValueError, OSError) as error:
            return first_line(error)
    return ""

"""`prepare` on many workers, from and to any store: one job a clip (see `scale`)."""

import os
from collections import Counter
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from tqdm import tqdm

from ..faces.detectors import DetectorUnavailable
from ..faces.landmarks import open_landmarker
from .clips.index import LABELS, index_clips
from .clips.read import PICTURES, VIDEOS, Unreadable
from .prepare import Tools, open_tools, prepare_clip
from .scale import Report, Store, dask_workers, fetch, filesystem, run_jobs

BESIDE = (".json", ".txt")  # labels and caption of a clip, see `clips.index`


@dataclass(frozen=True)
class ClipJob:
    """Crop the clip of a name, by its place below `clips`, a folder or URL; the rest as for `prepare`, by paths."""

    clips: str
    size: int
    detector: str = "auto"
    insightface: Path | None = None
    landmarker: Path | None = None

    def __call__(self, name: str, folder: Path) -> None:
        """Raises ValueError for a clip that cannot be used."""
        given = folder.parent / "given"
        fs, root = filesystem(self.clips)
        for path in files_of(fs, f"{root}/{name}"):
            fetch(fs.unstrip_protocol(path), given / path[len(root) + 1 :])
        try:
            prepare_clip(index_clips(given).clips[0], folder, opened(self))
        except Unreadable as reason:
            raise ValueError(str(reason)) from reason


@lru_cache(maxsize=1)
def opened(job: ClipJob) -> Tools:
    """Kept open in each process."""
    try:
        landmarker = open_landmarker(job.landmarker, faces=0) if job.landmarker else None
    except DetectorUnavailable as reason:
        raise ValueError(str(reason)) from reason
    return open_tools(job.size, job.detector, job.insightface, landmarker)


def prepare_many(job: ClipJob, out: str, workers: int = 0, scheduler: str = "") -> Report:
    """Crop all clips below job.clips into `out`, a folder or URL, by `workers` processes or those of a Dask scheduler."""
    store, (names, odd) = Store(out, LABELS), list_clips(job.clips)
    store.require_same(opened(job).settings)
    with dask_workers(workers, scheduler) as client, tqdm(total=len(names), unit="clip") as bar:
        report = run_jobs(client, job, names, store, lambda _: bar.update())
    return Report(report.done, report.kept, {**odd, **report.failed})


def list_clips(clips: str) -> tuple[list[str], dict[str, str]]:
    """Names of videos (without ending) and frame folders below a folder or URL, by their names alone; and those that cannot
    be meant, with the reason. Raises ValueError where there is none."""
    fs, root = filesystem(clips)
    paths = [path[len(root) + 1 :] for path in fs.find(root)]
    shown = [path for path in paths if not any(part.startswith(".") for part in path.split("/"))]
    found = [os.path.splitext(path)[0] for path in shown if path.lower().endswith(VIDEOS)]
    found += sorted({os.path.dirname(path) for path in shown if path.lower().endswith(PICTURES)} - {""})
    if not found:
        raise ValueError(f"{clips} holds nothing to prepare; give a folder with videos or folders of frames")
    twice = {name for name, count in Counter(found).items() if count > 1}
    return sorted(set(found) - twice), dict.fromkeys(sorted(twice), "another clip beside it has the same name; rename one")


def files_of(fs, clip: str) -> list[str]:
    """A video, given without its ending, or else a folder's own files, and the labels and caption beside it: no clip's else."""
    beside = [path for path in _files_in(fs, clip.rpartition("/")[0]) if os.path.splitext(path)[0] == clip]
    videos = [path for path in beside if path.lower().endswith(VIDEOS)]
    return (videos or _files_in(fs, clip)) + [path for path in beside if path.endswith(BESIDE)]


def _files_in(fs, folder: str) -> list[str]:
    return sorted(fs.find(folder, maxdepth=1))

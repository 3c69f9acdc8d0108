"""A table of pictures to draw, on one or several GPUs:

    accelerate launch -m deepexpo_models.pipeline.jobs --jobs table.csv --out pictures

The table is CSV or JSON lines with the columns prompt, out, and optionally identity and reference (one photo each, or several
of one person, separated by ";"), negative, seed. What is in `out` is below --out. A picture is there or not, so the same
command goes on after an interruption; a job that fails is named and the others go on. Files may be URLs (s3://...).
"""

import argparse
import csv
import io
import json
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, fields
from pathlib import Path

from ..errors import first_line
from ..whole_files import write_file
from .__main__ import STREAMS, add_model_options, load_pipeline

FAILED = "failed-{}.jsonl"
SEPARATOR = ";"


@dataclass(frozen=True)
class Job:
    """One row."""

    prompt: str
    out: str
    identity: str = ""
    reference: str = ""
    negative: str = ""
    seed: int = 0


def read_jobs(path: str) -> list[Job]:
    """Raises ValueError, in one sentence that names the row, for a table that cannot be meant."""
    with opened(path, "rb") as file:
        text = file.read().decode("utf-8-sig")
    try:
        rows = [json.loads(line) for line in text.splitlines() if line.strip()] if _is_json(path) else _csv(text)
    except ValueError as error:
        raise ValueError(f"{path} is no table of jobs ({first_line(error)}); give CSV or JSON lines") from error
    if not rows:
        raise ValueError(f"{path} holds no jobs; give rows with the columns prompt and out")
    jobs = [_job(row, f"row {number} of {path}") for number, row in enumerate(rows, 1)]
    first: dict[str, int] = {}
    for number, job in enumerate(jobs, 1):
        if first.setdefault(job.out, number) != number:
            raise ValueError(f"rows {first[job.out]} and {number} of {path} are both to be {job.out}; give each its own out")
    return jobs


def _is_json(path: str) -> bool:
    return path.lower().endswith((".jsonl", ".ndjson", ".json"))


def _csv(text: str) -> list[dict]:
    return [{name: value for name, value in row.items() if value} for row in csv.DictReader(io.StringIO(text))]


def _job(row: dict, name: str) -> Job:
    known = {field.name for field in fields(Job)}
    if not isinstance(row, dict):
        raise ValueError(f'{name} is no object of columns; give lines like {{"prompt": ..., "out": ...}}')
    if odd := sorted(set(map(str, row)) - known):
        raise ValueError(f"{name} has {odd[0]!r}; known columns: {', '.join(sorted(known))}")
    if missing := [column for column in ("prompt", "out") if not row.get(column)]:
        raise ValueError(f"{name} has no {missing[0]}; every row needs prompt and out")
    if not str(row["out"]).lower().endswith((".png", ".jpg", ".jpeg", ".webp")):
        raise ValueError(f"{name} is to be {row['out']}; a table draws pictures: give out the ending .png, .jpg or .webp")
    try:
        seed = int(row.get("seed") or 0)
    except (TypeError, ValueError) as error:
        raise ValueError(f"the seed in {name} is {row['seed']!r}; give a whole number") from error
    return Job(**{column: str(row.get(column) or "") for column in known - {"seed"}}, seed=seed)


def share_of(jobs: Sequence[Job], process: int, processes: int) -> list[Job]:
    """The jobs of one process: fixed by their place in the table, whatever is done already, so that no two take the same."""
    return list(jobs[process::processes])


def run(options: argparse.Namespace, process: int = 0, processes: int = 1) -> dict[str, str]:
    """Draw one process's share of the table; returns the failed jobs' outs with their reasons."""
    jobs = share_of(read_jobs(options.jobs), process, processes)
    left = [job for job in jobs if not exists(place_of(options.out, job))]
    failed: dict[str, str] = {}
    if left:
        draw_jobs(load_pipeline(options), left, options, failed)
    with opened(f"{options.out.rstrip('/')}/{FAILED.format(process)}", "w") as file:
        file.writelines(json.dumps({"job": out, "reason": reason}) + "\n" for out, reason in failed.items())
    done = len(left) - len(failed)
    print(f"process {process}: {done} drawn, {len(jobs) - len(left)} were there, {len(failed)} failed", flush=True)
    return failed


def draw_jobs(pipeline, jobs: Sequence[Job], options: argparse.Namespace, failed: dict[str, str]) -> None:
    """Pictures of one kind (with or without a person, a reference) in batches; a batch that fails is drawn one by one."""
    from tqdm import tqdm

    strengths = {stream: value for stream in STREAMS if (value := getattr(options, f"{stream}_strength")) is not None}
    codes = _Codes(pipeline)
    with tqdm(total=len(jobs), unit="picture", file=sys.stderr) as bar:
        for batch in batches(jobs, pipeline.batch):
            try:
                _draw(pipeline, codes, batch, strengths, options)
            except (ValueError, OSError):
                for job in batch:
                    try:
                        _draw(pipeline, codes, [job], strengths, options)
                    except (ValueError, OSError) as error:
                        failed[job.out] = str(error)
            bar.update(len(batch))


def batches(jobs: Sequence[Job], size: int) -> Iterator[list[Job]]:
    """Neighbours in the table that can be drawn at once."""
    batch: list[Job] = []
    for job in jobs:
        if batch and (len(batch) == size or _kind(job) != _kind(batch[0])):
            yield batch
            batch = []
        batch.append(job)
    if batch:
        yield batch


def _kind(job: Job) -> tuple:
    return bool(job.identity), bool(job.reference), job.negative


class _Codes:
    """Codes of photos, the last person's and the last reference's kept: tables repeat them."""

    def __init__(self, pipeline):
        self.pipeline, self._last = pipeline, {}

    def of(self, kind: str, text: str):
        """kind: identity or semantics; text: photos -> the code, None without any."""
        if not text:
            return None
        if self._last.get(kind, ("", None))[0] != text:
            with here(text.split(SEPARATOR)) as photos:
                self._last[kind] = text, getattr(self.pipeline, kind)(photos)
        return self._last[kind][1]


def _draw(pipeline, codes: _Codes, jobs: Sequence[Job], strengths: dict, options: argparse.Namespace) -> None:
    import torch

    from ..image import model_to_bytes
    from .generate import settings_of

    given = [(codes.of("identity", job.identity), codes.of("semantics", job.reference)) for job in jobs]
    rows = [pipeline.codes(*pair) for pair in given]
    noise = torch.cat([pipeline.noise(job.seed, options.width, options.height) for job in jobs])
    maps = [drawn for pair in given if (drawn := pipeline.maps(*pair, noise)) is not None]
    many = next((job for job, *parts in zip(jobs, rows, maps or rows) if any(map(_several, parts))), None)
    if many is not None:
        raise ValueError(f"the reference {many.reference} is several photos; a row of a table draws one picture")
    stacked = {name: torch.cat([row[name] for row in rows]) for name in rows[0]}
    prompts = [job.prompt for job in jobs]
    settings, shown = settings_of(stacked, strengths), torch.cat(maps) if maps else None
    drawn = pipeline.draw(prompts, stacked, noise, settings, jobs[0].negative, maps=shown)
    for job, levels in zip(jobs, model_to_bytes(drawn).movedim(1, -1).cpu()):
        save(place_of(options.out, job), levels.numpy())


def _several(part) -> bool:
    """Whether codes by stream, or maps, are of more than one picture."""
    return any(len(code) > 1 for code in part.values()) if isinstance(part, dict) else len(part) > 1


def place_of(out: str, job: Job) -> str:
    return job.out if "://" in job.out else f"{out.rstrip('/')}/{job.out}"


def save(place: str, levels) -> None:
    """A picture (H, W, 3) uint8, whole or not at all."""
    from PIL import Image

    picture, kind = Image.fromarray(levels), Image.registered_extensions()[Path(place).suffix.lower()]
    if "://" in place:
        with opened(place, "wb") as file:
            picture.save(file, kind)
        return
    with write_file(Path(place)) as beside:
        picture.save(beside, kind)


def exists(place: str) -> bool:
    if "://" not in place:
        return Path(place).is_file()
    from ..data.scale import filesystem

    fs, path = filesystem(place)
    return fs.exists(path)


@contextmanager
def here(photos: Sequence[str]) -> Iterator[list[Path]]:
    """Paths of photos on this machine."""
    from ..data.scale import fetch

    with tempfile.TemporaryDirectory(prefix="deepexpo-") as folder:
        found = []
        for number, photo in enumerate(photo.strip() for photo in photos):
            local = Path(photo)
            if "://" in photo:
                local = Path(folder, f"{number}{Path(photo).suffix}")
                fetch(photo, local)
            found.append(local)
        yield found


@contextmanager
def opened(place: str, mode: str):
    """A file on this machine or of a store."""
    try:
        if "://" in place:
            from ..data.scale import filesystem

            fs, path = filesystem(place)
            with fs.open(path, mode) as file:
                yield file
            return
        if "w" in mode:
            Path(place).parent.mkdir(parents=True, exist_ok=True)
        with open(place, mode, encoding=None if "b" in mode else "utf-8") as file:
            yield file
    except OSError as error:
        raise ValueError(f"{place} cannot be opened ({first_line(error)}); check the path") from error


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        prog="python -m deepexpo_models.pipeline.jobs",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--jobs", required=True, help="the table: .csv, or .jsonl")
    parser.add_argument("--out", default="pictures", help="folder or URL that the outs are below (default: %(default)s)")
    add_model_options(parser)
    options = parser.parse_args(argv)
    from accelerate import PartialState

    state = PartialState()
    options.device = options.device or str(state.device)
    try:
        failed = run(options, state.process_index, state.num_processes)
    except ValueError as error:
        parser.exit(2, f"{parser.prog}: {error}\n")
    for out, reason in failed.items():
        print(f"  failed {out}: {reason}")
    if failed:
        sys.exit(1)


if __name__ == "__main__":
    main()

"""A run's folder: settings.json, log.jsonl, samples/, states/, and TensorBoard's files when wanted."""

import dataclasses
import json
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Mapping
from datetime import datetime, timezone
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import torch
from accelerate.utils import gather_object
from torch import Tensor

from ...claims import claim, release
from ...image import image_grid
from ...safetensors_file import parse_json
from ...whole_files import write_text
from .sharding import whole

PACKAGES = ("torch", "accelerate", "diffusers", "transformers", "safetensors", "numpy")


class RunFolder:
    """Writes what one run leaves behind. Only the main process has one that writes; `writes=False` makes every call nothing.

    Raises ValueError when the folder cannot be made or written, or another process trains in it.
    """

    def __init__(self, out: str, writes: bool = True, tensorboard: bool = False):
        self.path = Path(out)
        self.states = self.path / "states"
        self.writes = writes
        self.board = None
        self._claim = ""
        if not writes:
            return
        try:
            (self.path / "samples").mkdir(parents=True, exist_ok=True)
            self.states.mkdir(exist_ok=True)
            self._claim = claim(self.path)
        except OSError as error:
            raise ValueError(f"the run folder {out} cannot be written ({error.strerror}); choose another --out") from error
        self.board = _tensorboard(self.path) if tensorboard else None

    def write_settings(self, settings, **facts) -> None:
        """settings.json: effective settings, code, command line, versions, machine; those of earlier starts under `earlier`."""
        if not self.writes:
            return
        path = self.path / "settings.json"
        record = {
            "settings": dataclasses.asdict(settings),
            "trainer": type(settings).__name__,
            "git": _git(),
            "command": _command(),
            "started": datetime.now(timezone.utc).isoformat(timespec="seconds"),
            "versions": {"python": platform.python_version(), **_versions()},
            **facts,
        }
        earlier = _read_json(path)
        if earlier:
            before = earlier.pop("earlier", [])
            record["earlier"] = [*(before if isinstance(before, list) else []), earlier]
        write_text(path, json.dumps(record, indent=1))

    def forget_after(self, step: int) -> None:
        """Drop lines of log.jsonl beyond a step: a resumed run writes them anew. A line cut by a crash goes with them."""
        path = self.path / "log.jsonl"
        if not self.writes or not path.is_file():
            return
        kept = [line for line in path.read_text(encoding="utf-8", errors="replace").splitlines() if _step_in(line) <= step]
        write_text(path, "".join(line + "\n" for line in kept))

    def write_line(self, step: int, values: dict[str, float]) -> None:
        """One line of log.jsonl: {"step": steps done, "time": seconds since 1970, name: value}; what is not finite is null."""
        if not self.writes:
            return
        finite = {name: value if abs(value) < float("inf") else None for name, value in values.items()}
        with (self.path / "log.jsonl").open("a", encoding="utf-8") as file:
            file.write(json.dumps({"step": step, "time": round(time.time(), 1), **finite}) + "\n")
        if self.board is not None:
            for name, value in values.items():
                self.board.add_scalar(name, value, step)

    def write_images(self, step: int, name: str, images: Tensor, columns: int) -> None:
        """(B, 3, H, W) in [-1, 1] -> samples/<name>-<step>.png, `columns` pictures in a row."""
        if not self.writes:
            return
        from PIL import Image

        levels = image_grid(images, columns)
        Image.fromarray(levels.numpy()).save(self.path / "samples" / f"{name}-{step:08d}.png")
        if self.board is not None:
            self.board.add_image(name, levels, step, dataformats="HWC")

    def close(self) -> None:
        """Flush TensorBoard, and leave the folder to other processes."""
        if self.board is not None:
            self.board.flush()
        release(self._claim)
        self._claim = ""


class Averages:
    """Sums of logged numbers, kept on their devices until a line is written, and the steps since the last one."""

    def __init__(self):
        self.start(0)

    def start(self, step: int) -> None:
        self.sums: dict[str, float | Tensor] = {}
        self.counts: dict[str, int] = {}
        self.step, self.time = step, time.monotonic()

    def add(self, values: Mapping[str, float | Tensor]) -> None:
        for name, value in values.items():
            value = whole(value.detach()).float() if isinstance(value, Tensor) else float(value)
            self.sums[name] = self.sums.get(name, 0.0) + value
            self.counts[name] = self.counts.get(name, 0) + 1

    def means(self, device: torch.device) -> dict[str, float]:
        """Over all processes; a name counts where it was logged, since a loss term may be one batch's alone."""
        means = [torch.as_tensor(self.sums[name] / self.counts[name], device=device).float() for name in self.sums]
        own = dict(zip(self.sums, torch.stack(means).tolist() if means else []))
        parts = gather_object([own])
        names = dict.fromkeys(name for part in parts for name in part)
        return {name: statistics.fmean(part[name] for part in parts if name in part) for name in names}

    def rate(self, step: int) -> float:
        return (step - self.step) / max(1e-9, time.monotonic() - self.time)


def _tensorboard(folder: Path):
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError as error:
        raise ValueError("TensorBoard is not installed; pip install tensorboard, or leave --tensorboard away") from error
    return SummaryWriter(str(folder / "tensorboard"))


def _step_in(line: str) -> float:
    """inf for a line that tells none, so that it is dropped."""
    try:
        step = parse_json(line)["step"]
    except (ValueError, KeyError, TypeError):
        return float("inf")
    return step if isinstance(step, int) else float("inf")


def _read_json(path: Path) -> dict:
    """{} for a file that is damaged or not there: a record of earlier starts is no reason not to go on."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}


def _git() -> str:
    """The commit this code is of, with `-dirty` when it was changed since; "unknown" outside a clone."""
    command = ["git", "-C", str(Path(__file__).parent), "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True, timeout=10).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return "unknown"


def _command() -> str:
    spec = getattr(sys.modules.get("__main__"), "__spec__", None)
    program = f"python -m {spec.name}" if spec else Path(sys.argv[0]).name
    return " ".join([program, *sys.argv[1:]])


def _versions() -> dict[str, str]:
    found = {}
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found

"""The one test command, the same on every system: python tests/run.py [options of pytest]

Makes an environment beside the clone if it is not there, installs what the tests need, checks style and types, runs the tests,
and prints how long each part took. A ComfyUI at COMFYUI_PATH or ~/ComfyUI is used if present; without one its tests are
skipped, and the summary says so. Each version of ComfyUI has an environment of its own, since their requirements exclude each
other: .venv-0.3.64, .venv-0.33.0; without ComfyUI .venv. Standard library alone.
"""

import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.append(str(ROOT))  # at the end: ComfyUI has a module `nodes` as well

from demo import TORCH, environment, imports, install  # noqa: E402

TORCHVISION = "torchvision==0.28.0"
CHECKS = (
    ("style", "ruff", "check", "."),
    ("format", "ruff", "format", "--check", "."),
    ("types", "tests.check_types"),
)
# Processes share the cores better than threads do; each holds 1 to 2 GB, one of them the full-size models.
WORKERS = min(4, os.cpu_count() or 1)


def main(options: list[str]) -> int:
    python = environment(ROOT / f".venv{comfyui_version()}")
    timed("installation", lambda: prepare(python))
    codes = [timed(name, partial(run, python, *words)) for name, *words in CHECKS]
    return max(codes) or timed("tests", lambda: run(python, "pytest", "-n", str(WORKERS), *options))


def comfyui_folder() -> Path:
    return Path(os.environ.get("COMFYUI_PATH") or Path.home() / "ComfyUI").expanduser()


def comfyui_version() -> str:
    """As the end of a name: "-0.33.0"; "" where there is no ComfyUI, or none that tells."""
    told = comfyui_folder() / "comfyui_version.py"
    found = re.search(r'__version__ = "([\w.]+)"', told.read_text(encoding="utf-8")) if told.is_file() else None
    return f"-{found[1]}" if found else ""


def prepare(python: Path) -> int:
    """Everything that the tests import, in the environment."""
    if not imports(python, "torch"):
        install(python, TORCH)
    torch = f"torch=={version(python, 'torch')}"  # no other package may bring another
    install(python, "uv")
    add(python, torch, "--editable", ".[test]")
    requirements = comfyui_folder() / "requirements.txt"
    if requirements.is_file():
        # torchvision's registry builds want CUDA and their own torch; alone it serves beside any torch (tests/conftest.py)
        if not version(python, "torchvision"):
            add(python, "--no-deps", TORCHVISION)
        install_listed(python, torch, requirements)
    return 0


def install_listed(python: Path, torch: str, requirements: Path) -> None:
    """ComfyUI's packages without torch's own, which are there."""
    lines = requirements.read_text(encoding="utf-8").splitlines()
    listed = [line for line in lines if line.strip() not in ("torch", "torchvision", "torchaudio")]
    with tempfile.TemporaryDirectory() as folder:
        rest = Path(folder, "requirements.txt")
        rest.write_text("\n".join(listed), encoding="utf-8")
        add(python, torch, "-r", str(rest))


def add(python: Path, *packages: str) -> None:
    """By uv, in a quarter of pip's time; by pip where uv cannot, for example behind an index that pip alone is told of."""
    if subprocess.run([python, "-m", "uv", "pip", "install", "--quiet", "--python", python, *packages], cwd=ROOT).returncode:
        install(python, *packages)


def version(python: Path, package: str) -> str:
    """Of an installed package, without importing it; empty where it is not installed."""
    asked = f"import importlib.metadata as m; print(m.version({package!r}))"
    return subprocess.run([python, "-c", asked], capture_output=True, text=True).stdout.strip()


def run(python: Path, *words: str) -> int:
    one_thread = {"OMP_NUM_THREADS": "1", **os.environ}
    return subprocess.run([python, "-m", *words], cwd=ROOT, env=one_thread).returncode


def timed(name: str, call: Callable[[], int]) -> int:
    start = time.monotonic()
    code = call()
    print(f"{name}: {time.monotonic() - start:.0f} s", flush=True)
    return code


if __name__ == "__main__":
    try:
        sys.exit(main(sys.argv[1:]))
    except subprocess.CalledProcessError as error:
        sys.exit(f"run.py: {' '.join(map(str, error.cmd[1:6]))} ... failed, its reason stands above")

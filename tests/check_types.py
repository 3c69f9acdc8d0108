"""mypy on the pack as ComfyUI sees it, a package by its path: python tests/check_types.py [options of mypy]

The clone's folder may have a name that is no Python name, so mypy reads a copy of the sources under one that is.
"""

import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
NAME = "deepexpo_pack"
PACK = ("__init__.py", "nodes", "deepexpo_models")
SCRIPTS = ("demo.py", "install.py", "tests/run.py")


def main(options: list[str]) -> int:
    with tempfile.TemporaryDirectory() as folder:
        for name in PACK:
            copy(ROOT / name, Path(folder, NAME, name))
        for name in SCRIPTS:
            copy(ROOT / name, Path(folder, "scripts", Path(name).name))
        mypy = [sys.executable, "-m", "mypy", "--config-file", str(ROOT / "pyproject.toml"), *options]
        mypy += ["--cache-dir", str(ROOT / ".mypy_cache")]
        pack = subprocess.run([*mypy, "-p", f"{NAME}.nodes", "-p", f"{NAME}.deepexpo_models"], cwd=folder).returncode
        scripts = [Path(name).name for name in SCRIPTS]
        return subprocess.run([*mypy, *scripts], cwd=Path(folder, "scripts")).returncode or pack


def copy(source: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    if source.is_dir():
        shutil.copytree(source, target, ignore=lambda _, names: [name for name in names if name == "__pycache__"])
    else:
        shutil.copy2(source, target)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

"""The main job on weights that come with the pack, without ComfyUI: python demo.py

Makes .venv-demo beside this file if it is not there, installs what is needed, and calls `python -m deepexpo_models.pipeline`
with the options given; without any it draws a sheet of three people, one of them photographed, and three references: sheet.png.
Standard library alone, the same on Windows, macOS and Linux.
"""

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent
SAMPLES = Path("workflows", "samples")
TORCH = "torch==2.13.0"  # what the tests run on
NEEDS = ("diffusers>=0.32", "transformers>=4.37.2", "safetensors", "einops", "numpy", "Pillow", "tqdm", "av")
PEOPLE, REFERENCES = ("photograph", "person_1", "person_3"), ("laughing", "surprised", "turned")
SHEET = (
    "--prompt", "a photo of a person, plain teal background, red clothes", "--out", "sheet.png", "--seed", "2",
    *(part for name in PEOPLE for part in ("--identity", str(SAMPLES / f"{name}.png"))),
    "--reference", *(str(SAMPLES / f"{name}.png") for name in REFERENCES),
    "--detector", "none",
)  # fmt: skip


def environment(folder: Path) -> Path:
    """The Python of a virtual environment, made with a pip of today if it is not there: older ones take minutes to choose
    among many versions."""
    python = folder / ("Scripts/python.exe" if sys.platform == "win32" else "bin/python")
    if not python.exists():
        subprocess.run([sys.executable, "-m", "venv", folder], check=True)
        install(python, "--upgrade", "pip")
    return python


def install(python: Path, *packages: str) -> None:
    subprocess.run([python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", *packages], cwd=ROOT, check=True)


def imports(python: Path, *modules: str) -> bool:
    """Whether all of them can be imported there."""
    done = subprocess.run([python, "-c", f"import {', '.join(modules)}"], cwd=ROOT, capture_output=True)
    return done.returncode == 0


def main(options: list[str]) -> int:
    python = environment(ROOT / ".venv-demo")
    if not imports(python, "torch"):
        print("installing PyTorch and diffusers into .venv-demo, once", flush=True)
        install(python, TORCH)
    if not imports(python, "torch", "diffusers", "transformers", "safetensors", "einops", "PIL", "tqdm", "av"):
        install(python, TORCH, *NEEDS)
    return subprocess.run([python, "-m", "deepexpo_models.pipeline", *(options or SHEET)], cwd=ROOT).returncode


if __name__ == "__main__":
    try:
        sys.exit(main(sys.argv[1:]))
    except subprocess.CalledProcessError as error:
        sys.exit(f"demo.py: {' '.join(map(str, error.cmd[1:6]))} ... failed, its reason stands above")

"""The commands that set up their own environments: what they would run, on every system; and the demo, as README writes it."""

import ast
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import venv
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import demo
import run

ROOT = Path(__file__).parents[2]
OWN_ENVIRONMENT = ("python demo.py", "python tests/run.py")


@pytest.fixture
def calls(monkeypatch) -> list[list[str]]:
    """Every process that is started, in order; none is."""
    seen: list[list[str]] = []

    def start(command, **_):
        seen.append([str(word) for word in command])
        return subprocess.CompletedProcess(command, 0, stdout="")

    monkeypatch.setattr(subprocess, "run", start)
    return seen


@pytest.mark.parametrize("path", ["demo.py", "install.py", "tests/run.py"])
def test_standard_library_alone(path):
    tree = ast.parse((ROOT / path).read_text(encoding="utf-8"))
    roots = {n.module.split(".")[0] for n in ast.walk(tree) if isinstance(n, ast.ImportFrom)}
    roots |= {alias.name.split(".")[0] for n in ast.walk(tree) if isinstance(n, ast.Import) for alias in n.names}
    assert roots <= sys.stdlib_module_names | {"demo"}


@pytest.mark.parametrize(
    "platform, place", [("win32", "Scripts/python.exe"), ("linux", "bin/python"), ("darwin", "bin/python")]
)
def test_an_environment_is_made_once_where_the_system_has_its_python(platform, place, calls, tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "platform", platform)
    python = demo.environment(tmp_path / "venv")
    assert python == tmp_path / "venv" / place
    assert calls[0][1:] == ["-m", "venv", str(tmp_path / "venv")] and calls[1][-2:] == ["--upgrade", "pip"]
    python.parent.mkdir(parents=True)
    python.touch()
    assert demo.environment(tmp_path / "venv") == python and len(calls) == 2


def test_the_demo_hands_its_options_to_the_pipeline(calls, monkeypatch):
    monkeypatch.setattr(demo, "environment", lambda folder: folder / "python")
    assert demo.main(["--prompt", "a"]) == 0
    assert calls[-1][1:] == ["-m", "deepexpo_models.pipeline", "--prompt", "a"]
    demo.main([])
    words = calls[-1]
    files = [word for word in words if word.endswith((".png", ".safetensors"))]
    assert words.count("--identity") == 3 and len(files) == 7
    assert all((ROOT / name).is_file() for name in files if name != "sheet.png")


def test_the_demo_draws_the_readmes_picture(tmp_path):
    """In a clone whose .venv-demo is there and has this environment's packages, so that none is installed: it has no pip."""
    for name in ("deepexpo_models", "weights", "workflows"):
        (tmp_path / name).symlink_to(ROOT / name)
    shutil.copy(ROOT / "demo.py", tmp_path)
    made = tmp_path / ".venv-demo"
    venv.create(made, symlinks=os.name != "nt")
    sites = Path(sysconfig.get_path("purelib", vars={"base": str(made)}))
    here = "; ".join(f"site.addsitedir({sysconfig.get_path(kind)!r})" for kind in ("purelib", "platlib"))
    (sites / "these.pth").write_text(f"import site; {here}\n", encoding="utf-8")
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "tests" / "site")}
    done = subprocess.run([sys.executable, "demo.py"], cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    drawn = Image.open(tmp_path / "sheet.png").convert("RGB")
    shown = Image.open(ROOT / "docs" / "pictures" / "demo.webp").convert("RGB").resize(drawn.size, Image.Resampling.LANCZOS)
    assert np.abs(np.asarray(drawn, int) - np.asarray(shown)).mean() < 5, "levels of 255; 2.3 of them are the compression's"


@pytest.mark.parametrize("command", OWN_ENVIRONMENT)
def test_ci_runs_what_the_pages_tell_a_newcomer_to_run(command):
    pages = [(ROOT / name).read_text(encoding="utf-8") for name in ("README.md", "CONTRIBUTING.md")]
    assert any(f"\n{command}\n" in page for page in pages)
    steps = re.findall(r"run: (python .+)", (ROOT / ".github" / "workflows" / "test.yml").read_text(encoding="utf-8"))
    assert command in [step.replace("ComfyUI-DeepExPo/", "") for step in steps]


def test_no_package_may_bring_another_torch(calls, tmp_path, monkeypatch):
    """The torch that is there goes along with every list, and ComfyUI's own torch lines are left out."""
    (tmp_path / "requirements.txt").write_text("torch\ntorchvision\ntorchaudio\ntorchsde\neinops\n")
    monkeypatch.setenv("COMFYUI_PATH", str(tmp_path))
    monkeypatch.setattr(run, "version", lambda python, package: {"torch": "2.9.0+cpu"}.get(package, ""))
    lists = []
    add = run.add

    def keep(python, *packages):
        lists.append(packages)
        if "-r" in packages:
            lists.append(tuple(Path(packages[-1]).read_text().split()))
        add(python, *packages)

    monkeypatch.setattr(run, "add", keep)
    assert run.prepare(Path("python")) == 0
    assert ("torch==2.9.0+cpu", "--editable", ".[test]") in lists
    assert ("--no-deps", run.TORCHVISION) in lists, "torchvision alone: its own torch is another"
    (listed,) = [packages for packages in lists if "-r" in packages]
    assert listed[0] == "torch==2.9.0+cpu" and lists[-1] == ("torchsde", "einops")


@pytest.mark.parametrize("uv_fails", [0, 2])
def test_pip_installs_what_uv_cannot(uv_fails, monkeypatch):
    seen = []

    def start(command, **_):
        seen.append([str(word) for word in command])
        return subprocess.CompletedProcess(command, uv_fails if "uv" in seen[-1] else 0)

    monkeypatch.setattr(subprocess, "run", start)
    run.add(Path("python"), "torch==2.9.0", "--editable", ".[test]")
    assert [words[2] for words in seen] == (["uv", "pip"] if uv_fails else ["uv"])
    assert all(words[-3:] == ["torch==2.9.0", "--editable", ".[test]"] for words in seen)


def test_each_comfyui_has_an_environment_of_its_own(calls, tmp_path, monkeypatch):
    """Their requirements exclude each other; both can stand beside the clone."""
    made = []
    monkeypatch.setattr(run, "environment", lambda folder: made.append(folder.name) or Path("python"))
    monkeypatch.setattr(run, "prepare", lambda python: 0)
    for version in ("0.3.64", "0.33.0"):
        folder = tmp_path / version
        folder.mkdir()
        (folder / "comfyui_version.py").write_text(f'# made by a build\n__version__ = "{version}"\n')
        monkeypatch.setenv("COMFYUI_PATH", str(folder))
        run.main([])
    monkeypatch.setenv("COMFYUI_PATH", str(tmp_path / "none"))
    run.main([])
    assert made == [".venv-0.3.64", ".venv-0.33.0", ".venv"]


def test_a_failed_check_fails_the_run(calls, monkeypatch, capsys):
    """Tests are not begun then; what each part took is printed."""
    monkeypatch.setattr(run, "environment", lambda folder: Path("python"))
    monkeypatch.setattr(run, "prepare", lambda python: 0)
    assert run.main(["-x"]) == 0 and calls[-1][:3] == ["python", "-m", "pytest"] and calls[-1][-1] == "-x"
    told = capsys.readouterr().out.split("\n")
    assert [line.split(":")[0] for line in told if line] == ["installation", *(name for name, *_ in run.CHECKS), "tests"]
    monkeypatch.setattr(run, "run", lambda python, *words: int(words[:2] == ("ruff", "format")))
    assert run.main([]) == 1 and "tests" not in capsys.readouterr().out

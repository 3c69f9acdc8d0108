"""The two commands that set up their own environments: what they would run, on every system."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import demo
import run

ROOT = Path(__file__).parents[2]


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
    files = [word for word in words if word.endswith(".png")]
    assert words.count("--identity") == 2 and len(files) == 6
    assert all((ROOT / name).is_file() for name in files if name != "sheet.png")


def test_no_package_may_bring_another_torch(calls, tmp_path, monkeypatch):
    """The torch that is there goes along with every list, and ComfyUI's own torch lines are left out."""
    (tmp_path / "requirements.txt").write_text("torch\ntorchvision\ntorchaudio\ntorchsde\neinops\n")
    monkeypatch.setenv("COMFYUI_PATH", str(tmp_path))
    monkeypatch.setattr(run, "version", lambda python, package: {"torch": "2.9.0+cpu"}.get(package, ""))
    lists = []
    install = run.install

    def keep(python, *packages):
        lists.append(packages)
        if "-r" in packages:
            lists.append(tuple(Path(packages[-1]).read_text().split()))
        install(python, *packages)

    monkeypatch.setattr(run, "install", keep)
    assert run.prepare(Path("python")) == 0
    assert ("torch==2.9.0+cpu", "--editable", ".[test]") in lists
    assert ("--no-deps", run.TORCHVISION) in lists, "torchvision alone: its own torch is another"
    (listed,) = [packages for packages in lists if "-r" in packages]
    assert listed[0] == "torch==2.9.0+cpu" and lists[-1] == ("torchsde", "einops")


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

"""What pyproject.toml promises: the lists agree, and the library that pip builds from the clone imports and works."""

import re
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from PIL import Image

import install

try:
    import tomllib
except ImportError:  # Python 3.10
    import tomli as tomllib

ROOT = Path(__file__).parents[2]
FIXED = {"torch", "safetensors", "transformers", "insightface", "opencv-python", "einops"}  # what the project is made with


@pytest.fixture(scope="module")
def pyproject() -> dict:
    return tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))


def package(requirement: str) -> str:
    return re.split(r"[\[<>=~!;\s]", requirement, maxsplit=1)[0]


def test_the_registry_and_pip_read_one_list(pyproject):
    lines = (ROOT / "requirements.txt").read_text(encoding="utf-8").splitlines()
    listed = [line for line in lines if line and not line.startswith("#")]
    assert pyproject["project"]["dependencies"] == listed and "dynamic" not in pyproject["project"]


def test_what_artists_install_is_small_and_the_rest_has_a_name(pyproject):
    project = pyproject["project"]
    needed = {package(line) for line in project["dependencies"]}
    extras = {name: {package(line) for line in lines} for name, lines in project["optional-dependencies"].items()}
    assert needed | set().union(*extras.values()) >= FIXED
    assert not needed & {"insightface", "onnxruntime", "transformers", "mediapipe", "diffusers", "accelerate"}
    assert not {name for name in needed if name.startswith("opencv")}, "four packages write into cv2: install.py decides"
    documented = (ROOT / "docs" / "install.md").read_text(encoding="utf-8")
    assert not [name for name in extras if f"`{name}`" not in documented and name != "opencv"]


def test_the_address_is_one_and_the_icon_is_there(pyproject):
    address = pyproject["project"]["urls"]["Repository"]
    for page in ("README.md", "CONTRIBUTING.md", "docs/install.md"):
        assert re.findall(r"git clone (\S+)", (ROOT / page).read_text(encoding="utf-8")) == [address]
    icon = pyproject["tool"]["comfy"]["Icon"]
    assert icon.split("/main/")[0].replace("raw.githubusercontent", "github") == address
    width, height = Image.open(ROOT / icon.split("/main/")[1]).size
    assert width == height <= 400, "the registry's limit"


@pytest.fixture
def commands(monkeypatch) -> list[str]:
    """Every pip command of install.py in order; none is run."""
    seen: list[str] = []
    monkeypatch.setattr(install, "pip", lambda *words: seen.append(" ".join(words)))
    return seen


@pytest.mark.parametrize(
    "there, works_after, run, code",
    [
        (["opencv-python-headless"], 0, [], 0),
        (["opencv-contrib-python"], 9, [], 1),
        ([], 1, ["install opencv-python"], 0),
        ([], 3, ["install opencv-python", "uninstall --yes opencv-python", "install opencv-python-headless"], 0),
    ],
    ids=["another pack's", "another pack's, broken", "none", "none, and no screen"],
)
def test_opencv_is_added_only_where_none_is(there, works_after, run, code, commands, monkeypatch):
    monkeypatch.setattr(install, "imports", lambda module: len(commands) >= works_after)
    monkeypatch.setattr(install, "installed", lambda name: name in there)
    assert install.main() == code and commands == run


def test_an_environment_without_pip_has_uv(monkeypatch):
    seen = []
    monkeypatch.setattr(subprocess, "run", lambda command, **_: seen.append(command))
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    install.pip("uninstall", "--yes", "opencv-python")
    assert seen == [["uv", "pip", "uninstall", "--python", sys.executable, "opencv-python"]]


def test_without_opencv_drawing_is_one_sentence(monkeypatch):
    from deepexpo_models.image import opencv

    monkeypatch.setitem(sys.modules, "cv2", None)
    with pytest.raises(ValueError, match=r"drawing needs OpenCV, which cannot be imported .*; pip install opencv-python, or"):
        opencv()


USE = """
import sys, torch
from pathlib import Path
import deepexpo_models.dsid as dsid
from deepexpo_models.head.basis import load_basis
from deepexpo_models.weights import PACK_WEIGHTS
assert Path(dsid.__file__).is_relative_to(sys.argv[1]) and PACK_WEIGHTS.is_relative_to(sys.argv[1])
encoder = dsid.load_dsid(PACK_WEIGHTS / "photo-dsid.safetensors").float()
code = encoder.encode_identity(torch.zeros(1, 3, 128, 128))
print(tuple(code.shape), load_basis().points.shape[0])
"""


def test_the_library_that_pip_builds_imports_and_works(tmp_path):
    """Built without isolation, so that nothing is fetched; the wheel holds the library and its weights, no nodes."""
    pytest.importorskip("hatchling", reason="the build backend is not installed (pip install hatchling)")
    built = tmp_path / "wheels"
    build = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(built)]
    subprocess.run(build, cwd=ROOT, check=True, capture_output=True)
    (wheel,) = built.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        roots = {name.split("/")[0] for name in archive.namelist()}
        archive.extractall(tmp_path / "site")
    assert {root for root in roots if not root.endswith(".dist-info")} == {"deepexpo_models"}
    command = [sys.executable, "-c", USE, str(tmp_path / "site")]
    done = subprocess.run(command, cwd=tmp_path / "site", capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split("\n")[0] == "(1, 256) 478"


def test_the_template_that_comfy_test_runs_is_there():
    chosen = tomllib.loads((ROOT / "comfy-test.toml").read_text(encoding="utf-8"))["test"]["workflows"]["cpu"]
    assert chosen and all((ROOT / "workflows" / name).is_file() for name in chosen)


def test_a_files_tests_share_a_process():
    """With several processes: files whose models take gigabytes would else be spread over them, each with its own."""
    pytest.importorskip("xdist")
    files = ["tests/unit/test_muon.py", "tests/unit/test_errors.py", "tests/unit/test_claims.py"]
    words = [sys.executable, "-m", "pytest", "-v", "-n", "2", "-p", "no:cacheprovider", *files]
    told = subprocess.run(words, cwd=ROOT, capture_output=True, text=True).stdout
    ran = re.findall(r"^\[(gw\d)\].*PASSED (\S+?)::", told, re.MULTILINE)
    assert {file for _, file in ran} == set(files), told[-2000:]
    assert len(set(ran)) == len(files) and len({process for process, _ in ran}) == 2

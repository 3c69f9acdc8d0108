"""The rules of the layout: who may import whom, and what loading the pack must not import."""

import ast
import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
LIBRARY = ROOT / "deepexpo_models"
ORDER = (
    "errors", "layers", "image", "panels", "weights", "faces", "head", "dsid", "data", "meaf", "starter", "importers",
    "pipeline", "evaluation", "training",
)  # fmt: skip
HEAVY = {"diffusers", "accelerate"}
HEAVY_ALLOWED = ("meaf/diffusers_host.py", "starter/diffusers_host.py", "pipeline/", "evaluation/", "training/")
LAZY = {"insightface", "transformers", "cv2", "skimage", "onnxruntime", "peft", "bitsandbytes"}  # never at the top
MODULES = sorted(LIBRARY.rglob("*.py"))
NODES = sorted((ROOT / "nodes").rglob("*.py"))


def imports(path: Path, top_level_only: bool = False) -> set[str]:
    """What a module imports: dotted names, relative ones resolved from the repository's root."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    package = list(path.relative_to(ROOT).with_suffix("").parts[:-1])
    found = set()
    for node in tree.body if top_level_only else ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            prefix = ".".join([*base, *([node.module] if node.module else [])])
            found |= {prefix} if node.module else {f"{prefix}.{alias.name}" for alias in node.names}
    return found


def room(module: str) -> str:
    parts = module.split(".")
    return parts[1] if parts[0] == "deepexpo_models" and len(parts) > 1 else ""


@pytest.mark.parametrize("path", MODULES, ids=lambda path: path.relative_to(LIBRARY).as_posix())
def test_library_imports(path):
    names = imports(path)
    roots = {name.split(".")[0] for name in names}
    assert not roots & {"comfy", "comfy_api", "folder_paths", "nodes", "server", "execution"}, "never imports ComfyUI"
    inside = path.relative_to(LIBRARY).as_posix()
    if not inside.startswith(HEAVY_ALLOWED):
        assert not roots & HEAVY
    assert not {name.split(".")[0] for name in imports(path, top_level_only=True)} & LAZY
    own = path.relative_to(LIBRARY).parts[0].removesuffix(".py")
    if own in ORDER:
        later = ORDER[ORDER.index(own) + 1 :]
        assert not {room(name) for name in names} & set(later), f"{own} stands below {later}"


@pytest.mark.parametrize("path", MODULES + NODES, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_own_code_is_imported_relatively(path):
    """ComfyUI imports a pack by its path: absolute imports of our own code work in tests and fail for users."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    absolute = [n.module for n in ast.walk(tree) if isinstance(n, ast.ImportFrom) and not n.level]
    assert not [name for name in absolute if name.split(".")[0] in ("deepexpo_models", "nodes")]


@pytest.mark.parametrize("path", NODES, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_comfyui_internals_are_imported_in_one_place(path):
    if "comfy_host" not in path.parts:
        assert not {name.split(".")[0] for name in imports(path)} & {"comfy", "folder_paths", "torch"}


def test_importing_the_library_is_light():
    """Neither training nor optional packages are loaded with what the nodes use."""
    code = (
        "import sys, json, deepexpo_models.dsid, deepexpo_models.meaf, deepexpo_models.faces, deepexpo_models.importers;"
        "print(json.dumps(sorted({m.split('.')[0] for m in sys.modules})))"
    )
    loaded = json.loads(subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, check=True).stdout)
    assert not set(loaded) & (HEAVY | LAZY)


def test_modules_stay_small():
    long = {path.name: n for path in MODULES + NODES if (n := len(path.read_text().splitlines())) > 400}
    assert not long


@pytest.mark.parametrize("path", MODULES + NODES, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_no_module_can_run_what_a_file_says(path):
    """safetensors only; torch.load is for the importers of public files alone."""
    assert not {name.split(".")[0] for name in imports(path)} & {"pickle", "dill", "marshal", "shelve"}
    called = {ast.unparse(n.func) for n in ast.walk(ast.parse(path.read_text())) if isinstance(n, ast.Call)}
    allowed = {"torch.load"} if "importers" in path.parts else set()
    assert not called & {"eval", "exec", "torch.load", "compile"} - allowed

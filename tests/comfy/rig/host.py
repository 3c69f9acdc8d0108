"""ComfyUI inside this process: where it is, how it is imported, how it loads a pack."""

import asyncio
import atexit
import contextlib
import functools
import importlib
import importlib.util
import inspect
import os
import shutil
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

from . import torchvision_stand_in

PACK = Path(__file__).resolve().parents[3]
PLACES = "COMFYUI_PATH or ~/ComfyUI"


@dataclass(frozen=True)
class LoadedPack:
    module: ModuleType
    nodes: dict[str, type]  # node id -> node class

    def submodule(self, name: str) -> ModuleType:
        """A module of the pack by its dotted name from the pack's root, e.g. "nodes.apply"."""
        return importlib.import_module(f"{self.module.__name__}.{name}")


def comfyui_folder() -> Path | None:
    folder = Path(os.environ.get("COMFYUI_PATH") or "~/ComfyUI").expanduser().resolve()
    return folder if (folder / "comfy" / "samplers.py").is_file() else None


def is_installable_package(comfyui: Path) -> bool:
    """True for the LTS fork, where ComfyUI is the package `comfy` and has no nodes.py of its own at the root."""
    return not (comfyui / "nodes.py").is_file()


@functools.cache
def start() -> str | None:
    """Make `import comfy` work in this process, on the CPU; None, or the reason why it cannot."""
    comfyui = comfyui_folder()
    if comfyui is None:
        return f"no ComfyUI at {PLACES}"
    torchvision_stand_in.install()
    first_on_path()
    try:
        _import_comfy(comfyui)
    except Exception as error:
        sys.path.remove(str(comfyui))
        return f"the ComfyUI in {comfyui} cannot be imported: {type(error).__name__}: {error}"
    return None


def first_on_path() -> None:
    """ComfyUI's folder at the front: `nodes` is its module as well as a folder of the pack."""
    comfyui = str(comfyui_folder())
    if sys.path[0] != comfyui:
        sys.path[:] = [comfyui, *(entry for entry in sys.path if entry != comfyui)]


def extra_nodes(name: str) -> ModuleType:
    """One of ComfyUI's comfy_extras modules, which the fork keeps one folder deeper."""
    package = "comfy_extras.nodes" if is_installable_package(comfyui_folder()) else "comfy_extras"
    return importlib.import_module(f"{package}.{name}")


@functools.cache
def base_directory() -> Path:
    """ComfyUI's models, input, output, temp and user folders in this process: temporary, empty at the start."""
    folder = Path(tempfile.mkdtemp(prefix="comfyui-in-process-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    for name in ("custom_nodes", "input", "models", "output", "temp", "user"):
        (folder / name).mkdir()
    return folder


def _import_comfy(comfyui: Path) -> None:
    with _arguments("--cpu", "--base-directory", str(base_directory()), "--database-url", "sqlite:///:memory:"):
        import comfy.options

        comfy.options.enable_args_parsing()
        importlib.import_module("comfy.cli_args")
        importlib.import_module("comfy.samplers")
    if is_installable_package(comfyui):
        importlib.import_module("comfy_compatibility.vanilla").prepare_vanilla_environment()
    for name in ("folder_paths", "comfy.sample", "comfy.sd", "comfy.model_base", "comfy_api.latest"):
        importlib.import_module(name)


@contextlib.contextmanager
def _arguments(*arguments: str) -> Iterator[None]:
    """ComfyUI reads `sys.argv` when it is imported; pytest's arguments are not for it."""
    before = sys.argv
    sys.argv = ["main.py", *arguments]
    try:
        yield
    finally:
        sys.argv = before


def load_pack(folder: Path = PACK) -> LoadedPack:
    """Import a pack from its folder as ComfyUI does; where ComfyUI would log an error and go on, this raises."""
    module = import_folder(folder)
    if getattr(module, "NODE_CLASS_MAPPINGS", None) is not None:
        raise ValueError(f"{folder} shows NODE_CLASS_MAPPINGS, so ComfyUI ignores its comfy_entrypoint")
    return LoadedPack(module, asyncio.run(_node_classes(module)))


def import_folder(folder: Path) -> ModuleType:
    """A pack's package as ComfyUI makes it; raises what the pack raises."""
    name = str(folder).replace(".", "_x_")  # the name that ComfyUI gives it
    if name not in sys.modules:
        _import_from_folder(folder, name)
    return sys.modules[name]


def _import_from_folder(folder: Path, name: str) -> None:
    spec = importlib.util.spec_from_file_location(name, folder / "__init__.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    try:
        with _not_importable_from(folder):
            spec.loader.exec_module(module)
    except BaseException:
        for loaded in [key for key in sys.modules if key == name or key.startswith(f"{name}.")]:
            del sys.modules[loaded]
        raise


@contextlib.contextmanager
def _not_importable_from(folder: Path) -> Iterator[None]:
    """Pytest's Python looks into the pack's folder, a user's does not: absolute imports must fail here too."""
    before = sys.path[:]
    sys.path[:] = [entry for entry in before if Path(entry).resolve() != folder.resolve()]
    try:
        yield
    finally:
        sys.path[:] = before


async def _node_classes(module: ModuleType) -> dict[str, type]:
    from comfy_api.latest import ComfyExtension

    extension = module.comfy_entrypoint()
    if inspect.isawaitable(extension):
        extension = await extension
    if not isinstance(extension, ComfyExtension):
        raise TypeError(f"comfy_entrypoint gave a {type(extension).__name__}, not a ComfyExtension")
    return {node.GET_SCHEMA().node_id: node for node in await extension.get_node_list()}

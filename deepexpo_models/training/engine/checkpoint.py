"""States that a run is resumed from, exactly, and after any interruption: no pickle, whole or not there.

A state is a folder `state-00001234` of three files: `tensors.safetensors`, `structure.json` (the nesting, and all that is
no tensor) and, written last, `manifest.json` with the size and SHA-256 of the others. It is written under another name and
renamed when everything has reached the disk, so a name without `.partial` says whole, and the manifest proves it.
"""

import errno
import hashlib
import json
import os
import random
import re
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from ...safetensors_file import parse_json

PREFIX, PARTIAL = "state-", ".partial"
TENSORS, STRUCTURE, MANIFEST = "tensors.safetensors", "structure.json", "manifest.json"
CHUNK = 1 << 22  # bytes hashed at a time


class TrainingError(RuntimeError):
    """A run cannot go on; says why, what is safe, and what to do."""


def save_state(folder: Path, step: int, state: dict) -> Path:
    """Write a nested dict of tensors, arrays, numbers, texts, lists and tuples as `folder/state-<step>`; return that path.

    Raises TrainingError, with every earlier state untouched, when the disk is full or refuses, and ValueError for a value
    that cannot be written without pickle.
    """
    folder = Path(folder)
    tensors: dict[str, Tensor] = {}
    structure = _flatten(state, "state", tensors)
    partial = None
    try:
        folder.mkdir(parents=True, exist_ok=True)
        partial = Path(tempfile.mkdtemp(dir=folder, prefix=f".{PREFIX}{step:08d}-", suffix=PARTIAL))
        save_file(_without_shared_memory(tensors), partial / TENSORS)
        (partial / STRUCTURE).write_text(json.dumps(structure), encoding="utf-8")
        manifest = {"step": step, "files": {name: _seal(partial / name) for name in (TENSORS, STRUCTURE)}}
        (partial / MANIFEST).write_text(json.dumps(manifest, indent=1), encoding="utf-8")
        _seal(partial / MANIFEST)
        _sync(partial)
        return _take_its_name(partial, folder / f"{PREFIX}{step:08d}")
    except (OSError, SafetensorError) as error:
        raise TrainingError(
            f"the state of step {step} could not be written to {folder} ({_reason(error)}); earlier states there are "
            f"intact: make room or choose another folder, and start the same command again"
        ) from error
    finally:
        if partial is not None:
            shutil.rmtree(partial, ignore_errors=True)  # renamed away where all went well


def latest_state(folder: Path, report: Callable[[str], None] = print) -> Path | None:
    """The newest whole state of a folder, None where there is none; each one passed over is reported in one sentence."""
    for path in reversed(_states(folder)):
        if not (problem := _problem(path)):
            return path
        report(f"{path.name} is {problem} and is passed over")
    return None


def load_state(path: Path) -> dict:
    """Read back what `save_state` was given: tensors on the CPU, containers and numbers as they were.

    Raises ValueError, in one sentence, for a state that is not whole.
    """
    path = Path(path)
    if problem := _problem(path):
        raise ValueError(f"{path.name} is {problem}; resume from an earlier state, or begin in another folder")
    return _restore(json.loads((path / STRUCTURE).read_text(encoding="utf-8")), load_file(path / TENSORS))


def step_of(path: Path) -> int:
    """`state-00001234` -> 1234, the number of steps done."""
    return int(Path(path).name.removeprefix(PREFIX))


def prune(folder: Path, keep: int) -> None:
    """Delete states but the newest `keep` complete ones, and what killed runs left; call it after a new one is written.

    A damaged state never takes the place of a complete one.
    """
    for leftover in Path(folder).glob(f".{PREFIX}*{PARTIAL}"):
        shutil.rmtree(leftover, ignore_errors=True)
    complete = [path for path in _states(folder) if not _incomplete(path)]
    if complete:
        oldest = complete[-keep:][0]
        for path in _states(folder):
            if step_of(path) < step_of(oldest):
                shutil.rmtree(path, ignore_errors=True)


def random_state() -> dict:
    """The global random generators of this process: python, numpy, torch, and every GPU."""
    return {
        "python": random.getstate(),
        "numpy": np.random.get_state(),
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
    }


def set_random_state(state: dict) -> None:
    """Undo what was drawn since `random_state`; GPUs that are not here any more are left out."""
    random.setstate(state["python"])
    np.random.set_state(state["numpy"])
    torch.set_rng_state(state["torch"])
    for index, tensor in enumerate(state["cuda"][: torch.cuda.device_count()]):
        torch.cuda.set_rng_state(tensor, index)


def _flatten(value, path: str, tensors: dict[str, Tensor]):
    """Value -> JSON; tensors and arrays go into `tensors` under their path. Containers are tagged, so keys keep their type."""
    if isinstance(value, Tensor):
        tensors[path] = value
        return {"tensor": path}
    if isinstance(value, np.ndarray):
        tensors[path] = torch.from_numpy(np.ascontiguousarray(value))
        return {"array": path}
    if isinstance(value, np.generic):
        value = value.item()
    if value is None or type(value) in (bool, int, float, str):
        return value
    if isinstance(value, dict):
        return {"dict": [[_key(key, path), _flatten(item, f"{path}.{key}", tensors)] for key, item in value.items()]}
    if isinstance(value, list | tuple):
        items = [_flatten(item, f"{path}.{index}", tensors) for index, item in enumerate(value)]
        return {"tuple": items} if isinstance(value, tuple) else items
    raise ValueError(f"{path} is a {type(value).__name__}, which no state can hold; keep tensors, numbers and text in it")


def _key(key, path: str):
    if type(key) not in (str, int, float, bool):
        raise ValueError(f"{path} has a key of type {type(key).__name__}, which no state can hold; use text or numbers")
    return key


def _restore(node, tensors: dict[str, Tensor]):
    if isinstance(node, list):
        return [_restore(item, tensors) for item in node]
    if not isinstance(node, dict):
        return node
    ((kind, content),) = node.items()
    return {
        "tensor": lambda: tensors[content],
        "array": lambda: tensors[content].numpy(),
        "tuple": lambda: tuple(_restore(item, tensors) for item in content),
        "dict": lambda: {key: _restore(item, tensors) for key, item in content},
    }[kind]()


def _without_shared_memory(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Contiguous CPU tensors of which no two share memory (tied weights are written once each): safetensors wants it so."""
    seen, own = set(), {}
    for name, tensor in tensors.items():
        tensor = tensor.detach().cpu().contiguous()
        storage = tensor.untyped_storage().data_ptr()
        own[name] = tensor.clone() if storage in seen else tensor
        seen.add(storage)
    return own


def _seal(path: Path) -> dict:
    """Bring a file to the disk; its entry in the manifest."""
    with path.open("rb") as file:
        os.fsync(file.fileno())
    return {"bytes": path.stat().st_size, "sha256": _digest(path)}


def _sync(folder: Path) -> None:
    """Bring a folder's entries to the disk; Windows has no such call and needs none."""
    if os.name != "nt":
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def _take_its_name(partial: Path, path: Path) -> Path:
    """Rename a complete folder; an old state of the same step makes way for it. Not by `whole_files`, which deletes what it
    replaces first: here the old one lies aside until the new one stands."""
    os.chmod(partial, 0o755)  # mkdtemp's 0700 would hide states from other users of a shared folder
    if path.exists():
        aside = Path(tempfile.mkdtemp(dir=path.parent, prefix=f".{path.name}-", suffix=PARTIAL))
        os.replace(path, aside / "old")
        os.replace(partial, path)
        shutil.rmtree(aside, ignore_errors=True)
    else:
        os.replace(partial, path)
    _sync(path.parent)
    return path


def _states(folder: Path) -> list[Path]:
    """State folders, oldest first, whole or not."""
    found = (path for path in Path(folder).glob(f"{PREFIX}*") if re.fullmatch(f"{PREFIX}[0-9]+", path.name))
    return sorted(found, key=step_of)


def _manifest(path: Path) -> dict[str, dict]:
    """File name -> bytes and sha256; {} for one that is damaged or not there."""
    try:
        files = parse_json((path / MANIFEST).read_text(encoding="utf-8"))["files"]
        return {name: {"bytes": entry["bytes"], "sha256": entry["sha256"]} for name, entry in files.items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return {}


def _incomplete(path: Path) -> bool:
    """Whether files are missing or of another size than written."""
    files = _manifest(path)
    sizes = {name: (path / name).stat().st_size for name in files if (path / name).is_file()}
    return set(files) != {TENSORS, STRUCTURE} or sizes != {name: entry["bytes"] for name, entry in files.items()}


def _problem(path: Path) -> str:
    """What is wrong with a state; empty for a whole one."""
    if _incomplete(path):
        return "incomplete"
    damaged = [name for name, entry in _manifest(path).items() if _digest(path / name) != entry["sha256"]]
    return f"damaged ({damaged[0]} does not match its SHA-256)" if damaged else ""


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        digest = hashlib.sha256()
        while chunk := file.read(CHUNK):
            digest.update(chunk)
    return digest.hexdigest()


def _reason(error: Exception) -> str:
    """The disk's own words, without number and path."""
    if isinstance(error, OSError):
        return "the disk is full" if error.errno == errno.ENOSPC else (error.strerror or str(error))
    return "the disk is full" if "os error 28" in str(error) else str(error)

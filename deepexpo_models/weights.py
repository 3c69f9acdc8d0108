"""Weight and code files: safetensors whose metadata say what they hold. The only file format this project writes.

Metadata (all strings): `deepexpo_format` (version), `kind`, `name`, `config` (JSON), `base` (base-model family, empty where
there is none), `sha256` (of the tensors, see `tensors_sha256`) and what a kind adds; `trained_on` for weights.
"""

import hashlib
import json
import threading
from collections.abc import Callable
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor
from torch.nn.modules.module import register_module_parameter_registration_hook

from .safetensors_file import SafetensorsFile, excerpt, open_safetensors, parse_json, write_safetensors
from .whole_files import write_file

Built = TypeVar("Built", bound=torch.nn.Module)
INSTALLED_WEIGHTS = Path(__file__).parent / "pack_weights"  # where pip puts them
PACK_WEIGHTS = INSTALLED_WEIGHTS if INSTALLED_WEIGHTS.is_dir() else Path(__file__).parents[1] / "weights"
FORMAT = "1"
METADATA = ("kind", "name", "base", "config", "sha256")
LONGEST_SHOWN = 100  # letters of a tensor's name
LONGEST_NAME = 200  # letters; errors show it
# kinds of pictures, as the metadata's `trained_on` lists them; photo-dsid's identity encoder began with drawings
TRAINED_ON = ("drawings", "rendered heads", "photographs")
KINDS = {  # kind -> the node that takes it
    "dsid": "Load DSID",
    "meaf": "Load MEAF",
    "identity": "Load Identity",
    "semantics": "Load Semantics",
    "starter": "Load Starter",
    "head": "Draw Face Control (it finds its head by itself)",
}


class ConfigTooLarge(ValueError):
    """A config asks for more than its file holds."""


@dataclass(frozen=True)
class Header:
    """What a file says of itself, read without touching its tensors."""

    path: Path
    kind: str
    name: str
    base: str
    config: dict
    metadata: dict[str, str]
    shapes: dict[str, tuple[int, ...]]

    @property
    def trained_on(self) -> tuple[str, ...]:
        """Of TRAINED_ON; empty for a file that does not say, as those made before November 2026."""
        said = self.metadata.get("trained_on", "").split(", ")
        return tuple(kind for kind in TRAINED_ON if kind in said)


def kinds_of_pictures(heads: str, photographs: str, *earlier: tuple[str, ...]) -> tuple[str, ...]:
    """Of TRAINED_ON: the folders that a training was given, "" for none, and what the weights that it began with knew."""
    given = zip(TRAINED_ON, ("", heads, photographs))
    return tuple(kind for kind, folder in given if folder or any(kind in kinds for kinds in earlier))


def trained_on_words(kinds: tuple[str, ...]) -> str:
    """("rendered heads",) -> "trained on rendered heads"."""
    return f"trained on {' and '.join(kinds)}" if kinds else "whose file does not say what it was trained on"


def tensors_sha256(tensors: dict[str, Tensor]) -> str:
    """SHA-256 over names, dtypes, shapes and bytes in the order of the names; independent of the file layout."""
    digest = hashlib.sha256()
    for name in sorted(tensors):
        tensor = tensors[name].detach().cpu().contiguous()
        digest.update(f"{name}|{tensor.dtype}|{tuple(tensor.shape)}|".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy())
    return digest.hexdigest()


def save_tensors(
    path: Path, kind: str, tensors: dict[str, Tensor], *, name: str, config: dict, base: str = "", **extra: str
) -> None:
    """Write one file, whole or not at all: an earlier file of that name stays until the new one is complete."""
    path = Path(path)
    tensors = {key: tensor.detach().cpu().contiguous() for key, tensor in tensors.items()}
    metadata = {
        "deepexpo_format": FORMAT,
        "kind": kind,
        "name": name,
        "base": base,
        "config": json.dumps(config, sort_keys=True),
        "sha256": tensors_sha256(tensors),
        **extra,
    }
    save_whole(path, tensors, metadata)


def save_whole(path: Path, tensors: dict[str, Tensor], metadata: dict[str, str] | None = None) -> None:
    """Write any safetensors file, whole or not at all. Tensors are contiguous and on the CPU. Raises WriteError."""
    with write_file(path) as beside:
        write_safetensors(beside, tensors, metadata)


def read_header(path: Path) -> Header:
    """Read kind, config and shapes of a DeepExPo file.

    Raises ValueError, in one sentence, for a missing, truncated, oversized, corrupt or foreign file; nothing is allocated
    but the header itself, whose size is checked first.
    """
    with open_safetensors(path) as file:
        return _header(file)


def load_tensors(path: Path, kind: str) -> tuple[Header, dict[str, Tensor]]:
    """Read a file of one kind into memory, on the CPU, in its stored dtypes, and verify its SHA-256. What is hashed is what
    is given: the file may be changed or deleted afterwards.

    Raises ValueError, in one sentence, for everything `read_header` refuses, another kind, and changed tensors.
    """
    with open_safetensors(path) as file:
        header = expect_kind(_header(file), kind)
        tensors = file.tensors()
    if tensors_sha256(tensors) != header.metadata.get("sha256"):
        raise ValueError(f"{header.path.name} is corrupt: its tensors do not match their SHA-256; download it again")
    return header, tensors


def _header(file: SafetensorsFile) -> Header:
    path, metadata = file.path, file.metadata
    if metadata.get("deepexpo_format") is None:
        raise ValueError(
            f"{path.name} is not a DeepExPo file (its safetensors metadata have no deepexpo_format); "
            f"checkpoints and LoRAs belong into ComfyUI's own loaders, public face adapters through deepexpo_models.importers"
        )
    if metadata["deepexpo_format"] != FORMAT:
        raise ValueError(
            f"{path.name} has DeepExPo format {excerpt(metadata['deepexpo_format'])}, this version reads {FORMAT}; "
            f"update ComfyUI-DeepExPo"
        )
    missing = [key for key in METADATA if key not in metadata]
    if missing:
        raise ValueError(f"{path.name} is corrupt: its metadata have no {missing[0]}; download it again")
    if max(len(metadata[key]) for key in ("kind", "name", "base")) > LONGEST_NAME:
        raise ValueError(f"{path.name} is corrupt: a name in it has over {LONGEST_NAME} letters; download it again")
    try:
        config = parse_json(metadata["config"])
    except ValueError as error:
        raise ValueError(f"{path.name} is corrupt: its config is no JSON; download it again") from error
    if not isinstance(config, dict):
        raise ValueError(f"{path.name} is corrupt: its config is no JSON object; download it again")
    return Header(
        path=path,
        kind=metadata["kind"],
        name=metadata["name"],
        base=metadata["base"],
        config=config,
        metadata=metadata,
        shapes={name: entry.shape for name, entry in file.entries.items()},
    )


def expect_kind(header: Header, kind: str) -> Header:
    """Return the header, or raise a ValueError that names the node which takes this file."""
    if header.kind != kind:
        belongs = f"it belongs into {KINDS[header.kind]}" if header.kind in KINDS else "no node takes it"
        held = header.kind if header.kind in KINDS else excerpt(header.kind)
        raise ValueError(f"{header.path.name} holds {held} data, expected {kind}: {belongs}; choose a {kind} file")
    return header


def check_shapes(file_name: str, found: dict[str, tuple[int, ...]], expected: dict[str, tuple[int, ...]]) -> None:
    """Raise a ValueError which names the first missing, extra or misshapen tensor, with their counts."""
    problems = shape_problems(found, expected)
    if problems:
        raise ValueError(
            f"{file_name} does not fit its own config: tensors {problems}; "
            f"it is damaged or was made by another version, download it again"
        )


def shape_problems(found: dict[str, tuple[int, ...]], expected: dict[str, tuple[int, ...]]) -> str:
    """Words like "2 missing (first: 'a.weight'), 1 of another shape (first: 'b.weight')"; none when all is as expected."""
    missing = sorted(expected.keys() - found.keys())
    extra = sorted(found.keys() - expected.keys())
    misshapen = sorted(name for name in expected.keys() & found.keys() if expected[name] != found[name])
    problems = (("missing", missing), ("unexpected", extra), ("of another shape", misshapen))
    return ", ".join(f"{len(names)} {what} (first: {excerpt(names[0], LONGEST_SHOWN)})" for what, names in problems if names)


def build_module(make_module: Callable[[Any], Built], operations, header: Header, tensors: dict[str, Tensor]) -> Built:
    """Build a module around loaded tensors without allocating it twice; strict, in eval mode, without gradients.

    make_module: operations -> module, called on the meta device. The names and shapes that a file must have come from a
    torch.nn build: ComfyUI's layers may have no weights before they are loaded (0.12 on Windows).
    Raises ValueError, in one sentence, for tensors that are not those of the config, and as soon as the config asks for more
    than the file holds.
    """
    file_name = header.path.name
    with torch.device("meta"):
        expected = _build_within(header, lambda: make_module(torch.nn)).state_dict()
        module = make_module(operations)
    check_shapes(file_name, header.shapes, {name: tuple(tensor.shape) for name, tensor in expected.items()})
    for name, tensor in tensors.items():
        if expected[name].is_floating_point() and not tensor.is_floating_point():
            raise ValueError(f"{file_name} holds {tensor.dtype} where weights belong ({name}); download it again")
    module.load_state_dict(tensors, strict=True, assign=True)
    return module.eval().requires_grad_(False)


def _build_within(header: Header, build) -> torch.nn.Module:
    """What `build` makes; stopped at the first parameter beyond those that the file holds, so that a small file costs little
    whatever its config says."""
    thread, room = threading.get_ident(), len(header.shapes)
    numbers = sum(prod(shape) for shape in header.shapes.values())

    def count(module, name, parameter) -> None:
        nonlocal room, numbers
        if parameter is None or threading.get_ident() != thread:
            return
        room, numbers = room - 1, numbers - parameter.numel()
        if room < 0 or numbers < 0:
            raise ConfigTooLarge(
                f"{header.path.name} does not fit its own config, which asks for more than its {len(header.shapes)} tensors; "
                f"it is damaged or was made by another version, download it again"
            )

    hook = register_module_parameter_registration_hook(count)
    try:
        return build()
    except ConfigTooLarge:
        raise
    except (ValueError, TypeError, RuntimeError, OverflowError, ArithmeticError, KeyError) as error:
        raise ValueError(
            f"{header.path.name} cannot be used: its config describes no model ({type(error).__name__}); download it again"
        ) from error
    finally:
        hook.remove()

"""Weight and code files: safetensors whose metadata say what they hold. The only file format this project writes.

Metadata (all strings): `deepexpo_format` (version), `kind`, `name`, `config` (JSON), `base` (base-model family, empty where
there is none), `sha256` (of the tensors, see `tensors_sha256`) and what a kind adds.
"""

import hashlib
import json
import os
import tempfile
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

FORMAT = "1"
KINDS = {  # kind -> the node that takes it
    "dsid": "Load DSID",
    "meaf": "Load MEAF",
    "identity": "Load Identity",
    "semantics": "Load Semantics",
    "starter": "Load Starter",
    "head": "Draw Face Control (it finds its head by itself)",
}
MAX_HEADER_BYTES = 100_000_000  # the safetensors specification's own limit


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
    """Write any safetensors file, whole or not at all. Tensors are contiguous and on the CPU."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, partial = tempfile.mkstemp(dir=path.parent, prefix=f".{path.stem}-", suffix=".partial")
    os.close(handle)
    try:
        save_file(tensors, partial, metadata)
        os.chmod(partial, 0o644)  # mkstemp's 0600 would hide shared model folders from other users
        os.replace(partial, path)
    except BaseException:
        Path(partial).unlink(missing_ok=True)
        raise


def read_header(path: Path) -> Header:
    """Read kind, config and shapes of a DeepExPo file.

    Raises ValueError, in one sentence, for a missing, truncated, oversized, corrupt or foreign file; nothing is allocated
    but the header itself, whose size is checked first.
    """
    path = Path(path)
    entries = read_json_header(path)
    metadata = entries.pop("__metadata__", None) or {}
    if metadata.get("deepexpo_format") is None:
        raise ValueError(
            f"{path.name} is not a DeepExPo file (its safetensors metadata have no deepexpo_format); "
            f"checkpoints and LoRAs belong into ComfyUI's own loaders, public face adapters through deepexpo_models.importers"
        )
    if metadata["deepexpo_format"] != FORMAT:
        raise ValueError(
            f"{path.name} has DeepExPo format {metadata['deepexpo_format']}, this version reads {FORMAT}; "
            f"update ComfyUI-DeepExPo"
        )
    check_extent(path, entries)
    try:
        config = json.loads(metadata["config"])
        return Header(
            path=path,
            kind=metadata["kind"],
            name=metadata["name"],
            base=metadata["base"],
            config=config,
            metadata=metadata,
            shapes={name: tuple(entry["shape"]) for name, entry in entries.items()},
        )
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{path.name} is corrupt: its metadata lack or garble {error}; download it again") from error


def load_tensors(path: Path, kind: str) -> tuple[Header, dict[str, Tensor]]:
    """Load a file of one kind onto the CPU in its stored dtypes and verify its SHA-256.

    Raises ValueError, in one sentence, for everything `read_header` refuses, another kind, and changed tensors.
    """
    header = expect_kind(read_header(path), kind)
    try:
        tensors = load_file(header.path)
    except (SafetensorError, OSError) as error:
        raise ValueError(f"{header.path.name} could not be read ({error}); download it again") from error
    if tensors_sha256(tensors) != header.metadata.get("sha256"):
        raise ValueError(f"{header.path.name} is corrupt: its tensors do not match their SHA-256; download it again")
    return header, tensors


def expect_kind(header: Header, kind: str) -> Header:
    """Return the header, or raise a ValueError that names the node which takes this file."""
    if header.kind != kind:
        belongs = f"it belongs into {KINDS[header.kind]}" if header.kind in KINDS else "no node takes it"
        raise ValueError(f"{header.path.name} holds {header.kind} data, expected {kind}: {belongs}; choose a {kind} file")
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
    """Words like "2 missing (first: a.weight), 1 of another shape (first: b.weight)"; none when all is as expected."""
    missing = sorted(expected.keys() - found.keys())
    extra = sorted(found.keys() - expected.keys())
    misshapen = sorted(name for name in expected.keys() & found.keys() if expected[name] != found[name])
    problems = (("missing", missing), ("unexpected", extra), ("of another shape", misshapen))
    return ", ".join(f"{len(names)} {what} (first: {names[0]})" for what, names in problems if names)


def build_module(make_module, operations, header: Header, tensors: dict[str, Tensor]) -> torch.nn.Module:
    """Build a module around loaded tensors without allocating it twice; strict, in eval mode, without gradients.

    make_module: operations -> module, called on the meta device. The names and shapes that a file must have come from a
    torch.nn build: ComfyUI's layers may have no weights before they are loaded (0.12 on Windows).
    """
    with torch.device("meta"):
        expected = make_module(torch.nn).state_dict()
        module = make_module(operations)
    check_shapes(header.path.name, header.shapes, {name: tuple(tensor.shape) for name, tensor in expected.items()})
    module.load_state_dict(tensors, strict=True, assign=True)
    return module.eval().requires_grad_(False)


def read_json_header(path: Path) -> dict:
    """The header of any safetensors file. Raises ValueError for what is none; allocates the header alone."""
    foreign = f"{path.name} is not a safetensors file or is damaged"
    try:
        size = path.stat().st_size
        with path.open("rb") as file:
            length = int.from_bytes(file.read(8), "little")
            if size < 8 or length > min(MAX_HEADER_BYTES, size - 8):
                raise ValueError(
                    f"{foreign} (its header claims {length} bytes of {size}); choose another, or download it again"
                )
            entries = json.loads(file.read(length))
    except OSError as error:
        raise ValueError(
            f"{path.name} cannot be opened ({error.strerror}); check the folder, or choose another file"
        ) from error
    except (UnicodeDecodeError, json.JSONDecodeError) as error:
        raise ValueError(f"{foreign} (its header is no JSON); choose another, or download it again") from error
    if not isinstance(entries, dict):
        raise ValueError(f"{foreign} (its header is no JSON object); choose another, or download it again")
    return entries


def check_extent(path: Path, entries: dict) -> None:
    """Raise a ValueError unless the file is as long as the entries of its header, less the metadata, say."""
    try:
        end = max((entry["data_offsets"][1] for entry in entries.values()), default=0)
    except (KeyError, TypeError, IndexError) as error:
        raise ValueError(f"{path.name} is corrupt: a tensor has no place in it; download it again") from error
    with path.open("rb") as file:
        expected = 8 + int.from_bytes(file.read(8), "little") + end
    size = path.stat().st_size
    if size != expected:
        state = "truncated" if size < expected else "longer than its header says"
        raise ValueError(f"{path.name} is {state} ({size} bytes, expected {expected}); download it again")

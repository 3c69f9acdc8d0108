"""Reads public weight files: first the names and shapes, without allocating a tensor, then the tensors.

safetensors, and the zip archives of torch.save (.bin, .pt, .ckpt). Such an archive holds a pickle, which can run code: its
opcodes are parsed first, and only those of a plain dict of tensors are let through to torch.load(weights_only=True).
"""

import pickletools
import zipfile
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from ..weights import check_extent, read_json_header

PREFIXES = {"image_proj_model.": "image_proj.", "adapter_modules.": "ip_adapter."}  # of training dumps -> published
MAX_PICKLE_BYTES = 4_000_000  # the largest published one has 0.2 MB
NAMING = ("GLOBAL", "STACK_GLOBAL", "INST", "EXT1", "EXT2", "EXT4")  # opcodes that bring in an object by its name
STORAGES = ("Float", "Half", "BFloat16", "Double")
DTYPES = {"F32", "F16", "BF16", "F64"}  # the same in safetensors
ALLOWED = {
    "collections OrderedDict",
    "torch._utils _rebuild_tensor_v2",
    "torch._utils _rebuild_parameter",
    *(f"torch {name}Storage" for name in STORAGES),
}


@dataclass(frozen=True, eq=False)
class PublicFile:
    """A file whose structure has been checked. shapes: name -> shape, in the published names."""

    path: Path
    shapes: dict[str, tuple[int, ...]]
    mapped: dict[str, Tensor] | None  # the tensors of an archive, mapped: their pages are read when they are used

    def tensors(self) -> dict[str, Tensor]:
        """Name -> tensor on the CPU, in the stored dtypes."""
        if self.mapped is not None:
            return self.mapped
        try:
            return {published_name(name): tensor for name, tensor in load_file(self.path).items()}
        except (SafetensorError, OSError) as error:
            raise ValueError(f"{self.path.name} could not be read ({_first_line(error)}); download it again") from error


def open_public(path: Path) -> PublicFile:
    """Raises ValueError, in one sentence, for a file that is missing, truncated, oversized, corrupt, or no weights."""
    path = Path(path)
    try:
        with path.open("rb") as file:
            archive = file.read(4) == b"PK\x03\x04"
    except OSError as error:
        raise ValueError(f"{path.name} cannot be opened ({error.strerror}); check the path") from error
    return _open_archive(path) if archive else _open_safetensors(path)


def published_name(name: str) -> str:
    for prefix, published in PREFIXES.items():
        if name.startswith(prefix):
            return published + name.removeprefix(prefix)
    return name


def _open_safetensors(path: Path) -> PublicFile:
    entries = read_json_header(path)
    entries.pop("__metadata__", None)
    check_extent(path, entries)
    try:
        shapes = {published_name(name): tuple(int(size) for size in entry["shape"]) for name, entry in entries.items()}
        others = {entry["dtype"] for entry in entries.values()} - DTYPES
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{path.name} is corrupt: a tensor has no shape or dtype; download it again") from error
    if others:
        raise ValueError(
            f"{path.name} holds tensors of {', '.join(sorted(map(str, others)))}; choose the published file, of floats"
        )
    return PublicFile(path, _usable(path, shapes), None)


def _open_archive(path: Path) -> PublicFile:
    _check_archive(path)
    try:
        loaded = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except Exception as error:  # a damaged archive ends in whatever torch, zipfile or the unpickler raise
        raise ValueError(f"{path.name} is damaged ({_first_line(error)}); download it again") from error
    tensors = {published_name(name): tensor for name, tensor in _flat(path, loaded).items()}
    return PublicFile(path, _usable(path, {name: tuple(tensor.shape) for name, tensor in tensors.items()}), tensors)


def _check_archive(path: Path) -> None:
    """Raise a ValueError unless the archive is torch's, uncompressed, whole, and its pickle only describes tensors."""
    try:
        with zipfile.ZipFile(path) as archive:
            content = archive.read(_pickle_member(path, archive))
    except zipfile.BadZipFile as error:
        raise ValueError(f"{path.name} is truncated or corrupt ({error}); download it again") from error
    try:
        opcodes = list(pickletools.genops(content))
    except ValueError as error:
        raise ValueError(f"{path.name} is corrupt: its pickle cannot be parsed; download it again") from error
    _check_opcodes(path, opcodes)


def _pickle_member(path: Path, archive: zipfile.ZipFile) -> zipfile.ZipInfo:
    members = archive.infolist()
    pickles = [member for member in members if member.filename.endswith("/data.pkl")]
    packed = any(member.compress_type != zipfile.ZIP_STORED for member in members)
    if len(pickles) != 1 or packed or sum(member.file_size for member in members) > path.stat().st_size:
        raise ValueError(f"{path.name} is an archive, but not one of torch's weights; choose the adapter's file")
    if pickles[0].file_size > MAX_PICKLE_BYTES:
        raise ValueError(
            f"{path.name} claims a table of contents of {pickles[0].file_size} bytes, at most {MAX_PICKLE_BYTES} are read; "
            f"it is no adapter, choose another file"
        )
    return pickles[0]


def _check_opcodes(path: Path, opcodes: list) -> None:
    for opcode, argument, _ in opcodes:
        if opcode.name in NAMING and argument not in ALLOWED:
            raise ValueError(
                f"{path.name} is a pickle of more than weights (it names {argument or opcode.name}) and is not loaded; "
                f"choose the adapter's own file, as safetensors if there is one"
            )


def _flat(path: Path, loaded) -> dict[str, Tensor]:
    """{"image_proj": {name: tensor}, ...} or {name: tensor} -> {dotted name: tensor}."""
    flat = {}
    for name, value in loaded.items() if isinstance(loaded, dict) else ((None, None),):
        parts = value.items() if isinstance(value, dict) else ((None, value),)
        for part, tensor in parts:
            if not isinstance(name, str) or not isinstance(tensor, Tensor) or not isinstance(part, str | None):
                raise ValueError(f"{path.name} holds something other than named tensors; choose the adapter's own file")
            flat[name if part is None else f"{name}.{part}"] = tensor
    return flat


def _usable(path: Path, shapes: dict[str, tuple[int, ...]]) -> dict[str, tuple[int, ...]]:
    if not shapes or any(size < 1 for shape in shapes.values() for size in shape):
        raise ValueError(f"{path.name} holds {'empty' if shapes else 'no'} tensors; choose the adapter's own file")
    return shapes


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0][:120]

"""Opens public weight files: first the names and shapes, without allocating a tensor, then the tensors.

safetensors, and the zip archives of torch.save (.bin, .pt, .ckpt), see `archive`. No file claims more than it holds.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from math import prod
from pathlib import Path

from torch import Tensor

from ..safetensors_file import open_ordinary, open_safetensors
from .archive import read_contents, read_tensors
from .pickled import Stored

PREFIXES = {"image_proj_model.": "image_proj.", "adapter_modules.": "ip_adapter."}  # of training dumps -> published
MAX_RANK = 4  # of a published tensor it is 3


@dataclass(frozen=True, eq=False)
class PublicFile:
    """A file whose structure has been checked. shapes: name -> shape, in the published names."""

    path: Path
    shapes: dict[str, tuple[int, ...]]
    stored: Mapping[str, Stored] | None = None  # where an archive has its tensors; None: safetensors

    def tensors(self) -> dict[str, Tensor]:
        """Name -> tensor on the CPU, in the stored dtypes. Raises ValueError, in one sentence, for a damaged file."""
        if self.stored is not None:
            return read_tensors(self.path, self.stored)
        with open_safetensors(self.path) as file:
            return {published_name(name): tensor for name, tensor in file.tensors().items()}


def open_public(path: Path) -> PublicFile:
    """Raises ValueError, in one sentence, for a file that is missing, truncated, oversized, corrupt, or no weights."""
    path = Path(path)
    return _open_archive(path) if _is_archive(path) else _open_safetensors(path)


def is_public(path: Path) -> bool:
    """Whether a file is of others: no safetensors file that says to be one of ours. Raises ValueError for a damaged one."""
    path = Path(path)
    if _is_archive(path):
        return True
    with open_safetensors(path) as file:
        return "deepexpo_format" not in file.metadata


def published_name(name: str) -> str:
    for prefix, published in PREFIXES.items():
        if name.startswith(prefix):
            return published + name.removeprefix(prefix)
    return name


def _is_archive(path: Path) -> bool:
    with open_ordinary(path) as file:
        return file.read(4) == b"PK\x03\x04"


def _open_safetensors(path: Path) -> PublicFile:
    with open_safetensors(path) as file:
        entries = {published_name(name): entry for name, entry in file.entries.items()}
    others = {str(entry.dtype) for entry in entries.values() if not entry.dtype.is_floating_point}
    if others:
        raise ValueError(f"{path.name} holds tensors of {', '.join(sorted(others))}; choose the published file, of floats")
    shapes = {name: entry.shape for name, entry in entries.items()}
    return PublicFile(path, _usable(path, shapes, {name: entry.dtype.itemsize for name, entry in entries.items()}))


def _open_archive(path: Path) -> PublicFile:
    stored = {published_name(name): tensor for name, tensor in read_contents(path).items()}
    shapes = {name: tensor.shape for name, tensor in stored.items()}
    return PublicFile(path, _usable(path, shapes, {name: x.storage.dtype.itemsize for name, x in stored.items()}), stored)


def _usable(path: Path, shapes: dict[str, tuple[int, ...]], itemsizes: dict[str, int]) -> dict[str, tuple[int, ...]]:
    """The shapes, of tensors that are there and together no larger than the file: strides of 0 would make much of nothing."""
    sizes = [size for shape in shapes.values() for size in shape]
    if not shapes or any(size < 1 for size in sizes):
        raise ValueError(f"{path.name} holds {'empty' if shapes else 'no'} tensors; choose the adapter's own file")
    claimed = sum(prod(shape) * itemsizes[name] for name, shape in shapes.items())
    if any(len(shape) > MAX_RANK for shape in shapes.values()) or claimed > path.stat().st_size:
        raise ValueError(f"{path.name} claims more numbers than it holds; choose the adapter's own file")
    return shapes

"""Opens public weight files: first the names and shapes, without allocating a tensor, then the tensors.

safetensors, and the zip archives of torch.save (.bin, .pt, .ckpt), see `archive`. No file claims more than it holds.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from math import prod
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from ..errors import first_line
from ..weights import check_extent, read_json_header
from .archive import read_contents, read_tensors
from .pickled import Stored

PREFIXES = {"image_proj_model.": "image_proj.", "adapter_modules.": "ip_adapter."}  # of training dumps -> published
ITEMSIZES = {"F32": 4, "F16": 2, "BF16": 2, "F64": 8}
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
        try:
            return {published_name(name): tensor.clone() for name, tensor in load_file(self.path).items()}
        except (SafetensorError, OSError) as error:
            raise ValueError(f"{self.path.name} could not be read ({first_line(error)}); download it again") from error


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
        dtypes = {published_name(name): entry["dtype"] for name, entry in entries.items()}
        others = set(dtypes.values()) - ITEMSIZES.keys()
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{path.name} is corrupt: a tensor has no shape or dtype; download it again") from error
    if others:
        raise ValueError(
            f"{path.name} holds tensors of {', '.join(sorted(map(str, others)))}; choose the published file, of floats"
        )
    return PublicFile(path, _usable(path, shapes, {name: ITEMSIZES[dtype] for name, dtype in dtypes.items()}))


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

"""torch.save's zip archives (.bin, .pt, .ckpt): what they hold, then their tensors, read into memory, never mapped."""

import io
import re
import struct
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import torch
from torch import Tensor

from ..errors import first_line
from .pickled import Damaged, Foreign, Storage, Stored, parse

# At once: bounds the archive's directory and its table of contents, of which the largest published ones have 0.2 MB each.
MAX_READ = 1 << 20
MAX_TENSORS = 10_000  # the largest published adapter has 1,335
TABLE = "data.pkl"
MEMBERS = re.compile(
    r"[^/]+/(data\.pkl|data/\d+|version|byteorder|\.format_version|\.storage_alignment|\.data/serialization_id)"
)
REFUSALS = (zipfile.BadZipFile, RuntimeError, KeyError, EOFError, UnicodeDecodeError, struct.error, OSError)


def read_contents(path: Path) -> dict[str, Stored]:
    """Dotted name -> where the tensor lies. Raises ValueError, in one sentence, for an archive of anything else."""
    with _opened(path) as archive:
        contents = _flat(path, _parse(path, archive.read(_table(path, archive))))
        for stored in contents.values():
            _member(archive, stored.storage)
    return contents


def read_tensors(path: Path, contents: Mapping[str, Stored]) -> dict[str, Tensor]:
    """Name -> tensor on the CPU in the stored dtype. Raises ValueError, in one sentence, for a damaged archive."""
    with _opened(path) as archive:
        storages = {
            storage: _read(archive, storage) for storage in dict.fromkeys(stored.storage for stored in contents.values())
        }
    return {name: storages[s.storage].as_strided(s.shape, s.stride, s.offset) for name, s in contents.items()}


class _BoundedFile(io.FileIO):
    def read(self, size: int | None = -1) -> bytes:
        size = -1 if size is None else size
        if size > MAX_READ:
            raise zipfile.BadZipFile(f"its directory claims {size} bytes, at most {MAX_READ} are read")
        return super().read(MAX_READ if size < 0 else size)


@contextmanager
def _opened(path: Path) -> Iterator[zipfile.ZipFile]:
    try:
        with _BoundedFile(path) as file, zipfile.ZipFile(file) as archive:
            yield archive
    except REFUSALS as error:
        raise ValueError(f"{path.name} is truncated or corrupt ({first_line(error, 120)}); download it again") from error


def _table(path: Path, archive: zipfile.ZipFile) -> zipfile.ZipInfo:
    """The member that holds the pickle, of an archive that is torch's and stored as it is."""
    members = archive.infolist()
    names = [member.filename for member in members]
    tables = [member for member in members if member.filename.endswith(f"/{TABLE}")]
    regular = all(MEMBERS.fullmatch(name) for name in names) and len({name.split("/")[0] for name in names}) == 1
    distinct = len({name.casefold() for name in names}) == len(names)
    packed = any(member.compress_type != zipfile.ZIP_STORED for member in members)
    too_long = sum(member.file_size for member in members) > path.stat().st_size
    if len(tables) != 1 or not regular or not distinct or packed or too_long:
        raise ValueError(f"{path.name} is an archive, but not one of torch's weights; choose the adapter's file")
    if tables[0].file_size > MAX_READ:
        raise ValueError(
            f"{path.name} claims a table of contents of {tables[0].file_size} bytes, at most {MAX_READ} are read; "
            f"it is no adapter, choose another file"
        )
    return tables[0]


def _parse(path: Path, content: bytes):
    try:
        return parse(content)
    except Foreign as reason:
        raise ValueError(
            f"{path.name} is a pickle of more than weights ({reason}) and is not loaded; "
            f"choose the adapter's own file, as safetensors if there is one"
        ) from reason
    except Damaged as error:
        raise ValueError(f"{path.name} is corrupt: its pickle cannot be parsed; download it again") from error


def _flat(path: Path, loaded) -> dict[str, Stored]:
    """{"image_proj": {name: tensor}, ...} or {name: tensor} -> {dotted name: tensor}."""
    flat = {}
    for name, value in loaded.items() if isinstance(loaded, dict) else ((None, None),):
        parts = value.items() if isinstance(value, dict) else ((None, value),)
        for part, tensor in parts:
            if not isinstance(name, str) or not isinstance(tensor, Stored) or not isinstance(part, str | None):
                raise ValueError(f"{path.name} holds something other than named tensors; choose the adapter's own file")
            flat[name if part is None else f"{name}.{part}"] = tensor
            if len(flat) > MAX_TENSORS:
                raise ValueError(f"{path.name} holds more than {MAX_TENSORS} tensors; choose the adapter's own file")
    return flat


def _member(archive: zipfile.ZipFile, storage: Storage) -> zipfile.ZipInfo:
    root = archive.infolist()[0].filename.split("/")[0]  # a list that is there; names would be listed anew for each storage
    member = archive.getinfo(f"{root}/data/{storage.key}")
    if member.file_size != storage.count * storage.dtype.itemsize:
        raise zipfile.BadZipFile(f"its part {storage.key[:20]} has {member.file_size} bytes for {storage.count} numbers")
    return member


def _read(archive: zipfile.ZipFile, storage: Storage) -> Tensor:
    """(count,); the archive's checksums are compared."""
    numbers = torch.empty(storage.count, dtype=storage.dtype)
    content = memoryview(numbers.view(torch.uint8).numpy())
    with archive.open(_member(archive, storage)) as stream:
        for start in range(0, len(content), MAX_READ):
            part = stream.read(min(MAX_READ, len(content) - start))
            if not part:
                raise EOFError("it ends early")
            content[start : start + len(part)] = part
    return numbers

"""Any safetensors file, read strictly and into memory of our own.

The header must have a sane size and describe the file to its last byte. Tensors are read, never mapped: a file that is cut
or overwritten later cannot change what runs, nor end the process. Nothing larger than the file is allocated.
"""

import errno
import json
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from io import BufferedReader
from math import prod
from pathlib import Path

import torch
from torch import Tensor

MAX_HEADER_BYTES = 2_000_000  # the largest here, an SDXL MEAF of size full, has 0.7 million
MAX_RANK = 8
DTYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "F8_E4M3": torch.float8_e4m3fn,
    "F8_E5M2": torch.float8_e5m2,
    "C64": torch.complex64,
    "I64": torch.int64,
    "I32": torch.int32,
    "I16": torch.int16,
    "I8": torch.int8,
    "U8": torch.uint8,
    "BOOL": torch.bool,
}
NAMES = {dtype: name for name, dtype in DTYPES.items()}
ALIGNMENT = 8  # bytes, of a header's end


@dataclass(frozen=True)
class Entry:
    """One tensor of a header; begin, end: bytes from the header's end."""

    dtype: torch.dtype
    shape: tuple[int, ...]
    begin: int
    end: int


@dataclass(frozen=True, eq=False)
class SafetensorsFile:
    """An open file whose header has been checked."""

    path: Path
    metadata: dict[str, str]
    entries: dict[str, Entry]
    file: BufferedReader
    start: int  # bytes before the first tensor

    def tensors(self) -> dict[str, Tensor]:
        """All tensors on the CPU, in their stored dtypes, in memory of their own."""
        return {name: self._read(entry) for name, entry in sorted(self.entries.items(), key=lambda item: item[1].begin)}

    def tensor(self, name: str) -> Tensor:
        """One of them; the others are not read."""
        return self._read(self.entries[name])

    def _read(self, entry: Entry) -> Tensor:
        tensor = torch.empty(entry.shape, dtype=entry.dtype)
        self.file.seek(self.start + entry.begin)
        if entry.end > entry.begin:
            content = memoryview(tensor.reshape(-1).view(torch.uint8).numpy())
            if _fill(self.file, content) < len(content):
                raise ValueError(f"{self.path.name} became shorter while it was read; download it again")
        return tensor


@contextmanager
def open_ordinary(path: Path) -> Iterator[BufferedReader]:
    """Open a file for reading. Raises ValueError, in one sentence, for one that is missing or refused and for what is no
    ordinary file; never waits for one."""
    try:
        with open(path, "rb", opener=_open_at_once) as file:
            yield file
    except OSError as error:
        reason = error.strerror or type(error).__name__
        raise ValueError(f"{path.name} cannot be opened ({reason}); check the folder, or choose another file") from error


@contextmanager
def open_safetensors(path: Path) -> Iterator[SafetensorsFile]:
    """Open a file for reading and check its header against its size.

    Raises ValueError, in one sentence, for everything `open_ordinary` refuses, for a truncated, oversized or corrupt file, and
    for another format.
    """
    path = Path(path)
    with open_ordinary(path) as file:
        yield _checked(path, file)


def write_safetensors(path: Path, tensors: dict[str, Tensor], metadata: dict[str, str] | None = None) -> None:
    """Write tensors, contiguous and on the CPU, into a file, which keeps its mode (safetensors' own writer, 0.8, gives it
    another). The largest items come first, so that all are aligned. Raises OSError."""
    header: dict[str, object] = {} if metadata is None else {"__metadata__": metadata}
    ordered = sorted(tensors.items(), key=lambda item: (-item[1].element_size(), item[0]))
    end = 0
    for name, tensor in ordered:
        begin, end = end, end + tensor.numel() * tensor.element_size()
        header[name] = {"dtype": NAMES[tensor.dtype], "shape": list(tensor.shape), "data_offsets": [begin, end]}
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % ALIGNMENT)
    with open(path, "wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for _, tensor in ordered:
            file.write(tensor.reshape(-1).view(torch.uint8).numpy())


def parse_json(text: str):
    """JSON as its standard has it: no NaN, no key twice. Raises ValueError for anything else, at any depth."""
    try:
        return json.loads(text, object_pairs_hook=_object, parse_constant=_no_constant)
    except RecursionError as error:
        raise ValueError("it is nested too deeply") from error


def excerpt(value: object, length: int = 60) -> str:
    """A value of a file, as an error may show it: on one line, cut, and not searched through where it is large."""
    if isinstance(value, str):
        text = value[:length].encode("utf-8", "backslashreplace").decode()
        return repr(text) + ("..." if len(value) > length else "")
    return str(value) if value is None or (isinstance(value, float | int) and abs(value) < 1e9) else type(value).__name__


def _open_at_once(path: str, flags: int) -> int:
    """A named pipe would wait for its other end."""
    handle = os.open(path, flags | getattr(os, "O_NONBLOCK", 0))
    if not stat.S_ISREG(os.fstat(handle).st_mode):
        os.close(handle)
        raise OSError(errno.EINVAL, "it is no ordinary file")
    return handle


def _fill(file: BufferedReader, content: memoryview) -> int:
    done = 0
    while done < len(content) and (count := file.readinto(content[done:])):
        done += count
    return done


def _checked(path: Path, file: BufferedReader) -> SafetensorsFile:
    size, foreign = os.fstat(file.fileno()).st_size, f"{path.name} is not a safetensors file or is damaged"
    length = int.from_bytes(file.read(8), "little")
    if size < 8 or length > min(MAX_HEADER_BYTES, size - 8):
        raise ValueError(f"{foreign} (its header claims {length} bytes of {size}); choose another, or download it again")
    try:
        header = parse_json(file.read(length).decode("utf-8"))
    except ValueError as error:
        raise ValueError(f"{foreign} (its header is no JSON); choose another, or download it again") from error
    if not isinstance(header, dict):
        raise ValueError(f"{foreign} (its header is no JSON object); choose another, or download it again")
    try:
        metadata = _metadata(header.pop("__metadata__", None))
        entries = {name: _entry(name, value) for name, value in header.items()}
        end = _end(entries)
    except ValueError as error:
        raise ValueError(f"{path.name} is corrupt: {error}; download it again") from error
    if size != 8 + length + end:
        state = "truncated" if size < 8 + length + end else "longer than its header says"
        raise ValueError(f"{path.name} is {state} ({size} bytes, expected {8 + length + end}); download it again")
    return SafetensorsFile(path, metadata, entries, file, 8 + length)


def _metadata(found: object) -> dict[str, str]:
    found = {} if found is None else found
    if not isinstance(found, dict) or not all(isinstance(value, str) for value in found.values()):
        raise ValueError("its metadata are not texts by name")
    for key, value in found.items():
        if not (_printable(key) and _printable(value)):
            raise ValueError(f"its metadata {excerpt(key)} are no readable text")
    return found


def _printable(text: str) -> bool:
    try:
        return b"\0" not in text.encode("utf-8")
    except UnicodeEncodeError:  # half of a surrogate pair
        return False


def _entry(name: str, value: object) -> Entry:
    if not isinstance(value, dict) or not {"dtype", "shape", "data_offsets"} <= value.keys() or not _printable(name):
        raise ValueError(f"the tensor {excerpt(name)} has no dtype, shape or place in it")
    dtype, shape, place = (value[key] for key in ("dtype", "shape", "data_offsets"))
    if not isinstance(dtype, str) or dtype not in DTYPES:
        raise ValueError(f"the tensor {excerpt(name)} is of the dtype {excerpt(dtype)}, known are {', '.join(DTYPES)}")
    if not (_counts(shape) and _counts(place) and len(place) == 2 and prod(max(1, size) for size in shape) < 2**63):
        raise ValueError(f"the tensor {excerpt(name)} has no shape or place in it")
    if place[1] - place[0] != prod(shape) * DTYPES[dtype].itemsize:
        raise ValueError(f"the tensor {excerpt(name)} has another size than its shape says")
    return Entry(DTYPES[dtype], tuple(shape), *place)


def _counts(values: object) -> bool:
    return (
        isinstance(values, list)
        and len(values) <= MAX_RANK
        and all(type(value) is int and 0 <= value < 2**63 for value in values)
    )


def _end(entries: dict[str, Entry]) -> int:
    """Where the last tensor ends; ValueError where one begins elsewhere than the one before it ends."""
    end = 0
    for name, entry in sorted(entries.items(), key=lambda item: (item[1].begin, item[1].end)):
        if entry.begin != end:
            raise ValueError(f"the tensor {excerpt(name)} overlaps another, or leaves a gap")
        end = entry.end
    return end


def _object(pairs: list[tuple[str, object]]) -> dict:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("it names an entry twice")
    return found


def _no_constant(name: str):
    raise ValueError(f"it holds {name}")

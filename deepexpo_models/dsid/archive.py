"""Many saved codes as one zip file, out of a library and into one.

    python -m deepexpo_models.dsid.archive export faces.zip output/deepexpo
    python -m deepexpo_models.dsid.archive import faces.zip output/deepexpo

What comes in is checked before anything is written: names that stay in the folder, a bounded number and size, and each file
a whole saved code. Nothing is overwritten.
"""

import argparse
import io
import lzma
import stat
import struct
import tempfile
import zipfile
import zlib
from collections.abc import Callable, Collection, Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path, PurePath, PurePosixPath
from typing import TypeVar

from ..errors import first_line
from ..safetensors_file import excerpt
from ..weights import read_header
from ..whole_files import write_file
from .files import load_identity, load_semantics

SUFFIX = ".safetensors"
MOST_FILES = 1000
LARGEST_FILE, LARGEST_ARCHIVE = 16 << 20, 256 << 20  # bytes, unpacked
LARGEST_PACKED = LARGEST_ARCHIVE + MOST_FILES * 4096  # bytes of the zip file: codes hardly shrink, and names come to them
MOST_PARTS = 8  # of a name, with slashes between
LONGEST_PART, LONGEST_BYTES = 120, 240  # letters of a part, and bytes
NUMBER = len(f"_{MOST_FILES}")  # letters that are left free for one
REFUSED = str.maketrans(dict.fromkeys((*map(chr, range(32)), *'\\:*?"<>|'), "_"))  # what some systems refuse in a name
LOADERS = {"identity": load_identity, "semantics": load_semantics}
PathKind = TypeVar("PathKind", bound=PurePath)
DAMAGED = (  # what Python raises for archives that are encrypted, odd or damaged
    zipfile.BadZipFile, zlib.error, lzma.LZMAError, struct.error, ValueError, RuntimeError, LookupError, EOFError, OSError,
)  # fmt: skip


def export_codes(files: Iterable[tuple[str, Path]]) -> bytes:
    """(name, path of a saved code) each -> a zip file's bytes, which `import_codes` takes: names become their `shared_name`,
    and of those that are the same all but one get a number. Raises ValueError for other files, too many or too large ones, and
    for no files at all."""
    files = list(files)
    if not files:
        raise ValueError("there is nothing to export; save a code first")
    _check_sizes([(name, path.stat().st_size if path.is_file() else 0) for name, path in files])
    taken: set[str] = set()
    written = io.BytesIO()
    with zipfile.ZipFile(written, "w", strict_timestamps=False) as archive:
        for name, path in files:
            _check(path)
            free = _free(PurePosixPath(shared_name(name, NUMBER)), lambda other: str(other).casefold() in taken)
            archive.write(path, str(free))
            taken.add(str(free).casefold())
    return written.getvalue()


def import_codes(content: bytes, folder: Path) -> list[Path]:
    """A zip file's bytes -> its codes as files below the folder, all or none; a name that is taken gets a number.

    Raises ValueError, in one sentence, for anything but an archive of saved codes within the bounds, and WriteError where a
    file cannot be written; then nothing of the archive is in the folder.
    """
    with tempfile.TemporaryDirectory() as aside:
        names = _unpack(content, Path(aside))
        return _place((Path(aside, str(number)), folder / name) for number, name in enumerate(names))


def shared_name(name: str, room: int = 0) -> str:
    """A code's name as every system can have it below a folder: what one of them refuses becomes _, and long parts are cut, to
    `room` letters less than they may have. A shared name stays as it is."""
    plain = name.encode("utf-8", "replace").decode().translate(REFUSED)
    *parents, last = str(PurePosixPath(plain)).split("/")
    stem = last[: -len(SUFFIX)] if last.lower().endswith(SUFFIX) else last
    suffix = last[len(stem) :] or SUFFIX
    folders = [folder for folder in map(_cut, parents) if folder.strip(". ")]
    return "/".join([*folders[1 - MOST_PARTS :], (_cut(stem, room + len(suffix)) or "code") + suffix])


def too_large(size: int) -> str:
    """One sentence for a zip file of that many bytes."""
    return f"the archive has {size >> 20} MB, at most {LARGEST_PACKED >> 20} are taken; split it"


def _cut(part: str, room: int = 0) -> str:
    return part[: LONGEST_PART - room].encode()[: LONGEST_BYTES - room].decode(errors="ignore")


def _place(files: Iterable[tuple[Path, Path]]) -> list[Path]:
    """Copy (from, wanted path) each -> where they are; whatever fails, none is there."""
    written: list[Path] = []
    made: list[Path] = []  # folders
    try:
        for source, wanted in files:
            made += [folder for folder in wanted.parents if not folder.exists()]
            path = _free(wanted, Path.exists)
            with write_file(path) as beside:
                beside.write_bytes(source.read_bytes())
            written.append(path)
    except BaseException:
        for path in written:
            path.unlink(missing_ok=True)
        for folder in sorted(made, key=lambda path: -len(path.parts)):
            with suppress(OSError):  # another file has come into it
                folder.rmdir()
        raise
    return written


def _unpack(content: bytes, aside: Path) -> list[PurePosixPath]:
    """Every file of the archive, checked, as aside/0, aside/1, ... -> their names."""
    if len(content) > LARGEST_PACKED:
        raise ValueError(too_large(len(content)))
    with _reading():
        archive = zipfile.ZipFile(io.BytesIO(content))
        entries = [entry for entry in archive.infolist() if not entry.is_dir()]
    if not entries:
        raise ValueError("the archive holds no files; export saved codes into it first")
    _check_sizes([(entry.filename, entry.file_size) for entry in entries])
    names = [_safe_name(entry) for entry in entries]
    for number, (entry, name) in enumerate(zip(entries, names)):
        with _reading(), archive.open(entry) as packed:
            unpacked = packed.read(LARGEST_FILE)
        path = aside / str(number)
        path.write_bytes(unpacked)
        _check(path, name.name)
    return names


@contextmanager
def _reading() -> Iterator[None]:
    try:
        yield
    except DAMAGED as error:
        raise ValueError(f"this is no archive of saved codes ({first_line(error, 80)}); export it again") from error


def _check_sizes(files: Collection[tuple[str, int]]) -> None:
    """(name, bytes) each. Raises ValueError for more than an archive may hold."""
    if len(files) > MOST_FILES:
        raise ValueError(f"{len(files)} files are too many for one archive (at most {MOST_FILES}); split it")
    for name, size in files:
        if size > LARGEST_FILE:
            raise ValueError(f"{excerpt(name)} has {size >> 20} MB, a code at most {LARGEST_FILE >> 20}; leave it out")
    if (total := sum(size for _, size in files)) > LARGEST_ARCHIVE:
        raise ValueError(f"the archive unpacks to {total >> 20} MB, at most {LARGEST_ARCHIVE >> 20} are taken; split it")


def _safe_name(entry: zipfile.ZipInfo) -> PurePosixPath:
    """The entry's name. Raises ValueError for any but a `shared_name`, and for a link."""
    name = PurePosixPath(entry.filename)
    if str(name) != shared_name(entry.filename) or stat.S_ISLNK(entry.external_attr >> 16):
        raise ValueError(f"{excerpt(entry.filename)} is no name of a saved code in a library; leave it out of the archive")
    return name


def _check(path: Path, name: str = "") -> None:
    """Raises ValueError unless it is a whole identity or semantics file, in the name that people know it by."""
    try:
        kind = read_header(path).kind
        if kind not in LOADERS:
            raise ValueError(f"{path.name} holds {kind} data, no saved code; leave it out")
        LOADERS[kind](path)
    except ValueError as error:
        raise ValueError(str(error).replace(path.name, name or path.name, 1)) from error


def _free(path: PathKind, is_taken: Callable[[PathKind], bool]) -> PathKind:
    number, free = 2, path
    while is_taken(free):
        free, number = path.with_stem(f"{path.stem}_{number}"), number + 1
    return free


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description="Many saved codes as one zip file.")
    parser.add_argument("what", choices=("export", "import"))
    parser.add_argument("archive", type=Path)
    parser.add_argument("folder", type=Path, help="of saved codes, e.g. ComfyUI's output/deepexpo")
    given = parser.parse_args(argv)
    if given.what == "export":
        files = [(path.relative_to(given.folder).as_posix(), path) for path in sorted(given.folder.rglob(f"*{SUFFIX}"))]
        with write_file(given.archive) as beside:
            beside.write_bytes(export_codes(files))
        print(f"{len(files)} codes in {given.archive}")
    else:
        for path in import_codes(given.archive.read_bytes(), given.folder):
            print(path)


if __name__ == "__main__":
    main()

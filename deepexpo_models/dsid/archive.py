"""Many saved codes as one zip file, out of a library and into one.

    python -m deepexpo_models.dsid.archive export faces.zip output/deepexpo
    python -m deepexpo_models.dsid.archive import faces.zip output/deepexpo

What comes in is checked before anything is written: names that stay in the folder, a bounded number and size, and each file
a whole saved code. Nothing is overwritten.
"""

import argparse
import io
import stat
import tempfile
import zipfile
from collections.abc import Mapping
from pathlib import Path, PurePosixPath

from ..errors import first_line
from ..safetensors_file import excerpt
from ..weights import read_header
from ..whole_files import write_file
from .files import load_identity, load_semantics

SUFFIX = ".safetensors"
MOST_FILES = 1000
LARGEST_FILE, LARGEST_ARCHIVE = 16 << 20, 256 << 20  # bytes, unpacked
LONGEST_PART = 120  # letters of a name between two slashes
LOADERS = {"identity": load_identity, "semantics": load_semantics}


def export_codes(files: Mapping[str, Path]) -> bytes:
    """{name in the archive: path of a saved code} -> a zip file's bytes. Raises ValueError for other files, too many or too
    large ones, and for no files at all."""
    if not files:
        raise ValueError("there is nothing to export; save a code first")
    if len(files) > MOST_FILES:
        raise ValueError(f"{len(files)} files are too many for one archive (at most {MOST_FILES}); export fewer")
    written = io.BytesIO()
    with zipfile.ZipFile(written, "w") as archive:
        for name, path in files.items():
            _check(path)
            archive.write(path, name)
    return written.getvalue()


def import_codes(content: bytes, folder: Path) -> list[Path]:
    """A zip file's bytes -> its codes as files below the folder, all or none; a name that is taken gets a number.

    Raises ValueError, in one sentence, for anything but an archive of saved codes within the bounds.
    """
    with tempfile.TemporaryDirectory() as aside:
        names = _unpack(content, Path(aside))
        paths = []
        for number, name in enumerate(names):
            path = _free(folder / name)
            with write_file(path) as beside:
                beside.write_bytes(Path(aside, str(number)).read_bytes())
            paths.append(path)
        return paths


def _unpack(content: bytes, aside: Path) -> list[PurePosixPath]:
    """Every file of the archive, checked, as aside/0, aside/1, ... -> their names."""
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            entries = [entry for entry in archive.infolist() if not entry.is_dir()]
            _check_sizes(entries)
            names = [_safe_name(entry) for entry in entries]
            for number, (entry, name) in enumerate(zip(entries, names)):
                path = aside / str(number)
                with archive.open(entry) as packed:
                    path.write_bytes(packed.read(LARGEST_FILE))
                _check(path, name.name)
    except (zipfile.BadZipFile, RuntimeError, NotImplementedError, EOFError, OSError) as error:  # encrypted, odd or damaged
        raise ValueError(f"this is no archive of saved codes ({first_line(error, 80)}); export it again") from error
    return names


def _check_sizes(entries: list[zipfile.ZipInfo]) -> None:
    if not entries:
        raise ValueError("the archive holds no files; export saved codes into it first")
    if len(entries) > MOST_FILES:
        raise ValueError(f"the archive holds {len(entries)} files, at most {MOST_FILES} are taken; split it")
    for entry in entries:
        if entry.file_size > LARGEST_FILE:
            raise ValueError(
                f"{excerpt(entry.filename)} has {entry.file_size >> 20} MB, a code at most {LARGEST_FILE >> 20}; leave it out"
            )
    if (total := sum(entry.file_size for entry in entries)) > LARGEST_ARCHIVE:
        raise ValueError(f"the archive unpacks to {total >> 20} MB, at most {LARGEST_ARCHIVE >> 20} are taken; split it")


def _safe_name(entry: zipfile.ZipInfo) -> PurePosixPath:
    """The entry's name, which stays below a folder on every system. Raises ValueError for any other."""
    name = PurePosixPath(entry.filename)
    bad = set('\\:*?"<>|') & set(entry.filename) or any(ord(letter) < 32 for letter in entry.filename)
    parts_are_plain = all(part.strip(". ") and len(part) <= LONGEST_PART for part in name.parts)
    linked = stat.S_ISLNK(entry.external_attr >> 16)
    if name.is_absolute() or bad or not parts_are_plain or linked or name.suffix.lower() != SUFFIX or len(name.parts) > 8:
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


def _free(path: Path) -> Path:
    number, free = 2, path
    while free.exists():
        free, number = path.with_stem(f"{path.stem}_{number}"), number + 1
    return free


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description="Many saved codes as one zip file.")
    parser.add_argument("what", choices=("export", "import"))
    parser.add_argument("archive", type=Path)
    parser.add_argument("folder", type=Path, help="of saved codes, e.g. ComfyUI's output/deepexpo")
    given = parser.parse_args(argv)
    if given.what == "export":
        files = {path.relative_to(given.folder).as_posix(): path for path in sorted(given.folder.rglob(f"*{SUFFIX}"))}
        given.archive.write_bytes(export_codes(files))
        print(f"{len(files)} codes in {given.archive}")
    else:
        for path in import_codes(given.archive.read_bytes(), given.folder):
            print(path)


if __name__ == "__main__":
    main()

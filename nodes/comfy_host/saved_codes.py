"""Saved codes in ComfyUI's output and input folders, by ComfyUI's annotated names ("deepexpo/me_00001_.safetensors [output]"),
and those that come with the pack ("expressions/happy.safetensors [pack]").

Which folders these are, and whether a link out of them may be followed, is ComfyUI's to say (0.28 began to refuse such links).
"""

import logging
import os
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import folder_paths

from ...deepexpo_models.safetensors_file import excerpt
from .headers import FOLDER, SUFFIX, is_name, kind_of

PACK, EXPRESSIONS = Path(__file__).parents[2], "expressions"  # the pack's own folder of codes, in its root
OUTPUT, INPUT, SHIPPED = " [output]", "", " [pack]"  # how names end
MOST_FOLDERS = 10_000  # folders that link to each other would never end
SETTLED = 0.1  # seconds after which a folder's time tells of any later change
LONGEST_NAME = 255  # bytes, of common file systems

logger = logging.getLogger(__name__)


@dataclass
class Listing:
    """What was found below a root; valid while no folder has changed."""

    kinds: dict[str, tuple[str, str]] = field(default_factory=dict)  # annotated name -> (path, kind)
    folders: dict[str, int | None] = field(default_factory=dict)  # folder -> its time in ns, None: changed just now

    def is_current(self) -> bool:
        return all(time is not None and _modified(folder) == time for folder, time in self.folders.items())


_listings: dict[tuple[str, str], Listing] = {}
_refused: set[str] = set()  # names that the log has told of


def code_names(kind: str) -> list[str]:
    """Saved codes of a kind in output/deepexpo and input/deepexpo, then the pack's; last those that cannot be read."""
    known = [item for root in _roots() for item in _current(*root).kinds.items()]
    kinds = {name: found or kind_of(path) for name, (path, found) in known}  # a bad file may have been repaired in place
    return [name for name in kinds if kinds[name] == kind] + [name for name in kinds if not kinds[name]]


def code_path(name: str) -> Path:
    """An annotated name -> its path. Raises ValueError when it does not exist or lies outside ComfyUI's folders."""
    if not is_name(name):
        raise ValueError(f"{excerpt(name)} is not the name of a saved code; choose one from the list")
    if name.endswith(SHIPPED):
        base = os.path.join(PACK, EXPRESSIONS)
        relative = os.path.relpath(name.removesuffix(SHIPPED), EXPRESSIONS)
    else:
        relative, base = folder_paths.annotated_filepath(name)
        base = os.path.abspath(base or folder_paths.get_input_directory())
    path = os.path.abspath(os.path.join(base, relative))
    if not path.startswith(os.path.join(base, "")) or not _followed(name):
        raise ValueError(f"{excerpt(name)} lies outside ComfyUI's input and output folders; move it into output/{FOLDER}")
    if not os.path.isfile(path):
        raise ValueError(f"{excerpt(name)} does not exist; save a code first, or put the file into input/{FOLDER}")
    return Path(path)


def new_code_path(filename_prefix: str) -> tuple[Path, str]:
    """A free path in the output folder, numbered as ComfyUI numbers pictures, and its annotated name.

    Raises ValueError for a prefix that can be no name there, or whose file Load could not read again.
    """
    try:
        output = folder_paths.get_output_directory()
        folder, stem, counter, subfolder, _ = folder_paths.get_save_image_path(filename_prefix, output)
        file = f"{stem}_{counter:05}_{SUFFIX}"
        length = len(os.fsencode(file))
    except Exception as error:  # ComfyUI raises bare ones, with the server's paths in them
        raise ValueError(
            f"{excerpt(filename_prefix)} cannot be a name in ComfyUI's output folder; choose another filename_prefix"
        ) from error
    if length > LONGEST_NAME:
        raise ValueError(f"{excerpt(stem)} is too long for a file's name by {length - LONGEST_NAME} bytes; shorten it")
    name = f"{Path(subfolder, file).as_posix()}{OUTPUT}"
    if not _followed(name):
        raise ValueError(f"{excerpt(name)} lies behind a link that ComfyUI does not follow; choose another filename_prefix")
    return Path(folder, file), name


def library_name(path: Path) -> str:
    """The annotated name of a file below the output folder."""
    return f"{path.relative_to(folder_paths.get_output_directory()).as_posix()}{OUTPUT}"


def plain_name(name: str) -> str:
    """An annotated name without the folder of all codes and without its end: "deepexpo/ann.safetensors [output]" ->
    "ann.safetensors"."""
    return name.removesuffix(OUTPUT).removesuffix(SHIPPED).removeprefix(f"{FOLDER}/")


def import_folder() -> Path:
    """Where imported codes go: listed like saved ones."""
    return Path(folder_paths.get_output_directory(), FOLDER, "imported")


def _roots() -> tuple[tuple[str, str, str], ...]:
    """(folder, subfolder with codes, how their names end)"""
    return (
        (folder_paths.get_output_directory(), FOLDER, OUTPUT),
        (folder_paths.get_input_directory(), FOLDER, INPUT),
        (os.fspath(PACK), EXPRESSIONS, SHIPPED),
    )


def _current(root: str, subfolder: str, note: str) -> Listing:
    if (root, note) not in _listings or not _listings[root, note].is_current():
        _listings[root, note] = _read(root, subfolder, note)
    return _listings[root, note]


def _read(root: str, subfolder: str, note: str) -> Listing:
    listing = Listing()
    top = os.path.join(root, subfolder)
    for path, linked in _files(top, os.path.islink(top), (), listing.folders):
        name = Path(path).relative_to(root).as_posix() + note
        if linked and not _followed(name):
            if name not in _refused:
                _refused.add(name)
                logger.warning("DeepExPo does not list %s: it lies behind a link that ComfyUI does not follow", name)
            continue
        listing.kinds[name] = (path, kind_of(path))
    return listing


def _files(folder: str, linked: bool, above: tuple, folders: dict[str, int | None]) -> Iterator[tuple[str, bool]]:
    """(path, whether a link leads to it) of every code file at or below a folder, in order; a loop of links is cut."""
    try:
        status = os.stat(folder)
        with os.scandir(folder) as entries:
            found = sorted(entries, key=lambda entry: entry.name)
    except OSError:  # not there, or not for us
        folders[folder] = _modified(folder)
        return
    here = (status.st_dev, status.st_ino)
    if here in above or len(folders) >= MOST_FOLDERS:
        return
    folders[folder] = status.st_mtime_ns if time.time() - status.st_mtime > SETTLED else None
    for entry in found:
        behind = linked or entry.is_symlink()
        if entry.is_dir():
            yield from _files(entry.path, behind, (*above, here), folders)
        elif entry.name.lower().endswith(SUFFIX):
            yield entry.path, behind


def _modified(folder: str) -> int:
    """Its time in ns; 0 where there is none."""
    try:
        return os.stat(folder).st_mtime_ns
    except OSError:
        return 0


def _followed(name: str) -> bool:
    if name.endswith(SHIPPED):  # links out of the pack are the installer's own
        return True
    try:
        folder_paths.get_annotated_filepath(name)
    except ValueError:
        return False
    return True

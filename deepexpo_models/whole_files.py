"""Files and folders that are there whole or not at all: written beside under another name, brought to the disk, renamed.

What a killed process leaves is named `.deepexpo-<random>.partial` and is removed by the next write into that folder: a living
writer keeps a lock on what it writes (where the system has such locks; elsewhere what is a day old counts as dead).
"""

import errno
import os
import secrets
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from safetensors import SafetensorError

from .errors import first_line

try:
    import fcntl
except ImportError:  # Windows: an open file cannot be removed there
    fcntl = None  # type: ignore[assignment]

PREFIX, SUFFIX = ".deepexpo-", ".partial"  # of a fixed length, so that a long file name does not become too long
DEAD_AFTER = 24 * 3600  # seconds without a write, where no lock tells


class WriteError(OSError):
    """A file could not be written: which one, why, and what to do, in one sentence. What stood there before still stands."""


@contextmanager
def write_file(path: Path) -> Iterator[Path]:
    """Around the writing of one file, to the path that is yielded. Its mode is that of any new file (0666 less the umask).

    Raises WriteError when the disk is full or refuses; after any exception the earlier file of that name is untouched.
    """
    with _written(
        Path(path), lambda partial: os.close(os.open(partial, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666))
    ) as beside:
        yield beside
        _to_disk(beside)


def write_text(path: Path, text: str) -> None:
    """One file of text in UTF-8, by `write_file`."""
    with write_file(path) as beside:
        beside.write_text(text, encoding="utf-8")


@contextmanager
def write_folder(path: Path, replace: bool = True) -> Iterator[Path]:
    """Around the writing of a folder of files, into the empty folder that is yielded; a folder of that name is replaced, or,
    where it may not be, stays, and WriteError is raised.

    Raises WriteError as `write_file` does.
    """
    with _written(Path(path), os.mkdir) as beside:
        yield beside
        for part in (*beside.rglob("*"), beside):
            _to_disk(part)
        if replace and Path(path).is_dir():  # only an empty folder can be replaced in one step
            shutil.rmtree(path)


@contextmanager
def _written(path: Path, create) -> Iterator[Path]:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        remove_leftovers(path.parent)
        beside = path.parent / f"{PREFIX}{secrets.token_hex(8)}{SUFFIX}"
        create(beside)
        with _locked(beside):
            try:
                yield beside
                os.replace(beside, path)
            except BaseException:
                _remove(beside)
                raise
        _to_disk(path.parent)
    except WriteError:
        raise
    except (OSError, SafetensorError) as error:
        raise WriteError(
            f"{path.name} could not be written ({_reason(error)}); make room or choose another folder or name, "
            f"what stood there before is untouched"
        ) from error


def remove_leftovers(folder: Path) -> None:
    """Remove what killed writers left in a folder."""
    for leftover in Path(folder).glob(f"{PREFIX}*{SUFFIX}"):
        with suppress(OSError), _locked(leftover, wait=False) as ours:
            if ours or time.time() - leftover.stat().st_mtime > DEAD_AFTER:
                _remove(leftover)


@contextmanager
def _locked(path: Path, wait: bool = True) -> Iterator[bool]:
    """Hold a file's or folder's lock; False where there are none. BlockingIOError where another holds it and we do not wait."""
    if fcntl is None:
        yield False
        return
    handle = os.open(path, os.O_RDONLY)
    try:
        yield _lock(handle, wait)
    finally:
        os.close(handle)


def _lock(handle: int, wait: bool) -> bool:
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
    except BlockingIOError:
        raise
    except OSError:  # some shared drives have no locks
        return False
    return True


def _to_disk(path: Path) -> None:
    """Raises OSError when the disk is full only now; a drive or a folder that cannot be asked is left to its own."""
    try:
        handle = os.open(path, os.O_RDONLY if fcntl else os.O_RDWR)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EIO):
            raise


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


def _reason(error: Exception) -> str:
    return getattr(error, "strerror", None) or first_line(error, 120)

"""One writer to a folder: a second training or preparation there is refused, and told who is at work.

The claim is a lock of the system's on the file `.in-use`, which ends with its process however that ends; the text in it says
who holds it. Where a drive has no locks, nothing is refused.
"""

import errno
import os
import platform
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

FILE = ".in-use"
TAKEN = (errno.EACCES, errno.EAGAIN, errno.EDEADLK)

_held: dict[str, list[int]] = {}  # real path -> the file's handle, and how many claims of this process it serves


class InUse(ValueError):
    """Another process writes to the folder: which one, and what to do, in one sentence."""


def claim(folder: Path) -> str:
    """Claim an existing folder for this process, for `release`; a process may claim its own folder again.

    Raises InUse while another process holds it, and OSError where the folder cannot be written.
    """
    key = os.path.realpath(folder)
    if key in _held:
        _held[key][1] += 1
        return key
    handle = os.open(os.path.join(key, FILE), os.O_RDWR | os.O_CREAT, 0o666)
    try:
        _lock(handle)
    except OSError as error:
        who = _read(handle)
        os.close(handle)
        if error.errno in TAKEN:
            raise InUse(f"{folder} is being written by {who}; wait until it has ended, or choose another --out") from error
        return key  # a drive without locks
    os.ftruncate(handle, 0)
    os.write(handle, _who().encode("utf-8", "replace"))
    _held[key] = [handle, 1]
    return key


def release(key: str) -> None:
    """Give up a claim of `claim`."""
    if key in _held:
        _held[key][1] -= 1
        if not _held[key][1]:
            handle, _ = _held.pop(key)
            os.ftruncate(handle, 0)
            os.close(handle)  # and with it goes the lock


@contextmanager
def claimed(folder: Path) -> Iterator[None]:
    """Around the writing into a folder, made where missing. Raises ValueError where it cannot be written, or is claimed."""
    try:
        Path(folder).mkdir(parents=True, exist_ok=True)
        key = claim(folder)
    except OSError as error:
        raise ValueError(f"the folder {folder} cannot be written ({error.strerror}); choose another --out") from error
    try:
        yield
    finally:
        release(key)


def _who() -> str:
    command = " ".join([os.path.basename(sys.argv[0]), *sys.argv[1:]])
    return f"process {os.getpid()} on {platform.node()} since {time.strftime('%Y-%m-%d %H:%M:%S')} ({command[:200]})"


def _read(handle: int) -> str:
    with suppress(OSError):
        return os.read(handle, 400).decode("utf-8", "replace").replace("\n", " ") or "another process"
    return "another process"


if os.name == "nt":
    import msvcrt

    def _lock(handle: int) -> None:
        os.lseek(handle, 1 << 30, os.SEEK_SET)  # far behind the text, which others are to read
        windows: Any = msvcrt  # what it holds depends on the system, for a checker of types too
        windows.locking(handle, windows.LK_NBLCK, 1)
        os.lseek(handle, 0, os.SEEK_SET)
else:
    import fcntl

    def _lock(handle: int) -> None:
        fcntl.lockf(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)

"""What stands at a path, for schemas and fingerprints: headers are read once per state of a file, and no file is an error."""

import logging
import os
from pathlib import Path

from ...deepexpo_models.errors import sentence
from ...deepexpo_models.weights import read_header

FOLDER = "deepexpo"  # folder key, as in extra_model_paths.yaml, and subfolder of output and input for saved codes
SUFFIX = ".safetensors"

logger = logging.getLogger(__name__)

_kinds: dict[str, tuple[tuple[int, ...] | None, str]] = {}  # path -> its state and kind when it was read


def kind_of(path: str | Path) -> str:
    """The kind that a file's header tells; "" for one that cannot be read, which the log says once."""
    path, state = os.fspath(path), file_state(path)
    if path not in _kinds or _kinds[path][0] != state:
        _kinds[path] = (state, _read_kind(path))
    return _kinds[path][1]


def file_state(path: str | Path) -> tuple[int, ...] | None:
    """What changes when a file is replaced or written to: size, times, number on its disk; None where there is none."""
    try:
        status = os.stat(path)
    except (OSError, ValueError):
        return None
    return status.st_size, status.st_mtime_ns, status.st_ctime_ns, status.st_ino


def is_name(name) -> bool:
    """Whether it can be a file's name at all; what JSON brings may be a number, or text that no file system can hold."""
    try:
        return isinstance(name, str) and b"\0" not in os.fsencode(name)
    except UnicodeEncodeError:
        return False


def fingerprint(path: str | Path) -> str:
    """For a loader's fingerprint_inputs: another text whenever the file is another."""
    return " ".join(map(str, file_state(path) or ()))


def _read_kind(path: str) -> str:
    try:
        return read_header(Path(path)).kind
    except Exception as error:  # a schema that fails would take the node away from everyone
        logger.warning("DeepExPo lists %s last: %s", os.path.basename(path), sentence(error))
        return ""

"""Face detectors and recognisers, kept open between executions; opened anew when the model packs change on disk."""

from functools import lru_cache
from pathlib import Path

from ...deepexpo_models.faces import open_recogniser
from ...deepexpo_models.faces.find import OpenedDetector, open_detector
from .folders import insightface_roots


def face_detector(choice: str) -> OpenedDetector:
    """See `faces.find.open_detector`."""
    return _detector(choice, *_packs())


def face_recogniser(name: str):
    """See `faces.open_recogniser`."""
    return _recogniser(name, *_packs())


def _packs() -> tuple[tuple[Path, ...], tuple]:
    """The folders that hold insightface's packs, and what is in them."""
    roots = tuple(insightface_roots())
    files = sorted(path for root in roots for path in root.glob("models/*/*.onnx"))
    return roots, tuple((path, *_state(path)) for path in files)


def _state(path: Path) -> tuple[int, ...]:
    try:
        found = path.stat()
    except OSError:  # a broken link
        return ()
    return found.st_mtime_ns, found.st_size


@lru_cache(maxsize=1)
def _detector(choice: str, roots: tuple[Path, ...], _files: tuple) -> OpenedDetector:
    return open_detector(choice, roots)


@lru_cache(maxsize=1)
def _recogniser(name: str, roots: tuple[Path, ...], _files: tuple):
    return open_recogniser(name, roots)

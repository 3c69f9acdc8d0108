"""Where the landmarker's model file is, and the landmarker kept open between executions."""

import os
from functools import lru_cache
from pathlib import Path

import folder_paths

from ...deepexpo_models.faces.landmarks import TASK, open_landmarker
from .folders import FOLDER

KEYS = ("detection", "mediapipe", FOLDER)  # folder keys, or folders below models


def task_file() -> Path | None:
    """The .task file in models/detection, models/mediapipe or models/deepexpo, or the roots of these keys."""
    known = folder_paths.folder_names_and_paths
    roots = [root for key in KEYS for root in (folder_paths.get_folder_paths(key) if key in known else [])]
    roots += [os.path.join(folder_paths.models_dir, key) for key in KEYS]
    return next((path for root in dict.fromkeys(roots) if (path := Path(root, TASK)).is_file()), None)


def landmarker(faces: int, confidence: float):
    """See `faces.landmarks.open_landmarker`; raises ValueError, in one sentence, where it cannot be had."""
    path = task_file()
    return _opened(path, path.stat().st_mtime_ns if path else 0, faces, confidence)


@lru_cache(maxsize=1)
def _opened(path: Path | None, _changed: int, faces: int, confidence: float):
    return open_landmarker(path, faces, confidence)

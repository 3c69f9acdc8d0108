"""Face landmarks by ComfyUI's own landmarker where it has one and its file, else by MediaPipe's package; what was opened stays
open between executions."""

import os
from functools import lru_cache
from pathlib import Path

import folder_paths
import torch
from torch import Tensor

from ...deepexpo_models.errors import first_line
from ...deepexpo_models.faces.detectors import DetectorUnavailable
from ...deepexpo_models.faces.landmarks import TASK, find_landmarks, open_landmarker
from ...deepexpo_models.image import require_pictures
from .folders import FOLDER

KEYS = ("detection", "mediapipe", FOLDER)  # folder keys, or folders below models
CORE = "mediapipe_face_fp32.safetensors"
CORE_SOURCE = f"huggingface.co/Comfy-Org/mediapipe/resolve/main/detection/{CORE}"


@torch.no_grad()
def landmarks_of(images: Tensor, faces: int, confidence: float) -> dict:
    """images (B, H, W, C) in [0, 1] -> FACE_LANDMARKS, at most `faces` of a picture, or 0 for all. Raises
    DetectorUnavailable, in one sentence, where no landmarker can be had."""
    require_pictures(images)
    core, file = core_nodes(), model_file(CORE)
    if core is not None and file is not None:
        model = _core_model(file, file.stat().st_mtime_ns)
        found = core.MediaPipeFaceLandmarker.execute(model, images[..., :3], "short", faces, confidence, "empty")
        return found.args[0]
    task = model_file(TASK)
    if core is not None and task is None:
        raise DetectorUnavailable(f"{CORE} (ComfyUI's own face landmarker) is missing; put {CORE_SOURCE} into models/detection")
    return find_landmarks(_opened(task, task.stat().st_mtime_ns if task else 0, faces, confidence), images)


def core_nodes():
    """The module of core's landmarker, or None: before ComfyUI 0.23."""
    try:
        from comfy_extras import nodes_mediapipe
    except ImportError:
        return None
    return nodes_mediapipe


def model_file(name: str) -> Path | None:
    """The file in models/detection, models/mediapipe or models/deepexpo, or the roots of these keys."""
    known = folder_paths.folder_names_and_paths
    roots = [root for key in KEYS for root in (folder_paths.get_folder_paths(key) if key in known else [])]
    roots += [os.path.join(folder_paths.models_dir, key) for key in KEYS]
    return next((path for root in dict.fromkeys(roots) if (path := Path(root, name)).is_file()), None)


@lru_cache(maxsize=1)
def _core_model(path: Path, _changed: int):
    import comfy.utils

    try:
        return core_nodes().FaceLandmarkerModel(comfy.utils.load_torch_file(str(path), safe_load=True))
    except (MemoryError, torch.cuda.OutOfMemoryError):
        raise
    except Exception as error:  # another file of that name, or a damaged one
        reason = first_line(error, 100)
        raise DetectorUnavailable(f"{path.name} cannot be used ({reason}); download it again from {CORE_SOURCE}") from error


@lru_cache(maxsize=1)
def _opened(path: Path | None, _changed: int, faces: int, confidence: float):
    return open_landmarker(path, faces, confidence)

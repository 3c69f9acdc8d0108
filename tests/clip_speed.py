"""How fast a clip becomes codes, part by part and one frame at a time: CPU time on one thread.

`python tests/comfy/benchmark.py --only clips --write` puts the table into docs.
"""

import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor

from deepexpo_models.dsid import CONFIGS, DSID, load_dsid
from deepexpo_models.dsid.precision import has_bfloat16, use_bfloat16
from deepexpo_models.faces.crop import crop_face
from deepexpo_models.faces.find import open_detector
from deepexpo_models.faces.track import Tracker
from deepexpo_models.image import comfy_to_model
from deepexpo_models.pipeline.photos import each_photo, write_clip

ROOT = Path(__file__).resolve().parents[1]
FRAMES, SIDE, PIXELS = 48, 300, 512  # of the clip: how many, what of the photograph is seen, how large
PARTS = ("decode", "find the face", "crop", "semantics", "identity")


def write_astronaut(path: Path) -> None:
    """scikit-image's astronaut (NASA, public domain), past whom the camera moves: PIXELS square, H.264."""
    from skimage.data import astronaut

    photo = Image.fromarray(astronaut())
    boxes = [(60 + n, n // 2, 60 + n + SIDE, n // 2 + SIDE) for n in range(FRAMES)]
    write_clip(path, [photo.resize((PIXELS, PIXELS), Image.Resampling.BICUBIC, box) for box in boxes], 24)


def encoders(bfloat16: bool) -> dict[str, DSID]:
    """The shipped DSID for photographs, and one of random weights of the largest size."""
    largest = DSID(replace(CONFIGS["base"], generator_channels=(), discriminator_channels=()))
    found = {"photo-dsid": load_dsid(ROOT / "weights" / "photo-dsid.safetensors").float(), "base": largest.eval()}
    if bfloat16:
        for model in found.values():
            use_bfloat16(model)
    return found


@torch.no_grad()
def milliseconds(path: Path, model: DSID) -> tuple[dict[str, float], int]:
    """Part -> the median of a clip's frames, the first aside; and how many whole pictures were searched for a face."""
    tracker, frames, times = Tracker(open_detector("auto")), each_photo(path), {part: [] for part in PARTS}
    size = model.config.image_size

    def timed(part: str, call: Callable):
        began = time.process_time()
        result = call()
        times[part].append(1e3 * (time.process_time() - began))
        return result

    while (frame := timed("decode", lambda: next(frames, None))) is not None:
        face = timed("find the face", lambda frame=frame: tracker.find(frame).face)
        crop = timed("crop", lambda frame=frame, face=face: _crop(frame, face, size))
        timed("semantics", lambda crop=crop: model.encode_semantics(crop))
        timed("identity", lambda crop=crop: model.encode_identity(crop))
    return {part: statistics.median(found[1:]) for part, found in times.items()}, tracker.searches


def _crop(frame: Tensor, face, size: int) -> Tensor:
    return comfy_to_model(crop_face(frame, face, size=size)[0][None])


def rows() -> list[list[str]]:
    """DSID, number format, each part in ms, frames a second (file to codes, without identity, semantics alone), searches."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder, "clip.mp4")
            write_astronaut(path)
            formats = {"float32": False, "bfloat16": True} if has_bfloat16(torch.device("cpu")) else {"float32": False}
            return [
                _row(name, label, *milliseconds(path, model))
                for label, half in formats.items()
                for name, model in encoders(half).items()
            ]
    finally:
        torch.set_num_threads(threads)


def _row(name: str, label: str, parts: dict[str, float], searches: int) -> list[str]:
    whole, semantics = sum(parts.values()), sum(parts.values()) - parts["identity"]
    alone = 1e3 / parts["semantics"]
    figures = [f"{parts[part]:.1f}" for part in PARTS]
    return [name, label, *figures, f"{1e3 / whole:.0f}", f"{1e3 / semantics:.0f}", f"{alone:.0f}", str(searches)]

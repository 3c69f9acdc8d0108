"""The faces that Sample Face gives: python -m deepexpo_models.data.heads.samples --model heads.npz --out workflows/samples

Rendered people of the test split, before a plain background: three at rest, five with an expression or a turn of the head, and
one in a clip, whose frames stand side by side in one file; and the face in scikit-image's picture of an astronaut (Eileen
Collins, by NASA, in the public domain).
"""

import argparse
import math
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from ...faces.crop import crop_face
from ...faces.detectors import Face
from ...head import ARKIT52
from ...head.expressions import preset_units
from ...image import bytes_to_comfy, comfy_to_bytes
from .geometry import make_actor
from .model import HeadModel
from .people import sample_person
from .poses import camera_direction, euler_matrix
from .render import HeadRenderer
from .scenery import sample_setting
from .units import sample_gaze, with_gaze

SIZE, FINER = 256, 2  # pixels a side; drawn so much larger and averaged, for smooth edges
Expression = str | Mapping[str, float]  # a preset's name, or ARKit's units by name
Look = tuple[int, Expression, float, float, float]  # which of the people; yaw, pitch, roll in degrees
HEADS: dict[str, Look] = {
    "person_1": (23, "none", 0.0, 0.0, 0.0),
    "person_2": (15, "none", 0.0, 0.0, 0.0),
    "person_3": (1, "none", 0.0, 0.0, 0.0),
    "resting": (38, "none", 0.0, 0.0, 0.0),
    "surprised": (38, "surprised", 0.0, 0.0, 0.0),
    "laughing": (4, "laughing", 24.0, -6.0, 4.0),
    "dozing": (11, {"eyeBlinkLeft": 1.0, "eyeBlinkRight": 1.0}, 8.0, -8.0, -16.0),
    "turned": (19, "none", -38.0, 6.0, 0.0),
}
CLIP, FRAMES = 14, 16  # which of the people; they turn from side to side, smile and speak
ASTRONAUT = (174.0, 73.0, 277.0, 176.0)  # box of the face, in pixels


def photograph() -> np.ndarray:
    """(SIZE, SIZE, 3) uint8, cropped as Crop Face does. Raises ValueError without scikit-image."""
    try:
        from skimage import data
    except ImportError as error:
        raise ValueError("the photograph is one of scikit-image's; pip install scikit-image") from error
    crop, _, _ = crop_face(bytes_to_comfy(torch.from_numpy(data.astronaut())), Face(ASTRONAUT, None, None, "a box"), size=SIZE)
    return comfy_to_bytes(crop).numpy()


def draw_head(renderer: HeadRenderer, seed: int, expression: Expression, *turn: float) -> np.ndarray:
    """turn: yaw, pitch, roll in degrees -> (SIZE, SIZE, 3) uint8 of the seed's person and setting."""
    rng, model, rotation = np.random.default_rng(seed), renderer.model, euler_matrix(*turn)
    person = sample_person(rng, model.names, model.skins, model.hairs, model.brows, model.lashes, "test")
    setting = sample_setting(rng)
    setting = replace(
        setting, background=np.full_like(setting.background, setting.background.mean((0, 1))), grow=1.0, shift=np.zeros(2)
    )
    gaze = sample_gaze(rng, camera_direction(rotation))
    units = with_gaze(_units(expression), gaze)
    large = renderer.render(make_actor(model, person), units, gaze, rotation, rotation, setting).picture
    return large.reshape(SIZE, FINER, SIZE, FINER, 3).mean((1, 3)).round().astype(np.uint8)


def draw_clip(renderer: HeadRenderer) -> np.ndarray:
    """(SIZE, FRAMES * SIZE, 3) uint8"""
    return np.concatenate([draw_head(renderer, CLIP, *_moment(number / (FRAMES - 1))) for number in range(FRAMES)], 1)


def _units(expression: Expression) -> np.ndarray:
    """(52,)"""
    if isinstance(expression, str):
        return preset_units(expression).numpy().astype(np.float32)
    return np.array([expression.get(name, 0.0) for name in ARKIT52], np.float32)


def _moment(time: float) -> tuple[dict[str, float], float, float, float]:
    """Time from 0 to 1 -> units, yaw, pitch, roll."""
    turn, word = math.sin(2 * math.pi * time), math.sin(4 * math.pi * time)
    smile = 0.5 + 0.5 * turn
    return {"mouthSmileLeft": smile, "mouthSmileRight": smile, "jawOpen": max(0.0, 0.8 * word)}, 28 * turn, 6 * word, 0.0


def main(argv: list[str] | None = None) -> None:
    from PIL import Image

    parser = argparse.ArgumentParser(description="Render the heads that Sample Face gives, and cut its photograph.")
    parser.add_argument("--model", required=True, help="the file that deepexpo_models.data.heads.build made")
    parser.add_argument("--out", type=Path, required=True, help="folder for <name>.png")
    options = parser.parse_args(argv)
    try:
        renderer = HeadRenderer(HeadModel(options.model), SIZE * FINER)
        pictures = {"photograph": photograph()} | {name: draw_head(renderer, *how) for name, how in HEADS.items()}
        clip = draw_clip(renderer)
    except ValueError as error:
        raise SystemExit(f"{error}") from error
    options.out.mkdir(parents=True, exist_ok=True)
    for name, picture in pictures.items():
        Image.fromarray(picture).save(options.out / f"{name}.png", optimize=True)
    Image.fromarray(clip).save(options.out / "clip.jpg", quality=90)


if __name__ == "__main__":
    main()

"""The faces that Sample Face gives: python -m deepexpo_models.data.sample_faces --out workflows/samples

People whom the starter has not seen: three at rest, five with an expression or a head pose, and one in a clip, whose frames
stand side by side in one file.
"""

import argparse
import math
from pathlib import Path

import torch

from ..image import model_to_bytes
from .synthetic import Scene, render, sample_scenes

SEED, SIZE = 11, 256
PEOPLE = {"person_1": 8, "person_2": 21, "person_3": 17}  # name -> which of the people drawn from SEED
REFERENCES = {  # name -> (which of the people, factors that are not at rest)
    "resting": (16, {}),
    "surprised": (16, {"jaw_open": 1.0, "brow_raise_left": 1.0, "brow_raise_right": 1.0}),
    "laughing": (6, {"smile": 1.0, "jaw_open": 0.6, "yaw": 25.0, "pitch": -8.0}),
    "winking": (19, {"blink_left": 1.0, "smile": 0.6, "roll": -18.0, "yaw": 8.0}),
    "turned": (22, {"yaw": -38.0, "pitch": 8.0}),
}
CLIP, FRAMES = 19, 16  # which of the people; they turn from side to side, smile and speak
BARE = {"glasses": 0, "hat": 0, "scarf": 0, "noise": 0}  # nothing hides the face


def sample_faces() -> tuple[list[str], torch.Tensor]:
    """Names, and pictures (N, 3, SIZE, SIZE) in [-1, 1]."""
    people = sample_scenes(24, torch.Generator().manual_seed(SEED), "test")
    rows = {**{name: (row, {}) for name, row in PEOPLE.items()}, **REFERENCES}
    pictures = [render(_face(people[row : row + 1], factors), SIZE).images for row, factors in rows.values()]
    return list(rows), torch.cat(pictures)


def sample_clip() -> torch.Tensor:
    """(FRAMES, 3, SIZE, SIZE) in [-1, 1]"""
    people = sample_scenes(24, torch.Generator().manual_seed(SEED), "test")
    person = people[CLIP : CLIP + 1]
    return torch.cat([render(_face(person, _moment(number / (FRAMES - 1))), SIZE).images for number in range(FRAMES)])


def _moment(time: float) -> dict[str, float]:
    """Factors at a time from 0 to 1."""
    turn, word = math.sin(2 * math.pi * time), math.sin(4 * math.pi * time)
    return {"yaw": 28 * turn, "pitch": 6 * word, "smile": 0.5 + 0.5 * turn, "jaw_open": max(0.0, 0.8 * word)}


def _face(scene: Scene, factors: dict[str, float]) -> Scene:
    rest = scene.with_groups(expression=torch.zeros_like(scene.expression), pose=torch.zeros_like(scene.pose))
    for name, value in {**BARE, **factors}.items():
        rest = rest.with_factor(name, value)
    return rest


def _levels(picture: torch.Tensor):
    """(3, H, W) in [-1, 1] -> a picture of Pillow's."""
    from PIL import Image

    return Image.fromarray(model_to_bytes(picture).movedim(0, -1).numpy())


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description="Draw the faces that Sample Face gives.")
    parser.add_argument("--out", type=Path, required=True, help="folder for <name>.png")
    out = parser.parse_args(argv).out
    out.mkdir(parents=True, exist_ok=True)
    for name, picture in zip(*sample_faces()):
        _levels(picture).save(out / f"{name}.png", optimize=True)
    _levels(torch.cat(list(sample_clip()), dim=-1)).save(out / "clip.jpg", quality=90)


if __name__ == "__main__":
    main()

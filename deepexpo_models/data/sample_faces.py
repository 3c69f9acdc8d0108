"""The faces that Sample Face gives: python -m deepexpo_models.data.sample_faces --out workflows/samples

People whom the starter has not seen: three at rest, and five with an expression or a head pose.
"""

import argparse
from pathlib import Path

import torch

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
BARE = {"glasses": 0, "hat": 0, "scarf": 0, "noise": 0}  # nothing hides the face


def sample_faces() -> tuple[list[str], torch.Tensor]:
    """Names, and pictures (N, 3, SIZE, SIZE) in [-1, 1]."""
    people = sample_scenes(24, torch.Generator().manual_seed(SEED), "test")
    rows = {**{name: (row, {}) for name, row in PEOPLE.items()}, **REFERENCES}
    pictures = [render(_face(people[row : row + 1], factors), SIZE).images for row, factors in rows.values()]
    return list(rows), torch.cat(pictures)


def _face(scene: Scene, factors: dict[str, float]) -> Scene:
    rest = scene.with_groups(expression=torch.zeros_like(scene.expression), pose=torch.zeros_like(scene.pose))
    for name, value in {**BARE, **factors}.items():
        rest = rest.with_factor(name, value)
    return rest


def main(argv: list[str] | None = None) -> None:
    from PIL import Image

    parser = argparse.ArgumentParser(description="Draw the faces that Sample Face gives.")
    parser.add_argument("--out", type=Path, required=True, help="folder for <name>.png")
    out = parser.parse_args(argv).out
    out.mkdir(parents=True, exist_ok=True)
    for name, picture in zip(*sample_faces()):
        levels = ((picture.movedim(0, -1) + 1) * 127.5).round().clamp(0, 255).byte()
        Image.fromarray(levels.numpy()).save(out / f"{name}.png", optimize=True)


if __name__ == "__main__":
    main()

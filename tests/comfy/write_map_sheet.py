#!/usr/bin/env python
"""docs/pictures/maps.jpg: `python tests/comfy/write_map_sheet.py face_landmarker.task`; needs mediapipe, scikit-image.

The way of the photo templates on a real photograph, scikit-image's astronaut (NASA, public domain): landmarks, the resting face
from her smile, then her own expression and head pose, and named ones, on her own proportions.
"""

import argparse
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from PIL import Image

ROOT = Path(__file__).resolve().parents[2]
sys.path += [str(ROOT), str(ROOT / "tests"), str(Path(__file__).parent)]  # last: `rig` imports nothing of ComfyUI by itself

from deepexpo_models.dsid import SEMANTIC_FIELDS, Identity, arkit_semantics, public_encoder
from deepexpo_models.dsid.mesh import Framing, face_points, face_shape_of, semantics_of
from deepexpo_models.dsid.presets import preset_semantics
from deepexpo_models.faces.landmarks import find_landmarks, open_landmarker, track_face
from deepexpo_models.head import load_basis
from deepexpo_models.head.control import draw_control
from rig.photos import astronaut

SIDE, STYLES, PRESETS = 300, ("shaded", "mediapipe face"), "none, happy, angry, surprised"
TURN = (25.0, -5.0, 5.0)  # degrees, of the last column


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("task", type=Path, help="MediaPipe's face_landmarker.task")
    parser.add_argument("--out", type=Path, default=ROOT / "docs" / "pictures" / "maps.jpg")
    given = parser.parse_args()
    photo = crop(astronaut())
    track = track_face(find_landmarks(open_landmarker(given.task), torch.from_numpy(photo)[None] / 255))
    basis = load_basis()
    anyone = torch.nn.functional.normalize(torch.ones(1, 512), dim=-1)  # maps read the face's shape alone
    person = Identity(anyone, public_encoder("buffalo_l"), face_shape=face_shape_of(track, basis))
    presets = preset_semantics(PRESETS)
    turned = replace(presets, rotation=arkit_semantics(torch.zeros(1, 52), torch.tensor([TURN])).rotation.expand(4, -1))
    last = replace(turned, **{name: getattr(turned, name)[3:] for name in SEMANTIC_FIELDS})
    codes = [semantics_of(track, basis), presets, last]
    rows = [[picture for code in codes for picture in draw(person, code, style, basis)] for style in STYLES]
    shown = np.concatenate([np.concatenate(row, axis=1) for row in rows])
    beside = Image.fromarray(photo).resize((2 * SIDE, 2 * SIDE))
    Image.fromarray(np.concatenate([np.asarray(beside), shown], axis=1)).save(given.out, quality=90)
    print(given.out, f"{len(rows[0])} columns: her own, {PRESETS}, the last one turned")


def draw(person: Identity, code, style: str, basis) -> list[np.ndarray]:
    points = face_points(person, code, basis, (SIDE, SIDE), Framing(0.7, 0.5, 0.5))
    return [(picture * 255).byte().numpy() for picture in draw_control(points, (SIDE, SIDE), style, basis)]


def crop(picture: np.ndarray) -> np.ndarray:
    """The square around her face."""
    return np.ascontiguousarray(picture[0:260, 95:355])


if __name__ == "__main__":
    main()

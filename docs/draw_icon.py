"""Draws icon.png: one person at rest, then with another's expression and head pose: python docs/draw_icon.py"""

import sys
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageDraw

ROOT = Path(__file__).resolve().parents[1]
sys.path.append(str(ROOT))

from deepexpo_models.dsid.rotation import euler_to_matrix  # noqa: E402
from deepexpo_models.head.basis import load_basis  # noqa: E402
from deepexpo_models.head.expressions import units  # noqa: E402
from deepexpo_models.head.raster import BACKGROUND, shaded  # noqa: E402
from deepexpo_models.head.retarget import from_canonical  # noqa: E402

SIDE, CORNER = 400, 72  # pixels; the registry takes at most 400 x 400
FACES = (  # where the middle of the head lies (share of the side), cm -> pixels, degrees (yaw, pitch, roll), tint, expression
    ((0.31, 0.40), 11.5, (0, 0, 0), (92, 132, 214), {}),
    (
        (0.64, 0.58), 14.5, (-22, 3, 10), (255, 176, 74),
        {"jawOpen": 0.35, "mouthSmileLeft": 1.0, "mouthSmileRight": 1.0, "browInnerUp": 0.6, "eyeBlinkLeft": 0.9},
    ),
)  # fmt: skip
GROUND = ((34, 30, 66), (18, 16, 36))  # from the top to the bottom


def draw() -> Image.Image:
    share = np.linspace(0, 1, 2 * SIDE)[:, None, None]
    canvas = np.broadcast_to(np.array(GROUND[0]) * (1 - share) + np.array(GROUND[1]) * share, (2 * SIDE, 2 * SIDE, 3)).copy()
    basis = load_basis()
    for (x, y), scale, angles, tint, expression in FACES:
        shape = basis.points + torch.einsum("u,upc->pc", units(expression), basis.offsets)
        rotation = euler_to_matrix(torch.tensor([angles], dtype=torch.float32))
        place = torch.tensor([[x * 2 * SIDE, y * 2 * SIDE, 0.0]])
        points = from_canonical(shape[None], rotation, torch.tensor([2 * scale]), place)[0].double().numpy()
        head = shaded(points, (2 * SIDE, 2 * SIDE), basis).astype(float)
        drawn = (head != BACKGROUND).any(-1, keepdims=True)
        grey = head.mean(-1, keepdims=True) / 190
        canvas = np.where(drawn, (np.array(tint) * grey).clip(0, 255), canvas)
    picture = Image.fromarray(canvas.astype(np.uint8)).convert("RGBA")
    rounded = Image.new("L", picture.size, 0)
    ImageDraw.Draw(rounded).rounded_rectangle((0, 0, 2 * SIDE - 1, 2 * SIDE - 1), 2 * CORNER, fill=255)
    picture.putalpha(rounded)
    return picture.resize((SIDE, SIDE), Image.Resampling.LANCZOS)


if __name__ == "__main__":
    draw().save(ROOT / "icon.png", optimize=True)

"""What is painted on the head: skin, eyes, brows, mouth, beard. All in head coordinates, so it turns and foreshortens.

x, y: (B, H, W), the place on the face; line: (B, 1, 1), the width of a pixel there. Colours are (B, 3, 1, 1) or
(B, 3, H, W) in [0, 1].
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from .factors import Scene
from .geometry import edge, turn

SIDES = {"left": -1.0, "right": 1.0}
SKIN = ((0.98, 0.86, 0.78), (0.93, 0.74, 0.60), (0.78, 0.57, 0.42), (0.55, 0.37, 0.26), (0.30, 0.19, 0.14))
HAIR = ((0.93, 0.80, 0.52), (0.70, 0.52, 0.28), (0.42, 0.27, 0.16), (0.20, 0.13, 0.09), (0.06, 0.05, 0.06))
RED_HAIR = (0.66, 0.26, 0.10)
IRIS = ((0.35, 0.55, 0.75), (0.45, 0.62, 0.50), (0.35, 0.50, 0.25), (0.45, 0.28, 0.12), (0.18, 0.10, 0.06))
SCLERA, PUPIL, TEETH, MOUTH_INSIDE, TONGUE = (
    (0.97, 0.97, 0.95), (0.03, 0.02, 0.03), (0.96, 0.95, 0.90), (0.28, 0.06, 0.08), (0.72, 0.32, 0.34),
)  # fmt: skip


def colour(values, like: Tensor) -> Tensor:
    """Three numbers -> (1, 3, 1, 1)."""
    return like.new_tensor(values)[None, :, None, None]


def along(table, share: Tensor) -> Tensor:
    """A table of colours and share (B, 1, 1) in [0, 1] -> (B, 3, 1, 1), linearly between the rows."""
    rows = share.new_tensor(table)
    at = share.flatten().clamp(0, 1) * (len(rows) - 1)
    low = at.floor().long().clamp(max=len(rows) - 2)
    return torch.lerp(rows[low], rows[low + 1], (at - low)[:, None])[:, :, None, None]


def over(base: Tensor, top: Tensor, coverage: Tensor) -> Tensor:
    """Colour `top` over `base` (B, 3, H, W) by coverage (B, H, W)."""
    return base + coverage[:, None] * (top - base)


def skin_colour(scene: Scene) -> Tensor:
    base = along(SKIN, scene.factor("skin_melanin"))
    return (base + scene.factor("skin_redness")[:, None] * colour((0.04, -0.015, -0.025), base)).clamp(0, 1)


def hair_colour(scene: Scene) -> Tensor:
    base = along(HAIR, scene.factor("hair_melanin"))
    red = (scene.factor("hair_redness") * 1.6 - 0.9).clamp(0, 0.7)
    return torch.lerp(base, colour(RED_HAIR, base).expand_as(base), red[:, None])


@dataclass(frozen=True)
class Face:
    """The painted face: colour (B, 3, H, W) and region (B, H, W), where eyes, brows and mouth are."""

    colour: Tensor
    region: Tensor


def paint_face(scene: Scene, x: Tensor, y: Tensor, line: Tensor) -> Face:
    skin = _skin(scene, x, y)
    skin = _beard(scene, skin, x, y, line)
    region = torch.zeros_like(x)
    for side in SIDES:
        skin, covered = _eye(scene, side, skin, x, y, line)
        region = torch.maximum(region, covered)
        skin, covered = _brow(scene, side, skin, x, y, line)
        region = torch.maximum(region, covered)
    skin, covered = _mouth(scene, skin, x, y, line)
    return Face(skin, torch.maximum(region, covered))


def _skin(scene: Scene, x: Tensor, y: Tensor) -> Tensor:
    skin = skin_colour(scene) + 0 * x[:, None]
    cheeks = torch.exp(-(((x.abs() - 0.23) / 0.10) ** 2) - ((y - 0.12) / 0.09) ** 2)
    skin = over(skin, skin * colour((1.0, 0.72, 0.70), skin), cheeks * scene.factor("cheek_colour") * 0.8)
    dots = torch.sin(97 * x + 31 * y) * torch.sin(89 * y - 43 * x)
    band = torch.exp(-(((x.abs() - 0.16) / 0.15) ** 2) - ((y - 0.05) / 0.08) ** 2)
    return over(skin, skin * 0.62, (dots - 0.35).clamp(0, 0.5) * 2 * band * scene.factor("freckles"))


def _eye(scene: Scene, side: str, skin: Tensor, x: Tensor, y: Tensor, line: Tensor) -> tuple[Tensor, Tensor]:
    sign = SIDES[side]
    width, opening, blink = scene.factor("eye_width"), scene.factor("eye_opening"), scene.factor(f"blink_{side}")
    across, down = turn(x - sign * scene.factor("eye_spacing"), y - scene.factor("eye_height"), sign * scene.factor("eye_tilt"))
    arc = 1 - (across / width) ** 2
    lower, open_lid = 0.8 * opening * arc, -1.1 * opening * arc
    lid = torch.lerp(open_lid, 0.72 * opening * arc, blink)
    within = edge(across.abs() - width, line)

    socket = torch.exp(-((across / (1.5 * width)) ** 2) - ((down + 0.02) / (2.0 * opening)) ** 2)
    skin = over(skin, skin * 0.80, socket * 0.8)
    eyelid = edge(open_lid - down, line) * edge(down - lid, line) * within
    skin = over(skin, skin * 0.82, eyelid)

    ball = edge(lid - down, line) * edge(down - lower, line) * within
    iris_x, iris_y = 0.48 * width * scene.factor("gaze_x"), 0.55 * opening * scene.factor("gaze_y") - 0.12 * opening
    radius = torch.hypot(across - iris_x, down - iris_y)
    iris = along(IRIS, scene.factor("iris_hue"))
    eye = over(colour(SCLERA, skin) + 0 * skin, iris, edge(radius - 0.82 * opening, line))
    eye = over(eye, colour(PUPIL, skin), edge(radius - 0.42 * opening, line))
    glint = torch.hypot(across - iris_x - 0.25 * opening, down - iris_y + 0.3 * opening)
    eye = over(eye, colour((1, 1, 1), skin), edge(glint - 0.18 * opening, line))
    skin = over(skin, eye, ball)
    lashes = edge((down - lid).abs() - 0.010, line) * edge(across.abs() - 1.06 * width, line)
    skin = over(skin, colour((0.08, 0.05, 0.05), skin), lashes)
    return skin, edge(torch.hypot(across / (1.35 * width), (down - 0.01) / (2.1 * opening)) - 1, 0.4)


def _brow(scene: Scene, side: str, skin: Tensor, x: Tensor, y: Tensor, line: Tensor) -> tuple[Tensor, Tensor]:
    sign = SIDES[side]
    lift, frown = scene.factor(f"brow_raise_{side}"), scene.factor(f"brow_frown_{side}")
    width = 1.12 * scene.factor("eye_width")
    across = (x - sign * (scene.factor("eye_spacing") - 0.022 * frown)) / width
    inner = (0.5 - 0.5 * sign * across).clamp(0, 1)  # 1 at the nose
    middle = scene.factor("eye_height") - scene.factor("brow_height") - scene.factor("brow_arch") * (1 - across**2)
    middle = middle - 0.065 * lift + frown * (0.075 * inner - 0.012)
    thickness = scene.factor("brow_thickness") * (0.55 + 0.6 * inner) * edge(across.abs() - 1, 0.25)
    covered = edge((y - middle).abs() - thickness, line) * edge(across.abs() - 1, 0.06)
    region = edge(torch.hypot(across / 1.3, (y - middle) / 0.075) - 1, 0.4)
    return over(skin, hair_colour(scene) * 0.6, 0.92 * covered), region


def _mouth(scene: Scene, skin: Tensor, x: Tensor, y: Tensor, line: Tensor) -> tuple[Tensor, Tensor]:
    smile, jaw, pucker = (scene.factor(name) for name in ("smile", "jaw_open", "pucker"))
    width = scene.factor("mouth_width") * (1 + 0.22 * smile.clamp(min=0)) * (1 - 0.42 * pucker)
    share = (x / width).clamp(-1, 1) ** 2
    arc = (1 - share).clamp(min=0).sqrt()
    middle = scene.factor("mouth_height") - 0.075 * smile * (share - 0.35)
    gap = 0.125 * jaw * arc * (1 + 0.15 * pucker)
    top, bottom = middle - 0.15 * gap, middle + 0.85 * gap
    thicker = 1 + 0.85 * pucker
    upper = top - scene.factor("lip_upper") * thicker * arc * (1 + 0.2 * torch.cos(x / width * 6.0) * (1 - pucker))
    lower = bottom + scene.factor("lip_lower") * thicker * arc
    within = edge(x.abs() - width, line)

    lips = skin_colour(scene) * torch.lerp(
        colour((0.88, 0.66, 0.64), skin), colour((0.86, 0.36, 0.38), skin), scene.factor("lip_redness")[:, None]
    )
    shadow = torch.exp(-((x / (0.8 * width)) ** 2) - ((y - lower - 0.02) / 0.02) ** 2)
    skin = over(skin, skin * 0.85, shadow)
    skin = over(skin, lips * 0.92, edge(upper - y, line) * edge(y - middle, line) * within)
    skin = over(skin, lips, edge(middle - y, line) * edge(y - lower, line) * within)
    inside = colour(MOUTH_INSIDE, skin) + 0 * skin
    inside = over(inside, colour(TONGUE, skin), edge(bottom - 0.35 * gap - y, line))
    inside = over(inside, colour(TEETH, skin), edge(y - top - 0.032, line))
    skin = over(skin, inside, edge(top - y, line) * edge(y - bottom, line) * within * edge(0.01 - gap, 0.01))
    seam = edge((y - middle).abs() - 0.007, line) * within * edge(gap - 0.02, 0.02)
    skin = over(skin, lips * 0.35, seam)
    corner_y = scene.factor("mouth_height") - 0.075 * smile * 0.65
    corners = torch.exp(-(((x.abs() - width) / 0.02) ** 2) - ((y - corner_y) / 0.02) ** 2)
    skin = over(skin, skin * 0.6, corners)
    centre = middle + 0.35 * gap
    return skin, edge(torch.hypot(x / (1.3 * scene.factor("mouth_width")), (y - centre) / (0.09 + 0.06 * jaw)) - 1, 0.4)


def _beard(scene: Scene, skin: Tensor, x: Tensor, y: Tensor, line: Tensor) -> Tensor:
    hair = hair_colour(scene) * 0.8
    mouth, jaw = scene.factor("mouth_height"), scene.factor("jaw_open")
    strands = 0.85 + 0.15 * torch.sin(160 * x + 20 * y)
    start = mouth + 0.02 - 0.35 * (x.abs() - 0.16).clamp(0, 0.5)
    beard = edge(start - y, 0.06) * strands
    skin = over(skin, hair, beard * (1.3 * scene.factor("beard")).clamp(max=0.92))
    above = mouth - 0.062 + 0.25 * x.abs()
    moustache = edge((y - above).abs() - 0.028, 0.02) * edge(x.abs() - 0.135, 0.03) * strands
    return over(skin, hair, moustache * (1.3 * scene.factor("moustache")).clamp(max=0.92) * (1 - 0.1 * jaw))

"""Drawing of scenes: rays against the few bodies that make a person, in batches, with depth, light and soft edges."""

from dataclasses import dataclass

import torch
from torch import Tensor

from .factors import HAIR_STYLES, Scene
from .geometry import Hit, Rays, cast, edge, ellipsoid, head, head_rotation, light_direction, plane
from .paint import along, colour, hair_colour, over, paint_face, skin_colour

PALETTE = (
    (0.82, 0.16, 0.16), (0.95, 0.55, 0.12), (0.96, 0.86, 0.25), (0.22, 0.62, 0.28),
    (0.18, 0.36, 0.80), (0.52, 0.24, 0.68), (0.95, 0.95, 0.95), (0.46, 0.47, 0.50),
)  # fmt: skip
TORSO, NECK, SCARF = (
    ((0.0, 1.27, 0.22), (0.98, 0.62, 0.42)), ((0.0, 0.56, 0.10), (0.19, 0.42, 0.19)), ((0.0, 0.68, 0.06), (0.32, 0.13, 0.30)),
)  # fmt: skip
HAT_LINE, HAT_BAND = -0.30, 0.09


@dataclass(frozen=True)
class Style:
    """thickness of the hair over the head; where it ends on the forehead, at the temples and behind; how far the parting
    sits aside; curls; how far it falls behind the head; a knot on top.
    """

    thickness: float
    front: float
    temple: float
    back: float
    parting: float = 0.0
    curls: float = 0.0
    fall: float = 0.0
    knot: float = 0.0


STYLES = {
    "bald": Style(-0.10, -0.60, -0.60, -0.60),
    "cropped": Style(0.012, -0.40, -0.20, 0.15),
    "short": Style(0.045, -0.38, -0.10, 0.25),
    "parted": Style(0.055, -0.38, -0.12, 0.25, parting=0.22),
    "fringe": Style(0.050, -0.28, -0.12, 0.30),
    "curly": Style(0.110, -0.36, -0.08, 0.30, curls=1.0),
    "bob": Style(0.075, -0.34, 0.36, 0.45, parting=0.12, fall=0.50),
    "long": Style(0.065, -0.38, 0.40, 0.60, parting=0.08, fall=0.95),
    "bun": Style(0.030, -0.42, -0.15, 0.25, knot=1.0),
}


@dataclass(frozen=True)
class Rendered:
    """images (B, 3, S, S) in [-1, 1]; region (B, 1, S, S) in [0, 1], where eyes, brows and mouth are seen; face
    (B, 1, S, S) in [0, 1], where the head is seen; points (B, 5, 2), the five landmarks of `dsid.alignment` in crop
    coordinates, also when they are hidden.
    """

    images: Tensor
    region: Tensor
    face: Tensor
    points: Tensor


@dataclass
class Canvas:
    """colour (B, 3, H, W), depth (B, H, W), and the planes `region` and `face` that later bodies cover."""

    colour: Tensor
    depth: Tensor
    planes: dict[str, Tensor]

    def __getitem__(self, window: tuple[slice, slice]) -> "Canvas":
        """A part of the same canvas: what is put there stands here too."""
        planes = {name: plane_[(slice(None), *window)] for name, plane_ in self.planes.items()}
        return Canvas(self.colour[(..., *window)], self.depth[(slice(None), *window)], planes)

    def put(self, coverage: Tensor, depth: Tensor, top: Tensor, **planes: Tensor | float) -> None:
        """A body's colour where it stands before what is there already."""
        before = coverage * ((self.depth - depth) / 0.02 + 0.5).clamp(0, 1)
        self.colour.add_(before[:, None] * (top - self.colour))
        self.depth.copy_(torch.where(before > 0.5, depth, self.depth))
        for name, plane_ in self.planes.items():
            plane_.add_(before * (planes.get(name, 0.0) - plane_))


@torch.no_grad()
def render(scene: Scene, size: int = 128) -> Rendered:
    """Pictures of scenes. The same scene gives the same picture, noise included, whatever stands beside it."""
    if size < 16:
        raise ValueError(f"a face of {size} pixels cannot be drawn; use a size of at least 16")
    parts = [_render(scene[row : row + 1], size) for row in range(len(scene))]  # one picture's planes stay in the cache
    return Rendered(*[torch.cat([getattr(part, name) for part in parts]) for name in Rendered.__dataclass_fields__])


def _render(scene: Scene, size: int) -> Rendered:
    rotation = head_rotation(scene)
    upright = torch.eye(3).expand(len(scene), 3, 3)
    body, rays = cast(scene, upright, size), cast(scene, rotation, size)
    canvas = _background(scene, size)
    style = _style(scene)
    light, body_light = light_direction(scene, rotation), light_direction(scene, upright)
    _put_falling_hair(canvas, scene, rays, light, style)
    _put_body(canvas, scene, body, body_light)
    _put_ears(canvas, scene, rays, light)
    _put_head(canvas, scene, rays, light)
    _put_nose(canvas, scene, rays, light)
    _put_hair(canvas, scene, rays, light, style)
    _put_glasses(canvas, scene, rays)
    _put_hat(canvas, scene, rays, light)
    images = _expose(canvas.colour, scene)
    region, face = canvas.planes["region"][:, None], canvas.planes["face"][:, None]
    return Rendered(images * 2 - 1, region, face, rays.project(_landmarks(scene)))


def _background(scene: Scene, size: int) -> Canvas:
    axis = (torch.arange(size) * 2 + 1) / size - 1
    x, y = axis[None, None, :], axis[None, :, None]
    phase, pattern = scene.factor("background_phase"), scene.factor("pattern")
    plain = _palette(scene, "background") * (1 + 0.10 * scene.factor("background_shade") * (0.4 + y + 0 * x))[:, None]
    second = torch.where(_palette(scene, "background").mean(1, keepdim=True) > 0.55, plain * 0.62, plain * 0.5 + 0.45)
    u, v = (x + phase) * 4, (y + 0.5 * phase) * 4
    wave = torch.sin(3.1416 * u) * torch.sin(3.1416 * v)
    masks = {1: edge(torch.sin(3.1416 * u) + 0 * v, 0.3), 2: edge(0.65 - wave.abs(), 0.2), 3: edge(wave, 0.15)}
    for index, mask in masks.items():
        plain = over(plain, second, mask * (pattern == index))
    planes = {name: torch.zeros(len(scene), size, size) for name in ("region", "face")}
    return Canvas(plain.clamp(0, 1), torch.full((len(scene), size, size), 100.0), planes)


def _put_body(canvas: Canvas, scene: Scene, rays: Rays, light: Tensor) -> None:
    cloth = _palette(scene, "clothing")
    rays, canvas = _near(rays, canvas, (0.0, 1.27, 0.2), 1.2)
    neck = ellipsoid(rays, *NECK)
    canvas.put(neck.coverage, neck.depth, _shaded(scene, skin_colour(scene) * 0.86, neck, light))
    torso = ellipsoid(rays, *TORSO)
    x, y = torso.point[:, 0], torso.point[:, 1]
    opening = edge(torch.hypot(x / 0.26, (y - 0.62) / 0.17) - 1, 0.08)
    top = _shaded(scene, cloth + 0 * torso.point, torso, light)
    collar = over(top, top * 0.72, edge((torch.hypot(x / 0.26, (y - 0.62) / 0.17) - 1.12).abs() - 0.1, 0.06))
    canvas.put(torso.coverage * (1 - opening), torso.depth, collar)
    if not scene.factor("scarf").any():
        return
    scarf = ellipsoid(rays, *SCARF)
    ribs = 0.5 + 0.5 * torch.sin(34 * scarf.point[:, 0])
    knit = over(cloth * 0.55 + 0 * scarf.point, colour((0.93, 0.91, 0.86), cloth), edge(0.5 - ribs, 0.3))
    canvas.put(scarf.coverage * scene.factor("scarf"), scarf.depth - 0.02, _shaded(scene, knit, scarf, light))


def _put_ears(canvas: Canvas, scene: Scene, rays: Rays, light: Tensor) -> None:
    size, spread = scene.factor("ear_size"), scene.factor("ear_spread")
    for side in (-1, 1):
        centre = (side * (scene.factor("head_width") * 0.98 + 0.035 * spread), 0.03 + scene.factor("eye_height") + 0.13, 0.03)
        near, part = _near(rays, canvas, centre, 0.16)
        ear = ellipsoid(near, centre, (0.035 + 0.03 * spread, 0.105 * size, 0.065 * size))
        part.put(ear.coverage, ear.depth, _shaded(scene, skin_colour(scene) * 0.94, ear, light), face=1.0)


def _put_head(canvas: Canvas, scene: Scene, rays: Rays, light: Tensor) -> None:
    width, cheek, jaw = scene.factor("head_width"), scene.factor("cheek_width"), scene.factor("jaw_width")

    def width_at(y: Tensor) -> Tensor:
        return width * (1 + _step(y, -0.2, 0.12) * (cheek - 1) + _step(y, 0.10, 0.42) * (1.2 * jaw - cheek))

    rays, canvas = _near(rays, canvas, (0.0, 0.0, 0.0), 0.66)
    below = scene.factor("chin_length") + 0.10 * scene.factor("jaw_open")
    skull = head(rays, width_at, (scene.factor("head_height"), below, scene.factor("head_depth")))
    x, y, z = skull.point.unbind(1)
    face = paint_face(scene, x, y, rays.pixel * 1.2)
    front = edge(z + 0.05, 0.1)
    top = over(skin_colour(scene) + 0 * face.colour, face.colour, front)
    canvas.put(skull.coverage, skull.depth, _shaded(scene, top, skull, light), region=face.region * front, face=1.0)


def _put_nose(canvas: Canvas, scene: Scene, rays: Rays, light: Tensor) -> None:
    width, depth, length = (scene.factor(f"nose_{name}") for name in ("width", "depth", "length"))
    eyes, skin = scene.factor("eye_height"), skin_colour(scene)
    tip_y = eyes + 0.03 + length
    rays, canvas = _near(rays, canvas, (0.0, tip_y - 0.1, _front(scene, tip_y)), 0.30)
    bridge = ellipsoid(
        rays, (0.0, eyes + 0.02 + 0.55 * length, _front(scene, tip_y - 0.5 * length) + 0.01),
        (0.025 + 0.30 * width, 0.62 * length, 0.02 + 0.62 * depth),
    )  # fmt: skip
    tip = ellipsoid(rays, (0.0, tip_y, _front(scene, tip_y) - 0.35 * depth), (width, 0.055, 0.03 + 0.6 * depth))
    x, y, _ = tip.point.unbind(1)
    nostrils = torch.hypot((x.abs() - 0.5 * width) / (0.30 * width), (y - tip_y - 0.036) / 0.016)
    top = over(skin * 1.02 + 0 * tip.point, skin * 0.45, edge(nostrils - 1, 0.5))
    canvas.put(bridge.coverage, bridge.depth, _shaded(scene, skin, bridge, light), face=1.0)
    canvas.put(tip.coverage, tip.depth, _shaded(scene, top, tip, light), face=1.0)


def _put_hair(canvas: Canvas, scene: Scene, rays: Rays, light: Tensor, style: dict[str, Tensor]) -> None:
    under_hat = 1 - 0.8 * scene.factor("hat")
    if style["thickness"].amax() < 0:
        return
    thick = style["thickness"] * (0.7 + 0.6 * scene.factor("hair_volume")) * under_hat
    radii = [scene.factor(f"head_{name}") + thick for name in ("width", "height", "depth")]
    shell_rays, shell_canvas = _near(rays, canvas, (0.0, -0.01, 0.015), 0.80)
    shell = ellipsoid(shell_rays, (0.0, -0.01, 0.015), radii)
    x, y, z = shell.point.unbind(1)
    frontal = _step(-z / radii[2], 0.0, 0.55)
    sideways = _step(x.abs() / radii[0], 0.55, 0.95)
    hairline = style["front"] - 0.09 * scene.factor("hairline") + 0.5 * style["parting"] * (x + 0.1)
    limit = torch.lerp(style["back"] + 0 * x, torch.lerp(hairline, style["temple"] + 0 * x, sideways), frontal)
    limit = limit + style["curls"] * 0.03 * torch.sin(45 * x) * torch.sin(40 * z)
    top = _shaded(scene, _strands(scene, shell, style), shell, light)
    shell_canvas.put(shell.coverage * edge(y - limit, 0.05), shell.depth, top)
    if not style["knot"].any():
        return
    knot = ellipsoid(rays, (0.0, -0.62, 0.10), (0.17, 0.14, 0.17))
    shown = knot.coverage * style["knot"] * (1 - scene.factor("hat"))
    canvas.put(shown, knot.depth, _shaded(scene, hair_colour(scene), knot, light))


def _put_falling_hair(canvas: Canvas, scene: Scene, rays: Rays, light: Tensor, style: dict[str, Tensor]) -> None:
    width = scene.factor("head_width") + style["thickness"] + 0.03 * scene.factor("hair_volume")
    fall = style["fall"]
    if not fall.any():
        return
    hair = ellipsoid(rays, (0.0, 0.45 * fall - 0.12, 0.14), (width, 0.42 + 0.45 * fall, scene.factor("head_depth") * 0.80))
    top = _shaded(scene, _strands(scene, hair, style) * 0.85, hair, light)
    canvas.put(hair.coverage, hair.depth, top)


def _put_glasses(canvas: Canvas, scene: Scene, rays: Rays) -> None:
    worn, eyes = scene.factor("glasses"), scene.factor("eye_height")
    if not worn.any():
        return
    at = _front(scene, eyes) - 0.05
    rays, canvas = _near(rays, canvas, (0.0, eyes, 0.5 * at), 0.52)
    depth, (x, y, _) = _spread(plane(rays, 2, at))
    rx, ry = scene.factor("eye_width") + 0.038, scene.factor("eye_opening") + 0.062
    ring = torch.hypot((x.abs() - scene.factor("eye_spacing")) / rx, (y - eyes - 0.01) / ry)
    bridge = edge((y - eyes + 0.01).abs() - 0.012, rays.pixel) * edge(x.abs() - scene.factor("eye_spacing") + rx, rays.pixel)
    frame = torch.maximum(edge((ring - 1).abs() * ry - 0.014, rays.pixel), bridge)
    dark = colour((0.07, 0.07, 0.09), x) + 0 * canvas.colour
    canvas.put(edge(ring - 1, 0.1) * 0.10 * worn, depth, dark, **canvas.planes)
    canvas.put(frame * worn, depth, dark, **canvas.planes)
    for side in (-1, 1):
        edge_x = side * (scene.factor("eye_spacing") + rx)
        depth, (_, y, z) = _spread(plane(rays, 0, edge_x))
        arm = edge((y - eyes + 0.01).abs() - 0.013, rays.pixel) * edge(at - z, rays.pixel) * edge(z - 0.03, rays.pixel)
        canvas.put(arm * worn, depth, dark)


def _put_hat(canvas: Canvas, scene: Scene, rays: Rays, light: Tensor) -> None:
    if not scene.factor("hat").any():
        return
    radii = [scene.factor(f"head_{name}") + extra for name, extra in (("width", 0.055), ("height", 0.10), ("depth", 0.055))]
    rays, canvas = _near(rays, canvas, (0.0, -0.35, 0.0), 0.65)
    hat = ellipsoid(rays, (0.0, -0.01, 0.01), radii)
    y = hat.point[:, 1] - 0.10 * hat.point[:, 2]
    wool = colour((0.95, 0.94, 0.90), y)
    knit = over(_palette(scene, "clothing") + 0 * hat.point, wool, edge(HAT_LINE - HAT_BAND - y, rays.pixel))
    cover = hat.coverage * edge(y - HAT_LINE, rays.pixel) * scene.factor("hat")
    canvas.put(cover, hat.depth, _shaded(scene, knit, hat, light))
    bobble = ellipsoid(rays, (0.0, -0.70, 0.02), (0.10, 0.09, 0.10))
    canvas.put(bobble.coverage * scene.factor("hat"), bobble.depth, _shaded(scene, wool, bobble, light))


def _near(rays: Rays, canvas: Canvas, centre, reach: float) -> tuple[Rays, Canvas]:
    """The part of the picture where a body within `reach` of `centre` can be."""
    window = rays.window(centre, reach)
    return rays[window], canvas[window]


def _strands(scene: Scene, hit: Hit, style: dict[str, Tensor]) -> Tensor:
    x, y, z = hit.point.unbind(1)
    straight = torch.sin(70 * torch.atan2(x, -z - 0.6) + 6 * y)
    curls = torch.sin(42 * x + 8 * z) * torch.sin(42 * y)
    return hair_colour(scene) * (1 + 0.16 * torch.lerp(straight, curls * 1.6, style["curls"]))[:, None]


def _shaded(scene: Scene, base: Tensor, hit: Hit, light: Tensor) -> Tensor:
    """Lambert's cosine law and ambient light."""
    facing = (hit.normal * light).sum(1).clamp(min=0)
    return base * (scene.factor("ambient") + scene.factor("light_strength") * facing)[:, None]


def _expose(picture: Tensor, scene: Scene) -> Tensor:
    warm = scene.factor("warmth")[:, None] * colour((0.05, 0.0, -0.06), picture)
    seeds = scene.factor("noise_seed").flatten().long().tolist()
    grain = torch.stack([torch.randn(picture.shape[1:], generator=torch.Generator().manual_seed(seed)) for seed in seeds])
    return (picture * (1 + warm) + grain * (0.02 * scene.factor("noise"))[:, None]).clamp(0, 1)


def _landmarks(scene: Scene) -> Tensor:
    """(B, 5, 3): eyes, tip of the nose, corners of the mouth, on the head."""
    eyes, spacing = scene.factor("eye_height"), scene.factor("eye_spacing")
    mouth, width = scene.factor("mouth_height"), scene.factor("mouth_width")
    tip = eyes + 0.03 + scene.factor("nose_length")
    rows = (
        (-spacing, eyes, _front(scene, eyes)), (spacing, eyes, _front(scene, eyes)),
        (0 * tip, tip, _front(scene, tip) - 0.8 * scene.factor("nose_depth")),
        (-width, mouth, _front(scene, mouth) * 0.94), (width, mouth, _front(scene, mouth) * 0.94),
    )  # fmt: skip
    return torch.stack([torch.cat([v.flatten(1) for v in row], dim=1) for row in rows], dim=1)


def _front(scene: Scene, y: Tensor) -> Tensor:
    """z of the face's surface in the middle, at height y (B, 1, 1)."""
    height = torch.where(y < 0, scene.factor("head_height"), scene.factor("chin_length"))
    return -scene.factor("head_depth") * (1 - (y / height) ** 2).clamp(min=0.01).sqrt()


def _style(scene: Scene) -> dict[str, Tensor]:
    rows = scene.factor("hair_style").flatten().long().tolist()
    styles = [STYLES[HAIR_STYLES[row]] for row in rows]
    return {
        name: torch.tensor([getattr(style, name) for style in styles])[:, None, None] for name in Style.__dataclass_fields__
    }


def _palette(scene: Scene, name: str) -> Tensor:
    return along(PALETTE, scene.factor(name) / (len(PALETTE) - 1))


def _step(x: Tensor, low: float, high: float) -> Tensor:
    t = ((x - low) / (high - low)).clamp(0, 1)
    return t * t * (3 - 2 * t)


def _spread(found: tuple[Tensor, Tensor]) -> tuple[Tensor, tuple[Tensor, ...]]:
    return found[0], found[1].unbind(1)

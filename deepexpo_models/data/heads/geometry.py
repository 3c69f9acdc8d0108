"""From factors to triangles: a person's parts, moved by an expression, turned, before a lens; and the true labels of it."""

from dataclasses import dataclass, field

import numpy as np

from ...dsid.alignment import TEMPLATE, TIGHT
from .model import HeadModel
from .people import Glasses, Person
from .poses import FLIP, FRONTAL, sight
from .scenery import Setting
from .units import INDEX, mesh_units

PIVOT, MIDDLE = (
    (1.35, 0.05),
    0.25,
)  # decimetres: the neck below the eyes' middle and before the spine; the face's middle below it
NECK = (5.35, 6.30)  # heights between which the skin goes from the torso's turn to the head's
CLOTH_BELOW = 1.75  # decimetres below the eyes, at the neck
BEARD = ((7.02, 6.88), (5.95, 6.30), (-0.05, 0.35))
HALF_EYES = TEMPLATE[1][0] * TIGHT  # of half a crop: from the middle to an eye, at rest
FRAME_SIDES, TUBE_SIDES = 20, 5
TONGUE_SEEN = [INDEX["jawOpen"], INDEX["tongueOut"]]


@dataclass(eq=False)
class Actor:
    """A person with what stays the same over all pictures: each part at rest, its normals, the eyes (2, 3)."""

    person: Person
    rest: dict[str, np.ndarray]
    normals: dict[str, np.ndarray]
    eyes: np.ndarray
    beard: np.ndarray
    above: dict[str, np.ndarray] = field(repr=False)  # share of the head's turn per vertex; the rest is the torso's


@dataclass(frozen=True, eq=False)
class Surface:
    """One thing to draw: positions and normals (V, 3) in the camera frame, uv (V, 2), extra (V, 4), triangles (T, 3)."""

    name: str
    kind: str
    at: np.ndarray
    normals: np.ndarray
    uv: np.ndarray
    extra: np.ndarray
    triangles: np.ndarray
    uniforms: dict


@dataclass(frozen=True, eq=False)
class Stage:
    """Surfaces, the lens (4, 4), the shadows' view (4, 4), the head's rotation as drawn, and labels: see `labels_of`."""

    surfaces: list[Surface]
    clip: np.ndarray
    light_clip: np.ndarray
    turn: np.ndarray
    labels: dict[str, np.ndarray]


def make_actor(model: HeadModel, person: Person) -> Actor:
    names = ["skin", "teeth", "tongue", person.brow, person.lash, *([person.hair] if person.hair else [])]
    names += [person.hat] if person.hat else []
    rest = {name: model.shape(name, person.weights) for name in names}
    heights = {name: model.rest[model.parts[name].rows][:, 1] for name in names}
    return Actor(
        person=person,
        rest=rest,
        normals={name: model.normals(name, at) for name, at in rest.items() if name != "skin"},
        eyes=model.eyes(person.weights),
        beard=_beard(model.rest[model.parts["skin"].rows]),
        above={name: _smooth(*NECK, height)[:, None] for name, height in heights.items()},
    )


def stage(model: HeadModel, actor: Actor, units: np.ndarray, gaze: np.ndarray, rotation: np.ndarray, torso: np.ndarray,
          setting: Setting) -> Stage:  # fmt: skip
    """units (52,), gaze (2,), rotation and torso (3, 3) by the landmarker's zero."""
    turn, below = rotation @ FRONTAL.T, torso @ FRONTAL.T
    person, eyes = actor.person, actor.eyes
    local = _moved(model, actor, units)
    centre = eyes.mean(0)
    pivot = np.array([0, centre[1] - PIVOT[0], PIVOT[1]])
    middle = np.array([0, centre[1] - MIDDLE, centre[2]])
    clip, offset, distance, focal = _camera(eyes, _turned(middle[None], pivot, turn)[0], setting)
    place = lambda points: _turned(points, pivot, turn) + offset  # noqa: E731
    project = lambda points: (lambda seen: seen[:, :2] / seen[:, 2:] * focal)(place(points))  # noqa: E731
    skinned = {
        name: actor.above[name] * _turned(at, pivot, turn) + (1 - actor.above[name]) * _turned(at, pivot, below) + offset
        for name, at in local.items()
    }
    nose = local["skin"][model.surface[0]]
    surfaces = [_surface(model, actor, name, at, local, units, turn, nose, setting) for name, at in skinned.items()]
    for i, eye in enumerate(eyes):
        at, centre_seen = place(eye + BALL * model.eye_radius * 0.985), place(eye[None])[0]
        surfaces.append(
            Surface(f"eye{i}", "eye", at, at, np.zeros((len(at), 2)), np.ones((len(at), 4)), BALL_TRIANGLES,
                    {"centre": centre_seen, "gaze": FLIP @ sight(gaze)})
        )  # fmt: skip
    if person.glasses:
        surfaces += _glasses(person.glasses, eyes, nose, place, turn)
    five = np.stack([eyes[1], eyes[0], nose, *local["skin"][list(model.corners)]])
    labels = {
        "rotation": rotation,
        "units": units,
        "gaze": gaze,
        "five": project(five),
        "surface": project(local["skin"][model.surface]),
    }
    return Stage(surfaces, clip, _shadow_view(setting.light.key_dir, distance), turn, labels)


def _moved(model: HeadModel, actor: Actor, units: np.ndarray) -> dict[str, np.ndarray]:
    still = {actor.person.hair, actor.person.hat}
    shown = [name for name in actor.rest if name != "tongue" or units[TONGUE_SEEN].max() > 0.15]
    moving, moved = units.any(), mesh_units(units)
    return {
        name: actor.rest[name] + model.move(name, moved) if moving and name not in still else actor.rest[name] for name in shown
    }


def _turned(points: np.ndarray, pivot: np.ndarray, turn: np.ndarray) -> np.ndarray:
    return (points - pivot) @ (turn @ FLIP).T


def _camera(eyes: np.ndarray, middle: np.ndarray, setting: Setting) -> tuple[np.ndarray, np.ndarray, float, float]:
    """The lens (4, 4), what is added to turned points, the distance, and 1 / tan of half the field. The face's middle is on the
    axis, less the crop's shift; a head at rest fills the crop as DSID's alignment expects it."""
    half = np.linalg.norm(eyes[0] - eyes[1]) / 2 / HALF_EYES * setting.grow
    distance = half / np.tan(setting.field / 2)
    offset = np.array([0, 0, distance]) - middle
    offset[:2] -= setting.shift * half
    near, far, focal = max(0.1, distance - 4), distance + 6, 1 / np.tan(setting.field / 2)
    depth, step = (far + near) / (far - near), -2 * far * near / (far - near)
    return np.array([[focal, 0, 0, 0], [0, focal, 0, 0], [0, 0, depth, step], [0, 0, 1, 0]]), offset, distance, focal


def _shadow_view(key_dir: np.ndarray, distance: float) -> np.ndarray:
    """Parallel light from key_dir on a box around the head."""
    across = np.cross([0, 1, 0.01], key_dir)
    across /= np.linalg.norm(across)
    centre, view = np.array([0, 0, distance]), np.eye(4)
    for row, (axis, reach) in enumerate(((across, 2.2), (np.cross(key_dir, across), 2.2), (-key_dir, 4.0))):
        view[row, :3], view[row, 3] = axis / reach, -axis @ centre / reach
    return view


def _surface(model, actor: Actor, name: str, at, local, units, turn, nose, setting: Setting) -> Surface:
    person, part = actor.person, model.parts[name]
    normals = model.normals(name, at) if name == "skin" else actor.normals[name] @ (turn @ FLIP).T
    extra, kind = np.ones((part.count, 4)), "hair"
    if name == "skin":
        height, side = local["skin"][:, 1], np.abs(local["skin"][:, 0])
        kind, extra[:, 0] = "skin", height < actor.eyes[:, 1].mean() - CLOTH_BELOW + 0.25 * side
        extra[:, 1] = actor.beard
        look = {"first": person.skins[0], "second": person.skins[1], "tint": person.tint, "gloss": setting.light.gloss}
    elif name in ("teeth", "tongue"):
        kind, depth = "mouth", _smooth(-0.5, 0.05, local[name][:, 2] - (nose[2] - 0.45))
        extra[:, 2] = 0.12 + 0.75 * depth * min(1, 0.45 + units[INDEX["jawOpen"]])
        look = {"first": name, "tint": person.teeth if name == "teeth" else np.array([0.7, 0.5, 0.5])}
    elif name == person.hat:
        kind, look = "mouth", {"first": name, "tint": person.hat_colour}
    elif name == person.hair:
        look = {"first": name, "tint": person.hair_colour * 0.6, "gloss": 0.35, "alpha_cut": 0.25}
    else:
        extra[:, 2] = 0.9
        tint = np.full(3, 0.03) if name == person.lash else person.brow_colour
        look = {"first": name, "tint": tint, "gloss": 0.0, "alpha_cut": 0.08}
    return Surface(name, kind, at, normals, part.uv, extra, part.triangles, look)


def _glasses(style: Glasses, eyes: np.ndarray, nose: np.ndarray, place, turn: np.ndarray) -> list[Surface]:
    vertices, triangles, lenses = _frame(style, eyes, nose)
    at = place(vertices)
    plain = lambda points: (np.zeros((len(points), 2)), np.ones((len(points), 4)))  # noqa: E731
    frame = Surface("frame", "plain", at, at - at.mean(0), *plain(at), triangles, {"tint": style.colour, "gloss": 1.0})
    if not style.shade:
        return [frame]
    at = place(lenses)
    uv, extra = plain(at)
    extra[:, 3] = style.shade
    fans = np.array([(ring, ring + i, ring + i + 1) for ring in (0, FRAME_SIDES) for i in range(1, FRAME_SIDES - 1)], np.int32)
    facing = np.tile(turn @ [0, 0, -1.0], (len(at), 1))
    return [frame, Surface("lenses", "plain", at, facing, uv, extra, fans, {"tint": style.colour * 0.5, "gloss": 0.6})]


def _frame(style: Glasses, eyes: np.ndarray, nose: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Two rings, two temples and a bridge as tubes -> vertices, triangles, and the rings' points for the lenses."""
    middle, between = eyes.mean(0)[1] - style.drop, eyes[0][0] - eyes[1][0]
    front = max(nose[2] - 0.30, eyes[:, 2].max() + 0.19)
    angles, power = np.linspace(0, 2 * np.pi, FRAME_SIDES, endpoint=False), 2 / style.power
    tubes, lenses = [], []
    for side in (1, -1):
        x = side * max(between / 2, style.width + 0.03)
        wave = lambda values: np.sign(values) * np.abs(values) ** power  # noqa: E731
        ring = np.stack([x + style.width * wave(np.cos(angles)), middle + style.height * wave(np.sin(angles)), angles * 0], 1)
        ring[:, 2] = front - 0.10 * (np.abs(ring[:, 0]) - 0.1).clip(0)
        outer = x + side * style.width
        temple = [
            [outer, middle + 0.08, front - 0.08],
            [side * 0.80, middle + 0.06, front - 0.35],
            [side * 0.82, middle + 0.05, 0.45],
        ]
        tubes += [(ring, True), (np.array(temple), False)]
        lenses.append(ring)
    tubes.append(
        (np.array([[-0.08, middle + 0.05, front], [0, middle + 0.08, front + 0.02], [0.08, middle + 0.05, front]]), False)
    )
    vertices: list[np.ndarray] = []
    triangles = []
    for path, closed in tubes:
        triangles.append(_tube_triangles(len(path), closed) + sum(len(tube) for tube in vertices))
        vertices.append(_tube(path, closed, style.tube))
    return np.concatenate(vertices), np.concatenate(triangles).astype(np.int32), np.concatenate(lenses)


def _tube(path: np.ndarray, closed: bool, radius: float) -> np.ndarray:
    ahead = np.roll(path, -1, 0) if closed else np.concatenate([path[1:], path[-1:]])
    back = np.roll(path, 1, 0) if closed else np.concatenate([path[:1], path[:-1]])
    along = ahead - back
    along /= np.linalg.norm(along, axis=1, keepdims=True) + 1e-9
    across = np.cross(along, [0.1, 0.2, 1])
    across /= np.linalg.norm(across, axis=1, keepdims=True) + 1e-9
    angles = np.arange(TUBE_SIDES) * 2 * np.pi / TUBE_SIDES
    around = np.cos(angles)[:, None] * across[:, None] + np.sin(angles)[:, None] * np.cross(along, across)[:, None]
    return (path[:, None] + radius * around).reshape(-1, 3)


def _tube_triangles(length: int, closed: bool) -> np.ndarray:
    ring, side = np.meshgrid(np.arange(length if closed else length - 1), np.arange(TUBE_SIDES), indexing="ij")
    a, b = ring * TUBE_SIDES + side, ring * TUBE_SIDES + (side + 1) % TUBE_SIDES
    c, d = (ring + 1) % length * TUBE_SIDES + side, (ring + 1) % length * TUBE_SIDES + (side + 1) % TUBE_SIDES
    return np.concatenate([np.stack([a, b, c], -1).reshape(-1, 3), np.stack([b, d, c], -1).reshape(-1, 3)])


def _ball(rows: int = 14, columns: int = 24) -> tuple[np.ndarray, np.ndarray]:
    down, around = np.meshgrid(np.linspace(0, np.pi, rows + 1), np.linspace(0, 2 * np.pi, columns + 1), indexing="ij")
    points = np.stack([np.sin(down) * np.cos(around), np.cos(down), np.sin(down) * np.sin(around)], -1).reshape(-1, 3)
    first = (np.arange(rows)[:, None] * (columns + 1) + np.arange(columns)).ravel()
    below = first + columns + 1
    pairs = [np.stack([first, first + 1, below], 1), np.stack([first + 1, below + 1, below], 1)]
    return points, np.concatenate(pairs).astype(np.int32)


def _beard(rest: np.ndarray) -> np.ndarray:
    """(V,) in [0, 1]: where a beard grows, by the place on the skin at rest; moustache included."""
    x, y, z = rest.T
    (top, full), (low, begin), (back, front) = BEARD
    chin = _smooth(top, full, y - 0.25 * np.abs(x)) * _smooth(low, begin, y) * _smooth(back, front, z)
    lip = 0.8 * _smooth(6.95, 6.85, y) * _smooth(6.70, 6.80, y) * (np.abs(x) < 0.35) * (z > 1.2)
    return np.maximum(chin, lip)


def _smooth(low: float, high: float, values: np.ndarray) -> np.ndarray:
    share = np.clip((values - low) / (high - low), 0, 1)
    return share * share * (3 - 2 * share)


BALL, BALL_TRIANGLES = _ball()

"""What stands around a head for one clip: light, lens, clothes, background; each with the names that captions use."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

COLOURS = {  # display values
    "red": (0.75, 0.12, 0.12), "orange": (0.90, 0.50, 0.12), "yellow": (0.92, 0.82, 0.25), "green": (0.18, 0.52, 0.22),
    "teal": (0.10, 0.50, 0.50), "blue": (0.15, 0.30, 0.70), "purple": (0.45, 0.18, 0.58), "pink": (0.92, 0.58, 0.70),
    "brown": (0.42, 0.27, 0.16), "white": (0.93, 0.93, 0.92), "grey": (0.50, 0.50, 0.50), "black": (0.07, 0.07, 0.08),
}  # fmt: skip
PATTERNS = ("plain", "striped", "mottled")
BACKGROUNDS = ("plain", "gradient", "soft lights", "wall", "blurred room", "stripes", "picture")
BACKGROUND_SIDE = 96
LIGHTS = ("soft", "hard", "dim", "bright")


@dataclass(frozen=True, eq=False)
class Light:
    """Directions to the lamps (3,) in the camera frame, linear colours (3,), and how skin answers."""

    name: str
    key_dir: np.ndarray
    key: np.ndarray
    fill_dir: np.ndarray
    fill: np.ndarray
    sky: np.ndarray
    ground: np.ndarray
    rim: np.ndarray
    wrap: float
    gloss: float
    exposure: float
    shadows: bool


@dataclass(frozen=True, eq=False)
class Setting:
    """background (96, 96, 3) in [0, 1]; field: of view, radians; grow, shift (2,): of the crop; cloth colours linear (3,)."""

    light: Light
    background: np.ndarray
    background_kind: str
    background_colour: str
    cloth: np.ndarray
    cloth_second: np.ndarray
    cloth_colour: str
    pattern: str
    pattern_form: np.ndarray
    field: float
    grow: float
    shift: np.ndarray


def sample_setting(rng: np.random.Generator, pictures: Sequence[np.ndarray] = ()) -> Setting:
    """pictures: (H, W, 3) uint8, without people, for a part of the backgrounds."""
    kind, colour, background = sample_background(rng, pictures)
    cloth_colour, pattern = str(rng.choice(list(COLOURS))), str(rng.choice(PATTERNS, p=[0.5, 0.3, 0.2]))
    return Setting(
        light=sample_light(rng),
        background=background,
        background_kind=kind,
        background_colour=colour,
        cloth=_shade(rng, cloth_colour) ** 2.2,
        cloth_second=_shade(rng, str(rng.choice(list(COLOURS)))) ** 2.2,
        cloth_colour=cloth_colour,
        pattern=pattern,
        pattern_form=np.array([*rng.normal(0, 1, 2), rng.uniform(0.8, 5), PATTERNS.index(pattern)]),
        field=np.radians(rng.uniform(8, 38)),
        grow=float(np.exp(rng.normal(0, 0.12))),
        shift=rng.normal(0, 0.07, 2),
    )


def sample_light(rng: np.random.Generator) -> Light:
    """A key lamp, a weaker one from the other side, sky and ground, now and then a rim; the key's share is anything."""
    warm = lambda: np.clip(rng.normal(1, [0.10, 0.04, 0.12]), 0.5, 1.5)  # noqa: E731
    key_dir = _unit([rng.normal(0, 0.7), 0.1 - abs(rng.normal(0.3, 0.45)), -rng.uniform(0.25, 1)])
    share, exposure = rng.beta(1.2, 1.5), float(np.exp(rng.normal(-0.05, 0.3)))
    name = ("dim" if exposure < 0.7 else "bright" if exposure > 1.3 else "hard" if share > 0.6 else "soft")  # fmt: skip
    return Light(
        name=name,
        key_dir=key_dir,
        key=2.2 * share * warm() + 0.1,
        fill_dir=_unit([rng.normal(0, 0.4) - key_dir[0], rng.normal(-0.2, 0.4), -0.5]),
        fill=rng.uniform(0, 0.7) * warm(),
        sky=(1.15 - 0.8 * share) * warm() * rng.uniform(0.5, 1.1),
        ground=(1.0 - 0.7 * share) * warm() * rng.uniform(0.2, 0.9),
        rim=rng.choice([0, rng.uniform(0, 0.7)]) * warm(),
        wrap=rng.uniform(0.1, 0.5),
        gloss=rng.uniform(0.15, 1.1),
        exposure=exposure,
        shadows=bool(rng.random() < 0.75),
    )


def sample_background(rng: np.random.Generator, pictures=()) -> tuple[str, str, np.ndarray]:
    """-> kind, name of its main colour, (96, 96, 3) in [0, 1]."""
    weights = np.array([2.0, 1.5, 1.0, 1.0, 3.0, 0.7, 4.0 if len(pictures) else 0.0])
    kind, colour = str(rng.choice(BACKGROUNDS, p=weights / weights.sum())), str(rng.choice(list(COLOURS)))
    if kind == "picture":
        return kind, "", np.clip(_from_picture(rng, pictures) * rng.uniform(0.4, 1.2) * rng.normal(1, 0.08, 3), 0, 1)
    return kind, colour, np.clip(PAINTERS[kind](rng, _shade(rng, colour)), 0, 1)


def _plain(rng, colour):
    return np.broadcast_to(colour, (BACKGROUND_SIDE, BACKGROUND_SIDE, 3)).copy()


def _gradient(rng, colour):
    other, (x, y) = colour * rng.uniform(0.3, 1.6, 3), _grid()
    angle = rng.uniform(0, 2 * np.pi)
    share = np.clip(0.5 + 0.7 * (x * np.cos(angle) + y * np.sin(angle)), 0, 1)[..., None]
    return colour * (1 - share) + other * share


def _soft_lights(rng, colour):
    picture, (x, y) = _gradient(rng, colour * 0.5), _grid()
    for _ in range(rng.integers(4, 14)):
        distance = np.hypot(x - rng.uniform(-1, 1), y - rng.uniform(-1, 1))
        disc = 1 / (1 + np.exp((distance - rng.uniform(0.05, 0.25)) * 40))
        picture = picture + disc[..., None] * rng.uniform(0.1, 0.6) * _shade(rng, str(rng.choice(list(COLOURS))))
    return picture


def _wall(rng, colour):
    return colour * (1 + 0.35 * (_noise(rng, (40, 40)) - 0.5) + 0.35 * (_noise(rng, (5, 5)) - 0.5))[..., None]


def _stripes(rng, colour):
    x, y = _grid()
    angle, other = rng.uniform(0, np.pi), colour * rng.uniform(0.4, 1.3, 3)
    wave = np.sin((x * np.cos(angle) + y * np.sin(angle)) * rng.uniform(4, 25))
    return np.where((wave > 0)[..., None], colour, other)


def _room(rng, colour):
    """Boxes of any size, as doors, shelves and windows are, out of focus."""
    from scipy.ndimage import gaussian_filter

    picture = _gradient(rng, colour)
    for _ in range(rng.integers(3, 16)):
        left, top = rng.integers(-20, BACKGROUND_SIDE, 2)
        wide, high = rng.integers(3, 60, 2)
        shade = _shade(rng, str(rng.choice(list(COLOURS)))) * rng.uniform(0.4, 1.3)
        picture[max(0, top) : max(0, top + high), max(0, left) : max(0, left + wide)] = shade
    blur = rng.uniform(0.5, 5)
    return gaussian_filter(picture, (blur, blur, 0))


def _from_picture(rng, pictures) -> np.ndarray:
    import cv2

    picture = pictures[rng.integers(len(pictures))]
    side = rng.integers(60, min(picture.shape[:2]) + 1)
    top, left = (rng.integers(0, length - side + 1) for length in picture.shape[:2])
    cut = picture[top : top + side, left : left + side]
    small = cv2.resize(cut, (BACKGROUND_SIDE, BACKGROUND_SIDE), interpolation=cv2.INTER_AREA).astype(float) / 255
    return cv2.GaussianBlur(small, (0, 0), rng.uniform(0.5, 5)) if rng.random() < 0.6 else small


PAINTERS = dict(zip(BACKGROUNDS, (_plain, _gradient, _soft_lights, _wall, _room, _stripes)))


def _shade(rng, name: str) -> np.ndarray:
    colour = np.array(COLOURS[name])
    colour = colour.mean() + (colour - colour.mean()) * rng.uniform(0.5, 1)
    return np.clip(colour * rng.uniform(0.75, 1.2) + rng.normal(0, 0.03, 3), 0.01, 1)


def _noise(rng, cells: tuple[int, int]) -> np.ndarray:
    import cv2

    return cv2.resize(rng.random(cells), (BACKGROUND_SIDE, BACKGROUND_SIDE), interpolation=cv2.INTER_CUBIC)


def _grid() -> tuple[np.ndarray, np.ndarray]:
    axis = np.linspace(-1, 1, BACKGROUND_SIDE)
    return np.meshgrid(axis, axis)


def _unit(values) -> np.ndarray:
    return np.array(values) / np.linalg.norm(values)

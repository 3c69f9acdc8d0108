"""Expressions of heads: the 52 numbers of `head.ARKIT52`, and where the eyes look.

Left and right are the person's own. Gaze is yaw (to the picture's right) and pitch (up) of the eyes in the head, radians.
"""

import numpy as np

from ...head import ARKIT52

SIDES = ("Left", "Right")
PAIRED = (
    "browDown", "browOuterUp", "cheekSquint", "eyeBlink", "eyeSquint", "eyeWide", "mouthDimple", "mouthFrown", "mouthLowerDown",
    "mouthPress", "mouthSmile", "mouthStretch", "mouthUpperUp", "noseSneer",
)  # fmt: skip
_MOVED_BY_STEMS = {stem + side for stem in PAIRED for side in SIDES}
SINGLE = tuple(name for name in ARKIT52 if name not in _MOVED_BY_STEMS and not name.startswith("eyeLook"))
INDEX = {name: i for i, name in enumerate(ARKIT52)}
LARGEST = 1.1
FULL_LOOK = 0.5  # radians of gaze at which an eyeLook unit is 1
GAZE_LIMITS = np.array([[-0.6, -0.5], [0.6, 0.35]])
# MakeHuman's mesh at 1 moves by less than people do at ARKit's 1: the landmarker reads 0.3 in its raised upper lip, 0.15 in its
# raised brows, and up to 0.9 in people's. What is left of the difference is the landmarker's, which reads renders weakly.
REACH = {
    "mouthUpperUp": 1.5, "mouthLowerDown": 1.5, "browInnerUp": 1.6, "browOuterUp": 1.6, "browDown": 1.3, "mouthFunnel": 1.3,
    "mouthStretch": 1.3, "mouthSmile": 1.2, "eyeSquint": 1.2, "mouthPucker": 1.15,
}  # fmt: skip
REACHES = np.array([REACH.get(name.removesuffix("Left").removesuffix("Right"), 1.0) for name in ARKIT52])
LIDS_FOLLOW = {"Down": ("eyeBlink", 0.25), "Up": ("eyeWide", 0.6)}  # MakeHuman's lids follow a look by too little
CAMERA_SHARE, AHEAD_SHARE = 0.35, 0.2  # of gazes: at the camera, and straight ahead; the others wander

MOODS = {  # units that belong together, at strength 1; a stem moves both sides
    "smile": {"mouthSmile": 0.8, "cheekSquint": 0.4, "mouthDimple": 0.2},
    "laugh": {
        "mouthSmile": 0.9,
        "jawOpen": 0.45,
        "mouthUpperUp": 0.5,
        "mouthLowerDown": 0.4,
        "cheekSquint": 0.7,
        "eyeSquint": 0.5,
    },
    "grin": {"mouthSmile": 0.7, "mouthUpperUp": 0.5, "mouthLowerDown": 0.5, "jawOpen": 0.08, "mouthStretch": 0.3},
    "surprise": {"browInnerUp": 0.8, "browOuterUp": 0.8, "eyeWide": 0.8, "jawOpen": 0.5},
    "doubt": {"browInnerUp": 0.4, "browOuterUp": 0.9, "mouthPress": 0.3},
    "fear": {"browInnerUp": 0.9, "browDown": 0.2, "eyeWide": 0.8, "mouthStretch": 0.6, "jawOpen": 0.2},
    "anger": {"browDown": 0.9, "eyeSquint": 0.3, "noseSneer": 0.5, "mouthPress": 0.6, "mouthFrown": 0.3},
    "shout": {"browDown": 0.7, "jawOpen": 0.8, "noseSneer": 0.5, "mouthUpperUp": 0.5, "mouthLowerDown": 0.6, "eyeSquint": 0.4},
    "disgust": {"noseSneer": 0.9, "browDown": 0.5, "mouthUpperUp": 0.5, "mouthFrown": 0.3, "cheekSquint": 0.4},
    "sad": {"browInnerUp": 0.8, "mouthFrown": 0.8, "mouthShrugLower": 0.5, "browDown": 0.2},
    "pout": {"mouthShrugLower": 0.8, "mouthFrown": 0.5, "mouthRollUpper": 0.2},
    "kiss": {"mouthPucker": 0.9, "mouthFunnel": 0.2},
    "oh": {"mouthFunnel": 0.7, "jawOpen": 0.35, "mouthPucker": 0.3},
    "ah": {"jawOpen": 0.7},
    "ee": {"mouthStretch": 0.5, "mouthLowerDown": 0.4, "mouthUpperUp": 0.2, "jawOpen": 0.1},
    "mm": {"mouthPress": 0.5, "mouthRollLower": 0.5, "mouthRollUpper": 0.5},
    "sleep": {"eyeBlink": 1.0},
    "puff": {"cheekPuff": 0.9, "mouthPress": 0.3},
    "tired": {"eyeBlink": 0.5, "browInnerUp": 0.2},
}
FREE = tuple(stem for stem in PAIRED + SINGLE if stem not in ("mouthClose", "tongueOut"))  # what moves by itself
EXTRAS = (  # chance, stems, least and largest amount: movements that faces make whatever their mood
    (0.30, ("jawOpen",), 0.05, 0.9),
    (0.12, ("eyeBlink",), 0.3, 1.0),
    (0.18, ("browInnerUp", "browOuterUp"), 0.3, 1.1),
    (0.12, ("browDown",), 0.3, 1.0),
    (0.12, ("eyeSquint",), 0.3, 1.0),
    (0.06, ("eyeWide",), 0.3, 1.0),
    (0.08, ("mouthPucker",), 0.3, 1.0),
    (0.15, ("mouthSmile",), 0.3, 1.1),
    (0.06, ("mouthUpperUp",), 0.3, 1.1),
    (0.06, ("mouthLowerDown",), 0.3, 1.1),
    (0.03, ("tongueOut", "jawOpen"), 0.3, 0.8),
)
WINK_SHARE = 0.08
REST_SHARE = 0.10
HELD_OUT_PAIRS = {("surprise", "kiss"), ("anger", "oh"), ("laugh", "tired"), ("sad", "smile"), ("doubt", "ee")}
CLOSING = ("mouthPressLeft", "mouthPressRight", "cheekPuff", "mouthRollLower", "mouthRollUpper")


def sample_expression(rng: np.random.Generator, split: str = "train") -> np.ndarray:
    """(52,) in [0, LARGEST]. The test split shows pairs of moods that the train split never has."""
    units = np.zeros(len(ARKIT52))
    if rng.random() < REST_SHARE:
        return units
    for mood, strength in _moods(rng, split):
        for stem, amount in MOODS[mood].items():
            _move(units, rng, stem, amount * strength * rng.uniform(0.6, 1.2))
    for stem in rng.choice(FREE, rng.poisson(1.5)):
        _move(units, rng, stem, rng.beta(1.2, 1.5) * 0.9)
    for chance, stems, least, largest in EXTRAS:
        if rng.random() < chance:
            for stem in stems:
                _move(units, rng, stem, rng.uniform(least, largest))
    if rng.random() < WINK_SHARE:
        side = rng.choice(SIDES)
        units[INDEX[f"eyeBlink{side}"]] += rng.uniform(0.6, 1.0)
        units[INDEX[f"cheekSquint{side}"]] += rng.uniform(0, 0.5)
    return possible(units)


def _moods(rng: np.random.Generator, split: str) -> list[tuple[str, float]]:
    pairs = sorted(HELD_OUT_PAIRS)
    while True:
        names = [str(name) for name in rng.choice(list(MOODS), rng.choice([0, 1, 2], p=[0.25, 0.55, 0.2]), replace=False)]
        if split == "test" and len(names) == 2:
            names = list(pairs[rng.integers(len(pairs))])
        if split == "test" or not {tuple(names), tuple(names[::-1])} & HELD_OUT_PAIRS:
            return [(name, rng.uniform(0.2, 1.25)) for name in names]


def _move(units: np.ndarray, rng: np.random.Generator, stem: str, amount: float) -> None:
    """A paired stem moves both sides, seldom by much the same."""
    if stem in INDEX:
        units[INDEX[stem]] += amount
        return
    lean = np.clip(rng.normal(0, 0.15 if rng.random() < 0.75 else 0.6), -1, 1)
    units[INDEX[f"{stem}Left"]] += amount * min(1, 1 + lean)
    units[INDEX[f"{stem}Right"]] += amount * min(1, 1 - lean)


def possible(units: np.ndarray) -> np.ndarray:
    """(52,) without what cannot be together: lips pressed in an open mouth, a smile that frowns, lids both wide and shut."""
    units = np.clip(units, 0, LARGEST)
    jaw = units[INDEX["jawOpen"]]
    units[INDEX["mouthClose"]] = min(units[INDEX["mouthClose"]], jaw)
    if jaw > 0.4:
        units[[INDEX[name] for name in CLOSING]] *= 0.3
    for side in SIDES:
        at = {stem: INDEX[stem + side] for stem in PAIRED}
        units[at["mouthFrown"]] *= 1 - min(1, units[at["mouthSmile"]])
        units[at["eyeWide"]] *= 1 - min(1, units[at["eyeBlink"]])
        units[at["browOuterUp"]] *= 1 - 0.8 * min(1, units[at["browDown"]])
        units[at["eyeSquint"]] = min(units[at["eyeSquint"]], LARGEST - units[at["eyeBlink"]])
    return units


def sample_gaze(rng: np.random.Generator, to_camera: np.ndarray) -> np.ndarray:
    """(2,): at the camera, which the head sees at to_camera (2,) radians, ahead, or anywhere."""
    kind = rng.random()
    if kind < CAMERA_SHARE:
        gaze = to_camera + rng.normal(0, 0.04, 2)
    else:
        gaze = rng.normal(0, 0.03, 2) if kind < CAMERA_SHARE + AHEAD_SHARE else rng.normal(0, [0.28, 0.2])
    return np.clip(gaze, *GAZE_LIMITS)


def with_gaze(units: np.ndarray, gaze: np.ndarray) -> np.ndarray:
    """The eyeLook units that a gaze is. The picture's right is the person's left."""
    units, (right, up) = units.copy(), gaze / FULL_LOOK
    for name, amount in {
        "eyeLookOutLeft": right, "eyeLookInRight": right, "eyeLookOutRight": -right, "eyeLookInLeft": -right,
        "eyeLookUpLeft": up, "eyeLookUpRight": up, "eyeLookDownLeft": -up, "eyeLookDownRight": -up,
    }.items():  # fmt: skip
        units[INDEX[name]] = np.clip(amount, 0, 1.2)
    return units


def mesh_units(units: np.ndarray) -> np.ndarray:
    """What the mesh is moved by: units (52,) as far as people reach, and lids that go with the look without a label of it."""
    moved = units * REACHES
    for side in SIDES:
        for way, (lid, share) in LIDS_FOLLOW.items():
            closed = units[INDEX[f"eyeBlink{side}"]]
            moved[INDEX[lid + side]] += share * units[INDEX[f"eyeLook{way}{side}"]] * max(0.0, 1 - closed)
    return moved


def mirrored() -> list[int]:
    """The unit that stands in each one's place when left and right are exchanged."""
    return [INDEX[_other_side(name)] for name in ARKIT52]


def _other_side(name: str) -> str:
    for side, other in (("Left", "Right"), ("Right", "Left")):
        if name.endswith(side):
            return name.removesuffix(side) + other
    return name

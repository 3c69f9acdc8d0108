"""The factors of a drawn face: what varies, in which range, and which of it is held out for tests.

A scene is one row per picture in five groups. People for tests are held out by a checkerboard over three identity
factors, extreme poses by an ellipse in yaw and pitch: both by construction, whatever the seed.
"""

from dataclasses import dataclass, fields, replace

import torch
from torch import Generator, Tensor


@dataclass(frozen=True)
class Factor:
    """A number in [low, high]; with choices, the index of one of them. Beyond the range of an angle: degrees."""

    name: str
    low: float
    high: float
    choices: tuple[str, ...] = ()


def choice(name: str, *choices: str) -> Factor:
    return Factor(name, 0, len(choices) - 1, choices)


COLOURS = ("red", "orange", "yellow", "green", "blue", "purple", "white", "grey")
PATTERNS = ("plain", "striped", "dotted", "checkered")
HAIR_STYLES = ("bald", "cropped", "short", "parted", "fringe", "curly", "bob", "long", "bun")

# Lengths are in half picture widths at rest, y down, the middle between eyes and chin near 0.
IDENTITY = (
    Factor("head_width", 0.37, 0.46),
    Factor("head_height", 0.54, 0.62),
    Factor("head_depth", 0.40, 0.50),
    Factor("cheek_width", 0.90, 1.02),
    Factor("jaw_width", 0.62, 0.94),
    Factor("chin_length", 0.44, 0.54),
    Factor("skin_melanin", 0.0, 1.0),
    Factor("skin_redness", -1.0, 1.0),
    choice("hair_style", *HAIR_STYLES),
    Factor("hair_melanin", 0.0, 1.0),
    Factor("hair_redness", 0.0, 1.0),
    Factor("hair_volume", 0.0, 1.0),
    Factor("hairline", 0.0, 1.0),
    Factor("eye_spacing", 0.175, 0.215),
    Factor("eye_height", -0.215, -0.165),
    Factor("eye_width", 0.090, 0.120),
    Factor("eye_opening", 0.052, 0.070),
    Factor("eye_tilt", -0.16, 0.16),
    Factor("iris_hue", 0.0, 1.0),
    Factor("brow_height", 0.115, 0.140),
    Factor("brow_thickness", 0.014, 0.036),
    Factor("brow_arch", 0.0, 0.035),
    Factor("nose_length", 0.17, 0.26),
    Factor("nose_width", 0.055, 0.100),
    Factor("nose_depth", 0.05, 0.13),
    Factor("mouth_height", 0.265, 0.315),
    Factor("mouth_width", 0.135, 0.175),
    Factor("lip_upper", 0.018, 0.036),
    Factor("lip_lower", 0.022, 0.046),
    Factor("lip_redness", 0.0, 1.0),
    Factor("ear_size", 0.75, 1.30),
    Factor("ear_spread", 0.0, 1.0),
    Factor("freckles", 0.0, 1.0),
    Factor("beard", 0.0, 1.0),
    Factor("moustache", 0.0, 1.0),
    Factor("cheek_colour", 0.0, 1.0),
)
# Left and right are the picture's.
EXPRESSION = (
    Factor("smile", -1.0, 1.0),
    Factor("jaw_open", 0.0, 1.0),
    Factor("pucker", 0.0, 1.0),
    Factor("brow_raise_left", 0.0, 1.0),
    Factor("brow_raise_right", 0.0, 1.0),
    Factor("brow_frown_left", 0.0, 1.0),
    Factor("brow_frown_right", 0.0, 1.0),
    Factor("blink_left", 0.0, 1.0),
    Factor("blink_right", 0.0, 1.0),
    Factor("gaze_x", -1.0, 1.0),
    Factor("gaze_y", -1.0, 1.0),
)
POSE = (
    Factor("yaw", -45.0, 45.0),
    Factor("pitch", -25.0, 25.0),
    Factor("roll", -25.0, 25.0),
    Factor("x", -0.10, 0.10),
    Factor("y", -0.10, 0.06),
    Factor("log_scale", -0.12, 0.08),
)
NUISANCE = (
    Factor("light_x", -0.9, 0.9),
    Factor("light_y", -0.9, 0.3),
    Factor("light_strength", 0.35, 0.70),
    Factor("ambient", 0.50, 0.70),
    Factor("warmth", -1.0, 1.0),
    Factor("background_shade", -1.0, 1.0),
    Factor("background_phase", 0.0, 1.0),
    Factor("noise", 0.0, 1.0),
    Factor("noise_seed", 0.0, 65535.0),
)
CONTEXT = (
    choice("background", *COLOURS),
    choice("pattern", *PATTERNS),
    choice("clothing", *COLOURS),
    choice("glasses", "no", "yes"),
    choice("hat", "no", "yes"),
    choice("scarf", "no", "yes"),
)
GROUPS = {"identity": IDENTITY, "expression": EXPRESSION, "pose": POSE, "nuisance": NUISANCE, "context": CONTEXT}
WORN_SHARE = {"glasses": 0.3, "hat": 0.3, "scarf": 0.3}

SPLITS = ("train", "test")
POSES = ("usual", "extreme")
HELD_OUT_BY = ("head_width", "skin_melanin", "eye_spacing")  # quartiles of these make the checkerboard
BOARD = 5  # one cell in five is for tests


@dataclass(frozen=True)
class Scene:
    """What B pictures show: identity (B, 36), expression (B, 11), pose (B, 6), nuisance (B, 9), context (B, 6), float32.

    Columns as in GROUPS; angles in degrees (R = Rz(roll) Ry(yaw) Rx(pitch)), x and y in half picture widths.
    """

    identity: Tensor
    expression: Tensor
    pose: Tensor
    nuisance: Tensor
    context: Tensor

    def __len__(self) -> int:
        return len(self.identity)

    def __getitem__(self, rows) -> "Scene":
        """The scenes of these rows (a slice, a list or an index tensor)."""
        return Scene(**{field.name: getattr(self, field.name)[rows] for field in fields(self)})

    def factor(self, name: str) -> Tensor:
        """(B, 1, 1), ready to meet pictures. Raises KeyError for an unknown name."""
        group, column = COLUMN[name]
        return getattr(self, group)[:, column, None, None]

    def with_factor(self, name: str, values) -> "Scene":
        """The same scenes with one factor set to values (B,) or a number."""
        group, column = COLUMN[name]
        changed = getattr(self, group).clone()
        changed[:, column] = torch.as_tensor(values, dtype=changed.dtype)
        return replace(self, **{group: changed})

    def with_groups(self, **groups: Tensor) -> "Scene":
        """The same scenes with whole groups replaced, e.g. expression=other.expression."""
        return replace(self, **groups)


COLUMN = {factor.name: (group, i) for group, factors in GROUPS.items() for i, factor in enumerate(factors)}


def concatenate(scenes: list[Scene]) -> Scene:
    """Scenes one after another."""
    return Scene(**{field.name: torch.cat([getattr(s, field.name) for s in scenes]) for field in fields(Scene)})


def sample_scenes(count: int, generator: Generator, split: str = "train", poses: str = "usual") -> Scene:
    """count unrelated scenes: new people, expressions, poses, light and context, of a split of SPLITS and a range of POSES.

    Raises ValueError for an unknown split or range.
    """
    return Scene(
        identity=sample_people(count, generator, split),
        expression=sample_expressions(count, generator),
        pose=sample_poses(count, generator, poses),
        nuisance=_uniform(NUISANCE, count, generator),
        context=sample_contexts(count, generator),
    )


def sample_people(count: int, generator: Generator, split: str = "train") -> Tensor:
    """(count, 36) identities of one split. Half have no beard or moustache, half no freckles."""
    _require(split, SPLITS, "split")
    people = _rejected(lambda n: _uniform(IDENTITY, n, generator), lambda p: is_held_out(p) == (split == "test"), count)
    for name in ("freckles", "beard", "moustache"):
        column = COLUMN[name][1]
        people[:, column] = (people[:, column] * 2 - 1).clamp(min=0)
    return people


def is_held_out(people: Tensor) -> Tensor:
    """identities (B, 36) -> (B,) bool: is this person kept for tests?"""
    cells = torch.zeros(len(people), dtype=torch.long)
    for name in HELD_OUT_BY:
        factor = IDENTITY[COLUMN[name][1]]
        share = (people[:, COLUMN[name][1]] - factor.low) / (factor.high - factor.low)
        cells += (share * 4).floor().clamp(0, 3).long()
    return cells % BOARD == 0


def sample_expressions(count: int, generator: Generator) -> Tensor:
    """(count, 11): each factor at rest in a third of the cases, so that plain faces and single movements occur."""
    values = _uniform(EXPRESSION, count, generator)
    at_rest = torch.rand(values.shape, generator=generator) < 1 / 3
    values[at_rest] = 0
    for side in ("left", "right"):  # one brow goes one way at a time
        up, down = COLUMN[f"brow_raise_{side}"][1], COLUMN[f"brow_frown_{side}"][1]
        first = torch.rand(count, generator=generator) < 0.5
        values[first, up] = 0
        values[~first, down] = 0
    return values


def sample_poses(count: int, generator: Generator, poses: str = "usual") -> Tensor:
    """(count, 6). "usual" stays within the ellipse (yaw / 45)^2 + (pitch / 25)^2 <= 1, "extreme" beyond it."""
    _require(poses, POSES, "range of poses")
    return _rejected(lambda n: _uniform(POSE, n, generator), lambda p: is_extreme(p) == (poses == "extreme"), count)


def is_extreme(pose: Tensor) -> Tensor:
    """pose (B, 6) -> (B,) bool."""
    yaw, pitch = POSE[0], POSE[1]
    return (pose[:, 0] / yaw.high) ** 2 + (pose[:, 1] / pitch.high) ** 2 > 1


def sample_contexts(count: int, generator: Generator) -> Tensor:
    """(count, 6) of choices; glasses, hat and scarf are worn by WORN_SHARE of the people."""
    columns = []
    for factor in CONTEXT:
        if factor.name in WORN_SHARE:
            columns.append((torch.rand(count, generator=generator) < WORN_SHARE[factor.name]).float())
        else:
            columns.append(torch.randint(len(factor.choices), (count,), generator=generator).float())
    return torch.stack(columns, dim=1)


def sample_nuisance(count: int, generator: Generator) -> Tensor:
    """(count, 9): light, background shade and noise."""
    return _uniform(NUISANCE, count, generator)


def _uniform(factors: tuple[Factor, ...], count: int, generator: Generator) -> Tensor:
    share = torch.rand(count, len(factors), generator=generator)
    columns = [
        (share[:, i] * len(f.choices)).floor() if f.choices else f.low + share[:, i] * (f.high - f.low)
        for i, f in enumerate(factors)
    ]
    return torch.stack(columns, dim=1)


def _rejected(draw, accept, count: int) -> Tensor:
    """count rows of draw(n) that accept(rows) keeps."""
    rows = draw(0)
    while len(rows) < count:
        drawn = draw(8 * count)
        rows = torch.cat([rows, drawn[accept(drawn)]])
    return rows[:count].clone()


def _require(name: str, known: tuple[str, ...], what: str) -> None:
    if name not in known:
        raise ValueError(f"unknown {what} {name!r}; known: {', '.join(known)}")

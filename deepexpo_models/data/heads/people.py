"""Random people: shape, skin, hair, brows, eyes, make-up, beard, glasses, hat. All draws come from the given generator."""

from dataclasses import dataclass

import numpy as np

from .build import AGES, ANCESTRIES, HATS, WEIGHTS

SHORT_HAIRS = ("short01", "short02", "short03", "short04", "afro01")
IRISES = {
    "dark brown": (0.16, 0.08, 0.03), "brown": (0.25, 0.14, 0.06), "black": (0.10, 0.05, 0.03), "blue": (0.22, 0.32, 0.42),
    "grey": (0.30, 0.38, 0.42), "green": (0.20, 0.28, 0.16), "hazel": (0.30, 0.22, 0.10),
}  # fmt: skip
HAIR_COLOURS = {
    "black": (0.03, 0.025, 0.02), "dark brown": (0.06, 0.04, 0.03), "brown": (0.16, 0.09, 0.05), 
    "light brown": (0.30, 0.18, 0.09), "blond": (0.75, 0.55, 0.30), "light blond": (0.9, 0.78, 0.55), "red": (0.45, 0.16, 0.07),
    "grey": (0.6, 0.6, 0.6), "white": (0.9, 0.9, 0.9),
}  # fmt: skip
YOUNG_HAIR, DARK_HAIR = 7, 3  # the first so many colours
WIDER_EYES = {
    "shape:{}-eye-height2-incr": (0.25, 0.2),
    "shape:{}-eye-height1-incr": (0.1, 0.15),
    "shape:{}-eye-height3-incr": (0.1, 0.15),
}
CALMER_BROWS = {  # and its brows slant and stand low, which reads as a scowl
    ("shape:eyebrows-angle-up", "shape:eyebrows-angle-down"): (0.45, 0.35),
    ("shape:eyebrows-trans-up", "shape:eyebrows-trans-down"): (0.35, 0.4),
}
SUBTLE = ("trans-in", "trans-out", "angle-in", "angle-out")
HALF = ("shape:neck", "shape:head-trans", "shape:head-scale", "shape:l-ear")
HELD_OUT = 10  # one in so many combinations of skin, hair and iris is seen in tests only


@dataclass(frozen=True)
class Glasses:
    """Half widths in decimetres; power: of the superellipse; shade: opacity of the lenses."""

    width: float
    height: float
    power: float
    tube: float
    drop: float
    shade: float
    colour: np.ndarray


@dataclass(frozen=True, eq=False)
class Person:
    """weights (targets,): the shape; names of parts; linear colours (3,); strengths in [0, 1]; sex: 1 male; age: 0 a child, 1
    young, 2 old."""

    weights: np.ndarray
    sex: float
    age: float
    ancestry: np.ndarray
    skins: tuple[str, str]
    mixing: float
    gamma: float
    tint: np.ndarray
    hair: str | None
    hair_name: str
    hair_colour: np.ndarray
    brow: str
    brow_colour: np.ndarray
    lash: str
    hat: str | None
    hat_colour: np.ndarray
    iris_name: str
    iris: np.ndarray
    rings: tuple[float, float]
    stubble: float
    makeup: float
    lip: np.ndarray
    freckles: float
    teeth: np.ndarray
    glasses: Glasses | None


def sample_person(
    rng: np.random.Generator, names: list[str], skins: list[str], hairs: list[str], brows, lashes, split: str
) -> Person:
    """names: the model's targets; skins, hairs, brows, lashes: what the model has. Held-out people are those whose skin, hair
    and iris come together in the test split alone."""
    while True:
        person = _draw(rng, names, skins, hairs, brows, lashes)
        if is_held_out(person, skins, hairs) == (split == "test"):
            return person


def is_held_out(person: Person, skins: list[str], hairs: list[str]) -> bool:
    hair = hairs.index(person.hair) if person.hair else len(hairs)
    return (7 * skins.index(person.skins[0]) + 3 * hair + list(IRISES).index(person.iris_name)) % HELD_OUT == 0


def _draw(rng, names, skins, hairs, brows, lashes) -> Person:
    sex = float(rng.choice([0.0, 1.0, rng.random()], p=[0.4, 0.4, 0.2]))
    age = float(rng.choice([rng.uniform(0, 1), rng.uniform(1, 2), rng.uniform(0.85, 1.3)], p=[0.1, 0.4, 0.5]))
    ancestry = rng.dirichlet([0.4, 0.4, 0.4])
    male, dark = sex > 0.5, bool(ancestry[0] > rng.uniform(0.3, 0.7))
    hair = None if rng.random() < 0.06 else str(rng.choice(SHORT_HAIRS if male and rng.random() < 0.7 else hairs))
    hair_name, hair_colour = _hair_colour(rng, age, dark)
    hat = str(rng.choice(HATS)) if rng.random() < 0.05 else None
    brightness = rng.uniform(0.5, 1.5) if dark else rng.uniform(0.55, 1.25)
    iris = str(rng.choice(list(IRISES)))
    return Person(
        weights=sample_shape(rng, names, sex, age, ancestry),
        sex=sex,
        age=age,
        ancestry=ancestry,
        skins=_skins(rng, skins, male, age, dark),
        mixing=float(rng.choice([0, rng.random()])),
        gamma=rng.uniform(1.8, 2.5),
        tint=brightness * rng.normal(1, [0.05, 0.04, 0.06]),
        hair=hair,
        hair_name=hair_name,
        hair_colour=hair_colour,
        brow=str(rng.choice(brows)),
        brow_colour=hair_colour * rng.uniform(0.15, 0.6),
        lash=str(rng.choice(lashes)),
        hat=hat,
        hat_colour=rng.random(3) ** 2,
        iris_name=iris,
        iris=np.array(IRISES[iris]) * rng.uniform(0.7, 1.4),
        rings=(rng.uniform(0.12, 0.24), rng.uniform(0.42, 0.50)),
        stubble=float(rng.choice([0, rng.uniform(0.1, 0.5), rng.uniform(0.6, 1.0)], p=[0.5, 0.3, 0.2]))
        if male and age > 0.7
        else 0.0,
        makeup=float(rng.choice([0, rng.random()])) if sex < 0.4 and age > 0.7 else 0.0,
        lip=np.array([1, rng.uniform(0.25, 0.8), rng.uniform(0.3, 0.85)]),
        freckles=float(rng.choice([0, rng.random()], p=[0.8, 0.2])),
        teeth=rng.uniform(0.75, 1.05) * np.array([1, rng.uniform(0.9, 1), rng.uniform(0.75, 0.98)]),
        glasses=_glasses(rng) if rng.random() < 0.15 else None,
    )


def sample_shape(rng: np.random.Generator, names: list[str], sex: float, age: float, ancestry: np.ndarray) -> np.ndarray:
    """Weights (targets,): the mean shape of sex, age, weight and ancestry, and local differences, nearly symmetric."""
    at = {name: i for i, name in enumerate(names)}
    weights = np.zeros(len(names))
    ages = dict(zip(AGES, (max(0, 1 - age), max(0, 1 - abs(age - 1)), max(0, age - 1))))
    fat = np.clip(rng.normal(0, 0.5), -1, 1)
    heavy = dict(zip(WEIGHTS, (max(0, -fat), 1 - abs(fat), max(0, fat))))
    for name, by_sex in (("female", 1 - sex), ("male", sex)):
        for stage, by_age in ages.items():
            for weight, share in heavy.items():
                weights[at[f"macro:{name}:{stage}:{weight}"]] = by_sex * by_age * share
            for origin, share in zip(ANCESTRIES, ancestry):
                weights[at[f"ancestry:{name}:{stage}:{origin}"]] = by_sex * by_age * share
    spread = rng.uniform(0.10, 0.50)
    for name in names:
        if name.startswith("shape:") and not name.startswith("shape:r-") and rng.random() < 0.3:
            amount = abs(rng.normal(0, spread)) * (0.3 if any(word in name for word in SUBTLE) else 1)
            amount *= 0.5 if name.startswith(HALF) or "age" in name else 1
            _both_sides(weights, at, name, amount, rng)
    for name, (middle, sd) in WIDER_EYES.items():  # at rest MakeHuman's lids cover more of the iris than most people's
        amount = rng.normal(middle, sd)
        if amount > 0:
            _both_sides(weights, at, name.format("l"), weights[at[name.format("l")]] + amount, rng)
    for (first, second), (middle, sd) in CALMER_BROWS.items():
        _opposite(weights, at, first, second, rng.normal(middle, sd))
    return weights


def _both_sides(weights, at, name: str, amount: float, rng) -> None:
    weights[at[name]] = min(amount, 1)
    other = "shape:r-" + name.removeprefix("shape:l-")
    if name.startswith("shape:l-") and other in at:
        weights[at[other]] = np.clip(amount * rng.normal(1, 0.1), 0, 1)


def _opposite(weights, at, first: str, second: str, amount: float) -> None:
    weights[at[first]], weights[at[second]] = np.clip(amount, 0, 1), np.clip(-amount, 0, 1)


def _skins(rng, skins: list[str], male: bool, age: float, dark: bool) -> tuple[str, str]:
    stage = "young" if age < 1.25 else "middleage" if age < 1.6 else "old"
    alike = [name for name in skins if ("dark" in name) == dark]
    fitting = [name for name in alike if f"_{'male' if male else 'female'}_" in name and name.startswith(stage)]
    return str(rng.choice(fitting or alike)), str(rng.choice(alike))


def _hair_colour(rng, age: float, dark: bool) -> tuple[str, np.ndarray]:
    choices = len(HAIR_COLOURS) if age > 1.5 or rng.random() < 0.1 else YOUNG_HAIR
    name = list(HAIR_COLOURS)[rng.integers(DARK_HAIR if dark and rng.random() < 0.8 else choices)]
    return name, np.clip(np.array(HAIR_COLOURS[name]) * rng.uniform(0.6, 1.5) * rng.normal(1, 0.06, 3), 0.01, 1)


def _glasses(rng) -> Glasses:
    return Glasses(
        width=rng.uniform(0.24, 0.34),
        height=rng.uniform(0.16, 0.27),
        power=float(rng.choice([2, 2.5, 4, 6])),
        tube=rng.uniform(0.010, 0.030),
        drop=rng.uniform(-0.04, 0.05),
        shade=float(rng.choice([0, 0, 0.1, rng.uniform(0.3, 0.95)])),
        colour=float(rng.choice([0.02, 0.02, rng.random()])) * rng.uniform(0.3, 1, 3),
    )

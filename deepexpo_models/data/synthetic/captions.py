"""Sentences about drawn scenes: what a text-to-image model learns to follow.

The context is always named; hair and expression in half of the captions each, since a caption that always told the
expression would win over the code.
"""

import re

import torch
from torch import Generator

from .factors import COLUMN, CONTEXT, HAIR_STYLES, Scene

PATTERN_PHRASES = (
    "{colour} background",
    "{colour} striped background",
    "{colour} dotted background",
    "{colour} checkered background",
)
WORN = {"glasses": "wearing glasses", "hat": "wearing a hat", "scarf": "wearing a scarf"}
SHADES = ((0.22, "blond"), (0.45, "light brown"), (0.72, "brown"), (1.01, "black"))
EXPRESSION_WORDS = (  # the first factor beyond its threshold names the face
    ("smile", 0.5, "smiling"),
    ("smile", -0.5, "frowning"),
    ("pucker", 0.6, "with puckered lips"),
    ("jaw_open", 0.5, "with an open mouth"),
)
OPENINGS = ("a portrait of a person", "a drawing of a person", "a person")
SHARE_TOLD = 0.5


def captions(scene: Scene, generator: Generator) -> list[str]:
    """One sentence per scene, e.g. "a portrait of a person with brown hair, smiling, blue striped background, red
    clothes, wearing a hat".
    """
    draws = torch.rand(len(scene), 3, generator=generator).tolist()
    return [_caption(scene[row : row + 1], *draw) for row, draw in enumerate(draws)]


def context_caption(
    background: str, pattern: str, clothing: str, worn: tuple[str, ...] = (), opening: str = OPENINGS[0]
) -> str:
    """The sentence for a context by its names, e.g. ("blue", "striped", "red", ("hat",))."""
    patterns = _choices("pattern")
    parts = [PATTERN_PHRASES[patterns.index(pattern)].format(colour=background), f"{clothing} clothes"]
    return ", ".join([opening, *parts, *[WORN[name] for name in worn]])


def _caption(scene: Scene, opening: float, hair: float, face: float) -> str:
    subject = OPENINGS[int(opening * len(OPENINGS))]
    if hair < SHARE_TOLD:
        subject += " " + _hair(scene)
    if face < SHARE_TOLD and (words := _expression(scene)):
        subject += ", " + words
    names = {name: _choices(name)[int(_value(scene, name))] for name in ("background", "pattern", "clothing")}
    return context_caption(**names, worn=tuple(name for name in WORN if _value(scene, name)), opening=subject)


def _hair(scene: Scene) -> str:
    style = HAIR_STYLES[int(_value(scene, "hair_style"))]
    if style == "bald":
        return "with a bald head"
    red = _value(scene, "hair_redness") > 0.85
    shade = "red" if red else next(word for limit, word in SHADES if _value(scene, "hair_melanin") < limit)
    length = {"long": "long ", "bob": "long ", "curly": "curly ", "cropped": "short ", "short": "short "}.get(style, "")
    return f"with {length}{shade} hair"


def _expression(scene: Scene) -> str:
    for name, limit, words in EXPRESSION_WORDS:
        value = _value(scene, name)
        if (value > limit) if limit > 0 else (value < limit):
            return words
    return ""


def _value(scene: Scene, name: str) -> float:
    group, column = COLUMN[name]
    return getattr(scene, group)[0, column].item()


def _choices(name: str) -> tuple[str, ...]:
    return next(factor.choices for factor in CONTEXT if factor.name == name)


def _words() -> tuple[str, ...]:
    told = [*OPENINGS, *PATTERN_PHRASES, *WORN.values(), *[w for _, w in SHADES], *[w for *_, w in EXPRESSION_WORDS]]
    told += [c for f in CONTEXT for c in f.choices] + ["with a bald head", "long curly short red hair clothes"]
    return tuple(sorted(set(re.findall(r"[a-z]+", " ".join(told).replace("{colour}", "")))))


CAPTION_WORDS = _words()

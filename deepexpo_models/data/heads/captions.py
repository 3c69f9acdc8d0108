"""Sentences about rendered heads, made from their factors: place, clothes, hair, what is worn, light, face and pose.

The context is always named; hair, light, expression and pose in a part of the captions each.
"""

import re

import torch
from torch import Generator, Tensor

from ...dsid.rotation import matrix_to_euler
from ...head import ARKIT52
from .people import HAIR_COLOURS
from .scenery import BACKGROUNDS, COLOURS, LIGHTS, PATTERNS
from .shards import CONTEXT, Heads

AT = {name: i for i, name in enumerate(CONTEXT)}
PLACES = {
    "plain": "{} background", "gradient": "{} gradient background", "soft lights": "{} background with soft lights",
    "wall": "{} wall behind", "blurred room": "in a blurred {} room", "stripes": "{} striped background", "picture": "outdoors",
}  # fmt: skip
CLOTHES = {"plain": "{} clothes", "striped": "{} striped clothes", "mottled": "{} patterned clothes"}
EXPRESSIONS = (  # units whose mean is beyond the threshold name the face; the first that fit
    (("jawOpen",), 0.5, "with an open mouth"),
    (("mouthSmileLeft", "mouthSmileRight"), 0.4, "smiling"),
    (("mouthPucker",), 0.5, "with puckered lips"),
    (("eyeBlinkLeft", "eyeBlinkRight"), 0.7, "with closed eyes"),
    (("browDownLeft", "browDownRight"), 0.5, "frowning"),
    (("browInnerUp", "browOuterUpLeft", "browOuterUpRight"), 0.5, "with raised brows"),
)
TURNS = (  # angle, limit in degrees, sign, words
    (0, 25, 1, "looking to the right"), (0, 25, -1, "looking to the left"),
    (1, 15, 1, "looking up"), (1, 15, -1, "looking down"),
)  # fmt: skip
SHARES = {"hair": 0.5, "light": 0.4, "expression": 0.5, "pose": 0.4}
OPENINGS = ("a photo of", "a portrait of", "")


def captions(heads: Heads, generator: Generator) -> list[str]:
    """One sentence per head, e.g. "a photo of a young woman with short brown hair, smiling, red wall behind, blue striped
    clothes, wearing glasses, soft light".
    """
    draws = torch.rand(len(heads.context), 1 + len(SHARES), generator=generator)
    angles = matrix_to_euler(heads.rotation)
    return [_caption(*row) for row in zip(heads.context, heads.units, angles, draws)]


def context_caption(context: Tensor) -> str:
    """context (len(CONTEXT),) -> the sentence that tells all of it, hair and light too, and neither expression nor pose."""
    draw = torch.tensor([0.0, *[0.0 if name in ("hair", "light") else 1.0 for name in SHARES]])
    return _caption(context, torch.zeros(len(ARKIT52)), torch.zeros(3), draw)


def _caption(context: Tensor, units: Tensor, angles: Tensor, draw: Tensor) -> str:
    value = lambda name: int(context[AT[name]])  # noqa: E731
    told = {name for (name, share), number in zip(SHARES.items(), draw[1:].tolist()) if number < share}
    subject = f"{OPENINGS[int(draw[0] * len(OPENINGS))]} {_who(context)}".strip()
    parts = [f"{subject} {_hair(context)}" if "hair" in told else subject]
    parts += [words for words in (_expression(units) if "expression" in told else "",) if words]
    parts += [words for words in (_pose(angles) if "pose" in told else "",) if words]
    background = value("background_colour")
    parts.append(PLACES[BACKGROUNDS[value("background")]].format(list(COLOURS)[background] if background >= 0 else ""))
    dressed = value("cloth") >= 0
    parts += [CLOTHES[PATTERNS[value("pattern")]].format(list(COLOURS)[value("cloth")])] if dressed else []
    parts += ["wearing glasses" if value("glasses") == 1 else "wearing sunglasses"] if value("glasses") else []
    parts += ["wearing a hat"] if value("hat") else []
    parts += [f"{LIGHTS[value('light')]} light"] if "light" in told else []
    return ", ".join(parts)


def _who(context: Tensor) -> str:
    male, age = context[AT["male"]] > 0.5, float(context[AT["age"]])
    if age < 0.6:
        return "a boy" if male else "a girl"
    return f"{'an old' if age > 1.6 else 'a young' if age < 1.25 else 'a'} {'man' if male else 'woman'}"


def _hair(context: Tensor) -> str:
    from .build import HAIRS

    style = int(context[AT["hair"]])
    beard = " and a beard" if context[AT["beard"]] > 0.5 else ""
    if style < 0:
        return f"without hair{beard}"
    length = "short" if HAIRS[style].startswith(("short", "afro")) else "long"
    return f"with {length} {list(HAIR_COLOURS)[int(context[AT['hair_colour']])]} hair{beard}"


def _expression(units: Tensor) -> str:
    for names, threshold, words in EXPRESSIONS:
        if units[[ARKIT52.index(name) for name in names]].mean() > threshold:
            return words
    return ""


def _pose(angles: Tensor) -> str:
    for axis, limit, sign, words in TURNS:
        if sign * angles[axis] > limit:
            return words
    return "facing the camera" if angles.abs().max() < 10 else ""


def _words() -> tuple[str, ...]:
    sentences = [*PLACES.values(), *CLOTHES.values(), *OPENINGS, *COLOURS, *HAIR_COLOURS, *LIGHTS]
    sentences += [row[-1] for row in EXPRESSIONS + TURNS]
    sentences += [
        "a an boy girl man woman young old with without short long hair and beard",
        "wearing glasses sunglasses hat light",
    ]
    sentences += ["facing the camera"]
    return tuple(sorted({word for sentence in sentences for word in re.findall(r"[a-z]+", sentence)}))


CAPTION_WORDS = _words()

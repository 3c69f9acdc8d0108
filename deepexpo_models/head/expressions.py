"""Named expressions and sliders over ARKit's 52 numbers.

Presets are written as FACS writes them: action units with an intensity A (trace) to E (maximum), L or R before a number
for one side alone; left and right are the person's. Which action units make an emotion is EMFACS' (Ekman & Friesen 1983;
FACS Investigator's Guide, 2002), or the source in the table; which ARKit unit is which action unit follows ARKit's
definitions and M. Ozel's "ARKit to FACS" (melindaozel.com). FACS' intensities are an order, not numbers: INTENSITY is ours.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from .basis import ARKIT52

REST = "none"
INTENSITY = {"A": 0.15, "B": 0.35, "C": 0.55, "D": 0.8, "E": 1.0}
ACTION_UNITS = {  # number -> ARKit units and their shares; a name without a side is both sides
    1: {"browInnerUp": 1.0},  # inner brow raiser
    2: {"browOuterUp": 1.0},  # outer brow raiser
    4: {"browDown": 1.0},  # brow lowerer
    5: {"eyeWide": 1.0},  # upper lid raiser
    6: {"cheekSquint": 1.0, "eyeSquint": 0.5},  # cheek raiser: the orbicularis' outer part narrows the eye as well
    7: {"eyeSquint": 1.0},  # lid tightener
    9: {"noseSneer": 1.0},  # nose wrinkler
    10: {"mouthUpperUp": 1.0},  # upper lip raiser
    12: {"mouthSmile": 1.0},  # lip corner puller
    14: {"mouthDimple": 1.0},  # dimpler
    15: {"mouthFrown": 1.0},  # lip corner depressor
    16: {"mouthLowerDown": 1.0},  # lower lip depressor
    17: {"mouthShrugLower": 1.0},  # chin raiser
    18: {"mouthPucker": 1.0},  # lip pucker
    20: {"mouthStretch": 1.0},  # lip stretcher
    22: {"mouthFunnel": 1.0},  # lip funneler
    23: {"mouthPress": 0.6, "mouthRollUpper": 0.2, "mouthRollLower": 0.2},  # lip tightener; ARKit has none of its own
    24: {"mouthPress": 1.0},  # lip pressor
    25: {"mouthLowerDown": 0.4, "mouthUpperUp": 0.3},  # lips part
    26: {"jawOpen": 0.5},  # jaw drop
    27: {"jawOpen": 1.0},  # mouth stretch
    43: {"eyeBlink": 1.0},  # eyes closed
    46: {"eyeBlink": 1.0, "cheekSquint": 0.4},  # wink
    61: {"eyeLookOutLeft": 1.0, "eyeLookInRight": 1.0},  # eyes to the person's left
    63: {"eyeLookUp": 1.0},  # eyes up
}
EMFACS = "EMFACS"


@dataclass(frozen=True)
class Preset:
    action_units: str
    source: str


PRESETS = {
    "happy": Preset("6D 12D", f"{EMFACS}: 6+12"),
    "laughing": Preset("6E 12E 25D 26D", "Ruch & Ekman 2001, The expressive pattern of laughter: 6+12+25+26 or 27"),
    "sad": Preset("1D 4C 15D", f"{EMFACS}: 1+4+15"),
    "angry": Preset("4E 5C 7D 23D", f"{EMFACS}: 4+5+7+23"),
    "surprised": Preset("1D 2D 5D 26E", f"{EMFACS}: 1+2+5+26"),
    "afraid": Preset("1D 2C 4C 5E 7B 20D 26C", f"{EMFACS}: 1+2+4+5+7+20+26"),
    "disgusted": Preset("9E 15C 16B", f"{EMFACS}: 9+15+16"),
    "wink": Preset("L46E 12C", "FACS: 46 (wink) of one eye, with a smile"),
    "kiss": Preset("18E 22B 43C", "FACS: 18 (lip pucker), 22, eyes half closed"),
    "shout": Preset("4D 7C 10C 16C 27E", f"{EMFACS}: anger with an open mouth, 4+7+10+16+27"),
    "bored": Preset("43C 15B 17B", "Craig, D'Mello et al. 2008: boredom shows 43 (eye closure); the mouth is ours"),
    "thinking": Preset("4B 7B 24B 61C 63C", "Craig, D'Mello et al. 2008: confusion shows 4+7; the gaze and 24 are ours"),
}
GROUPS = {  # part of a face -> how its units begin
    "mouth": ("mouth", "jaw", "tongue"),
    "eyes": ("eye",),
    "brows": ("brow",),
    "cheeks": ("cheek", "nose"),
}


@dataclass(frozen=True)
class Slider:
    """-1 to 1; at 1 it adds `plus`, at -1 `minus`. Names without a side are both sides."""

    group: str
    plus: Mapping[str, float]
    minus: Mapping[str, float]
    what: str


def _slider(group: str, what: str, plus: Mapping[str, float], minus: Mapping[str, float] | None = None) -> Slider:
    """Downwards it takes back what it adds upwards, and then adds `minus`."""
    undone = {name: -share for name, share in plus.items()}
    return Slider(group, {**{name: -share for name, share in (minus or {}).items()}, **plus}, {**undone, **(minus or {})}, what)


SLIDERS = {
    "smile": _slider("mouth", "Up: a smile. Down: the corners of the mouth fall.", {"mouthSmile": 1}, {"mouthFrown": 1}),
    "mouth_open": _slider("mouth", "Up: the jaw drops. Down: closes a mouth that is open.", {"jawOpen": 1}),
    "pucker": _slider("mouth", "Up: lips as for a kiss. Down: lips stretched wide.", {"mouthPucker": 1}, {"mouthStretch": 1}),
    "round_lips": _slider(
        "mouth", "Up: an O. Down: lips rolled in.", {"mouthFunnel": 1}, {"mouthRollLower": 1, "mouthRollUpper": 1}
    ),
    "upper_lip": _slider("mouth", "Up: the upper lip rises and shows the teeth.", {"mouthUpperUp": 1}),
    "lower_lip": _slider(
        "mouth", "Up: the chin pushes the lower lip up. Down: it falls.", {"mouthShrugLower": 1}, {"mouthLowerDown": 1}
    ),
    "mouth_sideways": _slider("mouth", "Up: to the person's left. Down: to the right.", {"mouthLeft": 1}, {"mouthRight": 1}),
    "cheek_puff": _slider("cheeks", "Up: cheeks full of air.", {"cheekPuff": 1}),
    "cheek_raise": _slider("cheeks", "Up: cheeks rise, as in a true smile.", {"cheekSquint": 1}),
    "nose_wrinkle": _slider("cheeks", "Up: the nose wrinkles, as in disgust.", {"noseSneer": 1}),
    "left_eye": _slider("eyes", "The person's left eye. Up: wide open. Down: closed.", {"eyeWideLeft": 1}, {"eyeBlinkLeft": 1}),
    "right_eye": _slider(
        "eyes", "The person's right eye. Up: wide open. Down: closed.", {"eyeWideRight": 1}, {"eyeBlinkRight": 1}
    ),
    "squint": _slider("eyes", "Up: both eyes narrow.", {"eyeSquint": 1}),
    "look_sideways": _slider(
        "eyes",
        "Where the eyes look. Up: to the picture's right. Down: to its left.",
        {"eyeLookOutLeft": 1, "eyeLookInRight": 1},
        {"eyeLookInLeft": 1, "eyeLookOutRight": 1},
    ),
    "look_up": _slider("eyes", "Where the eyes look. Up: up. Down: down.", {"eyeLookUp": 1}, {"eyeLookDown": 1}),
    "brows_up": _slider(
        "brows", "Up: brows raised. Down: brows drawn down.", {"browInnerUp": 1, "browOuterUp": 1}, {"browDown": 1}
    ),
    "brows_worried": _slider("brows", "Up: only the inner ends of the brows rise.", {"browInnerUp": 1}),
}
SINGLE_UNITS = tuple(name for name in ARKIT52 if name != "tongueOut")  # the basis has no tongue


def units(shares: Mapping[str, float]) -> Tensor:
    """{ARKit unit: number} -> (52,). A name without its side is both sides. Raises ValueError for an unknown name."""
    vector = torch.zeros(len(ARKIT52))
    for name, share in shares.items():
        for unit in _sides(name):
            vector[ARKIT52.index(unit)] += share
    return vector


def preset_units(preset: str) -> Tensor:
    """Name of a preset, or "none" for a resting face -> (52,). Raises ValueError for an unknown name."""
    if preset == REST:
        return torch.zeros(len(ARKIT52))
    if preset not in PRESETS:
        raise ValueError(f"there is no expression {preset!r}; choose one of {', '.join((REST, *PRESETS))}")
    total = torch.zeros(len(ARKIT52))
    for side, number, letter in re.findall(r"([LR]?)(\d+)([A-E])", PRESETS[preset].action_units):
        total += units(ACTION_UNITS[int(number)]) * INTENSITY[letter] * _side_mask(side)
    return total.clamp(max=1.0)


def slider_units(values: Mapping[str, float]) -> Tensor:
    """{slider or single ARKit unit: -1 to 1} -> (52,) what they add together. Raises ValueError for an unknown name."""
    total = torch.zeros(len(ARKIT52))
    for name, value in values.items():
        if name not in SLIDERS:
            total += units({name: value})
            continue
        slider = SLIDERS[name]
        total += abs(value) * units(slider.plus if value > 0 else slider.minus)
    return total


def group_mask(groups: tuple[str, ...]) -> Tensor:
    """(52,) true where a unit belongs to one of the groups. Raises ValueError for an unknown group."""
    if unknown := [group for group in groups if group not in GROUPS]:
        raise ValueError(f"a face has no part {unknown[0]!r}; its parts are {', '.join(GROUPS)}")
    starts = tuple(start for group in groups for start in GROUPS[group])
    return torch.tensor([bool(starts) and name.startswith(starts) for name in ARKIT52])


def _sides(name: str) -> tuple[str, ...]:
    if name in ARKIT52:
        return (name,)
    if f"{name}Left" in ARKIT52:
        return f"{name}Left", f"{name}Right"
    raise ValueError(f"there is no slider or ARKit unit {name!r}")


def _side_mask(side: str) -> Tensor:
    """All ones; for L or R without the units of the other side."""
    other = {"L": "Right", "R": "Left", "": "\0"}[side]
    return torch.tensor([0.0 if name.endswith(other) else 1.0 for name in ARKIT52])

"""ARKit blendshapes, as MediaPipe's face landmarker gives them, as the expression factors of drawn faces.

Their left and right are the person's, those of the factors the picture's, in which the person's left is at the right.
"""

import math
from collections.abc import Mapping

from ..synthetic import EXPRESSION

PARTS = {  # factor -> blendshapes and their weights
    "smile": {"mouthSmileLeft": 0.5, "mouthSmileRight": 0.5, "mouthFrownLeft": -0.5, "mouthFrownRight": -0.5},
    "jaw_open": {"jawOpen": 1.0},
    "pucker": {"mouthPucker": 1.0},
    "brow_raise_left": {"browInnerUp": 0.5, "browOuterUpRight": 0.5},
    "brow_raise_right": {"browInnerUp": 0.5, "browOuterUpLeft": 0.5},
    "brow_frown_left": {"browDownRight": 1.0},
    "brow_frown_right": {"browDownLeft": 1.0},
    "blink_left": {"eyeBlinkRight": 1.0},
    "blink_right": {"eyeBlinkLeft": 1.0},
    "gaze_x": {"eyeLookOutLeft": 0.5, "eyeLookInRight": 0.5, "eyeLookInLeft": -0.5, "eyeLookOutRight": -0.5},
    "gaze_y": {"eyeLookDownLeft": 0.5, "eyeLookDownRight": 0.5, "eyeLookUpLeft": -0.5, "eyeLookUpRight": -0.5},
}


def expression_factors(blendshapes: Mapping[str, float]) -> tuple[float, ...]:
    """Blendshapes in [0, 1] by name -> one number per factor in EXPRESSION's order; NaN where a part is not told."""
    return tuple(_sum(PARTS[factor.name], blendshapes) for factor in EXPRESSION)


def _sum(parts: Mapping[str, float], blendshapes: Mapping[str, float]) -> float:
    return sum(weight * float(blendshapes.get(name, math.nan)) for name, weight in parts.items())

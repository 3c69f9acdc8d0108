"""The movements of a face that tables compare: sums of ARKit's units that a reader knows by a word."""

import torch
from torch import Tensor

from ..head import ARKIT52

FACTORS = {  # what is compared: units and their signs
    "jaw": {"jawOpen": 1},
    "smile": {"mouthSmileLeft": 1, "mouthSmileRight": 1},
    "blink": {"eyeBlinkLeft": 1, "eyeBlinkRight": 1},
    "brows up": {"browInnerUp": 1, "browOuterUpLeft": 1, "browOuterUpRight": 1},
    "brows down": {"browDownLeft": 1, "browDownRight": 1},
    "pucker": {"mouthPucker": 1, "mouthFunnel": 1},
    "squint": {"eyeSquintLeft": 1, "eyeSquintRight": 1},
    "upper lip": {"mouthUpperUpLeft": 1, "mouthUpperUpRight": 1},
    "lower lip": {"mouthLowerDownLeft": 1, "mouthLowerDownRight": 1},
    "wink": {"eyeBlinkLeft": 1, "eyeBlinkRight": -1},
    "gaze x": {"eyeLookOutLeft": 1, "eyeLookInRight": 1, "eyeLookInLeft": -1, "eyeLookOutRight": -1},
    "gaze y": {"eyeLookUpLeft": 1, "eyeLookUpRight": 1, "eyeLookDownLeft": -1, "eyeLookDownRight": -1},
}
MAIN = ("jaw", "smile", "blink", "brows up")  # what a picture must show before all


def factors_of(units: Tensor) -> Tensor:
    """units (N, 52) -> (N, len(FACTORS))."""
    columns = [[sign * units[:, ARKIT52.index(name)] for name, sign in row.items()] for row in FACTORS.values()]
    return torch.stack([torch.stack(parts).sum(0) for parts in columns], 1)

"""The 478 points of MediaPipe's face mesh: which of them are what.

Left and right are the person's. Connections and their order are MediaPipe's `face_mesh_connections`.
"""

from itertools import pairwise

from ..mesh_points import FIVE as FIVE
from ..mesh_points import POINTS as POINTS

MESH_POINTS = 468  # without the irises

_LIPS_OUTER_LOWER = (61, 146, 91, 181, 84, 17, 314, 405, 321, 375, 291)
_LIPS_OUTER_UPPER = (61, 185, 40, 39, 37, 0, 267, 269, 270, 409, 291)
_LIPS_INNER_LOWER = (78, 95, 88, 178, 87, 14, 317, 402, 318, 324, 308)
_LIPS_INNER_UPPER = (78, 191, 80, 81, 82, 13, 312, 311, 310, 415, 308)
_LEFT_EYE_LOWER = (263, 249, 390, 373, 374, 380, 381, 382, 362)
_LEFT_EYE_UPPER = (263, 466, 388, 387, 386, 385, 384, 398, 362)
_RIGHT_EYE_LOWER = (33, 7, 163, 144, 145, 153, 154, 155, 133)
_RIGHT_EYE_UPPER = (33, 246, 161, 160, 159, 158, 157, 173, 133)
OVAL = (
    *(10, 338, 297, 332, 284, 251, 389, 356, 454, 323, 361, 288, 397, 365, 379, 378, 400, 377),
    *(152, 148, 176, 149, 150, 136, 172, 58, 132, 93, 234, 127, 162, 21, 54, 103, 67, 109),
)  # clockwise in the picture from the top of the forehead

# Chains of points; a line is drawn between neighbours.
FEATURES = {
    "oval": ((*OVAL, OVAL[0]),),
    "left eye": (_LEFT_EYE_LOWER, _LEFT_EYE_UPPER),
    "left brow": ((276, 283, 282, 295, 285), (300, 293, 334, 296, 336)),
    "right eye": (_RIGHT_EYE_LOWER, _RIGHT_EYE_UPPER),
    "right brow": ((46, 53, 52, 65, 55), (70, 63, 105, 66, 107)),
    "lips": (_LIPS_OUTER_LOWER, _LIPS_OUTER_UPPER, _LIPS_INNER_LOWER, _LIPS_INNER_UPPER),
    "nose": (
        (168, 6, 197, 195, 5, 4, 1, 19, 94, 2),
        (98, 97, 2, 326, 327, 294, 278, 344, 440, 275, 4, 45, 220, 115, 48, 64, 98),
    ),
}
MOUTH_RING = (*_LIPS_INNER_UPPER, *_LIPS_INNER_LOWER[-2:0:-1])
EYE_RINGS = {"left": (*_LEFT_EYE_UPPER, *_LEFT_EYE_LOWER[-2:0:-1]), "right": (*_RIGHT_EYE_UPPER, *_RIGHT_EYE_LOWER[-2:0:-1])}
# Centre, then the ring: to the person's left, up, right, down.
IRISES = {"right": (468, 469, 470, 471, 472), "left": (473, 474, 475, 476, 477)}
PUPILS = {"right": 468, "left": 473}

# Points of the mesh nearest to the 68 of iBUG 300-W, in iBUG's order (jaw from the picture's left to its right, evenly
# along the oval).
IBUG68 = (
    *(127, 234, 132, 58, 172, 136, 150, 176, 152, 400, 379, 365, 397, 288, 361, 454, 356),
    *(70, 63, 105, 66, 107, 336, 296, 334, 293, 300),
    *(168, 197, 5, 4, 98, 97, 2, 326, 327),
    *(33, 160, 158, 133, 153, 144, 362, 385, 387, 263, 373, 380),
    *(61, 39, 37, 0, 267, 269, 291, 405, 314, 17, 84, 181),
    *(78, 82, 13, 312, 308, 317, 14, 87),
)


def connections(feature: str) -> list[tuple[int, int]]:
    """Pairs of points between which the feature's lines run."""
    return [pair for chain in FEATURES[feature] for pair in pairwise(chain)]

"""Pictures of a face that ControlNets were trained to see, drawn from its 478 points.

Colours are RGB on black; left and right are the person's. Each style equals the annotator that made its ControlNet's
training data, at that annotator's size; larger pictures get proportionally thicker lines.
"""

from collections.abc import Callable
from dataclasses import dataclass
from math import atan2, degrees, floor, hypot
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..image import bytes_to_comfy, opencv
from . import raster
from .basis import HeadBasis
from .landmarks import FIVE, IBUG68, OVAL, PUPILS, connections

Size = tuple[int, int]  # height, width
MEDIAPIPE_COLOURS = {  # the order and colours of laion_face_common.py (CrucibleAI/ControlNetMediaPipeFace)
    "oval": (10, 200, 10),
    "left eye": (10, 200, 180),
    "left brow": (10, 220, 180),
    "right eye": (180, 200, 10),
    "right brow": (180, 220, 10),
    "lips": (10, 180, 10),
}
MEDIAPIPE_PUPILS = {"right": (250, 200, 10), "left": (10, 200, 250)}
RAINBOW = (
    *((255, 0, 0), (255, 85, 0), (255, 170, 0), (255, 255, 0), (170, 255, 0), (85, 255, 0), (0, 255, 0), (0, 255, 85)),
    *((0, 255, 170), (0, 255, 255), (0, 170, 255), (0, 85, 255), (0, 0, 255), (85, 0, 255), (170, 0, 255)),
    *((255, 0, 255), (255, 0, 170), (255, 0, 85)),
)
NOSE, NECK, RIGHT_EYE, LEFT_EYE, RIGHT_EAR, LEFT_EAR = 0, 1, 14, 15, 16, 17  # of OpenPose's 18 body points
HEAD_STICKS = {
    12: (NECK, NOSE),
    13: (NOSE, RIGHT_EYE),
    14: (RIGHT_EYE, RIGHT_EAR),
    15: (NOSE, LEFT_EYE),
    16: (LEFT_EYE, LEFT_EAR),
}
EARS = (234, 454)  # the mesh's points next to the right and the left ear
TURNED_AWAY = 0.42  # depth between the ears over their distance (a yaw of 25 degrees), beyond which the far one is hidden
JAW_CORNERS, NECK_LENGTH = (58, 288), 0.6  # the point between the shoulders lies that many face heights below the jaw's
LINE_FEATURES = ("left brow", "right brow", "left eye", "right eye", "nose", "lips")
LINE_FACING = 0.05  # cosine to the viewer below which a point is hidden
FIXED_BITS = 4
INSTANTID_COLOURS = ((255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 0), (255, 0, 255))
INSTANTID_STICKS = ((0, 2), (1, 2), (3, 2), (4, 2))


@dataclass(frozen=True)
class Style:
    draw: Callable[[np.ndarray, Size, HeadBasis], np.ndarray]  # points (478, 3) -> (H, W, 3) uint8
    for_whom: str
    background: int = 0


def draw_control(points: Tensor, size: Size, style: str, basis: HeadBasis) -> Tensor:
    """points (F, 478, 3) in pixels, as `faces.FaceMesh` -> maps (F, H, W, 3) in [0, 1]. Raises ValueError for an unknown
    style."""
    if style not in STYLES:
        raise ValueError(f"unknown style {style!r}; known: {', '.join(STYLES)}")
    maps = [STYLES[style].draw(face, size, basis) for face in points.double().cpu().numpy()]
    return bytes_to_comfy(torch.from_numpy(np.stack(maps)))


def draw_over(earlier: Tensor | None, drawn: Tensor, style: str) -> Tensor:
    """Maps (F, H, W, 3) on top of earlier ones (1 or F, H, W, 3): where nothing is drawn the earlier shows. Raises ValueError
    for other sizes."""
    if earlier is None:
        return drawn
    if earlier.shape[1:] != drawn.shape[1:] or len(earlier) not in (1, len(drawn)):
        raise ValueError(
            f"the earlier map is {tuple(earlier.shape[:3])} (pictures, height, width), this one {tuple(drawn.shape[:3])}; "
            f"draw both at one size, and one or as many of the earlier"
        )
    empty = (drawn == STYLES[style].background / 255).all(-1, keepdim=True)
    return torch.where(empty, earlier[..., :3].to(drawn), drawn)


def draw_mask(points: Tensor, size: Size) -> Tensor:
    """points (F, 478, 3) -> (F, H, W), 1 inside the face's outline."""
    cv2 = opencv()
    masks = np.zeros((len(points), *size), np.uint8)
    for mask, face in zip(masks, points.double().cpu().numpy()):
        hull = cv2.convexHull(np.round(face[list(OVAL), :2]).astype(np.int32))
        cv2.fillConvexPoly(mask, hull, 1)
    return torch.from_numpy(masks).float()


def pose_keypoints(points: Tensor, size: Size) -> list[dict]:
    """points (F, 478, 3) -> POSE_KEYPOINT: one frame per face, in pixels, with OpenPose's head and 70 face points."""
    frames = []
    for face in points.double().cpu().numpy():
        body = np.zeros((18, 3))
        for number, place in _head_points(face).items():
            body[number] = (*place, 1.0)
        dots = np.concatenate([_face_dots(face), np.ones((len(IBUG68) + 2, 1))], axis=1)
        person: dict[str, list | None] = {
            "pose_keypoints_2d": body.ravel().tolist(),
            "face_keypoints_2d": dots.ravel().tolist(),
        }
        person |= {"hand_left_keypoints_2d": None, "hand_right_keypoints_2d": None}
        frames.append({"canvas_width": size[1], "canvas_height": size[0], "people": [person]})
    return frames


def _mediapipe_face(face: np.ndarray, size: Size, basis: HeadBasis) -> np.ndarray:
    """huggingface/controlnet_aux `mediapipe_face`; a point outside the picture takes its lines with it."""
    cv2 = opencv()
    canvas, (height, width), thick = np.zeros((*size, 3), np.uint8), size, _thicker(size)
    inside: Any = ((face[:, :2] >= 0) & (face[:, :2] <= (width, height))).all(1)
    at = [(min(floor(x), width - 1), min(floor(y), height - 1)) for x, y in face[:, :2]]
    for feature, colour in MEDIAPIPE_COLOURS.items():
        for a, b in connections(feature):
            if inside[a] and inside[b]:
                cv2.line(canvas, at[a], at[b], colour, 2 * thick)
    for side, colour in MEDIAPIPE_PUPILS.items():
        x, y = (int(c) for c in face[PUPILS[side], :2])
        if 0 <= face[PUPILS[side], 0] < width and 0 <= face[PUPILS[side], 1] < height:
            canvas[max(0, y - 2 * thick) : y + 2 * thick, max(0, x - 2 * thick) : x + 2 * thick] = colour
    return canvas


def _openpose_face(face: np.ndarray, size: Size, basis: HeadBasis) -> np.ndarray:
    canvas = np.zeros((*size, 3), np.uint8)
    _draw_dots(canvas, face)
    return canvas


def _openpose_head(face: np.ndarray, size: Size, basis: HeadBasis) -> np.ndarray:
    """The sticks of OpenPose's body from the neck up, then the dots of its face."""
    cv2 = opencv()
    canvas, places, thick = np.zeros((*size, 3), np.uint8), _head_points(face), _thicker(size)
    for number, (a, b) in HEAD_STICKS.items():
        if a in places and b in places:
            _draw_stick(canvas, places[a], places[b], [int(0.6 * c) for c in RAINBOW[number]], 4 * thick)
    for number, (x, y) in sorted(places.items()):
        cv2.circle(canvas, (int(x), int(y)), 4 * thick, RAINBOW[number], -1)
    _draw_dots(canvas, face)
    return canvas


def _instantid_points(face: np.ndarray, size: Size, basis: HeadBasis) -> np.ndarray:
    """InstantID's draw_kps: eyes, nose and mouth corners as insightface finds them."""
    cv2 = opencv()
    sticks, points = np.zeros((*size, 3)), face[list(FIVE), :2]
    for a, b in INSTANTID_STICKS:
        _draw_stick(sticks, points[a], points[b], INSTANTID_COLOURS[a], 4)
    canvas = (sticks * 0.6).astype(np.uint8)
    for (x, y), colour in zip(points, INSTANTID_COLOURS):
        cv2.circle(canvas, (int(x), int(y)), 10, colour, -1)
    return canvas


def _lines(face: np.ndarray, size: Size, basis: HeadBasis) -> np.ndarray:
    """White smooth lines, without those that the head hides: outline, brows, eyes, irises, nose, lips."""
    cv2 = opencv()
    canvas, thick = np.zeros((*size, 3), np.uint8), _thicker(size)
    visible = raster.facing(face, basis) > LINE_FACING
    for feature in LINE_FEATURES:
        for a, b in connections(feature):
            if visible[a] and visible[b]:
                cv2.line(canvas, _fixed(face[a]), _fixed(face[b]), (255, 255, 255), thick, cv2.LINE_AA, FIXED_BITS)
    for pupil in PUPILS.values():
        radius = np.linalg.norm(face[pupil + 1 : pupil + 5, :2] - face[pupil, :2], axis=1).mean()
        if visible[pupil]:
            size_of_iris = int(radius * (1 << FIXED_BITS))
            cv2.circle(canvas, _fixed(face[pupil]), size_of_iris, (255, 255, 255), thick, cv2.LINE_AA, FIXED_BITS)
    outlines, _ = cv2.findContours(raster.silhouette(face, size, basis), cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
    cv2.polylines(canvas, outlines, True, (255, 255, 255), thick, cv2.LINE_AA)
    return canvas


def _fixed(point: np.ndarray) -> tuple[int, int]:
    """OpenCV's coordinates with FIXED_BITS behind the point."""
    x, y = np.round(point[:2] * (1 << FIXED_BITS))
    return int(x), int(y)


def _face_dots(face: np.ndarray) -> np.ndarray:
    """(70, 2): iBUG's 68 points, the right and the left pupil."""
    return face[[*IBUG68, PUPILS["right"], PUPILS["left"]], :2]


def _draw_dots(canvas: np.ndarray, face: np.ndarray) -> None:
    cv2 = opencv()
    for x, y in _face_dots(face).astype(int):
        if x > 0 and y > 0:
            cv2.circle(canvas, (int(x), int(y)), 3 * _thicker(canvas.shape[:2]), (255, 255, 255), -1)


def _head_points(face: np.ndarray) -> dict[int, np.ndarray]:
    """OpenPose's body points of a head, in pixels, without an ear that is turned away."""
    right, left = (face[ear] for ear in EARS)
    depth = (right[2] - left[2]) / max(np.linalg.norm(right - left), 1e-6)
    height = np.linalg.norm(face[10] - face[152])
    neck = face[list(JAW_CORNERS), :2].mean(0) + NECK_LENGTH * height * np.array((0, 1))
    places = {NOSE: face[4, :2], NECK: neck, RIGHT_EYE: face[PUPILS["right"], :2], LEFT_EYE: face[PUPILS["left"], :2]}
    places |= {RIGHT_EAR: right[:2]} if depth < TURNED_AWAY else {}
    return places | ({LEFT_EAR: left[:2]} if depth > -TURNED_AWAY else {})


def _draw_stick(canvas: np.ndarray, a: np.ndarray, b: np.ndarray, colour, half_width: int) -> None:
    cv2 = opencv()
    middle, length = (a + b) / 2, hypot(*(a - b))
    angle = int(degrees(atan2(a[1] - b[1], a[0] - b[0])))
    outline = cv2.ellipse2Poly((int(middle[0]), int(middle[1])), (int(length / 2), half_width), angle, 0, 360, 1)
    cv2.fillConvexPoly(canvas, outline, colour)


def _thicker(size: Size) -> int:
    """Annotators draw at 512 pixels."""
    return max(1, min(size) // 512)


STYLES = {
    "mediapipe face": Style(_mediapipe_face, "SD1.5, SD2.1: control_v2p_sd15_mediapipe_face (CrucibleAI)"),
    "openpose face": Style(_openpose_face, "SD1.5: control_v11p_sd15_openpose; SDXL: DWPose ControlNets"),
    "openpose head": Style(_openpose_head, "openpose ControlNets of SD1.5 and SDXL, for the head's turn"),
    "instantid points": Style(_instantid_points, "SDXL: InstantID's ControlNet"),
    "normal": Style(raster.normals_scannet, "SD1.5: control_v11p_sd15_normalbae; union ControlNets (red to the left)"),
    "normal (opengl)": Style(raster.normals_opengl, "normals as Blender and ComfyUI's RenderMesh give them (red to the right)"),
    "depth": Style(raster.depth, "depth ControlNets of SD1.5 and SDXL, union ControlNets"),
    "lines": Style(_lines, "lineart, scribble and softedge ControlNets"),
    "shaded": Style(raster.shaded, "for the eye; no ControlNet was trained on it", raster.BACKGROUND),
}

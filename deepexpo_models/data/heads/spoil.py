"""What stands before a face and what a camera does to a picture: hands, microphones, strands of hair, things; blur, grain, few
pixels, JPEG. Pictures are (S, S, 3) uint8; all draws come from the given generator."""

from typing import Any, cast

import numpy as np


def spoil(picture: np.ndarray, rng: np.random.Generator, skin: np.ndarray, mouth: np.ndarray) -> np.ndarray:
    """skin (3,): display colour of the person's skin in [0, 1]; mouth (2,): in crop coordinates."""
    if rng.random() < 0.6:
        occluder = OCCLUDERS[rng.integers(len(OCCLUDERS))]
        picture = _cover(picture, rng, *occluder(rng, picture, skin, mouth))
    return camera(picture, rng)


def camera(picture: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Few pixels or a blur, grain, JPEG: each by chance."""
    import cv2

    side, values = len(picture), cast(np.ndarray, picture.astype(np.float32))
    if rng.random() < 0.4:
        small = cv2.resize(values, [int(rng.uniform(0.25, 0.9) * side)] * 2, interpolation=cv2.INTER_AREA)
        values = cv2.resize(small, (side, side), interpolation=int(rng.choice([cv2.INTER_LINEAR, cv2.INTER_CUBIC])))
    elif rng.random() < 0.4:
        values = cv2.GaussianBlur(values, (0, 0), rng.uniform(0.4, 1.8))
    if rng.random() < 0.5:
        values = values + rng.normal(0, rng.uniform(2, 20), values.shape)
    picture = np.clip(values, 0, 255).astype(np.uint8)
    if rng.random() < 0.6:
        quality = int(rng.uniform(12, 90))
        compressed = cv2.imencode(".jpg", picture, [cv2.IMWRITE_JPEG_QUALITY, quality])[1]
        picture = cast(Any, cv2.imdecode(compressed, cv2.IMREAD_COLOR))
    return picture


def _hand(rng, picture, skin, mouth):
    """Fingers side by side, somewhere near mouth, cheek or chin."""
    side = len(picture)
    colour, mask = picture.copy(), np.zeros(picture.shape[:2], np.uint8)
    angle, at = rng.uniform(0, 2 * np.pi), (mouth + rng.normal(0, 0.3, 2) + 1) * side / 2
    along, across = np.array([np.cos(angle), np.sin(angle)]), np.array([-np.sin(angle), np.cos(angle)])
    thick = side * rng.uniform(0.045, 0.08)
    for finger in range(rng.integers(1, 5)):
        start = at + across * finger * thick * 0.95
        tip, far = start - along * side * rng.uniform(0, 0.12), start + along * side
        for share, wide in ((0.75, 1.0), (1.0, 0.7)):
            shade = tuple(float(v) for v in np.clip(skin * share * rng.uniform(0.9, 1.05) * 255, 0, 255))
            _line(colour, tip, far, shade, wide * thick)
        _line(mask, tip, far, 255, thick)
    return colour, mask


def _microphone(rng, picture, skin, mouth):
    import cv2

    side = len(picture)
    colour, mask = picture.copy(), np.zeros(picture.shape[:2], np.uint8)
    at, shade = (mouth + rng.normal(0, [0.25, 0.15], 2) + [0, 0.25] + 1) * side / 2, (rng.uniform(10, 90),) * 3
    far = at + np.array([rng.normal(0, 0.3), 1]) * side
    for target, value in ((colour, shade), (mask, 255)):
        cv2.circle(target, _point(at), int(side * 0.07), value, -1, cv2.LINE_AA)
        _line(target, at, far, value, side * 0.05)
    return colour, mask


def _strands(rng, picture, skin, mouth):
    import cv2

    side = len(picture)
    colour, mask = picture.copy(), np.zeros(picture.shape[:2], np.uint8)
    shade, top = tuple(rng.uniform(0, 120) * rng.uniform(0.7, 1, 3)), rng.uniform(0.15, 0.85, 2) * side * [1, 0.3]
    for _ in range(rng.integers(2, 12)):
        middle, end = (
            top + rng.normal(0, 0.12, 2) * side + [0, 0.3 * side],
            top + rng.normal(0, 0.15, 2) * side + [0, 0.6 * side],
        )
        curve = np.array([_point(p) for p in _bezier(top + rng.normal(0, 3, 2), middle, end)], np.int32)
        width = int(rng.integers(1, 3))
        cv2.polylines(colour, [curve], False, shade, width, cv2.LINE_AA)
        cv2.polylines(mask, [curve], False, 255, width, cv2.LINE_AA)
    return colour, mask


def _thing(rng, picture, skin, mouth):
    """A cup, a phone, a scarf: an ellipse or a box of one colour, or of what the picture has elsewhere."""
    import cv2

    side = len(picture)
    mask = np.zeros(picture.shape[:2], np.uint8)
    at, half, angle = rng.uniform(0.1, 0.9, 2) * side, rng.uniform(0.06, 0.28, 2) * side, rng.uniform(0, 180)
    if rng.random() < 0.5:
        cv2.ellipse(mask, (tuple(at), tuple(2 * half), angle), 255, -1)
    else:
        cv2.fillPoly(mask, [cv2.boxPoints((tuple(at), tuple(2 * half), angle)).astype(np.int32)], 255)
    plain = np.broadcast_to(rng.uniform(0, 255, 3), picture.shape)
    return (plain if rng.random() < 0.6 else np.ascontiguousarray(picture[::-1])), mask


OCCLUDERS = (_hand, _hand, _microphone, _strands, _thing, _thing)


def _cover(picture, rng, colour, mask) -> np.ndarray:
    import cv2

    share = cv2.GaussianBlur(mask.astype(np.float32) / 255, (0, 0), rng.uniform(0.4, 1.2))[..., None]
    return np.clip(picture * (1 - share) + colour * share, 0, 255).astype(np.uint8)


def _line(target, start, end, value, width) -> None:
    import cv2

    cv2.line(target, _point(start), _point(end), value, max(1, int(width)), cv2.LINE_AA)


def _point(at) -> tuple[int, int]:
    return int(np.clip(at[0], -4000, 4000)), int(np.clip(at[1], -4000, 4000))


def _bezier(start, middle, end, steps: int = 9) -> np.ndarray:
    t = np.linspace(0, 1, steps)[:, None]
    return (1 - t) ** 2 * start + 2 * t * (1 - t) * middle + t**2 * end

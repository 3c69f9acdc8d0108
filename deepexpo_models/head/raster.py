"""The face as a surface: normals, depth, and a soft shaded picture, drawn by OpenCV and numpy on a CPU.

Triangles are painted from far to near into a map of their numbers; what they carry is then interpolated for all pixels at
once. Eyes are filled with a flat disc each, the open mouth with dark.
"""

from functools import lru_cache

import numpy as np

from ..image import opencv
from .basis import HeadBasis
from .landmarks import EYE_RINGS, MOUTH_RING, PUPILS

SHIFT = 4  # bits behind the point of OpenCV's coordinates
SMALLEST_TRIANGLE = 1e-6
NEAREST, FARTHEST = 1.0, 0.45  # of a depth map; the face's own range, black is the background
LIGHT = np.array((-0.35, -0.55, -0.76))  # from above the viewer's left shoulder, x right, y down, z away
AMBIENT = 0.35
SKIN, LIPS, WHITE, IRIS, PUPIL, MOUTH = (
    np.array(c, float) for c in ((214, 176, 154), (186, 112, 106), (236, 234, 230), (96, 74, 56), (24, 20, 20), (52, 20, 24))
)
BACKGROUND = 40
OUTER_LIPS = (61, 185, 40, 39, 37, 0, 267, 269, 270, 409, 291, 375, 321, 405, 314, 17, 84, 181, 91, 146)


def normals_opengl(face: np.ndarray, size: tuple[int, int], basis: HeadBasis) -> np.ndarray:
    """points (478, 3) -> (H, W, 3) uint8: red to the picture's right, green up, blue to the viewer, (n + 1) / 2."""
    return _normals(face, size, basis, (1, -1, -1))


def normals_scannet(face: np.ndarray, size: tuple[int, int], basis: HeadBasis) -> np.ndarray:
    """As `normals_opengl` with red to the picture's left: the frame of normalbae (ScanNet; its authors' issue DSINE 8)."""
    return _normals(face, size, basis, (-1, -1, -1))


def depth(face: np.ndarray, size: tuple[int, int], basis: HeadBasis) -> np.ndarray:
    """points (478, 3) -> (H, W, 3) uint8, near white, background black, each face over its own range."""
    drawn, values = _interpolate(face, face[:, 2:], size, filled(basis))
    near, far = face[:, 2].min(), face[:, 2].max()
    level = NEAREST - (NEAREST - FARTHEST) * (values[:, 0] - near) / max(far - near, 1e-6)
    return _paint(drawn, level[:, None].repeat(3, 1) * 255)


def shaded(face: np.ndarray, size: tuple[int, int], basis: HeadBasis) -> np.ndarray:
    """points (478, 3) -> (H, W, 3) uint8: a plain head in soft light, smooth at its edges."""
    cv2 = opencv()
    face, (height, width) = face * 2, size
    carried = np.concatenate([_vertex_normals(face, basis), lip_share(basis)[:, None]], axis=1)
    drawn, values = _interpolate(face, carried, (2 * height, 2 * width), skin(basis))
    normal = values[:, :3] / np.linalg.norm(values[:, :3], axis=1, keepdims=True).clip(1e-6)
    light = AMBIENT + (1 - AMBIENT) * (normal @ (LIGHT / np.linalg.norm(LIGHT)) * 0.5 + 0.5) ** 1.5
    canvas = np.full((2 * height, 2 * width, 3), BACKGROUND, np.uint8)
    _paint_openings(canvas, face)
    canvas[drawn >= 0] = (light[:, None] * (SKIN + values[:, 3:].clip(0, 1) * (LIPS - SKIN))).clip(0, 255)
    return cv2.resize(canvas, (width, height), interpolation=cv2.INTER_AREA)


def silhouette(face: np.ndarray, size: tuple[int, int], basis: HeadBasis) -> np.ndarray:
    """points (478, 3) -> (H, W) uint8, 1 where the face is."""
    return (_interpolate(face, face, size, filled(basis))[0] >= 0).astype(np.uint8)


def facing(face: np.ndarray, basis: HeadBasis) -> np.ndarray:
    """points (478, 3) -> (478,): cosine between the surface and the viewer, negative where it is turned away."""
    return -_vertex_normals(face, basis)[:, 2]


def _normals(face: np.ndarray, size: tuple[int, int], basis: HeadBasis, signs: tuple[int, int, int]) -> np.ndarray:
    drawn, values = _interpolate(face, _vertex_normals(face, basis), size, filled(basis))
    values = values / np.linalg.norm(values, axis=1, keepdims=True).clip(1e-6)
    return _paint(drawn, (values * signs + 1) * 127.5)


def _paint(drawn: np.ndarray, values: np.ndarray) -> np.ndarray:
    canvas = np.zeros((*drawn.shape, 3), np.uint8)
    canvas[drawn >= 0] = np.round(values.clip(0, 255))
    return canvas


def _interpolate(face: np.ndarray, values: np.ndarray, size: tuple[int, int], triangles: np.ndarray):
    """What the points carry (478, C), for every pixel of the face -> (H, W) numbers of triangles or -1, (pixels, C)."""
    cv2 = opencv()
    corners = face[triangles]
    a, b = corners[:, 1, :2] - corners[:, 0, :2], corners[:, 2, :2] - corners[:, 0, :2]
    area = a[:, 0] * b[:, 1] - a[:, 1] * b[:, 0]
    front = np.flatnonzero(area < -SMALLEST_TRIANGLE)  # y runs down: what faces the viewer turns clockwise
    drawn = np.full(size, -1, np.int32)
    fixed = np.round(corners[..., :2] * (1 << SHIFT)).astype(np.int32)
    for number in front[corners[front, :, 2].mean(1).argsort()[::-1]]:
        cv2.fillConvexPoly(drawn, fixed[number], int(number), shift=SHIFT)
    rows, columns = np.nonzero(drawn >= 0)
    chosen = drawn[rows, columns]
    step = np.stack([columns, rows], axis=1) - corners[chosen, 0, :2]
    u = (step[:, 0] * b[chosen, 1] - step[:, 1] * b[chosen, 0]) / area[chosen]
    v = (a[chosen, 0] * step[:, 1] - a[chosen, 1] * step[:, 0]) / area[chosen]
    weights = np.stack([1 - u - v, u, v], axis=1).clip(0, 1)  # a border pixel may lie just outside its triangle
    weights /= weights.sum(1, keepdims=True)
    return drawn, np.einsum("pc,pcd->pd", weights, values[triangles[chosen]])


def _vertex_normals(face: np.ndarray, basis: HeadBasis) -> np.ndarray:
    """(478, 3), outward, in the picture's frame (x right, y down, z away)."""
    triangles = filled(basis)
    corners = face[triangles]
    normals = np.cross(corners[:, 2] - corners[:, 0], corners[:, 1] - corners[:, 0])
    summed = np.zeros_like(face)
    np.add.at(summed, triangles.ravel(), (-normals).repeat(3, axis=0))
    return summed / np.linalg.norm(summed, axis=1, keepdims=True).clip(1e-9)


def _paint_openings(canvas: np.ndarray, face: np.ndarray) -> None:
    """Behind the skin: the eyes' whites with irises and pupils, and the dark of the mouth."""
    cv2 = opencv()
    fixed = np.round(face[:, :2] * (1 << SHIFT)).astype(np.int32)
    cv2.fillPoly(canvas, [fixed[list(MOUTH_RING)]], MOUTH.tolist(), cv2.LINE_AA, SHIFT)
    for side, ring in EYE_RINGS.items():
        hull = cv2.convexHull(fixed[list(ring)])[:, 0]
        cv2.fillPoly(canvas, [hull], WHITE.tolist(), cv2.LINE_AA, SHIFT)
        pupil, iris = PUPILS[side], fixed[PUPILS[side] + 1 : PUPILS[side] + 5]
        radius = np.linalg.norm(iris - fixed[pupil], axis=1).mean()
        inside = np.zeros(canvas.shape[:2], np.uint8)
        cv2.fillPoly(inside, [fixed[list(ring)]], 255, cv2.LINE_AA, SHIFT)
        looking = canvas.copy()
        for share, colour in ((1.0, IRIS), (0.45, PUPIL)):
            cv2.circle(looking, tuple(map(int, fixed[pupil])), int(radius * share), colour.tolist(), -1, cv2.LINE_AA, SHIFT)
        canvas[inside > 127] = looking[inside > 127]


@lru_cache(maxsize=2)
def skin(basis: HeadBasis) -> np.ndarray:
    """The mesh's triangles less those that span an eye or the mouth."""
    triangles = basis.triangles.numpy()
    spanning = [np.isin(triangles, ring).all(1) for ring in (MOUTH_RING, *EYE_RINGS.values())]
    return triangles[~np.any(spanning, axis=0)]


@lru_cache(maxsize=2)
def filled(basis: HeadBasis) -> np.ndarray:
    """The skin, fans over the eyes, and strips over the mouth."""
    extra = [(pupil, a, b) for side, pupil in PUPILS.items() for a, b in _around(EYE_RINGS[side])]
    half = len(MOUTH_RING) // 2
    upper, lower = MOUTH_RING[: half + 1], (MOUTH_RING[0], *MOUTH_RING[:half:-1], MOUTH_RING[half])
    extra += [t for a, b, c, d in zip(upper, upper[1:], lower, lower[1:]) for t in ((a, c, b), (b, c, d)) if len(set(t)) == 3]
    points = basis.points.numpy()
    turned = [t if _faces_front(points[list(t)]) else (t[0], t[2], t[1]) for t in extra]
    return np.concatenate([skin(basis), np.array(turned)])


def _around(ring):
    return zip(ring, (*ring[1:], ring[0]))


def _faces_front(corners: np.ndarray) -> bool:
    return np.cross(corners[1] - corners[0], corners[2] - corners[0])[2] >= 0


@lru_cache(maxsize=2)
def lip_share(basis: HeadBasis) -> np.ndarray:
    """(478,) 1 on the lips, 0 elsewhere."""
    cv2 = opencv()
    outline = basis.points.numpy()[list(OUTER_LIPS), :2].astype(np.float32)
    near = basis.points.numpy()[:, 2] > 2
    inside = [cv2.pointPolygonTest(outline, (float(x), float(y)), False) >= 0 for x, y in basis.points.numpy()[:, :2]]
    return (np.array(inside) & near).astype(float)

"""The part of MakeHuman's mesh that a face landmarker can see, and the rims of its mouth and eyes."""

from collections import Counter
from dataclasses import dataclass

import numpy as np

from .sources import Mesh

HEAD_HEIGHT = 5.6  # dm; the shoulders lie below
OCCLUDERS = ("helper-l-eye", "helper-r-eye", "helper-upper-teeth", "helper-lower-teeth", "helper-tongue")
VIEWS = [(yaw, pitch) for yaw in (-60, -30, 0, 30, 60) for pitch in (-20, 0, 20)]  # degrees
CELL, DEPTH_TOLERANCE, FACING, SEEN_SHARE = 0.02, 0.03, 0.1, 0.6  # dm, dm, cosine, share of a triangle's samples
HOLES = {  # boxes (centre, half size) in dm around the openings of the base mesh
    "mouth": ((0.0, 6.6, 1.45), (0.35, 0.1, 0.25)),
    "left": ((0.31, 7.284, 1.3), (0.21, 0.13, 0.3)),
    "right": ((-0.31, 7.284, 1.3), (0.21, 0.13, 0.3)),
}


@dataclass(frozen=True, eq=False)
class Surface:
    points: np.ndarray  # (V, 3), all of the base mesh's
    triangles: np.ndarray  # (T, 3), the visible ones of the head
    rims: dict[str, np.ndarray]  # name of an opening -> (E, 2), the edges of the visible part around it


def visible_surface(mesh: Mesh, points: np.ndarray) -> Surface:
    """points: (V, 3), the mesh's own or those of a posed face."""
    body = mesh.triangles["body"]
    head = body[(points[body, 1] > HEAD_HEIGHT).all(1)]
    seen = head[_visible(points, head, np.concatenate([mesh.triangles[name] for name in OCCLUDERS]))]
    edges = np.sort(np.concatenate([seen[:, [0, 1]], seen[:, [1, 2]], seen[:, [2, 0]]]), axis=1)
    border = np.array([edge for edge, count in Counter(map(tuple, edges)).items() if count == 1])
    middle = points[border].mean(1)
    rims = {name: border[(np.abs(middle - at) < size).all(1)] for name, (at, size) in HOLES.items()}
    return Surface(points, seen, rims)


def _visible(points: np.ndarray, triangles: np.ndarray, occluders: np.ndarray) -> np.ndarray:
    """(T,) bool: seen from any of the views, by a depth map of points sampled on every triangle."""
    samples, others = _samples(points[triangles]), _samples(points[occluders]).reshape(-1, 3)
    edges = points[triangles[:, 1:]] - points[triangles[:, :1]]
    normals = np.cross(edges[:, 0], edges[:, 1])
    normals /= np.linalg.norm(normals, axis=1, keepdims=True).clip(1e-12)
    seen = np.zeros(len(triangles), bool)
    for turn in map(_turn, VIEWS):
        turned, hiding = samples @ turn.T, others @ turn.T
        corner = turned[..., :2].reshape(-1, 2).min(0)
        cells, hiding_cells = (((p[..., :2] - corner) / CELL).astype(int) for p in (turned, hiding))
        depth = np.full(cells.reshape(-1, 2).max(0) + 1, -np.inf)
        np.maximum.at(depth, tuple(cells.reshape(-1, 2).T), turned[..., 2].ravel())
        np.maximum.at(depth, tuple(hiding_cells.T), hiding[:, 2])
        front = turned[..., 2] > depth[cells[..., 0], cells[..., 1]] - DEPTH_TOLERANCE
        seen |= (front.mean(1) > SEEN_SHARE) & ((normals @ turn.T)[:, 2] > FACING)
    return seen


def _samples(corners: np.ndarray, steps: int = 6) -> np.ndarray:
    """(T, 3, 3) corners -> (T, S, 3) points spread over each triangle."""
    weights = np.array([(i, j, steps - i - j) for i in range(steps + 1) for j in range(steps + 1 - i)]) / steps
    return np.einsum("sc,tcd->tsd", weights, corners)


def _turn(view: tuple[float, float]) -> np.ndarray:
    (sin_yaw, sin_pitch), (cos_yaw, cos_pitch) = np.sin(np.deg2rad(view)), np.cos(np.deg2rad(view))
    yaw = np.array([(cos_yaw, 0, sin_yaw), (0, 1, 0), (-sin_yaw, 0, cos_yaw)])
    return np.array([(1, 0, 0), (0, cos_pitch, -sin_pitch), (0, sin_pitch, cos_pitch)]) @ yaw

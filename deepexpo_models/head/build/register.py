"""Where each point of MediaPipe's canonical face lies on MakeHuman's head.

A similarity from seven pairs of points, then thin-plate splines to the nearest points of the visible surface, each round
softer than the one before. The rings of lips and lids go to the rims of the mesh's openings, upper to upper and lower to lower;
for that the mouth of the mesh is first opened as far as the canonical face's.
"""

from dataclasses import dataclass

import numpy as np

from .. import landmarks
from .sources import Canonical, Mesh
from .surface import Surface, visible_surface

STIFFNESS = (1.0, 0.1, 0.01, 0.001)  # of the splines, one a round
RIM_SAMPLES = 9  # points on each edge of a rim
NEAR_OPENING = 2.5  # cm; within it a point above an opening may not go below it


@dataclass(frozen=True, eq=False)
class Registration:
    """For each canonical point the triangle of MakeHuman's mesh it lies on."""

    corners: np.ndarray  # (468, 3) indices of points
    weights: np.ndarray  # (468, 3) barycentric
    scale: float  # canonical cm per dm of the mesh
    residual: np.ndarray  # (468,) cm from the smoothed place to the surface

    def carry(self, values: np.ndarray) -> np.ndarray:
        """(V, 3) at the mesh's points -> (468, 3) at the canonical ones."""
        return np.einsum("pc,pcd->pd", self.weights, values[self.corners])


def register(mesh: Mesh, units: dict[str, np.ndarray], canonical: Canonical) -> Registration:
    gap = canonical.points[13, 1] - canonical.points[14, 1]
    opened = mesh.points + units["jawOpen"] * _opening(mesh, units, gap)
    surface = visible_surface(mesh, opened)
    sides = _mesh_sides(opened, units)
    own = _canonical_sides(canonical)
    source, target = _anchors(canonical, surface)
    scale, rotation, shift = similarity(source, target)
    places = canonical.points @ rotation.T * scale + shift
    for stiffness in STIFFNESS:
        corners, weights = _nearest(places, surface, sides, own)
        found = np.einsum("pc,pcd->pd", weights, opened[corners])
        places = _spline(canonical.points, found, stiffness)
    corners, weights = _nearest(places, surface, sides, own)
    found = np.einsum("pc,pcd->pd", weights, opened[corners])
    return Registration(corners, weights, 1 / scale, np.linalg.norm(found - places, axis=1) / scale)


def similarity(source: np.ndarray, target: np.ndarray, weights: np.ndarray | None = None):
    """Scale, rotation (3, 3) and shift (3,) that take source (N, 3) nearest to target, by Umeyama 1991."""
    weights = np.full(len(source), 1 / len(source)) if weights is None else weights / weights.sum()
    from_mean, to_mean = weights @ source, weights @ target
    a, b = source - from_mean, target - to_mean
    u, singular, vt = np.linalg.svd((b * weights[:, None]).T @ a)
    sign = np.array([1, 1, np.linalg.det(u @ vt)])
    rotation = (u * sign) @ vt
    scale = (singular * sign).sum() / (weights @ (a**2).sum(1))
    return scale, rotation, to_mean - scale * rotation @ from_mean


def _opening(mesh: Mesh, units: dict[str, np.ndarray], gap: float) -> float:
    """How much of jawOpen parts the mesh's lips by the canonical gap; 1 dm is 10 cm near enough for this."""
    return gap / 10 / np.linalg.norm(units["jawOpen"], axis=1).max()


def _anchors(canonical: Canonical, surface: Surface) -> tuple[np.ndarray, np.ndarray]:
    """Pairs of points: the openings' ends, and the tip of the nose."""
    ends = {"mouth": (308, 78), "left": (263, 362), "right": (133, 33)}  # the largest x first
    source, target = [canonical.points[4]], [_nose_tip(surface)]
    for name, pair in ends.items():
        rim = surface.points[np.unique(surface.rims[name])]
        source += [canonical.points[i] for i in pair]
        target += [rim[rim[:, 0].argmax()], rim[rim[:, 0].argmin()]]
    return np.array(source), np.array(target)


def _nose_tip(surface: Surface) -> np.ndarray:
    points = surface.points[np.unique(surface.triangles)]
    between = (np.abs(points[:, 0]) < 0.05) & (points[:, 1] > 6.7) & (points[:, 1] < 7.2)
    return points[between][points[between][:, 2].argmax()]


def _mesh_sides(points: np.ndarray, units: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Opening -> (V,): 1 above it, -1 below it, 0 where it does not matter; read off what opens and closes it."""
    jaw = np.linalg.norm(units["jawOpen"], axis=1)
    sides = {"mouth": np.where(jaw > 0.4 * jaw.max(), -1, 1)}
    for name in ("left", "right"):
        blink = units[f"eyeBlink{name.capitalize()}"][:, 1]
        sides[name] = np.select([blink < 0.2 * blink.min(), blink > 0], [1, -1], 0)
    return sides


def _canonical_sides(canonical: Canonical) -> dict[str, np.ndarray]:
    """Opening -> (468,): 1 above it, -1 below it, 0 elsewhere, by the way along the mesh around the opening."""
    from scipy.sparse import coo_matrix
    from scipy.sparse.csgraph import dijkstra

    points, t = canonical.points, canonical.triangles
    a, b = t[:, [0, 1, 2]].ravel(), t[:, [1, 2, 0]].ravel()
    lengths = coo_matrix((np.linalg.norm(points[a] - points[b], axis=1), (a, b)), (len(points),) * 2).tocsr()
    middles = {"mouth": (13, 14), "left": (386, 374), "right": (159, 145)}
    sides = {}
    for name, pair in middles.items():
        above, below = dijkstra(lengths.maximum(lengths.T), directed=False, indices=pair)
        near = np.minimum(above, below) < NEAR_OPENING
        sides[name] = np.where(near & (np.abs(above - below) > 0.3), np.sign(below - above), 0)
    return sides


def _nearest(places, surface: Surface, sides, own) -> tuple[np.ndarray, np.ndarray]:
    """(468, 3) places -> corners (468, 3) and barycentric weights (468, 3) of the nearest allowed points."""
    from scipy.spatial import cKDTree

    corners, weights = _surface_samples(surface)
    found = np.einsum("sc,scd->sd", weights, surface.points[corners])
    chosen = cKDTree(found).query(places)[1]
    for name, side in own.items():
        for sign in (1, -1):
            wanted, allowed = np.flatnonzero(side == sign), np.flatnonzero((sides[name][corners] != -sign).all(1))
            chosen[wanted] = allowed[cKDTree(found[allowed]).query(places[wanted])[1]]
    corners, weights = corners[chosen], weights[chosen]
    rings = {"mouth": landmarks.MOUTH_RING, **landmarks.EYE_RINGS}
    for name, ring in rings.items():
        for sign in (1, -1):
            wanted = np.array([i for i in ring if own[name][i] in (0, sign)])
            pairs, shares = _rim_samples(surface.rims[name], sides[name], sign)
            spots = np.einsum("sc,scd->sd", shares, surface.points[pairs])
            best = cKDTree(spots).query(places[wanted])[1]
            corners[wanted], weights[wanted] = pairs[best], shares[best]
    return corners, weights


def _surface_samples(surface: Surface, steps: int = 6) -> tuple[np.ndarray, np.ndarray]:
    grid = np.array([(i, j, steps - i - j) for i in range(steps + 1) for j in range(steps + 1 - i)]) / steps
    return np.repeat(surface.triangles, len(grid), 0), np.tile(grid, (len(surface.triangles), 1))


def _rim_samples(rim: np.ndarray, side: np.ndarray, sign: int) -> tuple[np.ndarray, np.ndarray]:
    """Points on a rim's edges that are not on the other side, as corners (the second twice) and weights."""
    allowed = rim[(side[rim] != -sign).any(1)]
    share = np.linspace(0, 1, RIM_SAMPLES)
    grid = np.stack([1 - share, share, np.zeros_like(share)], axis=1)
    return np.repeat(allowed[:, [0, 1, 1]], RIM_SAMPLES, 0), np.tile(grid, (len(allowed), 1))


def _spline(source: np.ndarray, target: np.ndarray, stiffness: float) -> np.ndarray:
    from scipy.interpolate import RBFInterpolator

    return RBFInterpolator(source, target, smoothing=stiffness, kernel="thin_plate_spline")(source)

"""The linear model of heads: positions are rest + weights @ table, over skin, teeth, tongue, brows, lashes and hair at once."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ...head import ARKIT52
from .build import BROWS, HAIRS, LASHES
from .units import INDEX

SURFACE_POINTS = 96  # spread over the front of the face, the nose's tip first
FACE_FRONT = ((0.35, None), (6.2, 8.2))  # decimetres: z, y of the skin that surface points are taken from
MOUTH_CORNER = ((0.1, 0.4), (6.5, 7.0), (1.0, None))  # x, y, z


@dataclass(frozen=True, eq=False)
class Part:
    """Rows start:start + count of the model; triangles (T, 3), uv (count, 2); welded (count,): one number for one place."""

    name: str
    start: int
    count: int
    triangles: np.ndarray
    uv: np.ndarray
    welded: np.ndarray

    @property
    def rows(self) -> slice:
        return slice(self.start, self.start + self.count)


class HeadModel:
    """Read from the file that `build` made. Raises ValueError, in one sentence, when it is none."""

    def __init__(self, path: str | Path):
        path = Path(path)
        try:
            stored = np.load(path, allow_pickle=False)
            self.names = [str(name) for name in stored["names"]]
            self.rest, self.table = stored["rest"], stored["table"].astype(np.float32)
            self.eye_centre, self.eye_table, self.eye_radius = (stored[f"eye_{name}"] for name in ("centre", "table", "radius"))
            self.parts = {str(name): self._part(str(name), stored) for name in stored["parts"]}
            self.skins = [str(name) for name in stored["skins"]]
            self.pictures = {
                name.removeprefix("picture/"): stored[name] for name in stored.files if name.startswith("picture/")
            }
            self.units = np.array([self.names.index(f"unit:{name}") for name in ARKIT52])
        except (OSError, KeyError, ValueError, EOFError) as error:
            raise ValueError(
                f"{path.name} is no head model ({error}); make one: python -m deepexpo_models.data.heads.build --help"
            ) from error
        self.hairs, self.brows, self.lashes = (
            [name for name in names if name in self.parts] for names in (HAIRS, BROWS, LASHES)
        )
        self._gather = {name: _gather(part) for name, part in self.parts.items()}
        self.surface = self._surface_points()
        self.corners = self._mouth_corners()

    @staticmethod
    def _part(name: str, stored) -> Part:
        values = {key: stored[f"{name}/{key}"] for key in ("start", "count", "triangles", "uv", "welded")}
        return Part(name, **values | {"start": int(values["start"]), "count": int(values["count"])})

    def shape(self, name: str, weights: np.ndarray) -> np.ndarray:
        """weights (targets,) -> the part's positions (count, 3) in decimetres, y up, z to the viewer."""
        used = np.flatnonzero(weights)
        rows = self.parts[name].rows
        return self.rest[rows] + np.tensordot(weights[used].astype(np.float32), self.table[used, rows], 1)

    def move(self, name: str, units: np.ndarray) -> np.ndarray:
        """units (52,) -> how far they move the part, (count, 3)."""
        used = np.flatnonzero(units)
        return np.tensordot(units[used].astype(np.float32), self.table[self.units[used], self.parts[name].rows], 1)

    def eyes(self, weights: np.ndarray) -> np.ndarray:
        """Centres of the left and the right eye of the person, (2, 3)."""
        used = np.flatnonzero(weights)
        return self.eye_centre + np.tensordot(weights[used].astype(np.float32), self.eye_table[used], 1)

    def normals(self, name: str, positions: np.ndarray) -> np.ndarray:
        part = self.parts[name]
        a, b, c = positions[part.triangles].transpose(1, 0, 2)
        normals = self._gather[name] @ np.cross(b - a, c - a)
        normals /= np.linalg.norm(normals, axis=1, keepdims=True) + 1e-9
        return normals[part.welded]

    def _surface_points(self) -> np.ndarray:
        """Rows of the skin: farthest points over the front, from the nose's tip."""
        part = self.parts["skin"]
        at = self.rest[part.rows]
        front = np.flatnonzero(_within(at[:, 2], FACE_FRONT[0]) & _within(at[:, 1], FACE_FRONT[1]))
        front = front[np.unique(part.welded[front], return_index=True)[1]]
        chosen, distance = [front[np.argmax(at[front, 2])]], np.full(len(front), np.inf)
        while len(chosen) < SURFACE_POINTS:
            distance = np.minimum(distance, ((at[front] - at[chosen[-1]]) ** 2).sum(1))
            chosen.append(front[distance.argmax()])
        return np.array(chosen)

    def _mouth_corners(self) -> tuple[int, int]:
        """Rows of the skin that a stretched mouth moves outward most, the picture's left one first."""
        at = self.rest[self.parts["skin"].rows]
        near = np.flatnonzero(np.all([_within(at[:, axis], limits) for axis, limits in enumerate(MOUTH_CORNER)], axis=0))
        stretch = self.table[self.units[INDEX["mouthStretchLeft"]]][self.parts["skin"].rows]
        left = near[np.argmax(stretch[near, 0])]
        right = np.argmin(((at - at[left] * [-1, 1, 1]) ** 2).sum(1))
        return int(right), int(left)


def _within(values: np.ndarray, limits: tuple) -> np.ndarray:
    low, high = limits
    return (values > low) & (True if high is None else values < high)


def _gather(part: Part):
    """Sums a value per triangle into its three welded places: sparse (places, T)."""
    from scipy import sparse

    rows, count = part.welded[part.triangles].T.reshape(-1), len(part.triangles)
    return sparse.csr_matrix(
        (np.ones(len(rows), np.float32), (rows, np.tile(np.arange(count), 3))), shape=(rows.max() + 1, count)
    )

"""MakeHuman's text files: meshes (.obj), offsets (.target), fittings of a part to the base mesh (.mhclo)."""

import gzip
from dataclasses import dataclass
from pathlib import Path

import numpy as np

FITTED_NUMBERS = 9  # three vertices, three weights, three offsets


@dataclass(frozen=True)
class Mesh:
    """vertices (V, 3) in decimetres, uv (T, 2), faces: (group, [(vertex, uv), ...]) with three or more corners."""

    vertices: np.ndarray
    uv: np.ndarray
    faces: list


@dataclass(frozen=True)
class Fitting:
    """Each vertex of a part: weights (N, 3) of the base mesh's vertices (N, 3), and an offset (N, 3) in decimetres."""

    vertices: np.ndarray
    weights: np.ndarray
    offsets: np.ndarray


def read_mesh(path: Path) -> Mesh:
    """Raises ValueError when it is not there."""
    vertices, uv, faces, group = [], [], [], ""
    for kind, *words in _lines(path):
        if kind == "v":
            vertices.append([float(word) for word in words[:3]])
        elif kind == "vt":
            uv.append([float(word) for word in words[:2]])
        elif kind == "g":
            group = words[0] if words else ""
        elif kind == "f":
            faces.append((group, [_corner(word) for word in words]))
    if not vertices or not faces:
        raise ValueError(f"{path.name} holds no mesh; fetch it again")
    return Mesh(np.array(vertices), np.array(uv), faces)


def read_target(path: Path, vertices: int) -> np.ndarray:
    """Offsets (vertices, 3), float32. Raises ValueError when the file belongs to another mesh."""
    offsets = np.zeros((vertices, 3), np.float32)
    for words in _lines(path):
        if len(words) == 4 and words[0].isdigit():
            if int(words[0]) >= vertices:
                raise ValueError(
                    f"{path.name} moves vertex {words[0]}, but the base mesh has {vertices}; give data of one version"
                )
            offsets[int(words[0])] = [float(word) for word in words[1:]]
    return offsets


def read_fitting(path: Path, base: np.ndarray) -> Fitting:
    """base (V, 3): the base mesh at rest, which the file's scales are measured on."""
    scale, rows, reading = np.ones(3), [], False
    for words in _lines(path):
        if words[0] in ("x_scale", "y_scale", "z_scale"):
            axis, (first, second) = "xyz".index(words[0][0]), (int(word) for word in words[1:3])
            scale[axis] = abs(base[first, axis] - base[second, axis]) / float(words[3])
        elif words[0] == "verts":
            reading = True
        elif reading:
            numbers = _numbers(words)
            if numbers and (len(numbers) == 1 or len(numbers) >= FITTED_NUMBERS):
                rows.append(numbers[:FITTED_NUMBERS] if len(numbers) > 1 else [numbers[0]] * 3 + [1, 0, 0, 0, 0, 0])
            elif words[0] == "delete_verts":
                reading = False
    table = np.array(rows)
    return Fitting(table[:, :3].astype(int), table[:, 3:6], table[:, 6:9] * scale)


def _lines(path: Path):
    opened = gzip.open if path.suffix == ".gz" else open
    try:
        with opened(path, "rt", errors="ignore") as lines:
            yield from (words for words in map(str.split, lines) if words and not words[0].startswith("#"))
    except OSError as error:
        raise ValueError(
            f"{path.name} cannot be read ({error.strerror}); point to a complete copy of MakeHuman's data"
        ) from error


def _corner(word: str) -> tuple[int, int]:
    vertex, uv = word.split("/")[:2]
    return int(vertex) - 1, int(uv) - 1


def _numbers(words: list[str]) -> list[float]:
    try:
        return [float(word) for word in words]
    except ValueError:  # some files have other keys between `verts` and the rows
        return []

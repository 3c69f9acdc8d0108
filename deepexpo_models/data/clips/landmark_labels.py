"""Labels that MediaPipe's face landmarker reads off a crop, in the form of `labels`."""

from collections.abc import Callable

from torch import Tensor

from ...dsid.mesh import semantics_of
from ...dsid.rotation import matrix_to_euler, rotation_to_matrix
from ...faces.landmarks import FaceMesh, Track
from ...head import ARKIT52, load_basis

Detect = Callable[[Tensor], list[FaceMesh]]


def read_label(detect: Detect, crop: Tensor) -> dict:
    """crop (S, S, 3) in [0, 1] -> points in its pixels, pose in degrees and blendshapes of its largest face; empty where the
    landmarker, as `faces.landmarks.open_landmarker` gives it, finds none."""
    meshes = detect(crop)
    if not meshes:
        return {}
    mesh = max(meshes, key=lambda each: each.face.side)
    track = Track(mesh.points[None], (mesh.scores,), tuple(crop.shape[:2]), "")
    angles = matrix_to_euler(rotation_to_matrix(semantics_of(track, load_basis()).rotation))[0]
    return {
        "points": mesh.face.points.round(2).tolist(),
        "pose": [round(angle, 2) for angle in angles.tolist()],
        "blendshapes": {name: round(mesh.scores[name], 4) for name in ARKIT52 if name in mesh.scores},
    }

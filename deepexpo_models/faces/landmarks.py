"""Face landmarks as ComfyUI's core gives them (FACE_LANDMARKS), and MediaPipe's landmarker for hosts without one.

FACE_LANDMARKS is {"frames": [[face, ...], ...], "image_size": (H, W), ...}; a face has landmarks_xy (478, 2) in pixels,
landmarks_3d (478, 3) in units of its own, blendshapes {name: score}, bbox_xyxy, score.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from math import isfinite
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from ..errors import first_line
from ..image import comfy_to_bgr
from ..mesh_points import FIVE, POINTS
from .detectors import DetectorUnavailable, Face, optional
from .find import select_face
from .gaps import fill_gaps

TASK = "face_landmarker.task"
TASK_SOURCE = "storage.googleapis.com/mediapipe-models/face_landmarker/face_landmarker/float16/1/face_landmarker.task"
MANY_FACES = 16
NO_LANDMARKS = (
    "this is no set of face landmarks; connect FACE_LANDMARKS from Detect Face Landmarks (MediaPipe) or Find Landmarks"
)
FLIP = (1.0, -1.0, -1.0)  # between MediaPipe's axes (y up, z to the viewer) and a picture's (y down, z away), dsid.rotation's
SMALLEST = 2.0  # pixels that a face is wide and high


@dataclass(frozen=True, eq=False)
class FaceMesh:
    """One face of one frame."""

    points: Tensor  # (478, 3) x right, y down, z away from the viewer, all in pixels of the picture
    scores: dict[str, float]  # ARKit's names; empty where the landmarker gives none
    confidence: float
    matrix: Tensor | None = None  # (4, 4) from MediaPipe's canonical face: x right, y up, z to the viewer, in cm

    @property
    def rotation(self) -> Tensor:
        """(3, 3), by dsid.rotation; identity is MediaPipe's frontal face. Raises ValueError without its matrix."""
        if self.matrix is None:
            raise ValueError("this face has no matrix; open the landmarker with matrix=True")
        return rotation_of(self.matrix)

    @property
    def face(self) -> Face:
        """The same as a detector's find."""
        low, high = self.points[:, :2].amin(0), self.points[:, :2].amax(0)
        return Face((*low.tolist(), *high.tolist()), self.points[list(FIVE), :2].double().numpy(), self.confidence, "landmarks")


@dataclass(frozen=True, eq=False)
class Track:
    """One face through the frames of a clip, or one face of each of several photos."""

    points: Tensor  # (F, 478, 3) as FaceMesh.points
    scores: tuple[dict[str, float], ...]
    size: tuple[int, int]  # height and width of the pictures
    note: str  # one sentence on frames without a face; empty where there were none


def rotation_of(matrix: Tensor) -> Tensor:
    """MediaPipe's matrix (4, 4), which holds a scale too -> (3, 3), see `FaceMesh.rotation`."""
    turn, flip = matrix[:3, :3], matrix.new_tensor(FLIP)
    return flip[:, None] * turn / turn.det().abs() ** (1 / 3) * flip


def read_landmarks(landmarks) -> tuple[list[list[FaceMesh]], tuple[int, int]]:
    """FACE_LANDMARKS -> the faces of every frame, (height, width).

    Raises ValueError, in one sentence, for anything else, another number of points, values that are not finite, and a face
    without extent.
    """
    if not isinstance(landmarks, Mapping) or not {"frames", "image_size"} <= landmarks.keys() or not landmarks["frames"]:
        raise ValueError(NO_LANDMARKS)
    try:
        height, width = (int(side) for side in landmarks["image_size"])
        frames = [list(faces) for faces in landmarks["frames"]]
    except (TypeError, ValueError) as error:
        raise ValueError(NO_LANDMARKS) from error
    meshes = [[_mesh(face, f"frame {number} of {len(frames)}") for face in faces] for number, faces in enumerate(frames, 1)]
    return meshes, (height, width)


def track_face(landmarks, index: int = 0, order: str = "largest", gaps: str = "refuse") -> Track:
    """FACE_LANDMARKS -> the face with that index, in that order, in every frame.

    gaps: what becomes of frames without a face, see `gaps.fill_gaps`; unless it is refuse, of those with fewer faces than
    the index asks for, too. Raises ValueError as `read_landmarks`, `select_face` and `fill_gaps`.
    """
    frames, size = read_landmarks(landmarks)
    chosen = [_choose(faces, index, order, gaps, size, f"frame {n} of {len(frames)}") for n, faces in enumerate(frames, 1)]
    filled, note = fill_gaps(chosen, gaps, _between)
    return Track(torch.stack([face.points for face in filled.values()]), tuple(f.scores for f in filled.values()), size, note)


def faces_in_pictures(landmarks, images: Tensor) -> list[list[Face]]:
    """FACE_LANDMARKS of images (B, H, W, C) -> the faces of each. Raises ValueError for landmarks of other pictures."""
    frames, size = read_landmarks(landmarks)
    if len(frames) != len(images) or size != tuple(images.shape[1:3]):
        raise ValueError(
            f"these landmarks are of {len(frames)} pictures of {size[1]} x {size[0]} pixels, the image is {len(images)} of "
            f"{images.shape[2]} x {images.shape[1]}; connect landmarks that were found in this image"
        )
    return [[mesh.face for mesh in faces] for faces in frames]


def open_landmarker(task: Path | None, faces: int = 1, confidence: float = 0.5, presence: float = 0.5, matrix: bool = False):
    """MediaPipe's landmarker: a function of a picture (H, W, 3) in [0, 1] -> list of FaceMesh, in its own order.

    faces: so many at most; 0: all, up to MANY_FACES, for whoever chooses the largest. confidence, presence: how sure
    it must be that a face is there, before and after it has placed the points. matrix: the meshes have theirs. Raises
    DetectorUnavailable, in one sentence, without the package or its model file.
    """
    if task is None or not Path(task).is_file():
        raise DetectorUnavailable(f"{TASK} (3.7 MB) is missing; put {TASK_SOURCE} into models/mediapipe")
    with optional("mediapipe"):
        from mediapipe import Image, ImageFormat
        from mediapipe.tasks.python import BaseOptions, vision
    options = vision.FaceLandmarkerOptions(
        base_options=BaseOptions(model_asset_buffer=Path(task).read_bytes()),
        num_faces=faces or MANY_FACES,
        min_face_detection_confidence=confidence,
        min_face_presence_confidence=presence,
        output_face_blendshapes=True,
        output_facial_transformation_matrixes=matrix,
    )
    try:
        landmarker = vision.FaceLandmarker.create_from_options(options)
    except Exception as error:  # a damaged file ends in MediaPipe's own exceptions
        raise DetectorUnavailable(f"{Path(task).name} cannot be used ({first_line(error, 100)}); download it again") from error

    def detect(image: Tensor) -> list[FaceMesh]:
        rgb = np.ascontiguousarray(comfy_to_bgr(image)[..., ::-1])
        found = landmarker.detect(Image(image_format=ImageFormat.SRGB, data=rgb))
        matrices = found.facial_transformation_matrixes if matrix else [None] * len(found.face_landmarks)
        return [_found(*face, rgb.shape) for face in zip(found.face_landmarks, found.face_blendshapes, matrices)]

    return detect


def find_landmarks(detect, images: Tensor) -> dict:
    """images (B, H, W, C) in [0, 1] -> FACE_LANDMARKS, as ComfyUI's core would give it."""
    frames = [[_as_core(mesh) for mesh in detect(image[..., :3])] for image in images]
    return {"frames": frames, "image_size": tuple(images.shape[1:3]), "connection_sets": {}}


def landmarks_line(landmarks: dict) -> str:
    """What was found, for people: "3 faces in 2 pictures" and how many pictures have none."""
    counts = [len(faces) for faces in landmarks["frames"]]
    named = {"face": sum(counts), "picture": len(counts)}
    faces, pictures = (f"{number} {word}{'s' * (number != 1)}" for word, number in named.items())
    return f"{faces} in {pictures}" + (f", none in {counts.count(0)} of them" if 0 in counts else "")


def _found(points, scores, matrix, shape) -> FaceMesh:
    height, width = shape[:2]
    xyz = torch.tensor([(p.x * width, p.y * height, p.z * width) for p in points], dtype=torch.float32)
    placed = None if matrix is None else torch.from_numpy(np.array(matrix)).float()
    return FaceMesh(xyz, {s.category_name: s.score for s in scores}, 1.0, placed)


def _as_core(mesh: FaceMesh) -> dict:
    points = mesh.points.numpy()
    return {
        "bbox_xyxy": np.array(mesh.face.box, dtype=np.float32),
        "blendshapes": dict(mesh.scores),
        "landmarks_xy": points[:, :2].copy(),
        "landmarks_3d": points.copy(),
        "presence": mesh.confidence,
        "score": mesh.confidence,
    }


def _mesh(face: Mapping, name: str) -> FaceMesh:
    try:
        flat, deep = (torch.as_tensor(np.asarray(face.get(key, ()), np.float32)) for key in ("landmarks_xy", "landmarks_3d"))
        told = {str(key): float(value) for key, value in dict(face.get("blendshapes") or {}).items()}
    except (AttributeError, TypeError, ValueError) as error:
        raise ValueError(f"{name} holds a face that is none: {NO_LANDMARKS}") from error
    for what, points, width in (("landmarks_xy", flat, 2), ("landmarks_3d", deep, 3)):
        if tuple(points.shape) != (POINTS, width):
            raise ValueError(
                f"{what} of {name} has shape {tuple(points.shape)}, expected {(POINTS, width)}: these landmarks are from "
                f"another landmarker than MediaPipe's face landmarker"
            )
    if not (flat.isfinite().all() and deep.isfinite().all()):
        raise ValueError(f"the landmarks of {name} hold values that are not finite; run the landmarker again")
    if (flat.amax(0) - flat.amin(0)).amin() < SMALLEST:
        raise ValueError(f"all points of a face in {name} lie in one place; find the landmarks again, in a larger picture")
    scores = {key: value for key, value in told.items() if isfinite(value)}
    points = torch.cat([flat, _depth_in_pixels(flat, deep)[:, None]], dim=1)
    return FaceMesh(points, scores, float(face.get("score", 1.0)))


def _depth_in_pixels(flat: Tensor, deep: Tensor) -> Tensor:
    """Depth in pixels (478,): landmarks_3d is the same face in a frame of its own, whose z is as long as its x."""
    own = torch.cat([deep[:, :2], torch.ones(len(deep), 1)], dim=1)
    affine = torch.linalg.lstsq(own.double(), flat.double()).solution
    return deep[:, 2] * torch.linalg.vector_norm(affine[0]).to(deep)


def _choose(faces: list[FaceMesh], index: int, order: str, gaps: str, size: tuple[int, int], name: str) -> FaceMesh | None:
    if not faces or (index >= len(faces) and gaps != "refuse"):
        return None
    chosen = select_face([mesh.face for mesh in faces], index, order, size, name)
    return next(mesh for mesh in faces if mesh.face.box == chosen.box)


def _between(a: FaceMesh, b: FaceMesh, share: float) -> FaceMesh:
    scores = {key: (1 - share) * a.scores[key] + share * b.scores[key] for key in a.scores.keys() & b.scores}
    return FaceMesh(torch.lerp(a.points, b.points, share), scores, min(a.confidence, b.confidence))

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

from ..image import comfy_to_bgr
from .detectors import DetectorUnavailable, Face, optional
from .find import select_face

POINTS = 478
FIVE = (468, 473, 4, 61, 291)  # the eyes' centres, the tip of the nose, the mouth's corners; the picture's left ones first
GAPS = ("refuse", "interpolate", "hold", "skip")  # what to do with frames that have no face
TASK = "face_landmarker.task"
TASK_SOURCE = "storage.googleapis.com/mediapipe-models/face_landmarker/face_landmarker/float16/1/face_landmarker.task"
MANY_FACES = 16


@dataclass(frozen=True, eq=False)
class FaceMesh:
    """One face of one frame."""

    points: Tensor  # (478, 3) x right, y down, z away from the viewer, all in pixels of the picture
    scores: dict[str, float]  # ARKit's names; empty where the landmarker gives none
    confidence: float

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


def read_landmarks(landmarks) -> tuple[list[list[FaceMesh]], tuple[int, int]]:
    """FACE_LANDMARKS -> the faces of every frame, (height, width).

    Raises ValueError, in one sentence, for anything else, another number of points, or values that are not finite.
    """
    if not isinstance(landmarks, Mapping) or not {"frames", "image_size"} <= landmarks.keys() or not landmarks["frames"]:
        raise ValueError(
            "this is no set of face landmarks; connect FACE_LANDMARKS from Detect Face Landmarks (MediaPipe) or Find Landmarks"
        )
    height, width = (int(side) for side in landmarks["image_size"])
    frames = landmarks["frames"]
    meshes = [[_mesh(face, f"frame {number} of {len(frames)}") for face in faces] for number, faces in enumerate(frames, 1)]
    return meshes, (height, width)


def track_face(landmarks, index: int = 0, order: str = "largest", gaps: str = "refuse") -> Track:
    """FACE_LANDMARKS -> the face with that index, in that order, in every frame.

    gaps: refuse raises ValueError that names the frames without a face; interpolate goes from the frame before a gap to
    the one after it, hold repeats the one before, and both repeat the nearest at the ends; skip leaves such frames out.
    Raises ValueError also when no frame has a face or a frame has fewer than the index asks for.
    """
    if gaps not in GAPS:
        raise ValueError(f"unknown way with gaps {gaps!r}; known: {', '.join(GAPS)}")
    frames, size = read_landmarks(landmarks)
    chosen = [_choose(faces, index, order, size, f"frame {n} of {len(frames)}") for n, faces in enumerate(frames, 1)]
    missing = [number for number, face in enumerate(chosen) if face is None]
    if len(missing) == len(chosen):
        raise ValueError(
            "no face in any frame of these landmarks; use clearer pictures, or a lower confidence in the landmarker"
        )
    if missing and gaps == "refuse":
        raise ValueError(
            f"no face in {_frames(missing, len(chosen))}; choose gaps 'interpolate', 'hold' or 'skip', or take these frames out"
        )
    filled = [_fill(chosen, number, gaps) for number in range(len(chosen)) if gaps != "skip" or number not in missing]
    done = {"interpolate": "filled from the frames around them", "hold": "filled with the last face", "skip": "left out"}
    note = f"no face in {_frames(missing, len(chosen))}: {done[gaps]}" if missing else ""
    return Track(torch.stack([face.points for face in filled]), tuple(face.scores for face in filled), size, note)


def open_landmarker(task: Path | None, faces: int = 1, confidence: float = 0.5):
    """MediaPipe's landmarker: a function of a picture (H, W, 3) in [0, 1] -> list of FaceMesh. Raises DetectorUnavailable,
    in one sentence, without the package or its model file."""
    if task is None or not Path(task).is_file():
        raise DetectorUnavailable(f"{TASK} (3.7 MB) is missing; put {TASK_SOURCE} into models/mediapipe")
    with optional("mediapipe"):
        from mediapipe import Image, ImageFormat
        from mediapipe.tasks.python import BaseOptions, vision
    options = vision.FaceLandmarkerOptions(
        base_options=BaseOptions(model_asset_buffer=Path(task).read_bytes()),
        num_faces=faces or MANY_FACES,
        min_face_detection_confidence=confidence,
        output_face_blendshapes=True,
    )
    try:
        landmarker = vision.FaceLandmarker.create_from_options(options)
    except Exception as error:  # a damaged file ends in MediaPipe's own exceptions
        reason = str(error).splitlines()[0][:100]
        raise DetectorUnavailable(f"{Path(task).name} cannot be used ({reason}); download it again") from error

    def detect(image: Tensor) -> list[FaceMesh]:
        rgb = np.ascontiguousarray(comfy_to_bgr(image)[..., ::-1])
        found = landmarker.detect(Image(image_format=ImageFormat.SRGB, data=rgb))
        return [_found(points, scores, rgb.shape) for points, scores in zip(found.face_landmarks, found.face_blendshapes)]

    return detect


def find_landmarks(detect, images: Tensor) -> dict:
    """images (B, H, W, C) in [0, 1] -> FACE_LANDMARKS, as ComfyUI's core would give it."""
    frames = [[_as_core(mesh) for mesh in detect(image[..., :3])] for image in images]
    return {"frames": frames, "image_size": tuple(images.shape[1:3]), "connection_sets": {}}


def _found(points, scores, shape) -> FaceMesh:
    height, width = shape[:2]
    xyz = torch.tensor([(p.x * width, p.y * height, p.z * width) for p in points], dtype=torch.float32)
    return FaceMesh(xyz, {s.category_name: s.score for s in scores}, 1.0)


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
    flat, deep = (
        torch.as_tensor(np.asarray(face.get(key, ())), dtype=torch.float32) for key in ("landmarks_xy", "landmarks_3d")
    )
    for what, points, width in (("landmarks_xy", flat, 2), ("landmarks_3d", deep, 3)):
        if tuple(points.shape) != (POINTS, width):
            raise ValueError(
                f"{what} of {name} has shape {tuple(points.shape)}, expected {(POINTS, width)}: these landmarks are from "
                f"another landmarker than MediaPipe's face landmarker"
            )
    if not (flat.isfinite().all() and deep.isfinite().all()):
        raise ValueError(f"the landmarks of {name} hold values that are not finite; run the landmarker again")
    scores = {key: float(value) for key, value in dict(face.get("blendshapes") or {}).items() if isfinite(value)}
    points = torch.cat([flat, _depth_in_pixels(flat, deep)[:, None]], dim=1)
    return FaceMesh(points, scores, float(face.get("score", 1.0)))


def _depth_in_pixels(flat: Tensor, deep: Tensor) -> Tensor:
    """Depth in pixels (478,): landmarks_3d is the same face in a frame of its own, whose z is as long as its x."""
    own = torch.cat([deep[:, :2], torch.ones(len(deep), 1)], dim=1)
    affine = torch.linalg.lstsq(own.double(), flat.double()).solution
    return deep[:, 2] * torch.linalg.vector_norm(affine[0]).to(deep)


def _choose(faces: list[FaceMesh], index: int, order: str, size: tuple[int, int], name: str) -> FaceMesh | None:
    if not faces:
        return None
    chosen = select_face([mesh.face for mesh in faces], index, order, size, name)
    return next(mesh for mesh in faces if mesh.face.box == chosen.box)


def _fill(chosen: list[FaceMesh | None], number: int, gaps: str) -> FaceMesh:
    if chosen[number] is not None:
        return chosen[number]
    before = next((n for n in range(number, -1, -1) if chosen[n]), None)
    after = next((n for n in range(number, len(chosen)) if chosen[n]), None)
    if before is None or after is None or gaps == "hold":
        return chosen[after if before is None else before]
    return _between(chosen[before], chosen[after], (number - before) / (after - before))


def _between(a: FaceMesh, b: FaceMesh, share: float) -> FaceMesh:
    scores = {key: (1 - share) * a.scores[key] + share * b.scores[key] for key in a.scores.keys() & b.scores}
    return FaceMesh(torch.lerp(a.points, b.points, share), scores, min(a.confidence, b.confidence))


def _frames(numbers: list[int], total: int) -> str:
    """Frames counted from 1, at most ten of them."""
    named = ", ".join(str(number + 1) for number in numbers[:10])
    more = f" and {len(numbers) - 10} more" if len(numbers) > 10 else ""
    return f"{'frame' if len(numbers) == 1 else 'frames'} {named}{more} of {total}"

"""Face detectors. Each is optional, imported when opened, and offline: no model is ever downloaded.

A detector takes a picture (H, W, 3), RGB in [0, 1], and gives a list of faces; DETECTORS holds the functions that open them.
"""

import shutil
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np
import torch.nn.functional as F
from torch import Tensor

from ..errors import first_line
from ..image import comfy_to_bgr, to_rgb

PACKS = ("antelopev2", "buffalo_l", "buffalo_m", "buffalo_s", "buffalo_sc")  # preferred first, then any other by name
# SCRFD at 640 misses faces that fill the picture; insightface 2.x looks at a smaller size too, 0.7 does not.
INSIGHTFACE_SIZES = (640, 320, 160)
# Both cascades look at one picture size, so what they find does not depend on the resolution, nor does the time.
# Sizes, steps and neighbours were chosen on variants of three photographs for few false faces: one of them may be the
# largest.
OPENCV_SIDE, OPENCV_STEP, OPENCV_NEIGHBOURS = 800, 1.1, 8
SKIMAGE_SIDE, SKIMAGE_STEP, SKIMAGE_NEIGHBOURS = 640, 1.2, 6
WINDOW = 24  # both cascades were trained on windows of 20 to 24 pixels
SMALLEST_FACE = 0.07  # of the picture's shorter side; smaller ones are mostly false
REACH = 1.8  # side of the window around a face's last place, in sides of its box
NEAR_FACE, NEAR_SIZE = 56, 160  # in that window: pixels of the face for cascades, of the whole window for SCRFD
NEAR_STEP, NEAR_NEIGHBOURS, NEAR_RANGE = 1.08, 4, (0.78, 1.25)  # of cascades there; the last: of the face's last side


class DetectorUnavailable(Exception):
    """Why a detector cannot be used here, and what would make it usable."""


@dataclass(frozen=True, eq=False)
class Face:
    """A face in pixels of its picture; pixel k covers k to k + 1."""

    box: tuple[float, float, float, float]  # left, top, right, bottom; may reach beyond the picture
    points: np.ndarray | None  # (5, 2) x, y: eyes, nose, mouth corners, each the picture's left one first
    score: float | None  # in [0, 1]; None where the detector gives none
    detector: str  # insightface, opencv, scikit-image, mask, or picture (the whole picture stands for the face)

    @property
    def centre(self) -> tuple[float, float]:
        left, top, right, bottom = self.box
        return (left + right) / 2, (top + bottom) / 2

    @property
    def side(self) -> float:
        """The longer side of the box."""
        left, top, right, bottom = self.box
        return max(right - left, bottom - top)


@dataclass(frozen=True)
class Detector:
    """A picture (H, W, 3) in [0, 1] -> its faces.

    around: the same for a window in which the face is about near_face pixels wide; None where it cannot be followed.
    """

    whole: Callable[[Tensor], list[Face]]
    around: Callable[[Tensor], list[Face]] | None = None
    near_face: int = NEAR_FACE

    def __call__(self, image: Tensor) -> list[Face]:
        return self.whole(image)

    def near(self, image: Tensor, last: Face) -> Face | None:
        """The face in image (H, W, 1, 3 or 4) that was at a last place, searched around it alone; None where it is not."""
        place = window(image, last, self.near_face) if self.around else None
        found = [place.back(face) for face in self.around(place.picture)] if self.around and place else []
        low, high = (last.side * share for share in NEAR_RANGE)
        sizes = [face for face in found if low / NEAR_STEP <= face.side <= high * NEAR_STEP]
        return max(sizes, key=lambda face: _shared(face.box, last.box), default=None)


@dataclass(frozen=True, eq=False)
class Window:
    """The surroundings of a face's last place as a small picture (h, w, 3) in [0, 1]; factor: the given picture's pixels per
    pixel of it."""

    picture: Tensor
    left: int
    top: int
    factor: float

    def back(self, face: Face) -> Face:
        """In the given picture."""
        corner = np.array([self.left, self.top])
        box = (np.reshape(face.box, (2, 2)) * self.factor + corner).flatten()
        points = None if face.points is None else face.points * self.factor + corner
        return replace(face, box=tuple(box.tolist()), points=points)


def window(image: Tensor, last: Face, face: int) -> Window | None:
    """image (H, W, 1, 3 or 4) -> what lies around the last place, the face `face` pixels wide; None beyond the picture."""
    (height, width), (x, y), half = image.shape[:2], last.centre, last.side * REACH / 2
    left, top, right, bottom = (round(edge) for edge in (x - half, y - half, x + half, y + half))
    left, top, right, bottom = max(left, 0), max(top, 0), min(right, width), min(bottom, height)
    if right <= left or bottom <= top:
        return None
    factor = last.side / face
    return Window(_resized(to_rgb(image[top:bottom, left:right]), (bottom - top, right - left), factor), left, top, factor)


Roots = Path | Sequence[Path] | None  # ComfyUI's insightface folders, each of which holds models/<pack>/*.onnx


def open_insightface(root: Roots) -> Detector:
    """root: ComfyUI's models/insightface, which holds models/<pack>/*.onnx."""
    analysis = open_pack(root, None, ["detection"])

    def detect(image: Tensor, sizes: tuple[int, ...] = INSIGHTFACE_SIZES) -> list[Face]:
        return [_face(found) for found in analyse(analysis, comfy_to_bgr(image), sizes)]

    return Detector(detect, lambda near: detect(near, (NEAR_SIZE,)), round(NEAR_SIZE / REACH))


def open_pack(root: Roots, name: str | None, modules: list[str]):
    """insightface's analysis of some kinds ("detection", "recognition") with the pack of that name, or the preferred one;
    raises DetectorUnavailable. Nothing is downloaded."""
    with optional("insightface"):
        from insightface.app import FaceAnalysis
    pack = find_pack(root, name)
    # An absolute path as the name: insightface 2.x looks for a plain name in the working directory first.
    opened = partial(FaceAnalysis, root=str(pack.parents[1]), allowed_modules=modules, providers=["CPUExecutionProvider"])
    try:
        return _open_sound(opened, pack)
    except Exception as error:  # a damaged file ends in onnxruntime's own exceptions, a pack without detector in assert
        raise DetectorUnavailable(f"the model pack {pack.name} cannot be loaded ({first_line(error)})") from error


def _open_sound(opened, pack: Path):
    """insightface's analysis of a pack; where a file in it is damaged, of the others."""
    try:
        return opened(name=str(pack))
    except Exception:
        files = sorted(pack.glob("*.onnx"))
        sound = [path for path in files if _can_be_run(path)]
        if len(sound) in (0, len(files)):
            raise
    folder = tempfile.TemporaryDirectory(prefix="deepexpo-")
    beside = Path(folder.name, pack.name)
    beside.mkdir()
    for path in sound:
        try:
            (beside / path.name).symlink_to(path)
        except OSError:  # Windows, without the right to
            shutil.copyfile(path, beside / path.name)
    analysis = opened(name=str(beside))
    analysis.deepexpo_folder = folder  # insightface opens a file again when it prepares a model
    return analysis


def _can_be_run(path: Path) -> bool:
    import onnxruntime

    try:
        onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    except Exception:
        return False
    return True


def find_pack(root: Roots, name: str | None = None) -> Path:
    """The folder of that installed model pack, or of the preferred one, in the first root that has it; raises
    DetectorUnavailable."""
    roots = [] if root is None else [root] if isinstance(root, str | Path) else list(root)
    if not roots:
        raise DetectorUnavailable("no folder for its model packs was given")
    found = [path.parent for each in reversed(roots) for path in sorted(Path(each).absolute().glob("models/*/*.onnx"))]
    packs = dict(sorted({path.name: path for path in found}.items()))
    for wanted in (name,) if name else (*PACKS, *packs):
        if wanted in packs:
            return packs[wanted]
    what = f"the model pack {name} is not" if name else "no model pack is"
    places = " or ".join("/".join(Path(each, "models").parts[-2:]) for each in roots)
    raise DetectorUnavailable(f"{what} in {places}; put one there, its .onnx files right in a folder like {name or PACKS[0]}")


def analyse(analysis, bgr: np.ndarray, sizes: tuple[int, ...] = INSIGHTFACE_SIZES) -> list:
    """What insightface finds in a picture (H, W, 3), uint8, BGR. A face that fills it is found at a smaller size only."""
    for size in sizes:
        # a negative ctx_id would read the model file again; the sessions were opened for the CPU
        analysis.prepare(ctx_id=0, det_size=(size, size))
        found = analysis.get(bgr)
        if found:
            break
    return found


def _face(found) -> Face:
    return Face(
        box=_box(found.bbox),
        points=None if found.kps is None else np.array(found.kps, dtype=np.float64),
        score=float(found.det_score),
        detector="insightface",
    )


def _box(edges: Iterable) -> tuple[float, float, float, float]:
    left, top, right, bottom = map(float, edges)
    return left, top, right, bottom


def open_opencv(root: Roots) -> Detector:
    """The first cascade that is installed; root is not used."""
    reasons = []
    for open_cascade in (_open_haar_cascade, _open_lbp_cascade):
        try:
            return open_cascade()
        except DetectorUnavailable as reason:
            reasons.append(str(reason))
    raise DetectorUnavailable(f"{'; '.join(reasons)}; install scikit-image, or opencv-python below 5")


def _open_haar_cascade() -> Detector:
    with optional("opencv-python"):
        import cv2
    if not hasattr(cv2, "CascadeClassifier"):  # dropped from the opencv-python wheels with 5.0
        raise DetectorUnavailable("the installed OpenCV has no cascades (they ended with version 4)")
    path = Path(cv2.__file__).parent / "data" / "haarcascade_frontalface_alt.xml"
    cascade = cv2.CascadeClassifier(str(path))
    if cascade.empty():
        raise DetectorUnavailable(f"OpenCV cannot read {path}")

    def search(image: Tensor, factor: float, step: float, neighbours: int, smallest: int, largest: int) -> list[Face]:
        grey = cv2.cvtColor(comfy_to_bgr(image), cv2.COLOR_BGR2GRAY)
        limits = {"minSize": (smallest, smallest), "maxSize": (largest, largest)}
        found = cascade.detectMultiScale(grey, step, neighbours, **limits)
        return square_faces(((x, y, side) for x, y, side, _ in found), factor, "opencv")

    def detect(image: Tensor) -> list[Face]:
        fitted, factor = fit_side(image, OPENCV_SIDE)
        return search(fitted, factor, OPENCV_STEP, OPENCV_NEIGHBOURS, smallest_face(fitted.shape), OPENCV_SIDE)

    return Detector(detect, lambda near: search(near, 1.0, NEAR_STEP, NEAR_NEIGHBOURS, *near_sizes(near)))


def _open_lbp_cascade() -> Detector:
    with optional("scikit-image"):
        from skimage.data import lbp_frontal_face_cascade_filename
        from skimage.feature import Cascade

        cascade = Cascade(lbp_frontal_face_cascade_filename())

    def search(image: Tensor, factor: float, step: float, neighbours: int, smallest: int, largest: int) -> list[Face]:
        rgb = np.ascontiguousarray(comfy_to_bgr(image)[..., ::-1])
        if smallest > largest:
            return []
        limits = (smallest, smallest), (largest, largest)
        found = cascade.detect_multi_scale(rgb, step, 1.0, *limits, min_neighbor_number=neighbours)
        return square_faces(((box["c"], box["r"], box["width"]) for box in found), factor, "scikit-image")

    def detect(image: Tensor) -> list[Face]:
        fitted, factor = fit_side(image, SKIMAGE_SIDE)
        sizes = smallest_face(fitted.shape), min(fitted.shape[:2])
        return search(fitted, factor, SKIMAGE_STEP, SKIMAGE_NEIGHBOURS, *sizes)

    return Detector(detect, lambda near: search(near, 1.0, NEAR_STEP, NEAR_NEIGHBOURS, *near_sizes(near)))


@contextmanager
def optional(package: str) -> Iterator[None]:
    """Around the imports of a Python package: one that is missing or breaks in any way is DetectorUnavailable."""
    try:
        yield
    except Exception as error:
        raise DetectorUnavailable(f"cannot import {package} ({first_line(error)}), install or repair it") from error


def fit_side(image: Tensor, side: int) -> tuple[Tensor, float]:
    """(H, W, 3) -> the picture with that longer side, and the factor from its pixels to those of the given one."""
    height, width = image.shape[:2]
    factor = max(height, width) / side
    return _resized(image, (height, width), factor), factor


def _resized(image: Tensor, size: tuple[int, int], factor: float) -> Tensor:
    """(H, W, 3) of that size -> float32, each side divided by the factor."""
    target = [max(1, round(side / factor)) for side in size]
    scaled = F.interpolate(image.movedim(-1, 0)[None].float(), target, mode="bilinear", antialias=True)
    return scaled[0].movedim(0, -1)


def near_sizes(near: Tensor) -> tuple[int, int]:
    """Sides of the smallest and the largest face that a cascade looks for in a window (h, w, 3)."""
    smallest, largest = (round(NEAR_FACE * share) for share in NEAR_RANGE)
    return smallest, min(largest, *near.shape[:2])


def smallest_face(shape: tuple[int, ...]) -> int:
    return max(WINDOW, round(min(shape[:2]) * SMALLEST_FACE))


def square_faces(squares: Iterable[tuple], factor: float, detector: str) -> list[Face]:
    """squares: (left, top, side) in the fitted picture -> faces in the given one, without overlapping ones."""
    boxes = [(x * factor, y * factor, (x + side) * factor, (y + side) * factor) for x, y, side in squares]
    return suppress_overlaps([Face(_box(box), None, None, detector) for box in boxes])


def suppress_overlaps(faces: list[Face], limit: float = 0.5) -> list[Face]:
    """Of faces that share more than `limit` of the smaller box, keep the largest."""
    kept: list[Face] = []
    for face in sorted(faces, key=lambda face: -face.side):
        if all(_shared(face.box, other.box) <= limit for other in kept):
            kept.append(face)
    return kept


def _shared(a: tuple, b: tuple) -> float:
    """The intersection of two boxes over the smaller one's area."""
    width = min(a[2], b[2]) - max(a[0], b[0])
    height = min(a[3], b[3]) - max(a[1], b[1])
    smaller = min((box[2] - box[0]) * (box[3] - box[1]) for box in (a, b))
    return max(0.0, width) * max(0.0, height) / smaller


DETECTORS = {  # the user's name -> (insightface's root) -> Detector, best first; raises DetectorUnavailable
    "insightface": open_insightface,
    "opencv": open_opencv,
}

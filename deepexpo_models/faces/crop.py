"""Square crops around faces, and the faces' place in the picture as a mask."""

import re
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from ..image import require_pictures, to_rgb
from .detectors import Detector, Face, Roots
from .find import NoFace, OpenedDetector, open_detector
from .gaps import fill_gaps
from .landmarks import faces_in_pictures
from .track import Followed, Tracker

SCALE = 1.8  # crop side over face box side: the whole head, hair included
MAX_SCALE = 10  # an input that is linked knows no widget's bounds
SIZE = 512  # pixels of a crop in a batch
PICTURE = re.compile(r"^image \d+ of \d+: ")  # what a note begins with
LANDMARKS = "landmarks"  # as a detector: faces that a landmarker has found


@dataclass(frozen=True)
class CropTransform:
    """Where a crop lies in its picture, in the picture's pixels, and how many pixels it has itself."""

    left: int  # negative where the crop reaches beyond the picture
    top: int
    side: int
    size: int


@dataclass(frozen=True, eq=False)
class FaceCrops:
    crops: Tensor  # (B, size, size, 3) in [0, 1]
    masks: Tensor  # (B, H, W), 0 or 1, in the pictures' own pixels
    counts: tuple[int, ...]  # faces a detector found in each picture; 0 where the mask's box or the picture stands in
    notes: tuple[str, ...]  # one sentence per picture with a face, and one about those without
    faces: tuple[Face, ...]
    transforms: tuple[CropTransform, ...]

    def summary(self) -> list[str]:
        """What the notes say, each once, with the number of pictures where that is more than one."""
        said = Counter(PICTURE.sub("", note) for note in self.notes)
        return [f"{what} ({number} pictures)" if number > 1 else what for what, number in said.items()]


def crop_face(
    image: Tensor,
    face: Face,
    scale: float = SCALE,
    size: int | None = None,
) -> tuple[Tensor, Tensor, CropTransform]:
    """image (H, W, 1, 3 or 4) in [0, 1] -> crop (S, S, 3) in [0, 1], mask (H, W), transform.

    The crop is a square of scale x the box's longer side around its centre; beyond the picture the border pixels are
    repeated. It has the picture's own pixels (no resampling), or `size`. A face that stands for the whole picture gives
    the whole picture, padded to a square, whatever the scale. The mask is 1 in the ellipse inside the box, 0 elsewhere.
    """
    transform = _transform(face, scale, size)
    places = [_places(begin, transform, length) for begin, length in zip((transform.top, transform.left), image.shape[:2])]
    (top, bottom), (left, right) = ((int(place[0]), int(place[-1]) + 1) for place in places)
    rows, columns = (place - place[0] for place in places)
    inside = to_rgb(image[top:bottom, left:right])
    if transform.size == transform.side:
        crop = inside[rows[:, None], columns]
    else:
        down, across = (_weights(place, transform, inside) for place in (rows, columns))
        crop = torch.einsum("rh,hwc->rwc", down, inside)
        crop = torch.einsum("rwc,sw->rsc", crop, across).clamp(0, 1)
    return crop, face_mask(face, image), transform


def crop_faces(
    images: Tensor,
    detector: str = "auto",
    index: int = 0,
    order: str = "largest",
    scale: float = SCALE,
    size: int = SIZE,
    mask: Tensor | None = None,
    insightface_root: Roots = None,
    landmarks: dict | None = None,
    gaps: str = "refuse",
    open_choice: Callable[[str], OpenedDetector] | None = None,
) -> FaceCrops:
    """images (B, H, W, 1, 3 or 4) in [0, 1], mask (H, W) or (1 or B, H, W) -> one face of every picture; through the frames
    of a clip it is followed, see `track`.

    landmarks: FACE_LANDMARKS of these pictures, which come first with detector auto and alone with LANDMARKS. gaps: what
    becomes of pictures without a face, see `gaps.fill_gaps`: a filled one is cropped where its face should be.
    open_choice: gives a detector that is kept open, instead of `open_detector`.
    Raises ValueError which names the picture ("image 2 of 3") for everything `find_faces` and `select_face` refuse.
    """
    require_pictures(images)
    if detector == LANDMARKS and landmarks is None:
        raise ValueError(f"the detector {LANDMARKS!r} needs landmarks; connect those of this image, or choose detector 'auto'")
    total, use = len(images), landmarks is not None and detector in (LANDMARKS, "auto")
    known = faces_in_pictures(landmarks, images) if use else [()] * total
    choice = "none" if detector == LANDMARKS else detector
    opened = open_choice(choice) if open_choice else open_detector(choice, insightface_root)
    if use and opened.detect is None:
        opened = OpenedDetector(LANDMARKS, Detector(_nobody), opened.unavailable)
    tracker = Tracker(opened, index, order, strict=gaps == "refuse")
    advice = "; or choose gaps 'interpolate', 'hold' or 'skip'" if total > 1 else ""
    found: list[Followed | None] = []
    for number, (image, image_mask, faces) in enumerate(zip(images, _masks(mask, total), known, strict=True), start=1):
        name = f"image {number} of {total}"
        found.append(_find(tracker, image, image_mask, name, faces, advice if gaps == "refuse" else None))
    chosen = [None if each is None else each.face for each in found]
    filled, note = fill_gaps(chosen, gaps, _between)
    crops, masks, transforms = zip(*(crop_face(images[n], face, scale, size) for n, face in filled.items()), strict=True)
    return FaceCrops(
        crops=torch.stack(crops),
        masks=torch.stack(masks),
        counts=tuple(each.detected if (each := found[n]) else 0 for n in filled),
        notes=tuple(each.note for each in found if each) + ((note,) if note else ()),
        faces=tuple(filled.values()),
        transforms=transforms,
    )


def bounding_boxes(faces: Sequence[Face]) -> list[list[dict]]:
    """BOUNDING_BOX as ComfyUI's core gives it: for every picture a list of boxes, here one, in pixels."""
    boxes = (face.box for face in faces)
    return [[{"x": x, "y": y, "width": right - x, "height": bottom - y, "label": "face"}] for x, y, right, bottom in boxes]


def points_in_crop(points: np.ndarray, transform: CropTransform) -> np.ndarray:
    """(N, 2) x, y in the picture -> (N, 2) in the crop's pixels."""
    return (np.asarray(points) - (transform.left, transform.top)) * (transform.size / transform.side)


def face_mask(face: Face, image: Tensor) -> Tensor:
    """image (H, W, C) -> (H, W) in float32: 1 in the ellipse inside the face's box; all 1 for a whole picture."""
    height, width = image.shape[:2]
    if face.detector == "picture":
        return torch.ones(height, width, device=image.device)
    left, top, right, bottom = face.box
    (x, y), y_axis, x_axis = face.centre, (bottom - top) / 2, (right - left) / 2
    rows = (torch.arange(height, device=image.device) + 0.5 - y) / y_axis
    columns = (torch.arange(width, device=image.device) + 0.5 - x) / x_axis
    return (rows[:, None] ** 2 + columns**2 <= 1).float()


def _find(
    tracker: Tracker, image: Tensor, mask: Tensor | None, name: str, known: Sequence[Face], advice: str | None
) -> Followed | None:
    """None where there is no face and no advice to give with its error."""
    try:
        return tracker.find(image, mask, name, known)
    except NoFace as error:
        if advice is None:
            return None
        raise NoFace(f"{error}{advice}") from None


def _nobody(image: Tensor) -> list[Face]:
    return []


def _between(a: Face, b: Face, share: float) -> Face:
    left, top, right, bottom = ((1 - share) * x + share * y for x, y in zip(a.box, b.box))
    return Face((left, top, right, bottom), None, None, a.detector)


def _places(begin: int, transform: CropTransform, length: int) -> Tensor:
    """Which pixel of the picture each of the crop's `side` is: beyond the picture the border's."""
    return (torch.arange(transform.side) + begin).clamp(0, length - 1)


def _weights(places: Tensor, transform: CropTransform, inside: Tensor) -> Tensor:
    """(size, pixels inside): what each pixel of the crop takes of those inside the picture. They are the weights of PyTorch's
    antialiased bicubic resize, those beyond the picture given to the border's; so no padded picture is ever made."""
    weights = _bicubic(transform.side, transform.size)
    folded = weights.new_zeros(len(weights), int(places[-1]) + 1).index_add_(1, places, weights)
    return folded.to(inside)


def _bicubic(side: int, size: int) -> Tensor:
    """(size, side): the weights of F.interpolate(mode="bicubic", antialias=True), whose cubic has a = -1/2 (Keys 1981)."""
    step = side / size
    centres = (torch.arange(size, dtype=torch.float64) + 0.5) * step
    pixels = torch.arange(side) + 0.5
    x = ((pixels - centres.float()[:, None]) / max(step, 1)).abs_()
    near, far = (1.5 * x - 2.5) * x * x + 1, ((-0.5 * x + 2.5) * x - 4) * x + 2
    weights = torch.where(x <= 1, near, torch.where(x < 2, far, 0))
    return weights / weights.sum(1, keepdim=True)


def _transform(face: Face, scale: float, size: int | None) -> CropTransform:
    if not 0 < scale <= MAX_SCALE:
        raise ValueError(f"the scale of a crop is greater than 0 and at most {MAX_SCALE}, got {scale}")
    x, y = face.centre
    side = max(1, round(face.side * (1 if face.detector == "picture" else scale)))
    return CropTransform(left=round(x - side / 2), top=round(y - side / 2), side=side, size=size or side)


def _masks(mask: Tensor | None, total: int) -> list[Tensor | None]:
    """One mask per picture; a single mask serves all."""
    if mask is None:
        return [None] * total
    masks = mask[None] if mask.ndim == 2 else mask
    if masks.ndim != 3 or len(masks) not in (1, total):
        raise ValueError(
            f"expected one mask, or one for each of {total} images, (B, H, W), got shape {tuple(mask.shape)}; "
            f"connect the mask that belongs to these images"
        )
    return list(masks.expand(total, -1, -1))

"""Which faces a picture holds, and which one of them is meant."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from math import hypot

import torch
from torch import Tensor

from ..image import to_rgb
from .detectors import DETECTORS, Detector, DetectorUnavailable, Face, Roots

CHOICES = ("auto", *DETECTORS, "none")
STAND_INS = ("mask", "picture")  # what stands for a face where no detector found one
ORDERS = {  # name -> (face, (height, width) of the picture) -> sort key
    "largest": lambda face, size: -face.side,
    "left to right": lambda face, size: face.centre[0],
    "centre": lambda face, size: hypot(face.centre[0] - size[1] / 2, face.centre[1] - size[0] / 2),
}


class NoFace(ValueError):
    """A picture in which nothing was found."""


@dataclass(frozen=True, eq=False)
class FoundFaces:
    faces: tuple[Face, ...]  # at least one
    note: str  # one sentence: what was used, and why a better detector was not

    @property
    def detected(self) -> int:
        """How many a detector found: none where the mask's box or the picture stands for the face."""
        return sum(face.detector not in STAND_INS for face in self.faces)


@dataclass(frozen=True, eq=False)
class OpenedDetector:
    """A user's choice of detector, opened once for all pictures of a batch."""

    choice: str  # one of CHOICES
    detect: Detector | None
    unavailable: dict[str, str]  # name of a detector -> why it cannot be used


def open_detector(choice: str, insightface_root: Roots = None) -> OpenedDetector:
    """Raises ValueError for an unknown choice, and for a detector asked for by name that cannot be used."""
    if choice not in CHOICES:
        raise ValueError(f"unknown detector {choice!r}; known: {', '.join(CHOICES)}")
    wanted = {"auto": tuple(DETECTORS), "none": ()}.get(choice, (choice,))
    unavailable: dict[str, str] = {}
    for name in wanted:
        try:
            return OpenedDetector(choice, DETECTORS[name](insightface_root), unavailable)
        except DetectorUnavailable as reason:
            unavailable[name] = str(reason)
    if choice in DETECTORS:
        raise ValueError(f"the face detector {choice} cannot be used: {unavailable[choice]}; or choose detector 'auto'")
    return OpenedDetector(choice, None, unavailable)


def find_faces(
    image: Tensor,
    detector: str = "auto",
    mask: Tensor | None = None,
    insightface_root: Roots = None,
    name: str = "the image",
) -> FoundFaces:
    """image (H, W, 1, 3 or 4) in [0, 1], mask (H, W) in [0, 1] -> its faces, or those whose centre lies in the mask.

    auto: the best detector that can be used; where it finds nothing the mask's box is the face, and without any
    detector the mask's box or the picture. none: the mask's box or the picture. A detector by name: that one or a
    ValueError. Raises ValueError for an empty mask, and where a detector finds no face and no mask says where it is;
    `name` is how the messages call the picture.
    """
    return find_with(open_detector(detector, insightface_root), image, mask, name)


def find_with(opened: OpenedDetector, image: Tensor, mask: Tensor | None, name: str, known: Sequence[Face] = ()) -> FoundFaces:
    """`find_faces` with a detector that is already open; known: faces that were found before, so it is not asked."""
    _check_picture(image, mask, name)
    faces = list(known) or (opened.detect(to_rgb(image)) if opened.detect else [])
    if mask is not None:
        faces = [face for face in faces if in_mask(face, mask)]
    if not faces and opened.detect and (mask is None or opened.choice != "auto"):
        raise NoFace(_no_face(opened, mask, name))
    used = _found(faces) if faces else _fallback(opened, mask)
    skipped = "".join(f"; {other} is not available: {reason}" for other, reason in opened.unavailable.items())
    return FoundFaces(tuple(faces) or (_stand_in(image, mask),), f"{name}: {used}{skipped}")


def order_faces(faces: Iterable[Face], order: str, picture_size: tuple[int, int]) -> list[Face]:
    """picture_size: (height, width) in pixels."""
    if order not in ORDERS:
        raise ValueError(f"unknown order {order!r}; known: {', '.join(ORDERS)}")
    return sorted(faces, key=lambda face: ORDERS[order](face, picture_size))


def select_face(
    faces: Iterable[Face],
    index: int,
    order: str,
    picture_size: tuple[int, int],
    name: str = "the image",
) -> Face:
    """The face with that index, from 0, in that order. Raises ValueError which says how many there are."""
    ordered = order_faces(faces, order, picture_size)
    if not 0 <= index < len(ordered):
        raise ValueError(
            f"there is no face {index} in {name}: {_count(ordered)} found, counted from 0; "
            f"choose a face_index from 0 to {len(ordered) - 1}"
        )
    return ordered[index]


def mask_face(mask: Tensor) -> Face:
    """mask (H, W), not empty -> the square around the middle of its bounding box, as a face."""
    rows, columns = (torch.nonzero(mask.amax(axis) > 0).flatten() for axis in (1, 0))
    left, right = columns[0].item(), columns[-1].item() + 1
    top, bottom = rows[0].item(), rows[-1].item() + 1
    x, y, half = (left + right) / 2, (top + bottom) / 2, max(right - left, bottom - top) / 2
    return Face((x - half, y - half, x + half, y + half), None, None, "mask")


def _stand_in(image: Tensor, mask: Tensor | None) -> Face:
    if mask is not None:
        return mask_face(mask)
    height, width = image.shape[:2]
    return Face((0.0, 0.0, float(width), float(height)), None, None, "picture")


def in_mask(face: Face, mask: Tensor) -> bool:
    """Whether the face's centre lies in mask (H, W)."""
    x, y = (int(place) for place in face.centre)
    inside = 0 <= y < mask.shape[0] and 0 <= x < mask.shape[1]
    return inside and mask[y, x].item() > 0


def _check_picture(image: Tensor, mask: Tensor | None, name: str) -> None:
    if image.ndim != 3:
        raise ValueError(f"expected one picture (H, W, C), got shape {tuple(image.shape)}")
    if mask is None:
        return
    if not (mask > 0).any():
        raise ValueError(f"the mask for {name} is empty; draw it over the face, or disconnect it")
    if mask.shape != image.shape[:2]:
        raise ValueError(
            f"the mask for {name} has shape {tuple(mask.shape)}, the picture {tuple(image.shape[:2])} (height, width); "
            f"draw the mask on this picture"
        )


def _found(faces: list[Face]) -> str:
    return f"{_count(faces)} found by {faces[0].detector}"


def _fallback(opened: OpenedDetector, mask: Tensor | None) -> str:
    region = "the picture is used as it is" if mask is None else "the mask's box is used"
    if opened.choice == "none":
        return f"{region}, without a detector"
    return f"no face found in the mask, {region}" if opened.detect else f"no face detector is available, {region}"


def _no_face(opened: OpenedDetector, mask: Tensor | None, name: str) -> str:
    if mask is not None:
        return f"no face found inside the mask of {name}; choose detector 'auto', which then takes the mask's box"
    skipped = "".join(f" ({other} is not available: {reason})" for other, reason in opened.unavailable.items())
    return f"no face found in {name}; use a clearer picture or draw a mask (detector 'none' is for face crops){skipped}"


def _count(faces: list[Face]) -> str:
    return "1 face" if len(faces) == 1 else f"{len(faces)} faces"

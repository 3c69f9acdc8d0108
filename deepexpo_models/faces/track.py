"""One face through pictures that follow each other: looked for near its last place, and in the whole picture only where it
is not there, or where the picture is another one (a cut, another photograph)."""

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from ..image import to_rgb
from .detectors import Face
from .find import OpenedDetector, find_with, in_mask, select_face

GRID = 16  # a picture is compared with the one before at that many places a side ...
ALIKE = 0.1  # ... which differ by less in the mean, of [0, 1]


@dataclass(frozen=True, eq=False)
class Followed:
    """face: the chosen one, None where there are fewer; detected: how many were found when a whole picture was last searched;
    note: one sentence."""

    face: Face | None
    detected: int
    note: str


class Tracker:
    """Follows the face with that index in that order; strict: a picture with fewer faces is an error. `searches`: whole
    pictures that the detector was given."""

    def __init__(self, opened: OpenedDetector, index: int = 0, order: str = "largest", strict: bool = True):
        self.opened, self.index, self.order, self.strict = opened, index, order, strict
        self.searches = 0
        self._last: tuple[Followed, Tensor] | None = None

    def find(self, image: Tensor, mask: Tensor | None = None, name: str = "the image", known: Sequence[Face] = ()) -> Followed:
        """image (H, W, 1, 3 or 4) in [0, 1], mask (H, W), known: faces of it that were found before -> as `find.find_with` and
        `select_face`, which raise ValueError."""
        seen, near = _places(image), None
        if not known:
            near = self._near(image, mask, name, seen)
        found = near or self._search(image, mask, name, known)
        self._last = (found, seen) if found.detected and found.face else None
        return found

    def look(self, image: Tensor) -> Face | None:
        """`find`, None where a detector finds no face."""
        seen = _places(image)
        found = self._near(image, None, "", seen)
        if found is None:
            self.searches += 1
            faces = self.opened.detect(image) if self.opened.detect else []
            if faces:
                found = Followed(select_face(faces, self.index, self.order, _size(image)), len(faces), "")
        self._last = None if found is None else (found, seen)
        return None if found is None else found.face

    def _near(self, image: Tensor, mask: Tensor | None, name: str, seen: Tensor) -> Followed | None:
        near = getattr(self.opened.detect, "near", None)
        if self._last is None or near is None:
            return None
        last, before = self._last
        if seen.shape != before.shape or (seen - before).abs().mean() > ALIKE:
            return None
        face = near(image, last.face)
        if face is None or (mask is not None and not in_mask(face, mask)):
            return None
        return Followed(face, last.detected, f"{name}: followed by {face.detector} from the picture before")

    def _search(self, image: Tensor, mask: Tensor | None, name: str, known: Sequence[Face]) -> Followed:
        self.searches += self.opened.detect is not None and not known
        found = find_with(self.opened, image, mask, name, known)
        if not self.strict and self.index >= len(found.faces):
            return Followed(None, found.detected, found.note)
        face = select_face(found.faces, self.index, self.order, _size(image), name)
        return Followed(face, found.detected, found.note)


def _size(image: Tensor) -> tuple[int, int]:
    return image.shape[0], image.shape[1]


def _places(image: Tensor) -> Tensor:
    """How bright the picture is at places of a grid, about (GRID, GRID)."""
    down, across = (max(1, side // GRID) for side in image.shape[:2])
    return to_rgb(image[::down, ::across]).mean(-1).clone()

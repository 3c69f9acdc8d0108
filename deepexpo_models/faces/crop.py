"""Square crops around faces, and the faces' place in the picture as a mask."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from ..image import comfy_to_model, model_to_comfy, resize, to_rgb
from .detectors import Face
from .find import find_with, open_detector, select_face

SCALE = 1.8  # crop side over face box side: the whole head, hair included
SIZE = 512  # pixels of a crop in a batch


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
    notes: tuple[str, ...]  # one sentence per picture
    faces: tuple[Face, ...]
    transforms: tuple[CropTransform, ...]


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
    window = torch.arange(transform.side, device=image.device)
    rows = (window + transform.top).clamp(0, image.shape[0] - 1)
    columns = (window + transform.left).clamp(0, image.shape[1] - 1)
    crop = to_rgb(image)[rows[:, None], columns]
    if transform.size != transform.side:
        crop = model_to_comfy(resize(comfy_to_model(crop[None]), transform.size))[0]
    return crop, face_mask(face, image), transform


def crop_faces(
    images: Tensor,
    detector: str = "auto",
    index: int = 0,
    order: str = "largest",
    scale: float = SCALE,
    size: int = SIZE,
    mask: Tensor | None = None,
    insightface_root: Path | None = None,
) -> FaceCrops:
    """images (B, H, W, 1, 3 or 4) in [0, 1], mask (H, W) or (1 or B, H, W) -> one face of every picture.

    Raises ValueError which names the picture ("image 2 of 3") for everything `find_faces` and `select_face` refuse.
    """
    if images.ndim != 4 or 0 in images.shape:
        raise ValueError(f"expected a batch of pictures (B, H, W, C), got shape {tuple(images.shape)}")
    total, picture_size = len(images), tuple(images.shape[1:3])
    opened = open_detector(detector, insightface_root)
    found, faces = [], []
    for number, (image, image_mask) in enumerate(zip(images, _masks(mask, total), strict=True), start=1):
        name = f"image {number} of {total}"
        found.append(find_with(opened, image, image_mask, name))
        faces.append(select_face(found[-1].faces, index, order, picture_size, name))
    crops, masks, transforms = zip(
        *(crop_face(image, face, scale, size) for image, face in zip(images, faces, strict=True)), strict=True
    )
    return FaceCrops(
        crops=torch.stack(crops),
        masks=torch.stack(masks),
        counts=tuple(each.detected for each in found),
        notes=tuple(each.note for each in found),
        faces=tuple(faces),
        transforms=transforms,
    )


def points_in_crop(points: np.ndarray, transform: CropTransform) -> np.ndarray:
    """(N, 2) x, y in the picture -> (N, 2) in the crop's pixels."""
    return (np.asarray(points) - (transform.left, transform.top)) * (transform.size / transform.side)


def face_mask(face: Face, image: Tensor) -> Tensor:
    """image (H, W, C) -> (H, W) in its dtype: 1 in the ellipse inside the face's box; all 1 for a whole picture."""
    height, width = image.shape[:2]
    if face.detector == "picture":
        return image.new_ones(height, width)
    left, top, right, bottom = face.box
    (x, y), y_axis, x_axis = face.centre, (bottom - top) / 2, (right - left) / 2
    rows = (torch.arange(height, device=image.device) + 0.5 - y) / y_axis
    columns = (torch.arange(width, device=image.device) + 0.5 - x) / x_axis
    return (rows[:, None] ** 2 + columns**2 <= 1).to(image.dtype)


def _transform(face: Face, scale: float, size: int | None) -> CropTransform:
    if scale <= 0:
        raise ValueError(f"the scale of a crop is greater than 0, got {scale}")
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

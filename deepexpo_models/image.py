"""Layouts and ranges of pictures: the one place where they change.

"comfy" is (B, H, W, C) in [0, 1], "model" is (B, 3, H, W) in [-1, 1], "bgr" is (H, W, 3) uint8 as insightface and
OpenCV read it. None of these functions changes its input in place.
"""

from types import ModuleType

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from .errors import first_line

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # of pictures in [0, 1], see torchvision
TO_RGB = {  # channels of a picture -> the same picture with three
    1: lambda image: image.expand(*image.shape[:-1], 3),
    3: lambda image: image,
    4: lambda image: image[..., :3],  # ComfyUI keeps the matte in a mask of its own
}


def to_rgb(image: Tensor) -> Tensor:
    """(..., H, W, 1, 3 or 4) -> (..., H, W, 3) in float32: grey is repeated, alpha dropped.

    Whole numbers are levels from 0 to 255; half precision is widened, since CPUs cannot resize it.
    """
    if image.shape[-1] not in TO_RGB:
        raise ValueError(f"a picture has 1, 3 or 4 channels in its last dimension, got shape {tuple(image.shape)}")
    rgb = TO_RGB[image.shape[-1]](image)
    levels = not rgb.is_floating_point() and rgb.dtype != torch.bool
    return bytes_to_comfy(rgb) if levels else rgb.float()


def comfy_to_model(image: Tensor) -> Tensor:
    """(B, H, W, 1, 3 or 4) in [0, 1] -> (B, 3, H, W) in [-1, 1]."""
    require_pictures(image)
    return to_rgb(image).movedim(-1, 1) * 2 - 1


def model_to_comfy(images: Tensor) -> Tensor:
    """(B, 3, H, W) around [-1, 1] -> (B, H, W, 3), clamped to [0, 1]."""
    _expect_model(images)
    return ((images + 1) / 2).clamp(0, 1).movedim(1, -1).contiguous()


def bytes_to_comfy(levels: Tensor) -> Tensor:
    """uint8 of any shape -> float32 in [0, 1]."""
    return levels.float() / 255


def comfy_to_bytes(images: Tensor) -> Tensor:
    """Around [0, 1], of any shape -> uint8, clamped and rounded."""
    return (images.detach().float().clamp(0, 1) * 255).round().to(torch.uint8)


def bytes_to_model(levels: Tensor) -> Tensor:
    """uint8 of any shape -> float32 in [-1, 1]."""
    return levels.float() / 127.5 - 1


def model_to_bytes(images: Tensor) -> Tensor:
    """Around [-1, 1], of any shape -> uint8, clamped and rounded."""
    return ((images.detach().float().clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8)


def normalised(pixels: Tensor, mean: tuple[float, ...], std: tuple[float, ...]) -> Tensor:
    """(B, 3, H, W) in [0, 1] -> as a network of these statistics reads it."""
    return (pixels - pixels.new_tensor(mean)[:, None, None]) / pixels.new_tensor(std)[:, None, None]


def image_grid(images: Tensor, columns: int) -> Tensor:
    """(B, 3, H, W) in [-1, 1] -> (rows * H + gaps, columns * W + gaps, 3) uint8, two pixels of white between pictures."""
    if images.ndim != 4 or images.shape[1] != 3 or not len(images):
        raise ValueError(f"a picture grid takes pictures (B, 3, H, W) in [-1, 1], got shape {tuple(images.shape)}")
    if columns < 1:
        raise ValueError(f"a picture grid has at least 1 column, got {columns}")
    levels = model_to_bytes(images).cpu().movedim(1, -1)
    count, height, width, _ = levels.shape
    columns = min(columns, count)
    rows, gap = -(-count // columns), 2
    grid = torch.full((rows * (height + gap) - gap, columns * (width + gap) - gap, 3), 255, dtype=torch.uint8)
    for index, image in enumerate(levels):
        top, left = index // columns * (height + gap), index % columns * (width + gap)
        grid[top : top + height, left : left + width] = image
    return grid


def comfy_to_bgr(image: Tensor) -> np.ndarray:
    """One RGB picture (H, W, 1, 3 or 4) in [0, 1] -> (H, W, 3) uint8 BGR."""
    _expect(image, 3, "one picture (H, W, C)")
    return np.ascontiguousarray(comfy_to_bytes(to_rgb(image)).cpu().flip(-1).numpy())


def resize(images: Tensor, size: int) -> Tensor:
    """(B, 3, H, W) in [-1, 1] -> (B, 3, size, size) in [-1, 1].

    The longer side is cropped around the centre, so nothing is stretched; then antialiased bicubic, overshoot clamped.
    """
    _expect_model(images)
    if size < 1:
        raise ValueError(f"the size of a picture is at least 1 pixel, got {size}")
    height, width = images.shape[-2:]
    side = min(height, width)
    top, left = (height - side) // 2, (width - side) // 2
    square = images[..., top : top + side, left : left + side]
    return F.interpolate(square, (size, size), mode="bicubic", antialias=True).clamp(-1, 1)


def opencv() -> ModuleType:
    """The module cv2, which installs under four names and is nobody's fixed requirement. Raises ValueError without it."""
    try:
        import cv2
    except Exception as error:  # broken installations raise anything
        raise ValueError(
            f"drawing needs OpenCV, which cannot be imported ({first_line(error)}); pip install opencv-python, "
            f"or opencv-python-headless on a server"
        ) from error
    return cv2


def _expect_model(images: Tensor) -> None:
    _expect(images, 4, "a batch of pictures (B, 3, H, W)")
    if images.shape[1] != 3:
        raise ValueError(f"expected three channels in dimension 1 (B, 3, H, W), got shape {tuple(images.shape)}")


def require_pictures(image: Tensor) -> None:
    """Raises ValueError for anything but a tensor (B, H, W, C) of at least one picture of at least one pixel."""
    _expect(image, 4, "a batch of pictures (B, H, W, C)")


def _expect(image: Tensor, rank: int, what: str) -> None:
    if not isinstance(image, Tensor):
        raise ValueError(f"expected {what}, got {'nothing' if image is None else f'a {type(image).__name__}'}")
    if image.ndim != rank or 0 in image.shape:
        raise ValueError(f"expected {what}, got shape {tuple(image.shape)}")

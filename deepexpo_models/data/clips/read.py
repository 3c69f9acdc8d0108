"""How pictures and videos are read: whole pictures upright, frames one after another, by PyAV or OpenCV."""

import math
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from ...errors import first_line
from ...image import bytes_to_model, model_to_bytes, resize

VIDEOS = (".mp4", ".mov", ".webm", ".mkv", ".avi", ".gif", ".m4v")
PICTURES = (".png", ".jpg", ".jpeg", ".webp", ".bmp")
FPS = 25.0  # where nothing tells it


class Unreadable(Exception):
    """Why a file cannot be read."""


def read_picture(path: Path) -> np.ndarray:
    """(H, W, 3) uint8 RGB, upright as its camera says. Raises Unreadable."""
    from PIL import Image, ImageOps

    try:
        with Image.open(path) as image:
            upright = ImageOps.exif_transpose(image)
            if upright.mode.startswith("I;16"):  # Pillow's own conversion cuts off at 255
                upright = Image.fromarray((np.array(upright) >> 8).astype(np.uint8))
            return np.array(upright.convert("RGB"))
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise Unreadable(f"not a readable picture ({first_line(error)})") from error


def square_frame(frame: np.ndarray, size: int) -> Tensor:
    """(H, W, 3) uint8 -> (3, size, size) uint8: the middle square."""
    pixels = torch.from_numpy(frame)
    if frame.shape[:2] != (size, size):
        return model_to_bytes(resize(bytes_to_model(pixels.movedim(-1, 0)[None]), size)[0])
    return pixels.movedim(-1, 0).contiguous()


def read_video(path: Path) -> Iterator[np.ndarray]:
    try:
        import av
    except ImportError:
        return _read_with_opencv(path)
    return _read_with_av(av, path)


def _read_with_av(av, path: Path) -> Iterator[np.ndarray]:
    try:
        with av.open(str(path)) as container:
            if not container.streams.video:
                raise Unreadable("no video stream")
            for frame in container.decode(video=0):
                upright = np.rot90(frame.to_ndarray(format="rgb24"), round(getattr(frame, "rotation", 0) / 90))
                yield np.ascontiguousarray(upright)
    except (OSError, ValueError, av.error.FFmpegError) as error:
        raise Unreadable(f"not a readable video ({first_line(error)})") from error


def _read_with_opencv(path: Path) -> Iterator[np.ndarray]:
    import cv2

    capture = cv2.VideoCapture(str(path))
    try:
        if not capture.isOpened():
            raise Unreadable("not a readable video; installing PyAV (pip install av) may help")
        while (read := capture.read())[0]:
            yield np.ascontiguousarray(read[1][..., ::-1])
    finally:
        capture.release()


def count_frames(path: Path) -> tuple[int, float]:
    """Frames, counted without decoding them, and frames a second."""
    try:
        import av
    except ImportError:
        return _count_with_opencv(path)
    try:
        with av.open(str(path)) as container:
            stream = container.streams.video[0]
            count = sum(packet.size > 0 for packet in container.demux(stream))
            return count, float(stream.average_rate or FPS)
    except (OSError, ValueError, av.error.FFmpegError) as error:
        raise Unreadable(f"damaged video ({first_line(error)})") from error


def _count_with_opencv(path: Path) -> tuple[int, float]:
    import cv2

    capture = cv2.VideoCapture(str(path))
    count = 0
    while capture.grab():
        count += 1
    fps = capture.get(cv2.CAP_PROP_FPS)
    capture.release()
    return count, fps if 0 < fps < math.inf else FPS

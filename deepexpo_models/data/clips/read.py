"""How pictures and videos are read: whole pictures upright, frames one after another, by PyAV or OpenCV."""

import math
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from ...errors import first_line
from ...image import bytes_to_model, model_to_bytes, resize

VIDEOS = (".mp4", ".mov", ".webm", ".mkv", ".avi", ".gif", ".m4v")
PICTURES = (".png", ".jpg", ".jpeg", ".webp", ".bmp")
FPS = 25.0  # where nothing tells it
VARIES = 0.2  # share of a step between frames; containers round time stamps to milliseconds


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


def count_frames(path: Path) -> tuple[int, float, tuple[float, ...]]:
    """Frames, counted without decoding them, frames a second, and where the frame rate varies each frame's time in seconds
    (else empty: the rate tells them)."""
    try:
        import av
    except ImportError:
        return _count_with_opencv(path)
    try:
        with av.open(str(path)) as container:
            stream = container.streams.video[0]
            stamps = [packet.pts for packet in container.demux(stream) if packet.size > 0]
            times = () if None in stamps else sorted(float(stamp * stream.time_base) for stamp in stamps)
            return len(stamps), float(stream.average_rate or FPS), _uneven(times)
    except (OSError, ValueError, av.error.FFmpegError) as error:
        raise Unreadable(f"damaged video ({first_line(error)})") from error


def _count_with_opencv(path: Path) -> tuple[int, float, tuple[float, ...]]:
    import cv2

    capture, times = cv2.VideoCapture(str(path)), []
    while capture.grab():
        times.append(capture.get(cv2.CAP_PROP_POS_MSEC) / 1000)
    fps = capture.get(cv2.CAP_PROP_FPS)
    capture.release()
    return len(times), fps if 0 < fps < math.inf else FPS, _uneven(times)


def _uneven(times: Sequence[float]) -> tuple[float, ...]:
    """Times that no frame rate tells: a step between them differs from the median step by more than VARIES of it."""
    steps = np.diff(times) if len(times) > 2 else np.ones(1)
    middle = np.median(steps)
    varies = middle > 0 and np.abs(steps - middle).max() > VARIES * middle
    return tuple(time - times[0] for time in times) if varies else ()

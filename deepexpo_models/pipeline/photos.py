"""Pictures and clips in and out, for the command line."""

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
from PIL.Image import Image
from torch import Tensor

from ..data.clips.read import FPS, VIDEOS, Unreadable, count_frames, read_picture, read_video
from ..image import bytes_to_comfy, bytes_to_model, comfy_to_model, image_grid, resize

ENCODED_AT_ONCE = 8  # faces; larger batches are no faster on a CPU, and frames in memory are few
Photos = str | Path | Tensor | Sequence[str | Path] | Sequence[Tensor]


def read_photos(photos: Photos) -> list[Tensor]:
    """`each_photo`, all in memory."""
    return list(each_photo(photos))


def each_photo(photos: Photos) -> Iterator[Tensor]:
    """Files, or pictures (B or list of, H, W, 3) in [0, 1] -> pictures (H, W, 3) in [0, 1]; of a clip its frames.

    Raises ValueError, in one sentence, for a file that cannot be read.
    """
    for photo in [photos] if isinstance(photos, str | Path) else photos:
        yield from [photo] if isinstance(photo, Tensor) else _frames(Path(photo))


def is_clip(path: str | Path) -> bool:
    return Path(path).suffix.lower() in VIDEOS


def clip_rate(path: Path) -> float:
    """Frames a second."""
    try:
        return count_frames(path)[1]
    except Unreadable:
        return FPS


def write_clip(path: Path, pictures: Sequence[Image], rate: float) -> None:
    """Pictures of one size -> an mp4, H.264. Raises ValueError where PyAV is missing."""
    try:
        import av
    except ImportError as error:
        raise ValueError("a clip is written with PyAV, which is not installed; pip install av") from error
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=max(1, round(rate)))
        stream.width, stream.height, stream.pix_fmt = *(side - side % 2 for side in pictures[0].size), "yuv420p"
        for picture in pictures:
            frame = av.VideoFrame.from_ndarray(np.array(picture)[: stream.height, : stream.width], format="rgb24")
            container.mux(stream.encode(frame))
        container.mux(stream.encode())


def sheet(people: Sequence[Tensor], references: Sequence[Tensor], pictures: Sequence[Image]) -> Tensor:
    """Photos (H, W, 3) in [0, 1] of people (down) and references (across), and a picture for each pair, person by person ->
    one picture (H, W, 3) uint8 of them all.
    """
    made = torch.stack([bytes_to_model(torch.from_numpy(np.array(picture))).movedim(-1, 0) for picture in pictures])
    cells = [torch.ones_like(made[0]), *(_cell(photo, made[0]) for photo in references)]
    for row, person in enumerate(people):
        cells += [_cell(person, made[0]), *made[row * len(references) :][: len(references)]]
    return image_grid(torch.stack(cells), len(references) + 1)


def _cell(photo: Tensor, like: Tensor) -> Tensor:
    """The middle square of a photo on white, of a picture's size (3, H, W)."""
    cell, side = torch.ones_like(like), min(like.shape[1:])
    top, left = ((full - side) // 2 for full in like.shape[1:])
    cell[:, top : top + side, left : left + side] = resize(comfy_to_model(photo[None]), side)[0]
    return cell


def _frames(path: Path) -> Iterator[Tensor]:
    if not path.is_file():
        raise ValueError(f"there is no picture at {path}; check its path")
    try:
        for frame in read_video(path) if is_clip(path) else [read_picture(path)]:
            yield bytes_to_comfy(torch.from_numpy(frame))
    except Unreadable as reason:
        raise ValueError(f"{path.name} is {reason}; choose another file") from reason

"""Real data on disk: clips (video files or folders of frames), what is known of their frames, and how they are read.

A person's id is what stands before the first "#" of a name (`id#video#start...`), else the first folder below the given
one, else the clip's own name. Beside `clip.mp4` or the folder `clip` a file `clip.json`, or in the folder `labels.json`,
may tell {"fps": 25, "frames": {"0": {"points": [[x, y], ... 5], "pose": [yaw, pitch, roll], "blendshapes": {name: share}}}}:
pixels of the frame, degrees, ARKit's names (or "expression": {name: value}, by the names of drawn faces' factors).
`clip.txt`, or `caption.txt` in the folder, is a sentence about what it shows.
"""

import json
import math
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from ..image import resize
from .blendshapes import expression_factors
from .synthetic import EXPRESSION

VIDEOS = (".mp4", ".mov", ".webm", ".mkv", ".avi", ".gif", ".m4v")
PICTURES = (".png", ".jpg", ".jpeg", ".webp", ".bmp")
FPS = 25.0  # where nothing tells it
SHORTEST = 2  # frames
LABELS, CAPTION = "labels.json", "caption.txt"
UNKNOWN = (math.nan,) * (10 + 3 + len(EXPRESSION))  # a label of which nothing is known


class Unreadable(Exception):
    """Why a file cannot be read."""


@dataclass(frozen=True, eq=False)
class Clip:
    """path: a video, or the folder of `frames`; count: frames, as far as is known before they are read. labels: frame ->
    24 numbers, five points x, y in pixels of the frame, yaw, pitch, roll in degrees, the expression factors of drawn faces;
    NaN where unknown. captions: one for all frames, or one for each; empty where nothing is told.
    """

    path: Path
    person: str
    count: int
    fps: float = FPS
    frames: tuple[Path, ...] = ()  # empty: `path` is a video
    labels: dict[int, tuple[float, ...]] = field(default_factory=dict, repr=False)
    still: bool = False  # its frames are single photographs of the person, in no order of time
    captions: tuple[str, ...] = ()

    def caption(self, index: int) -> str:
        """What the frame shows."""
        return self.captions[index if len(self.captions) > 1 else 0] if self.captions else ""


@dataclass(frozen=True)
class IndexReport:
    clips: tuple[Clip, ...]
    skipped: tuple[tuple[Path, str], ...]  # what cannot be used, and why

    def summary(self) -> str:
        """One sentence, and a line for each of the first skipped files."""
        people = len({clip.person for clip in self.clips})
        lines = [f"{len(self.clips)} clips of {people} people, {len(self.skipped)} files skipped"]
        lines += [f"  skipped {path}: {reason}" for path, reason in self.skipped[:10]]
        return "\n".join(lines + (["  ..."] if len(self.skipped) > 10 else []))


def index_clips(folder: str | Path) -> IndexReport:
    """All clips below a folder, in a fixed order; what cannot be read, is empty or shorter than SHORTEST is skipped and told.

    Names that begin with a dot, and files of other kinds, do not count. Raises ValueError when no clip is left.
    """
    root = _folder(folder)
    clips, skipped = [], []
    for path in visible_files(root):
        if path.suffix.lower() in VIDEOS:
            _take(lambda path=path: _video(path, root, skipped), path, clips, skipped)
    for parent, frames in _pictures_by_folder(root).items():
        if parent == root:
            skipped.append((root, f"{len(frames)} pictures lie there, not in a folder of their own"))
        else:
            _take(lambda parent=parent, frames=frames: _frame_folder(parent, frames, root, skipped), parent, clips, skipped)
    return usable_report(root, clips, skipped, f"videos ({', '.join(VIDEOS)}) or folders of frames ({', '.join(PICTURES)})")


def usable_report(root: Path, clips: list[Clip], skipped: list, what: str) -> IndexReport:
    """Raises ValueError without a clip."""
    if not clips:
        first = f"; {len(skipped)} skipped, the first is {skipped[0][0]}: {skipped[0][1]}" if skipped else ""
        raise ValueError(f"{root} holds nothing to train on{first}; give a folder with {what}")
    return IndexReport(tuple(sorted(clips, key=lambda clip: str(clip.path))), tuple(skipped))


def read_frames(clip: Clip) -> Iterator[np.ndarray]:
    """All frames (H, W, 3) uint8 RGB, one after another. Raises Unreadable where the clip breaks."""
    if clip.frames:
        return (read_picture(path) for path in clip.frames)
    return _read_video(clip.path)


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
        raise Unreadable(f"not a readable picture ({_first_line(error)})") from error


def square_frame(frame: np.ndarray, size: int) -> Tensor:
    """(H, W, 3) uint8 -> (3, size, size) uint8: the middle square."""
    pixels = torch.from_numpy(frame)
    if frame.shape[:2] != (size, size):
        made = resize(pixels.movedim(-1, 0)[None].float() / 127.5 - 1, size)[0]
        return ((made + 1) * 127.5).round().byte()
    return pixels.movedim(-1, 0).contiguous()


def points_in_square(points: Tensor, height: int, width: int) -> Tensor:
    """points (..., 2) in pixels of a frame -> in crop coordinates of its `square_frame`, -1 to 1 from border to border."""
    side = min(height, width)
    corner = torch.tensor([(width - side) // 2, (height - side) // 2], dtype=points.dtype)
    return (points - corner) / side * 2 - 1


def read_labels(path: Path, skipped: list) -> tuple[dict[int, tuple[float, ...]], float | None]:
    """A JSON file -> what `Clip.labels` holds, and the fps where it tells one. A broken file counts as none and is told."""
    if not path.is_file():
        return {}, None
    try:
        held = json.loads(path.read_text(encoding="utf-8"))
        labels = {int(index): _label(entry) for index, entry in held.get("frames", {}).items()}
        fps = held.get("fps")
        if fps is not None and not 0 < float(fps) < math.inf:
            raise ValueError(f"fps is {fps}")
        return labels, fps and float(fps)
    except (OSError, ValueError, TypeError, AttributeError, RecursionError) as error:
        skipped.append((path, f"labels not used ({_first_line(error)})"))
        return {}, None


def person_of(path: Path, root: Path, own_name: str) -> str:
    """The id of the person that a clip shows; own_name where nothing else tells."""
    parts = path.relative_to(root).parts
    if named := [part for part in parts if "#" in part]:
        return named[-1].split("#")[0]
    return parts[0] if len(parts) > 1 else own_name


def read_caption(*places: Path) -> str:
    """The sentence in the first of the files that is there, on one line; "" without any."""
    for path in places:
        if path.is_file():
            return " ".join(path.read_text(encoding="utf-8", errors="replace").split())
    return ""


def natural(path: Path) -> list:
    """Sort key: frame2 before frame10."""
    return [(0, int(part), "") if part.isdecimal() else (1, 0, part) for part in re.split(r"(\d+)", str(path)) if part]


def visible_files(root: Path) -> list[Path]:
    """Files below root, none of them in or under a name that begins with a dot."""
    found = (path for path in root.rglob("*") if path.is_file())
    return sorted((p for p in found if not any(part.startswith(".") for part in p.relative_to(root).parts)), key=natural)


def _folder(folder: str | Path) -> Path:
    root = Path(folder)
    if not root.is_dir():
        raise ValueError(f"{root} is not a folder; give one that holds clips")
    return root


def _pictures_by_folder(root: Path) -> dict[Path, list[Path]]:
    found: dict[Path, list[Path]] = {}
    for path in visible_files(root):
        if path.suffix.lower() in PICTURES:
            found.setdefault(path.parent, []).append(path)
    return found


def _take(make, path: Path, clips: list, skipped: list) -> None:
    try:
        clip = make()
        if clip.count < SHORTEST:
            raise Unreadable(f"too short: {clip.count} frames, at least {SHORTEST} are needed")
        clips.append(clip)
    except Unreadable as reason:
        skipped.append((path, str(reason)))


def _frame_folder(folder: Path, frames: list[Path], root: Path, skipped: list) -> Clip:
    read_picture(frames[0])
    inside, beside = folder / LABELS, folder.parent / f"{folder.name}.json"
    labels, fps = read_labels(inside if inside.is_file() else beside, skipped)
    caption = read_caption(folder / CAPTION, folder.parent / f"{folder.name}.txt")
    return Clip(
        folder, person_of(folder, root, folder.name), len(frames), fps or FPS, tuple(frames), labels, captions=_told(caption)
    )  # fmt: skip


def _video(path: Path, root: Path, skipped: list) -> Clip:
    if not path.stat().st_size:
        raise Unreadable("empty file")
    for _ in _read_video(path):
        break
    else:
        raise Unreadable("no frame in it can be read")
    count, fps = _count(path)
    labels, told = read_labels(path.with_suffix(".json"), skipped)
    caption = read_caption(path.with_suffix(".txt"))
    return Clip(path, person_of(path, root, path.stem), count, told or fps, (), labels, captions=_told(caption))


def _told(caption: str) -> tuple[str, ...]:
    return (caption,) if caption else ()


def _label(entry: dict) -> tuple[float, ...]:
    points = np.asarray(entry.get("points") or np.full((5, 2), np.nan), dtype=float)
    pose = np.asarray(entry.get("pose") or np.full(3, np.nan), dtype=float)
    if points.shape != (5, 2) or pose.shape != (3,):
        raise ValueError(f"points must be 5 x 2 numbers and pose 3, got {points.shape} and {pose.shape}")
    return (*points.flatten().tolist(), *pose.tolist(), *_expression(entry))


def _expression(entry: dict) -> tuple[float, ...]:
    if named := entry.get("expression"):
        return tuple(float(named.get(factor.name, math.nan)) for factor in EXPRESSION)
    return expression_factors(entry.get("blendshapes") or {})


def _read_video(path: Path) -> Iterator[np.ndarray]:
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
        raise Unreadable(f"not a readable video ({_first_line(error)})") from error


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


def _count(path: Path) -> tuple[int, float]:
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
        raise Unreadable(f"damaged video ({_first_line(error)})") from error


def _count_with_opencv(path: Path) -> tuple[int, float]:
    import cv2

    capture = cv2.VideoCapture(str(path))
    count = 0
    while capture.grab():
        count += 1
    fps = capture.get(cv2.CAP_PROP_FPS)
    capture.release()
    return count, fps if 0 < fps < math.inf else FPS


def _first_line(error: Exception) -> str:
    return f"{type(error).__name__}: {str(error).splitlines()[0][:160]}" if str(error) else type(error).__name__

"""Real data on disk: clips (video files or folders of frames), what is known of their frames, and how they are read.

A person's id is what stands before the first "#" of a name (`id#video#start...`), else the first folder below the given
one, else the clip's own name. Beside `clip.mp4` or the folder `clip` a file `clip.json`, or in the folder `labels.json`,
may tell {"fps": 25, "frames": {"0": {"points": [[x, y], ... 5], "pose": [yaw, pitch, roll], "blendshapes": {name: share}}}}:
pixels of the frame, degrees, ARKit's names. A folder's may tell "times", the seconds of each frame, where their rate varies;
a video's own time stamps do.
`clip.txt`, or `caption.txt` in the folder, is a sentence about what it shows.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from .labels import read_caption, read_labels
from .read import FPS, PICTURES, VIDEOS, Unreadable, count_frames, read_picture, read_video

SHORTEST = 2  # frames
LABELS, CAPTION = "labels.json", "caption.txt"


@dataclass(frozen=True, eq=False)
class Clip:
    """path: a video, or the folder of `frames`; count: frames, as far as is known before they are read. labels: frame ->
    the numbers of `labels.PARTS`. captions: one for all frames, or one for each; empty where nothing is told.
    """

    path: Path
    person: str
    count: int
    fps: float = FPS
    frames: tuple[Path, ...] = ()  # empty: `path` is a video
    labels: dict[int, tuple[float, ...]] = field(default_factory=dict, repr=False)
    still: bool = False  # its frames are single photographs of the person, in no order of time
    captions: tuple[str, ...] = ()
    times: tuple[float, ...] = field(default=(), repr=False)  # seconds of each frame; empty: evenly at fps

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
    clips: list[Clip] = []
    skipped: list[tuple[Path, str]] = []
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
    return read_video(clip.path)


def person_of(path: Path, root: Path, own_name: str) -> str:
    """The id of the person that a clip shows; own_name where nothing else tells."""
    parts = path.relative_to(root).parts
    if named := [part for part in parts if "#" in part]:
        return named[-1].split("#")[0]
    return parts[0] if len(parts) > 1 else own_name


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
    labels, fps, times = read_labels(inside if inside.is_file() else beside, skipped)
    caption = read_caption(folder / CAPTION, folder.parent / f"{folder.name}.txt")
    times, person = times if len(times) == len(frames) else (), person_of(folder, root, folder.name)
    return Clip(folder, person, len(frames), fps or FPS, tuple(frames), labels, captions=_told(caption), times=times)


def _video(path: Path, root: Path, skipped: list) -> Clip:
    if not path.stat().st_size:
        raise Unreadable("empty file")
    for _ in read_video(path):
        break
    else:
        raise Unreadable("no frame in it can be read")
    count, fps, times = count_frames(path)
    labels, told, _ = read_labels(path.with_suffix(".json"), skipped)
    caption = read_caption(path.with_suffix(".txt"))
    times, person = () if told else times, person_of(path, root, path.stem)  # whoever tells a rate corrects the file's
    return Clip(path, person, count, told or fps, (), labels, captions=_told(caption), times=times)


def _told(caption: str) -> tuple[str, ...]:
    return (caption,) if caption else ()

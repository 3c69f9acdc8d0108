"""Frames of real clips and stills, cropped as Crop Face does, with what MediaPipe's landmarker finds in each crop."""

import math
import random
from dataclasses import dataclass, fields
from itertools import islice, zip_longest
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from ..data.clips.index import Clip, read_frames
from ..data.clips.read import PICTURES, VIDEOS, Unreadable, read_picture
from ..dsid.mesh import units_of
from ..faces.crop import crop_face
from ..faces.detectors import DetectorUnavailable, Face
from ..faces.landmarks import open_landmarker
from ..image import bytes_to_comfy, comfy_to_bytes
from ..mesh_points import FIVE
from ..whole_files import write_file

CROP_SIDE = 256
LARGEST_SIDE = 1280  # of a frame: the landmarker sees no more
BOX_SHARE = 0.97  # side of a detector's box over the landmarks' extent: median of scikit-image's cascade on 40 frames
SURE = 0.3  # of a face: less than MediaPipe asks by itself, each picture holds one
JITTER_SHIFTS = ((0, 0), (3, 2), (-2, 3))  # pixels of the crop: the same face moved by next to nothing


@dataclass(frozen=True)
class RealFrames:
    """crops (N, 3, CROP_SIDE, CROP_SIDE) uint8; rotation (N, 3, 3); units (N, 52) of ARKIT52, whose last nobody tells; five
    (N, 5, 2) in crop coordinates; clip (N,): the number of the file, in `names`; again_*: found in the crop moved by
    JITTER_SHIFTS' others, (N, 2, ...): the landmarker's own jitter.
    """

    crops: Tensor
    rotation: Tensor
    units: Tensor
    five: Tensor
    clip: Tensor
    again_rotation: Tensor
    again_units: Tensor
    names: tuple[str, ...]


@dataclass(frozen=True)
class Seen:
    points: np.ndarray  # (478, 2) pixels
    rotation: Tensor  # (3, 3), the convention of dsid.rotation; identity is MediaPipe's frontal face
    units: Tensor  # (52,)


class Landmarker:
    """(H, W, 3) uint8 RGB -> Seen, or None without a face. Raises ValueError, in one sentence, when it cannot be opened."""

    def __init__(self, task: Path):
        try:
            self._detect = open_landmarker(task, confidence=SURE, presence=SURE, matrix=True)
        except DetectorUnavailable as error:
            raise ValueError(str(error)) from error

    def __call__(self, picture: np.ndarray) -> Seen | None:
        for mesh in self._detect(torch.from_numpy(picture)):
            return Seen(mesh.points[:, :2].double().numpy(), mesh.rotation, units_of(mesh.scores))
        return None


def files_of(folder: Path, count: int = 0) -> list[Path]:
    """Clips and stills of a folder and the folders in it, by name. count: so many at most, drawn by lot, always the same ones,
    and as evenly from the folders as these allow; 0: all.
    """
    paths = sorted(path for path in folder.rglob("*") if path.suffix.lower() in VIDEOS + PICTURES)
    if not count:
        return paths
    lot = random.Random(0)
    shuffled = [lot.sample(group, len(group)) for group in _by_folder(paths)]
    return sorted(islice((path for turn in zip_longest(*shuffled) for path in turn if path is not None), count))


def _by_folder(paths: list[Path]) -> list[list[Path]]:
    return [[path for path in paths if path.parent == parent] for parent in sorted({path.parent for path in paths})]


def collect(folder: Path, task: Path, per_clip: int, count: int = 0) -> tuple[RealFrames, dict[str, int]]:
    """Up to per_clip frames of each clip and each still of `files_of` -> those with a face, and how many had none.

    Raises ValueError when nothing was found.
    """
    landmarker, rows, names = Landmarker(task), [], []
    counts = {"frames": 0, "without a face": 0, "without a face in the crop": 0, "unreadable files": 0}
    for path in tqdm(files_of(folder, count), unit="file"):
        try:
            frames = list(frames_of(path, per_clip))
        except Unreadable:
            counts["unreadable files"] += 1
            continue
        names.append(path.relative_to(folder).as_posix())
        for frame in frames:
            counts["frames"] += 1
            row = _row(landmarker, frame)
            if isinstance(row, str):
                counts[row] += 1
            else:
                rows.append({**row, "clip": torch.tensor(len(names) - 1)})
    if not rows:
        raise ValueError(f"no face was found in any picture or clip of {folder}; give a folder of clips and stills of faces")
    return RealFrames(**{name: torch.stack([row[name] for row in rows]) for name in rows[0]}, names=tuple(names)), counts


def frames_of(path: Path, per_clip: int):
    """A still, or up to per_clip frames of a clip, evenly spaced: each (H, W, 3) uint8. Raises Unreadable."""
    if path.suffix.lower() in PICTURES:
        return [read_picture(path)]
    clip = Clip(path, person=path.stem, count=0)
    total = sum(1 for _ in read_frames(clip))
    return islice(read_frames(clip), 0, None, max(1, math.ceil(total / per_clip)))


def _row(landmarker: Landmarker, frame: np.ndarray) -> dict[str, Tensor] | str:
    """Labels of a frame's crop, or why there are none: a key of the counts."""
    step = max(1.0, max(frame.shape[:2]) / LARGEST_SIDE)
    picture = torch.from_numpy(frame)
    if step > 1:
        size = [round(length / step) for length in frame.shape[:2]]
        picture = torch.nn.functional.interpolate(picture.movedim(-1, 0)[None].float(), size, mode="bilinear", antialias=True)
        picture = picture[0].movedim(0, -1).round().byte()
    seen = landmarker(picture.numpy())
    if seen is None:
        return "without a face"
    crop = _crop(picture, seen.points)
    jittered = [landmarker(np.roll(crop.numpy(), shift, axis=(1, 0))) for shift in JITTER_SHIFTS]
    views = [view for view in jittered if view is not None]
    if len(views) < len(jittered):
        return "without a face in the crop"
    first, *again = views
    return {
        "crops": crop.movedim(-1, 0),
        "rotation": first.rotation,
        "units": first.units,
        "five": torch.from_numpy(first.points[list(FIVE)]).float() / CROP_SIDE * 2 - 1,
        "again_rotation": torch.stack([view.rotation for view in again]),
        "again_units": torch.stack([view.units for view in again]),
    }


def _crop(picture: Tensor, points: np.ndarray) -> Tensor:
    """(H, W, 3) uint8, points (478, 2) -> (CROP_SIDE, CROP_SIDE, 3) uint8, framed as by a detector's box."""
    low, high = points.min(0), points.max(0)
    centre, half = (low + high) / 2, BOX_SHARE * (high - low).max() / 2
    face = Face((*(centre - half), *(centre + half)), None, None, "landmarks")
    crop, _, _ = crop_face(bytes_to_comfy(picture), face, size=CROP_SIDE)
    return comfy_to_bytes(crop)


def save_frames(path: Path, frames: RealFrames) -> None:
    arrays = {field.name: getattr(frames, field.name).numpy() for field in fields(frames) if field.name != "names"}
    with write_file(path) as beside, open(beside, "wb") as file:
        np.savez_compressed(file, names=np.array(frames.names), **arrays)


def load_frames(path: Path) -> RealFrames:
    stored = np.load(path, allow_pickle=False)
    tensors = {field.name: torch.from_numpy(stored[field.name]) for field in fields(RealFrames) if field.name != "names"}
    return RealFrames(**tensors, names=tuple(map(str, stored["names"])))

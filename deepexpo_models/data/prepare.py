"""Crop faces out of clips, once: python -m deepexpo_models.data.prepare --clips DIR --out DIR --size 256

With --landmarker every frame is labelled with its points, head pose and expression, by MediaPipe's face landmarker.

Every clip becomes a folder of frames with labels.json, at the same place below --out, so the people keep their ids. The
crop is smooth over time: one square for the whole clip where the head stays about there, else one that follows slowly.
"""

import argparse
import json
import os
import shutil
from dataclasses import dataclass
from math import isfinite
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from ..claims import claimed
from ..faces.crop import SCALE, CropTransform, crop_face, points_in_crop
from ..faces.detectors import DetectorUnavailable, Face
from ..faces.find import CHOICES, OpenedDetector, open_detector, select_face
from ..faces.landmarks import TASK, open_landmarker
from ..head import ARKIT52
from .clips.index import CAPTION, LABELS, Clip, IndexReport, index_clips, read_frames
from .clips.labels import PARTS, UNKNOWN
from .clips.landmark_labels import Detect, read_label
from .clips.read import Unreadable
from .synthetic import EXPRESSION

EVERY = 5  # a detector looks at every fifth frame
STAYS = 0.2  # box sides that a head may move for one crop to serve the whole clip
SMOOTH_SECONDS = 1.0  # else: standard deviation of the low-pass over the crop's path
QUALITY = 95
POSE, EXPRESSIONS = PARTS[0], PARTS[0] + PARTS[1]  # where they begin in a label


@dataclass(frozen=True)
class _Boxes:
    """What a detector found: frames (N,), centres (N, 2) and sides (N,) in pixels, points per frame where it gives any;
    total: frames that were read; whole: the picture stands for the face.
    """

    frames: np.ndarray
    centres: np.ndarray
    sides: np.ndarray
    points: dict[int, np.ndarray]
    total: int
    whole: bool


def prepare(
    folder_in: str | Path,
    folder_out: str | Path,
    size: int,
    detector: str = "auto",
    insightface_root: str | Path | None = None,
    landmarker: Detect | None = None,
) -> IndexReport:
    """Crop all clips of a folder into another; whole ones that are there already are kept. The report tells what was skipped.

    detector: one of faces.CHOICES; "none" takes whole pictures. landmarker: see `landmark_labels.read_label`; without it labels
    are what the detector and the clips' own files tell. Raises ValueError for a detector that cannot be used, for
    a folder without clips, for a folder_out within folder_in, where folder_out was made with other settings, and while another
    process writes there.
    """
    root, out = Path(folder_in), Path(folder_out)
    if out.resolve().is_relative_to(root.resolve()):
        raise ValueError(f"{out} lies within {root}, so crops would be taken for clips; choose another folder for them")
    opened, report = open_detector(detector, Path(insightface_root) if insightface_root else None), index_clips(root)
    settings = {"size": size, "detector": detector, **({"landmarker": True} if landmarker else {})}
    with claimed(out):
        return _prepare_all(report, root, out, settings, opened, landmarker)


def _prepare_all(
    report: IndexReport, root: Path, out: Path, settings: dict, opened: OpenedDetector, landmarker: Detect | None
) -> IndexReport:
    done, skipped, taken = [], list(report.skipped), set()
    for clip in tqdm(report.clips, unit="clip"):
        target = out / clip.path.relative_to(root)
        target = target if clip.frames else target.with_suffix("")
        try:
            if target in taken:
                raise Unreadable("another clip beside it has the same name; rename one")
            taken.add(target)
            _prepare_clip(clip, target, settings, opened, landmarker)
            done.append(clip)
        except Unreadable as reason:
            skipped.append((clip.path, str(reason)))
    return IndexReport(tuple(done), tuple(skipped))


def _prepare_clip(clip: Clip, target: Path, settings: dict, opened: OpenedDetector, landmarker: Detect | None) -> None:
    if target.exists():
        return _require_same(target, settings)
    boxes = _find_boxes(clip, opened)
    centres, side = _smooth_path(boxes, clip.fps)
    partial = target.parent / f".partial-{target.name}"
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    labels = {}
    for number, frame in enumerate(read_frames(clip)):
        face = _face(frame, None if boxes.whole else centres[min(number, boxes.total - 1)], side)
        crop, _, transform = crop_face(_floats(frame), face, SCALE, settings["size"])
        _write_picture(partial / f"{number:06d}.jpg", crop)
        seen = read_label(landmarker, crop) if landmarker else {}
        if label := _label(clip, number, boxes.points.get(number), transform) | seen:
            labels[str(number)] = label
    if clip.captions:
        (partial / CAPTION).write_text(clip.captions[0], encoding="utf-8")
    told = {"fps": clip.fps, **({"times": clip.times} if clip.times else {}), "prepared": settings, "frames": labels}
    (partial / LABELS).write_text(json.dumps(told))
    os.replace(partial, target)


def _find_boxes(clip: Clip, opened: OpenedDetector) -> _Boxes:
    frames, centres, sides, points, total = [], [], [], {}, 0
    for number, frame in enumerate(read_frames(clip)):
        total += 1
        if opened.detect is None or number % EVERY:
            continue
        if found := opened.detect(_floats(frame)):
            face = select_face(found, 0, "largest", frame.shape[:2])
            frames.append(number), centres.append(face.centre), sides.append(face.side)
            if face.points is not None:
                points[number] = face.points
    if opened.detect is not None and not frames:
        raise Unreadable(f"no face found in {total} frames")
    return _Boxes(np.array(frames), np.array(centres), np.array(sides), points, total, opened.detect is None)


def _smooth_path(boxes: _Boxes, fps: float) -> tuple[np.ndarray, float]:
    """Centres of the crop (total, 2) and the side of the face in it."""
    if boxes.whole:
        return np.zeros((boxes.total, 2)), 0.0
    side, middle = float(np.median(boxes.sides)), np.median(boxes.centres, axis=0)
    if np.abs(boxes.centres - middle).max() <= STAYS * side:
        return np.repeat(middle[None], boxes.total, axis=0), side
    return low_pass(boxes.frames, boxes.centres, boxes.total, SMOOTH_SECONDS * fps), side


def low_pass(frames: np.ndarray, values: np.ndarray, total: int, sigma: float) -> np.ndarray:
    """values (N, D) at frames (N,) -> (total, D), one for each frame: a single outlier is removed, gaps are bridged by lines,
    then a Gaussian of sigma frames, whose ends go on as they come in: a steady movement is followed without delay.
    """
    padded = np.concatenate([values[:1], values, values[-1:]])
    steady = np.median(np.stack([padded[:-2], padded[1:-1], padded[2:]]), axis=0)
    dense = np.stack([np.interp(np.arange(total), frames, column) for column in steady.T], axis=1)
    reach = min(int(3 * sigma), total - 1)
    kernel = np.exp(-0.5 * (np.arange(-reach, reach + 1) / sigma) ** 2)
    extended = np.pad(dense, ((reach, reach), (0, 0)), mode="reflect", reflect_type="odd")
    return np.stack([np.convolve(column, kernel / kernel.sum(), "valid") for column in extended.T], axis=1)


def _face(frame: np.ndarray, centre: np.ndarray | None, side: float) -> Face:
    if centre is None:
        return Face((0.0, 0.0, float(frame.shape[1]), float(frame.shape[0])), None, None, "picture")
    (x, y), half = centre.tolist(), side / 2
    return Face((x - half, y - half, x + half, y + half), None, None, "clip")


def _label(clip: Clip, number: int, found: np.ndarray | None, transform: CropTransform) -> dict:
    """What the detector found, else what the clip's own labels tell, in pixels of the crop; poses stay, crops do not turn."""
    told = clip.labels.get(number, UNKNOWN)
    points = points_in_crop(np.reshape(told[:10], (5, 2)) if found is None else found, transform)
    label = {"points": points.round(2).tolist(), "pose": list(told[10:13])}
    _, _, factors, units = np.split(np.asarray(told), np.cumsum(PARTS)[:-1])
    named = {"blendshapes": zip(ARKIT52, units), "expression": zip((factor.name for factor in EXPRESSION), factors)}
    named = {kind: {name: float(value) for name, value in pairs if np.isfinite(value)} for kind, pairs in named.items()}
    known = {name: values for name, values in label.items() if np.isfinite(values).all()}
    return known | next(({kind: values} for kind, values in named.items() if values), {})


def _floats(frame: np.ndarray) -> Tensor:
    return torch.from_numpy(frame).float() / 255


def _write_picture(path: Path, crop: Tensor) -> None:
    from PIL import Image

    Image.fromarray((crop * 255).round().byte().numpy()).save(path, quality=QUALITY)


def _require_same(target: Path, settings: dict) -> None:
    path = target / LABELS
    found = json.loads(path.read_text()).get("prepared") if path.is_file() else None
    if found != settings:
        raise ValueError(f"{target} was made with {found}, not with {settings}; choose another --out or delete it")


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description="Crop the faces out of clips, as folders of frames for training.")
    parser.add_argument("--clips", type=Path, required=True, help="folder of videos or frame folders, one below per person")
    parser.add_argument("--out", type=Path, required=True, help="folder for the crops; whole clips there are kept")
    parser.add_argument("--size", type=int, default=256, help="side of a crop in pixels")
    parser.add_argument("--detector", choices=CHOICES, default="auto", help="none: the pictures are crops already")
    parser.add_argument("--insightface", type=Path, help="folder that holds insightface's models/<pack>")
    parser.add_argument("--landmarker", type=Path, help=f"MediaPipe's {TASK}: labels every frame with pose and expression")
    given = parser.parse_args(argv)
    try:
        landmarker = open_landmarker(given.landmarker) if given.landmarker else None
        report = prepare(given.clips, given.out, given.size, given.detector, given.insightface, landmarker)
    except (ValueError, DetectorUnavailable) as error:
        parser.error(str(error))
    print(report.summary())
    print(labels_line(index_clips(given.out).clips) if report.clips else "nothing was prepared")


def labels_line(clips: tuple[Clip, ...]) -> str:
    """How many frames have labels, and what to do where none has."""
    labels = [label for clip in clips for label in clip.labels.values()]
    posed = sum(isfinite(label[POSE]) for label in labels)
    expressive = sum(any(map(isfinite, label[EXPRESSIONS:])) for label in labels)
    line = f"labels: a head pose in {posed} frames, an expression in {expressive}, of {sum(clip.count for clip in clips)}"
    if posed and expressive:
        return line
    return f"{line}; what has no label is learned without it: give --landmarker {TASK}, or a .json beside each clip"


if __name__ == "__main__":
    main()

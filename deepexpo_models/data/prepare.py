"""Crop faces out of clips or single photographs, once:

    python -m deepexpo_models.data.prepare --clips DIR --out DIR --size 256 --landmarker face_landmarker.task
    python -m deepexpo_models.data.prepare --stills DIR --out DIR --size 512 --landmarker face_landmarker.task

With --landmarker every frame is labelled with its points, head pose and expression by MediaPipe's face landmarker, whose 478
landmarks are kept beside them (`clips.landmark_labels`), and its faces are what is cropped. A still becomes name.jpg and
name.json.

Every clip becomes a folder of frames with labels.json, at the same place below --out, so the people keep their ids. The
crop is smooth over time: one square for the whole clip where the head stays about there, else one that follows slowly.
"""

import argparse
import json
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from math import isfinite
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from ..claims import claimed
from ..faces.crop import SCALE, CropTransform, crop_face, points_in_crop
from ..faces.detectors import Detector, DetectorUnavailable, Face
from ..faces.find import CHOICES, OpenedDetector, open_detector, select_face
from ..faces.landmarks import TASK, open_landmarker
from ..faces.track import Tracker
from ..head import ARKIT52
from ..image import bytes_to_comfy, comfy_to_bytes
from ..whole_files import WriteError, write_folder
from .clips.index import CAPTION, LABELS, Clip, IndexReport, index_clips, read_frames
from .clips.labels import PARTS, UNKNOWN
from .clips.landmark_labels import LANDMARKS, Detect, read_label, save_landmarks
from .clips.read import Unreadable, read_picture
from .clips.stills import index_stills

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

    detector: one of faces.CHOICES; "none" takes whole pictures. landmarker: see `landmark_labels.read_label`, it is the
    detector too, where that is "auto"; without it labels are what the detector and the clips' own files tell. Raises
    ValueError for a detector that cannot be used, for a folder without clips, for a folder_out within folder_in, where
    folder_out was made with other settings, and while another process writes there.
    """
    return _prepare(index_clips, _clip_parts, _folders(folder_in, folder_out), size, detector, insightface_root, landmarker)


def prepare_stills(
    folder_in: str | Path,
    folder_out: str | Path,
    size: int,
    detector: str = "auto",
    insightface_root: str | Path | None = None,
    landmarker: Detect | None = None,
) -> IndexReport:
    """The same for single photographs, as `index_stills` finds them: name.jpg, name.json, and name.txt where it had one."""
    return _prepare(index_stills, _still_parts, _folders(folder_in, folder_out), size, detector, insightface_root, landmarker)


@dataclass(frozen=True)
class Tools:
    """What clips are prepared with."""

    settings: dict  # written beside what they made
    opened: OpenedDetector
    landmarker: Detect | None


def _folders(folder_in: str | Path, folder_out: str | Path) -> tuple[Path, Path]:
    root, out = Path(folder_in), Path(folder_out)
    if out.resolve().is_relative_to(root.resolve()):
        raise ValueError(f"{out} lies within {root}, so crops would be taken for clips; choose another folder for them")
    return root, out


def open_tools(size: int, detector: str, insightface_root, landmarker: Detect | None) -> Tools:
    settings = {"size": size, "detector": detector, **({"landmarker": True} if landmarker else {})}
    if landmarker and detector == "auto":
        opened = OpenedDetector("landmarks", Detector(lambda image: [mesh.face for mesh in landmarker(image)]), {})
    else:
        opened = open_detector(detector, Path(insightface_root) if insightface_root else None)
    return Tools(settings, opened, landmarker)


def _prepare(index, parts_of, folders: tuple[Path, Path], *settings) -> IndexReport:
    """parts_of(clip, place) yields what is prepared of a clip: where it lies, where it goes, and the function that does it."""
    root, out = folders
    tools, report = open_tools(*settings), index(root)
    done, skipped, taken = [], list(report.skipped), set()
    with claimed(out):
        for clip in tqdm(report.clips, unit="clip"):
            made = 0
            for path, target, make in parts_of(clip, lambda path: out / path.relative_to(root)):
                try:
                    if target in taken:
                        raise Unreadable(
                            f"another {'picture' if clip.still else 'clip'} beside it has the same name; rename one"
                        )
                    taken.add(target)
                    make(target, tools)
                    made += 1
                except Unreadable as reason:
                    skipped.append((path, str(reason)))
            if made:
                done.append(replace(clip, count=made) if clip.still else clip)
    return IndexReport(tuple(done), tuple(skipped))


def _clip_parts(clip: Clip, place: Callable[[Path], Path]):
    target = place(clip.path)
    yield clip.path, target if clip.frames else target.with_suffix(""), partial(prepare_clip, clip)


def _still_parts(person: Clip, place: Callable[[Path], Path]):
    for number, path in enumerate(person.frames):
        yield path, place(path).with_suffix(".jpg"), partial(_prepare_still, person, number)


def _prepare_still(person: Clip, number: int, target: Path, tools: Tools) -> None:
    """Not by `whole_files`: it looks through the folder at every write, too long where 100,000 stills lie in one."""
    labels = target.with_suffix(".json")
    if labels.exists():
        return _require_same(labels, tools.settings)
    frame = read_picture(person.frames[number])
    faces = tools.opened.detect(_floats(frame)) if tools.opened.detect else []
    if tools.opened.detect and not faces:
        raise Unreadable("no face found in it")
    face = select_face(faces, 0, "largest", frame.shape[:2]) if faces else _face(frame, None, 0.0)
    target.parent.mkdir(parents=True, exist_ok=True)
    label, points = _prepare_frame(person, number, frame, face, face.points, target, tools)
    if points is not None:
        save_landmarks(target.with_suffix(f".{LANDMARKS}"), {0: points})
    if caption := person.caption(number):
        target.with_suffix(".txt").write_text(caption, encoding="utf-8")
    frames = {"0": label} if label else {}
    labels.write_text(json.dumps({"prepared": tools.settings, "frames": frames}))  # last: now it is whole


def prepare_clip(clip: Clip, target: Path, tools: Tools) -> None:
    """Crop one clip into the folder `target`, whole or not at all. Raises Unreadable, and WriteError where the disk refuses."""
    if target.exists():
        return _require_same(target / LABELS, tools.settings)
    boxes = _find_boxes(clip, tools.opened)
    centres, side = _smooth_path(boxes, clip.fps)
    labels: dict = {}
    landmarks: dict = {}
    with write_folder(target, replace=False) as folder:
        for number, frame in enumerate(read_frames(clip)):
            face = _face(frame, None if boxes.whole else centres[min(number, boxes.total - 1)], side)
            path, found = folder / f"{number:06d}.jpg", boxes.points.get(number)
            label, points = _prepare_frame(clip, number, frame, face, found, path, tools)
            labels |= {str(number): label} if label else {}
            landmarks |= {} if points is None else {number: points}
        if landmarks:
            save_landmarks(folder / LANDMARKS, landmarks)
        if clip.captions:
            (folder / CAPTION).write_text(clip.captions[0], encoding="utf-8")
        told = {"fps": clip.fps, **({"times": clip.times} if clip.times else {}), "prepared": tools.settings, "frames": labels}
        (folder / LABELS).write_text(json.dumps(told))


def _prepare_frame(
    clip: Clip, number: int, frame: np.ndarray, face: Face, found: np.ndarray | None, path: Path, tools: Tools
) -> tuple[dict, Tensor | None]:
    """Write the crop of a face; found: its points (5, 2), if known -> its label, and its landmarks (478, 3)."""
    crop, _, transform = crop_face(_floats(frame), face, SCALE, tools.settings["size"])
    _write_picture(path, crop)
    seen, points = read_label(tools.landmarker, crop) if tools.landmarker else ({}, None)
    return _label(clip, number, found, transform) | seen, points


def _find_boxes(clip: Clip, opened: OpenedDetector) -> _Boxes:
    frames, centres, sides, points, total, tracker = [], [], [], {}, 0, Tracker(opened)
    for number, frame in enumerate(read_frames(clip)):
        total += 1
        if opened.detect is None or number % EVERY:
            continue
        if face := tracker.look(_floats(frame)):
            frames.append(number)
            centres.append(face.centre)
            sides.append(face.side)
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
    units = {name: value for name, value in zip(ARKIT52, told[EXPRESSIONS:]) if isfinite(value)}
    known = {name: values for name, values in label.items() if np.isfinite(values).all()}
    return known | ({"blendshapes": units} if units else {})


def _floats(frame: np.ndarray) -> Tensor:
    return bytes_to_comfy(torch.from_numpy(frame))


def _write_picture(path: Path, crop: Tensor) -> None:
    from PIL import Image

    Image.fromarray(comfy_to_bytes(crop).numpy()).save(path, quality=QUALITY)


def _require_same(path: Path, settings: dict) -> None:
    """path: the labels of what is there."""
    found = json.loads(path.read_text()).get("prepared") if path.is_file() else None
    if found != settings:
        raise ValueError(f"{path.parent} was made with {found}, not with {settings}; choose another --out or delete it")


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description="Crop the faces out of clips or photographs, and label them, for training.")
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--clips", help="folder of videos or frame folders, one below per person")
    source.add_argument("--stills", type=Path, help="folder of photographs, one below per person")
    parser.add_argument("--out", required=True, help="folder for the crops; whole clips there are kept")
    parser.add_argument("--size", type=int, default=256, help="side of a crop in pixels")
    parser.add_argument("--detector", choices=CHOICES, default="auto", help="none: the pictures are crops already")
    parser.add_argument("--insightface", type=Path, help="folder that holds insightface's models/<pack>")
    parser.add_argument("--landmarker", type=Path, help=f"MediaPipe's {TASK}: labels every frame with pose and expression")
    parser.add_argument("--workers", type=int, default=0, help="processes of Dask; --clips and --out may be URLs (s3://...)")
    parser.add_argument("--scheduler", default="", help="address of a Dask scheduler, for clips on many machines")
    given = parser.parse_args(argv)
    try:
        if given.clips and (given.workers or given.scheduler):
            from .prepare_many import ClipJob, prepare_many

            job = ClipJob(given.clips.rstrip("/"), given.size, given.detector, given.insightface, given.landmarker)
            return print(prepare_many(job, given.out, given.workers, given.scheduler).summary())
        landmarker = open_landmarker(given.landmarker, faces=0) if given.landmarker else None
        run, index = (prepare, index_clips) if given.clips else (prepare_stills, index_stills)
        report = run(given.clips or given.stills, given.out, given.size, given.detector, given.insightface, landmarker)
    except (ValueError, DetectorUnavailable, WriteError) as error:
        parser.error(str(error))
    print(report.summary())
    print(labels_line(index(given.out).clips) if report.clips else "nothing was prepared")


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

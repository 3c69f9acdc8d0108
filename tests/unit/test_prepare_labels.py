"""What `data.prepare` writes of MediaPipe's landmarker, and how it reaches the trainings."""

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from deepexpo_models.data import prepare as prepare_module
from deepexpo_models.data import prepare_many
from deepexpo_models.data.clips.frame_store import FrameStore
from deepexpo_models.data.clips.index import index_clips
from deepexpo_models.data.clips.landmark_labels import LANDMARKS
from deepexpo_models.data.clips.stills import index_stills
from deepexpo_models.data.prepare import prepare, prepare_stills
from deepexpo_models.dsid.readout import FACTORS
from deepexpo_models.faces.landmarks import FaceMesh
from deepexpo_models.head import ARKIT52
from deepexpo_models.training.dsid.clips import real_batch
from landmark_sets import points, scores

ANGLES, BLINK = (20.0, -10.0, 5.0), 0.6


def detect(picture: torch.Tensor) -> list[FaceMesh]:
    """A face where the picture is white; one lid closed by BLINK, turned by ANGLES."""
    rows, columns = torch.nonzero(picture[..., 0] > 0.5, as_tuple=True)
    if not len(rows):
        return []
    x, y = columns.float().mean().item() + 0.5, rows.float().mean().item() + 0.5
    mesh = points(scores(eyeBlinkLeft=BLINK), ANGLES, 0.7 * picture.shape[0] / 60, (x, y, 0.0))
    return [FaceMesh(mesh, {"_neutral": 0.0, **dict(zip(ARKIT52[:-1], scores(eyeBlinkLeft=BLINK)[0].tolist()))}, 1.0)]


def write_square(path: Path, x: int, y: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    picture = np.zeros((60, 90, 3), np.uint8)
    picture[y : y + 8, x : x + 8] = 255
    Image.fromarray(picture).save(path)


def write_clip(folder: Path, frames: int = 12, dark: int = 7) -> None:
    for number in range(frames):
        write_square(folder / f"{number}.png", 40 if number != dark else 200, 24)
    (folder / "caption.txt").write_text("a person")


def test_a_clip_gets_pose_numbers_and_landmarks(tmp_path):
    write_clip(tmp_path / "in" / "ann")
    report = prepare(tmp_path / "in", tmp_path / "out", 64, landmarker=detect)
    assert len(report.clips) == 1
    held = json.loads((tmp_path / "out" / "ann" / "labels.json").read_text())["frames"]
    assert set(held) == {str(n) for n in range(12) if n != 7}
    assert held["0"]["pose"] == pytest.approx(ANGLES, abs=0.5)
    assert held["0"]["blendshapes"]["eyeBlinkLeft"] == BLINK and set(held["0"]["blendshapes"]) == set(ARKIT52)
    found = load_file(tmp_path / "out" / "ann" / LANDMARKS)
    assert found["frames"].tolist() == [int(n) for n in held] and found["points"].shape == (len(held), 478, 3)
    assert torch.allclose(found["points"][0, 4, :2], torch.tensor(held["0"]["points"][2]), atol=0.01), "the tip of the nose"
    again = prepare(tmp_path / "in", tmp_path / "out", 64, landmarker=detect)
    assert again.summary() == report.summary()


def test_the_labels_reach_both_trainings(tmp_path):
    for person in ("ann", "bob"):
        write_clip(tmp_path / "in" / person)
    prepare(tmp_path / "in", tmp_path / "out", 64, landmarker=detect)
    clips = index_clips(tmp_path / "out").clips
    assert all(math.isfinite(clip.labels[0][-1]) for clip in clips), "what train_meaf --semantics arkit52 asks"
    pairs = FrameStore(clips, 64).sample_pairs(2, torch.Generator().manual_seed(1))
    batch = real_batch(pairs)
    known = pairs.second_units.isfinite().all(1)
    assert known.any() and (pairs.second_units[known][:, ARKIT52.index("eyeBlinkLeft")] - BLINK).abs().max() < 1e-6
    assert torch.allclose(pairs.second_euler[known], torch.tensor(ANGLES).expand(int(known.sum()), -1), atol=0.5)
    assert batch.target_pose["rotation"][known].isfinite().all()
    assert torch.equal(batch.label[known][:, :52], pairs.second_units[known]), "the columns of rendered heads"
    assert batch.label.shape[1] == len(FACTORS) and batch.label[:, 52:].isnan().all(), "nobody tells the gaze"


def test_stills_become_crops_with_labels_beside(tmp_path):
    for name, x in (("ann/1.png", 20), ("ann/2.png", 60), ("bob.png", 40), ("dark.png", 200)):
        write_square(tmp_path / "in" / name, x, 24)
    (tmp_path / "in" / "bob.txt").write_text("Bob smiles")
    report = prepare_stills(tmp_path / "in", tmp_path / "out", 64, landmarker=detect)
    assert sum(clip.count for clip in report.clips) == 3 and "no face found in it" in report.skipped[0][1]
    people = {clip.person: clip for clip in index_stills(tmp_path / "out").clips}
    assert set(people) == {"ann", "bob"} and people["ann"].count == 2 and people["bob"].caption(0) == "Bob smiles"
    for clip in people.values():
        assert clip.labels[0][10:13] == pytest.approx(ANGLES, abs=0.5)
        image, place, *_ = FrameStore([clip], 64).frame(clip, 0)
        assert (place[2].abs() < 0.5).all() and image[0, 32, 32] > 0.5, "the face is in the middle"
    assert load_file(tmp_path / "out" / "ann" / f"1.{LANDMARKS}")["frames"].tolist() == [0]
    assert sum(clip.count for clip in prepare_stills(tmp_path / "in", tmp_path / "out", 64, landmarker=detect).clips) == 3
    with pytest.raises(ValueError, match="was made with"):
        prepare_stills(tmp_path / "in", tmp_path / "out", 32, landmarker=detect)


@pytest.fixture
def beside_a_small_face(monkeypatch):
    """A landmarker that finds the face of `detect`, and before it one of a third of its size."""

    def open_landmarker(task, faces=1):
        def found(picture):
            (large,) = detect(picture)
            middle = large.points.mean(0)
            return [FaceMesh((large.points - middle) / 3 + middle - 5, {"jawOpen": 1.0}, 1.0), large][: faces or None]

        return found

    for module in (prepare_module, prepare_many):
        monkeypatch.setattr(module, "open_landmarker", open_landmarker)


def test_the_largest_face_is_taken_of_all(tmp_path, beside_a_small_face):
    write_square(tmp_path / "in" / "ann.png", 40, 24)
    prepare_module.main(
        ["--stills", str(tmp_path / "in"), "--out", str(tmp_path / "out"), "--size", "64", "--landmarker", "face.task"]
    )
    (label,) = json.loads((tmp_path / "out" / "ann.json").read_text())["frames"].values()
    assert label["blendshapes"]["eyeBlinkLeft"] == BLINK and label["blendshapes"]["jawOpen"] == 0
    job = prepare_many.ClipJob(str(tmp_path), 64, landmarker=Path("face.task"))
    assert len(prepare_many.opened(job).landmarker(torch.ones(60, 90, 3))) == 2

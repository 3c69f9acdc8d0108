"""Tables on real faces and on rendered heads: what they count, on codes and rotations whose answer is known."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch

from deepexpo_models.data.heads.shards import FRAMES, PEOPLE, SHARD
from deepexpo_models.dsid import CONFIGS, DSID, save_dsid
from deepexpo_models.dsid.readout import ReadOut
from deepexpo_models.dsid.rotation import euler_to_matrix
from deepexpo_models.evaluation import distributions, real_faces, real_frames, rendered_heads
from deepexpo_models.faces.landmarks import FaceMesh
from deepexpo_models.head import ARKIT52
from fake_heads import write_fake_heads, write_judged

COUNT, CLIPS = 60, 2


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.fixture(scope="module")
def frames():
    angles = torch.randn(COUNT, 3, generator=seeded()) * torch.tensor([15.0, 8.0, 5.0])
    units, rotation = torch.rand(COUNT, len(ARKIT52), generator=seeded(1)), euler_to_matrix(angles)
    return real_frames.RealFrames(
        crops=torch.randint(256, (COUNT, 3, 256, 256), generator=seeded(2), dtype=torch.uint8),
        rotation=rotation,
        units=units,
        five=torch.zeros(COUNT, 5, 2),
        clip=torch.arange(COUNT) // (COUNT // CLIPS),
        again_rotation=torch.stack([rotation, rotation], 1),
        again_units=torch.stack([units, units], 1),
        names=("a.mp4", "b.mp4"),
    )


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    made = DSID(CONFIGS["photo"]).eval()
    made.readout = ReadOut.of_units(torch.randn(54, 128, generator=seeded()), torch.zeros(54))
    return made


def test_a_constant_turn_is_found_and_taken_off(frames):
    turn = euler_to_matrix(torch.tensor([[0.0, -5.0, 0.0]]))[0]
    row = real_faces.rotation_row(frames.rotation @ turn, frames.rotation, frames.clip)
    assert row["degrees"] == pytest.approx(5, abs=1e-2) and row["best turn"] == pytest.approx(0, abs=1e-2)
    assert row["turn per clip"] == pytest.approx(0, abs=1e-2) and row["r yaw"] > 0.99


def test_a_turn_in_each_clip_is_no_turn_of_all(frames):
    turns = euler_to_matrix(torch.tensor([[10.0, 0, 0], [-10.0, 0, 0]]))
    row = real_faces.rotation_row(frames.rotation @ turns[frames.clip], frames.rotation, frames.clip)
    assert row["best turn"] > 8 and row["turn per clip"] == pytest.approx(0, abs=1e-2)


def test_factors_are_sums_of_units(frames):
    factors = real_faces.factors_of(frames.units)
    wink = list(real_faces.FACTORS).index("wink")
    left, right = (frames.units[:, ARKIT52.index(f"eyeBlink{side}")] for side in ("Left", "Right"))
    torch.testing.assert_close(factors[:, wink], left - right)


def test_a_ridge_never_sees_the_clip_that_it_reads(frames):
    """Codes that name the clip alone: read from the other clips they say nothing of what moves inside."""
    codes = torch.nn.functional.one_hot(frames.clip).float()
    targets = codes[:, :1] + 0.01 * torch.randn(COUNT, 1, generator=seeded())
    found = real_faces.ridge(codes, targets, frames.clip)
    assert real_faces.correlation(found[:, 0], targets[:, 0]) < 0
    known = torch.randn(COUNT, 4, generator=seeded(5))
    assert real_faces.correlation(real_faces.ridge(known, known, frames.clip)[:, 0], known[:, 0]) > 0.99


def test_the_tables_have_a_constant_and_the_landmarkers_jitter_beside(frames, model):
    made = real_faces.tables(frames, {"photo": model})
    assert [row["reader"] for row in made["rotation"]] == ["constant, the mean pose", "photo", "landmarker, moved"]
    assert [row["reader"] for row in made["expression"]] == ["photo", "photo, by ridge", "landmarker, moved"]
    assert made["rotation"][2]["degrees"] == pytest.approx(0, abs=1e-2) and made["expression"][2]["jaw"] == pytest.approx(1)
    assert [row["file"] for row in made["clips"]] == ["a.mp4", "b.mp4"] and made["clips"][0]["frames"] == COUNT // CLIPS


def test_found_frames_are_kept(frames, tmp_path):
    real_frames.save_frames(tmp_path / "f.npz", frames)
    again = real_frames.load_frames(tmp_path / "f.npz")
    assert again.names == frames.names
    torch.testing.assert_close(again.rotation, frames.rotation)


def test_a_sample_of_a_large_folder_is_even_and_always_the_same(tmp_path):
    for folder, count in (("anger", 2), ("joy", 9), ("rest", 9)):
        (tmp_path / folder).mkdir()
        for number in range(count):
            (tmp_path / folder / f"{number}.jpg").touch()
    (tmp_path / "notes.txt").touch()
    drawn = real_frames.files_of(tmp_path, 12)
    assert [sum(path.parent.name == name for path in drawn) for name in ("anger", "joy", "rest")] == [2, 5, 5]
    assert drawn == real_frames.files_of(tmp_path, 12) == sorted(drawn) and len(real_frames.files_of(tmp_path)) == 20


def test_stills_have_no_figures_of_clips(frames, model):
    stills = replace(frames, clip=torch.arange(COUNT), names=tuple(f"{n}.jpg" for n in range(COUNT)))
    made = real_faces.tables(stills, {"photo": model})
    assert not made["clips"] and "turn per clip" not in made["rotation"][1] and "r yaw" in made["rotation"][1]
    assert set(real_faces.FACTORS) < made["expression"][0].keys() and "jaw, in clips" not in made["expression"][0]


def test_distributions(frames, tmp_path):
    """Closed lids on one side alone, rotations of known spread; two equal sets are at no distance."""
    pytest.importorskip("matplotlib")
    heads, kept = write_fake_heads(tmp_path / "heads"), tmp_path / "frames.npz"
    units = np.zeros((SHARD, len(ARKIT52)), np.float32)
    units[::2, ARKIT52.index("eyeBlinkLeft")] = 0.8
    units[:4] = np.nan  # no face found
    write_judged(heads / "shard-00000", units)
    real_frames.save_frames(kept, frames)
    out = tmp_path / "out"
    files = ["--frames", str(kept), str(kept), "--names", "clips", "again", "--heads", str(heads), "--out", str(out)]
    distributions.main(files)
    rows = {(row["factor"], row["faces"]): row for row in json.loads((out / "factors.json").read_text())}
    blink = rows["blink", "rendered heads"]
    assert blink["at rest"] == pytest.approx(0.5) and blink["left less right"] == pytest.approx(0.4) and blink["95%"] > 0.79
    assert rows["jaw", "again"]["distance"] == 0 < rows["jaw", "rendered heads"]["distance"]
    assert rows["gaze x", "clips"]["left less right"] is None
    angles = {(row["angle"], row["faces"]): row for row in json.loads((out / "angles.json").read_text())}
    assert angles["yaw", "clips"]["standard deviation"] == pytest.approx(15, rel=0.3)
    assert (out / "distributions.png").stat().st_size > 1000
    with pytest.raises(SystemExit):
        distributions.main(["--frames", str(kept), "--heads", str(write_fake_heads(tmp_path / "unread"))])


def test_the_landmarker_is_read_in_the_frame_of_dsids(monkeypatch):
    """MediaPipe's y is up and its z to the viewer; its matrix holds a scale, too."""
    turn, flip = euler_to_matrix(torch.tensor([[20.0, -10.0, 5.0]]))[0], torch.diag(torch.tensor([1.0, -1.0, -1.0]))
    matrix, points = torch.eye(4), torch.rand(478, 3, generator=seeded())
    matrix[:3, :3] = 1.3 * flip @ turn @ flip
    faces = [FaceMesh(points, {"jawOpen": 0.5}, 1.0, matrix)]
    monkeypatch.setattr(real_frames, "open_landmarker", lambda task, **how: lambda picture: faces)
    seen = real_frames.Landmarker("face.task")(np.zeros((8, 8, 3), np.uint8))
    torch.testing.assert_close(seen.rotation, turn)
    assert seen.units[ARKIT52.index("jawOpen")] == 0.5 and np.allclose(seen.points, points[:, :2])
    faces.clear()
    assert real_frames.Landmarker("face.task")(np.zeros((8, 8, 3), np.uint8)) is None


def test_a_missing_landmarker_is_told(tmp_path, capsys):
    with pytest.raises(SystemExit):
        real_faces.main(
            ["--clips", str(tmp_path), "--landmarker", str(tmp_path / "no.task"), "--dsid", "x", "--out", str(tmp_path)]
        )
    assert "mediapipe" in capsys.readouterr().err.lower()


def test_two_files_of_one_name_are_no_two_rows(tmp_path, capsys):
    with pytest.raises(SystemExit):
        real_faces.main(
            ["--clips", str(tmp_path), "--landmarker", "face.task", "--dsid", "old/photo.safetensors", "new/photo.safetensors"]
        )
    assert (
        "old/photo.safetensors and new/photo.safetensors would be one row, 'photo'; rename one of them"
        in capsys.readouterr().err
    )


def test_nearest_codes():
    """Codes that name the person find the person, codes that name the expression find another who plays it."""
    people, groups = PEOPLE * 3, 3
    person = torch.arange(people).repeat_interleave(FRAMES)
    noise = 0.01 * torch.randn(len(person), 24, generator=seeded())
    who = torch.randn(people, 24, generator=seeded(1))[person] + noise
    played = torch.arange(groups).repeat_interleave(PEOPLE * FRAMES) * FRAMES + torch.arange(len(person)) % FRAMES
    how = torch.randn(groups * FRAMES, 24, generator=seeded(2))[played] + noise
    assert rendered_heads.nearest(who, person)["the same person"] == 1
    assert rendered_heads.nearest(how, person)["the same expression by another"] == 1


def test_the_report_on_rendered_heads_is_written(model, tmp_path):
    heads = write_fake_heads(tmp_path / "heads")
    save_dsid(tmp_path / "photo.safetensors", model)
    rendered_heads.main(["--heads", str(heads), "--dsid", str(tmp_path / "photo.safetensors"), "--out", str(tmp_path / "out")])
    (row,) = json.loads((tmp_path / "out/rotation.json").read_text())
    assert row["reader"] == "photo" and 0 < row["degrees"] < 120


def test_equal_codes_draw_equal_maps_and_an_open_jaw_opens_the_lips(frames):
    points = real_faces.map_points(frames.rotation, frames.units)
    assert points.shape == (COUNT, 478, 3)
    assert max(real_faces.map_row(points, points).values()) == 0
    rest, straight = torch.zeros(COUNT, len(ARKIT52)), torch.eye(3).expand(COUNT, 3, 3)
    jaw = rest.clone()
    jaw[:, ARKIT52.index("jawOpen")] = 1
    row = real_faces.map_row(real_faces.map_points(straight, jaw), real_faces.map_points(straight, rest))
    upper, lower = (real_faces.map_points(straight[:1], jaw[:1])[0, point, 1] for point in (13, 14))
    closed = [real_faces.map_points(straight[:1], rest[:1])[0, point, 1] for point in (13, 14)]
    gap = (lower - upper) - (closed[1] - closed[0])
    assert row["lips' gap"] == pytest.approx(gap.item(), rel=0.1) and gap > 0.1
    assert row["lids' gap"] < 0.002 < row["points"] < row["lips' gap"]

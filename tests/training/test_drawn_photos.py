"""The table of pictures drawn from photographs, here on noise and on what comes with the pack."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from deepexpo_models.dsid import euler_to_matrix, load_dsid
from deepexpo_models.evaluation import drawn_photos
from deepexpo_models.evaluation.real_frames import RealFrames, Seen, save_frames
from deepexpo_models.head import ARKIT52
from deepexpo_models.image import bytes_to_model

ROOT = Path(__file__).parents[2]
FILES = {"base": "heads-base", "meaf": "heads-meaf", "dsid": "photo-dsid"}
NAMES = ("photograph", "laughing", "surprised", "turned")


@pytest.fixture(scope="module")
def frames() -> RealFrames:
    """The faces that come with the pack, each a file of its own, as if a landmarker had read something in them."""
    generator = torch.Generator().manual_seed(0)
    pictures = [np.array(Image.open(ROOT / "workflows" / "samples" / f"{name}.png").convert("RGB")) for name in NAMES]
    count, units = len(NAMES), torch.rand(len(NAMES), len(ARKIT52), generator=generator)
    rotation = euler_to_matrix(torch.randn(count, 3, generator=generator) * 15)
    return RealFrames(
        crops=torch.from_numpy(np.stack(pictures)).movedim(-1, 1), rotation=rotation, units=units,
        five=torch.zeros(count, 5, 2), clip=torch.arange(count), again_rotation=torch.stack([rotation] * 2, 1),
        again_units=torch.stack([units] * 2, 1), names=NAMES,
    )  # fmt: skip


def test_person_and_reference_are_of_different_files(frames):
    two = replace(frames, clip=torch.tensor([0, 0, 0, 1]))
    pairs = drawn_photos.sample_pairs(two, 50)
    assert len(pairs.person) == 50 and not (two.clip[pairs.person] == two.clip[pairs.reference]).any()
    again = drawn_photos.sample_pairs(two, 50)
    assert torch.equal(pairs.person, again.person) and torch.equal(pairs.reference, again.reference)
    with pytest.raises(ValueError, match="all frames are of one file"):
        drawn_photos.sample_pairs(replace(frames, clip=torch.zeros(4).long()), 2)


def test_what_plays_the_reference_is_full_marks(frames):
    pairs = drawn_photos.sample_pairs(frames, 30)
    perfect = drawn_photos.told(frames, pairs.reference)
    table = drawn_photos.compare(perfect, frames, pairs, torch.arange(30))
    assert table["drawn, the reference"]["degrees"] < 0.1 and table["drawn, the reference"]["mean r"] == pytest.approx(1)
    assert all(table[f"drawn, {name}"]["degrees"] > 5 for name in ("the person's own photo", "another reference"))
    some = torch.arange(0, 30, 2)
    assert drawn_photos.compare(perfect[some], frames, pairs, some)["drawn, the reference"]["degrees"] < 0.1


def test_a_landmarker_tells_where_it_finds_a_face(frames):
    seen = lambda row: Seen(np.zeros((478, 2)), frames.rotation[row], frames.units[row])  # noqa: E731
    answers = iter([seen(0), None, seen(2), None])
    reading, rows = drawn_photos.seen_by(lambda picture: next(answers), bytes_to_model(frames.crops))
    assert rows.tolist() == [0, 2] and torch.equal(reading.rotation, frames.rotation[rows])
    with pytest.raises(ValueError, match="finds no face in any drawn picture"):
        drawn_photos.seen_by(lambda picture: None, bytes_to_model(frames.crops))


def test_likeness_of_the_people_themselves(frames):
    dsid, people = load_dsid(ROOT / "weights" / "photo-dsid.safetensors").float(), bytes_to_model(frames.crops)
    who = torch.arange(len(people))
    same, other = (drawn_photos.likeness(dsid, drawn, people, who) for drawn in (people, people.roll(1, 0)))
    assert same["own"] == pytest.approx(1, abs=1e-4) and same["nearest"] == 1 and same["by chance"] == 0.25
    assert other["nearest"] == 0 and other["own"] < same["own"]
    pairs = drawn_photos.likeness(dsid, people.roll(1, 0), people, torch.zeros(4))
    assert pairs["nearest"] == 1, "all are photos of one"


def test_the_command_draws_and_reads(frames, tmp_path, capsys):
    save_frames(tmp_path / "frames.npz", frames)
    files = [part for kind, name in FILES.items() for part in (f"--{kind}", str(ROOT / "weights" / f"{name}.safetensors"))]
    given = ["--frames", str(tmp_path / "frames.npz"), *files, "--out", str(tmp_path), "--count", "3"]
    drawn_photos.main(given)
    told = capsys.readouterr().out
    assert "drawn, the reference" in told and "nearest" in told and (tmp_path / "photos.png").exists()
    with pytest.raises(SystemExit):
        drawn_photos.main([*given, "--base", str(tmp_path / "gone.safetensors")])

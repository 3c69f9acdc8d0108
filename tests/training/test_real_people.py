"""How well encoders tell real people apart: figures on vectors whose answer is known, and the command's sentences."""

from dataclasses import replace

import pytest
import torch

from deepexpo_models.dsid import CONFIGS, DSID
from deepexpo_models.evaluation import real_people
from deepexpo_models.evaluation.real_frames import RealFrames

PEOPLE, EACH = 5, 3


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.fixture
def frames() -> RealFrames:
    count = PEOPLE * EACH
    noise = lambda *shape: torch.randn(*shape, generator=seeded())  # noqa: E731
    return RealFrames(
        crops=torch.randint(256, (count, 3, 256, 256), generator=seeded(), dtype=torch.uint8),
        rotation=noise(count, 3, 3), units=noise(count, 52), five=noise(count, 5, 2), clip=torch.arange(count),
        again_rotation=noise(count, 2, 3, 3), again_units=noise(count, 2, 52),
        names=tuple(f"person {row % PEOPLE}/{row}.png" for row in range(count)),
    )  # fmt: skip


def test_people_are_folders(frames):
    assert real_people.people_of(frames).tolist() == [row % PEOPLE for row in range(PEOPLE * EACH)]


def test_figures_of_known_vectors(frames):
    people = real_people.people_of(frames)
    perfect = torch.nn.functional.one_hot(people, PEOPLE) + 0.01 * torch.randn(len(people), PEOPLE, generator=seeded(1))
    row = real_people.row("perfect", perfect, people)
    assert row["AUC"] == row["top-1"] == 1 and (row["pictures"], row["people"]) == (15, 5)
    assert row["chance"] == pytest.approx(2 / 14)
    blind = real_people.row("blind", torch.randn(len(people), 8, generator=seeded(2)), people)
    assert 0.2 < blind["AUC"] < 0.8 and blind["top-1"] < 0.5
    wrong = torch.nn.functional.one_hot((people + torch.arange(len(people)) // PEOPLE) % PEOPLE, PEOPLE).float()
    assert real_people.row("wrong", wrong, people)["top-1"] == 0, "the likest is always another person"


def test_pictures_that_a_reader_finds_no_face_in_are_not_counted(frames):
    people = real_people.people_of(frames)
    vectors = torch.nn.functional.one_hot(people, PEOPLE).float()
    vectors[0] = torch.nan  # two pictures of person 0 are left
    vectors[[1, 6]] = torch.nan  # one of person 1, who is then out
    row = real_people.row("some", vectors, people)
    assert (row["pictures"], row["people"]) == (15 - 1 - 3, 4)
    with pytest.raises(ValueError, match="two pictures of fewer than two people"):
        real_people.row("none", torch.full((15, 4), torch.nan), people)


def test_a_table_of_an_encoder_beside_the_pixels(frames):
    """Copies of one picture for each person, some lighter: the pixels know them, and so does any encoder."""
    first = frames.crops[:PEOPLE].repeat(EACH, 1, 1, 1)
    same = replace(frames, crops=(first * torch.tensor([1.0, 0.9, 0.8]).repeat_interleave(PEOPLE).reshape(-1, 1, 1, 1)).byte())
    readers = {"pixels": real_people.pixels, "dsid": real_people.reader_of(DSID(CONFIGS["small"]).eval())}
    rows = real_people.table(same, readers)
    assert [row["reader"] for row in rows] == ["pixels", "dsid"] and rows[0]["top-1"] == 1


def test_what_cannot_be_used_is_one_sentence(tmp_path, capsys):
    common = ["--people", str(tmp_path), "--landmarker", str(tmp_path / "no.task"), "--judges"]
    for judge, sentence in (("insightface", "--insightface-path"), ("nobody", "unknown judge 'nobody'")):
        with pytest.raises(SystemExit):
            real_people.main([*common, judge])
        told = capsys.readouterr().err
        assert told.count("\n") == 1 and (sentence in told or "needs the Python package" in told)


def test_a_judge_without_identities_is_told():
    class Judge:
        name = "clip"

        def measure(self, images):
            return {"clip": images}

    with pytest.raises(ValueError, match="the judge clip gives no identity"):
        real_people.identity_of(Judge(), torch.zeros(1, 3, 8, 8))

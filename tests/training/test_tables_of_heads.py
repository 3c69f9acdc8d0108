"""The tables of a starter on rendered heads: who is asked for what, figures whose answer is known, and a whole report."""

import math
from dataclasses import replace

import pytest
import torch

from deepexpo_models.data.heads.captions import context_caption
from deepexpo_models.data.heads.poses import LIMITS
from deepexpo_models.data.heads.scenery import COLOURS
from deepexpo_models.data.heads.shards import CONTEXT, FRAMES, PEOPLE, HeadStore
from deepexpo_models.evaluation import run
from deepexpo_models.evaluation.factors import FACTORS, MAIN
from deepexpo_models.evaluation.judges.judge import Judge, Judgement, save_judge
from deepexpo_models.evaluation.judges.kinds import KINDS, RENDERED
from deepexpo_models.evaluation.meaf_report import STREAMS, by_group, closeness, face_class, figures
from deepexpo_models.evaluation.requests import head_requests
from fake_heads import write_fake_heads
from test_evaluation import TINY_JUDGE, files, options, quick, strict

__all__ = ["files", "quick"]  # fixtures
KIND = KINDS[RENDERED]
HEADS_JUDGE = replace(TINY_JUDGE, pictures=RENDERED)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_fake_heads(tmp_path_factory.mktemp("heads"), shards=2, size=32, split="test")


@pytest.fixture(scope="module")
def requests(folder):
    return head_requests(HeadStore(folder), count=6)


@pytest.fixture(scope="module")
def judge_file(tmp_path_factory):
    torch.manual_seed(0)
    judge = Judge(HEADS_JUDGE)
    with torch.no_grad():
        judge.readers["face"].head.bias.fill_(20.0)
    judge.errors = {"steps": 1, "pictures": {"jaw mae": 0.25}, "degraded pictures": {"jaw mae": 0.5}}
    path = tmp_path_factory.mktemp("judge") / "heads-judge.safetensors"
    save_judge(path, judge)
    return path


def seen_of(photos) -> Judgement:
    """What a judge without error sees."""
    identity = torch.nn.functional.one_hot(photos.rows // FRAMES, len(photos.store) // FRAMES).float()
    return Judgement(**vars(photos.shown), face=torch.ones(len(photos)), identity=identity)


class Oracle:
    """A judge that knows the people of a request."""

    config, kind = HEADS_JUDGE, KIND

    def __init__(self, photos):
        self.photos = photos

    def __call__(self, images):
        return seen_of(self.photos)


def test_a_request_is_of_a_film_studio(requests):
    """Persons by their other clip, references by two others of the group, and the true picture is both in one."""
    request = requests.rows["two photos"]
    true, person, expression, pose = (
        photos.rows for photos in (request.true, request.person, request.expression, request.pose)
    )
    assert len((true // FRAMES).unique()) == 6, "each person once"
    assert torch.equal(true // FRAMES, person // FRAMES) and (true // (FRAMES // 2) != person // (FRAMES // 2)).all()
    group = PEOPLE * FRAMES
    for others in (expression, pose):
        assert torch.equal(others // group, true // group) and (others // FRAMES != true // FRAMES).all()
    assert (expression // FRAMES != pose // FRAMES).all()
    torch.testing.assert_close(request.true.shown.expression, request.expression.shown.expression)
    torch.testing.assert_close(request.true.shown.pose[:, :3], request.pose.shown.pose[:, :3])


def test_references_of_one_photo_and_of_one_s_own(requests):
    one, own = requests.rows["one photo"], requests.rows["own photo"]
    assert one.expression is one.pose and one.true is None and own.true is None
    assert torch.equal(own.pose.rows // (FRAMES // 2), own.person.rows // (FRAMES // 2)), "of the identity photo's clip"
    assert (own.pose.rows != own.person.rows).all()


def test_all_pictures_are_unspoilt_and_extreme_poses_stay_in_their_row(requests):
    for name, request in requests.rows.items():
        for photos in (request.person, request.expression, request.pose):
            assert (photos.store.heads(photos.rows).context[:, CONTEXT.index("spoilt")] == 0).all()
        assert (request.person.shown.pose[:, 0].abs() <= LIMITS[0] + 1e-3).all()
        beyond = request.pose.shown.pose[:, 0].abs() > LIMITS[0]
        assert beyond.all() if name == "extreme poses" else not beyond.any()


def test_captions_tell_the_context_that_is_looked_for(requests):
    request = requests.rows["one photo"]
    colours = list(COLOURS)
    column = [factor.name for factor in KIND.context].index("clothes")
    for sentence, context in zip(request.captions, request.context, strict=True):
        assert f"{colours[int(context[column])]} " in sentence and sentence.endswith(" light")
    assert request.captions == head_requests(request.person.store, count=6).rows["one photo"].captions


def test_a_caption_of_a_context_alone():
    values = {"male": 1, "age": 1.8, "hair": -1, "glasses": 1, "hat": 1, "background": 3, "cloth": 5, "pattern": 1, "light": 2}
    context = torch.tensor([float(values.get(name, 0)) for name in CONTEXT])
    assert context_caption(context) == (
        "a photo of an old man without hair, red wall behind, blue striped clothes, wearing glasses, wearing a hat, dim light"
    )


def test_too_few_people_are_told(folder):
    with pytest.raises(ValueError, match=r"has \d+ people for 500 requests; render more shards of the test split, or"):
        head_requests(HeadStore(folder), count=500)


def test_the_true_picture_has_no_error_and_the_person_s_own_has(requests):
    request = requests.rows["two photos"]
    row = figures(request, seen_of(request.true), Oracle(request.person))
    best = {
        "no face": 0,
        "POSE": 0,
        "yaw": 0,
        "SIM": 0,
        "SEMCHG": 1,
        "ID": 0,
        "EXP": 1,
        "identity top-1": 1,
        "context, mean": 1,
    }
    assert {name: row[name] for name in best} == pytest.approx(best, abs=1e-3) and row["context, mean"] == 1
    moved = {name for name, value in row["expression correlation"].items() if value}
    assert set(MAIN) <= moved and all(row["expression correlation"][name] == pytest.approx(1) for name in moved)
    assert row["expression correlation, main"] == pytest.approx(1)
    assert closeness(request, seen_of(request.true), seen_of(request.person).identity, KIND) == pytest.approx(
        [1, 1, 1], abs=1e-3
    )
    kept = figures(request, seen_of(request.person), Oracle(request.person))
    assert kept["SEMCHG"] == 0 and kept["ID"] == pytest.approx(0) and kept["POSE"] > 10
    assert kept["expression correlation, main"] < 0.8 and kept["context, mean"] < 1


def test_what_no_caption_can_tell_is_not_asked(requests):
    """The colour of no hair: right or wrong, it does not count."""
    request = requests.rows["two photos"]
    context = request.context.clone()
    column = [factor.name for factor in KIND.context].index("hair colour")
    context[:, column] = -1
    made = seen_of(request.true)
    row = figures(replace(request, context=context), made, Oracle(request.person))
    assert math.isnan(row["context"]["hair colour"]) and row["context, mean"] == 1


def test_faces_are_named_by_sums_of_units():
    faces = torch.zeros(4, len(FACTORS))
    names = list(FACTORS)
    faces[0, [names.index("jaw"), names.index("smile")]] = torch.tensor([0.6, 1.5])
    faces[1, names.index("brows up")], faces[3] = 1.6, torch.nan
    classes = face_class(faces, KIND)
    assert classes[:3].tolist() == [0, 5, 6] and classes[3].isnan()


def test_identity_by_sex(requests):
    request = requests.rows["two photos"]
    seen = seen_of(request.person)
    sexes = {"female" if value < 0.5 else "male" for value in request.person.shown.looks[:, 0].tolist()}
    assert by_group(request, seen, seen, KIND) == pytest.approx(dict.fromkeys(sexes, 0))


def test_run_on_heads_writes_tables_and_pictures(files, folder, judge_file, tmp_path, capsys):
    pytest.importorskip("matplotlib")
    given = options({**files, "judge": judge_file})
    run.main(["--out", str(tmp_path), *given, "--heads", str(folder), "--count", "3", "--steps", "2"])
    found = strict((tmp_path / "results.json").read_text())
    assert found["pictures"] == RENDERED and found["dsid"].keys() == {"rotation", "expression", "leak", "pictures"}
    rows = found["meaf"]["rows"]
    assert list(rows) == ["one photo", "two photos", "own photo", "extreme poses", "base alone", "judge on true pictures"]
    for name, row in rows.items():
        assert row["pictures"] == 3 and "KID to true pictures" in row and ("TIME" in row) == (name != "judge on true pictures")
        assert list(row["expression correlation"]) == list(FACTORS)
        assert list(row["context"]) == [factor.name for factor in KIND.context]
    assert found["meaf"]["strengths"].keys() == set(STREAMS) and found["judge"]["pictures"] == {"jaw mae": 0.25}
    drawn = {*(f"strength-{stream}" for stream in STREAMS), *(name.replace(" ", "-") for name in rows)}
    assert {path.stem for path in tmp_path.glob("*.png")} == drawn
    text = (tmp_path / "results.md").read_text()
    assert "rendered heads" in text and "| jaw mae | 0.250 | 0.500 |" in text and text in capsys.readouterr().out


def test_a_judge_of_drawn_faces_is_told(files, folder, tmp_path, capsys):
    with pytest.raises(SystemExit) as stopped:
        run.main(["--out", str(tmp_path), *options(files), "--heads", str(folder), "--count", "3", "--only", "meaf"])
    assert stopped.value.code == 2 and "judges drawings, and rendered heads are to be judged" in capsys.readouterr().err

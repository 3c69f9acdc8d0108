"""Who is asked for what in the tables: a film studio's people, their references, and captions that tell the context."""

import math
from dataclasses import replace

import pytest
import torch

from deepexpo_models.data.heads.captions import context_caption
from deepexpo_models.data.heads.poses import LIMITS
from deepexpo_models.data.heads.scenery import COLOURS
from deepexpo_models.data.heads.shards import CONTEXT, FRAMES, PEOPLE, HeadStore
from deepexpo_models.dsid.rotation import FRONTAL, matrix_to_rotation
from deepexpo_models.evaluation import code_limits
from deepexpo_models.evaluation.factors import FACTORS, MAIN, factors_of
from deepexpo_models.evaluation.judges.kinds import HEADS
from deepexpo_models.evaluation.meaf_report import by_group, face_class, figures
from deepexpo_models.evaluation.metrics import turned
from deepexpo_models.evaluation.requests import make_requests
from test_evaluation import Oracle, folder, requests, seen_of

__all__ = ["folder", "requests"]  # fixtures


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
    column = [factor.name for factor in HEADS.context].index("clothes")
    for sentence, context in zip(request.captions, request.context, strict=True):
        assert f"{colours[int(context[column])]} " in sentence and sentence.endswith(" light")
    assert request.captions == make_requests(request.person.store, count=6).rows["one photo"].captions


def test_a_caption_of_a_context_alone():
    values = {"male": 1, "age": 1.8, "hair": -1, "glasses": 1, "hat": 1, "background": 3, "cloth": 5, "pattern": 1, "light": 2}
    context = torch.tensor([float(values.get(name, 0)) for name in CONTEXT])
    assert context_caption(context) == (
        "a photo of an old man without hair, red wall behind, blue striped clothes, wearing glasses, wearing a hat, dim light"
    )


def test_too_few_people_are_told(folder):
    with pytest.raises(ValueError, match=r"has \d+ people for 500 requests; render more shards of the test split, or"):
        make_requests(HeadStore(folder), count=500)


def test_limits_of_codes_that_know_all_and_of_codes_that_know_nothing(folder, monkeypatch):
    """The truth as a code: 0 degrees and r 1 in every row. A constant, frontal one: as far as heads turn, and chance."""
    store = HeadStore(folder)

    def knowing(_, store, rows):
        heads = store.heads(rows)
        return {"expression": factors_of(heads.units), "rotation": matrix_to_rotation(heads.rotation)}

    def ignorant(_, store, rows):
        return {"expression": torch.ones(len(rows), 4), "rotation": torch.tensor(FRONTAL).expand(len(rows), -1)}

    requested = make_requests(store, 6).rows
    for codes, all_known in ((knowing, True), (ignorant, False)):
        monkeypatch.setattr(code_limits, "codes_of", codes)
        table = code_limits.limits(None, store, 6)
        assert [row["row"] for row in table] == list(requested)
        for row in table:
            poses = requested[row["row"]].pose.shown.pose[:, :3]
            far = 0.0 if all_known else turned(poses, torch.zeros_like(poses)).mean().item()
            assert row["degrees"] == pytest.approx(far, abs=0.1)
            told = [row[name] for name in (*MAIN, "main")]
            assert min(told) > 0.98 if all_known else told[-1] < 0.5, told


def test_what_no_caption_can_tell_is_not_asked(requests):
    """The colour of no hair: right or wrong, it does not count."""
    request = requests.rows["two photos"]
    context = request.context.clone()
    column = [factor.name for factor in HEADS.context].index("hair colour")
    context[:, column] = -1
    made = seen_of(request.true)
    row = figures(replace(request, context=context), made, Oracle(request.person))
    assert math.isnan(row["context"]["hair colour"]) and row["context, mean"] == 1


def test_faces_are_named_by_sums_of_units():
    faces = torch.zeros(4, len(FACTORS))
    names = list(FACTORS)
    faces[0, [names.index("jaw"), names.index("smile")]] = torch.tensor([0.6, 1.5])
    faces[1, names.index("brows up")], faces[3] = 1.6, torch.nan
    classes = face_class(faces)
    assert classes[:3].tolist() == [0, 5, 6] and classes[3].isnan()


def test_identity_by_sex(requests):
    request = requests.rows["two photos"]
    seen = seen_of(request.person)
    sexes = {"female" if value < 0.5 else "male" for value in request.person.shown.looks[:, 0].tolist()}
    assert by_group(request, seen, seen) == pytest.approx(dict.fromkeys(sexes, 0))

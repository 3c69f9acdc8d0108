"""The judges of drawn faces and of rendered heads: what they learn from, their file, a few steps of their training."""

import json
from dataclasses import asdict

import pytest
import torch

from deepexpo_models.data.synthetic import EXPRESSION, POSE, is_extreme, render, sample_scenes, shards
from deepexpo_models.evaluation.judges.judge import Judge, JudgeConfig, from_share, judged, load_judge, save_judge, to_share
from deepexpo_models.evaluation.judges.kinds import DRAWN, KINDS, RENDERED, shown_in_scene
from deepexpo_models.training import train_judge
from deepexpo_models.training.judge.data import DrawnPeople, ExtremePairs, mirror, sample_pairs, sample_views
from deepexpo_models.training.judge.degradations import degrade, no_faces
from deepexpo_models.training.train_judge import JudgeSettings, own_errors, train
from deepexpo_models.weights import read_header, save_tensors

TINY = JudgeConfig(64, 32, 32, (16, 16), (16, 16), 16)
LOOKS = KINDS[DRAWN].looks


def rng(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def tiny_judge(seed: int = 0) -> Judge:
    torch.manual_seed(seed)
    return Judge(TINY).eval()


def scenes(count: int, seed: int = 0):
    return sample_scenes(count, rng(seed))


def mirrored(images, scene, generator):
    flipped, shown = mirror(images, shown_in_scene(scene), KINDS[DRAWN], generator)
    return flipped, scene.with_groups(expression=shown.expression, pose=shown.pose)


@pytest.fixture
def faces(tmp_path, monkeypatch):
    """One shard of two groups."""
    monkeypatch.setattr(shards, "GROUPS_PER_SHARD", 2)
    monkeypatch.setattr(shards, "SHARD", 2 * shards.PEOPLE * shards.FRAMES)
    shards.write_shard(tmp_path / "faces", 0, size=64)
    return tmp_path / "faces"


def test_mirrored_factors_draw_the_mirrored_picture():
    """Of a person without a parting, lit from the front: the flipped picture is the one drawn from the flipped factors."""
    scene = scenes(8)
    for name, value in {"hair_style": 0, "light_x": 0, "noise": 0, "freckles": 0, "pattern": 0}.items():
        scene = scene.with_factor(name, value)
    drawn = render(scene, 64)
    images, told = mirrored(drawn.images, scene, rng())
    flipped = ~(images == drawn.images).flatten(1).all(1)
    assert 0 < flipped.sum() < 8
    assert torch.equal(images[flipped], drawn.images.flip(-1)[flipped])
    again = render(told, 64)
    wrong = render(scene, 64)
    face = again.face
    for row in flipped.nonzero().flatten().tolist():
        near = ((again.images - images).abs() * face)[row].sum() / face[row].sum() / 3
        far = ((wrong.images - images).abs() * face)[row].sum() / face[row].sum() / 3
        assert near < 0.05 and near < far / 2
    names = [factor.name for factor in EXPRESSION]
    for name, other, sign in (("gaze_x", "gaze_x", -1), ("gaze_y", "gaze_y", 1), ("blink_left", "blink_right", 1)):
        seen, given = told.expression[:, names.index(name)], scene.expression[:, names.index(other)]
        assert torch.equal(seen[flipped], sign * given[flipped])
    unflipped = ~flipped
    assert torch.equal(told.expression[unflipped], scene.expression[unflipped])
    assert torch.equal(told.pose[unflipped], scene.pose[unflipped])


def test_mirroring_twice_changes_nothing():
    scene = scenes(6)
    images = torch.rand(6, 3, 8, 8)
    once = mirrored(images, scene, rng(3))
    twice = mirrored(*once, rng(3))
    assert torch.equal(twice[0], images)
    assert torch.equal(twice[1].expression, scene.expression) and torch.equal(twice[1].pose, scene.pose)


def test_degrade_keeps_shape_and_range_and_follows_its_generator():
    images = render(scenes(10), 64).images
    spoilt = degrade(images, rng())
    assert spoilt.shape == images.shape and spoilt.abs().max() <= 1
    assert torch.equal(spoilt, degrade(images, rng())) and not torch.equal(spoilt, degrade(images, rng(1)))
    error = (spoilt - images).abs().mean((1, 2, 3))
    assert error.max() < 0.5 and (error > 0.005).any()
    kept = [torch.equal(a, b) for a, b in zip(degrade(images.repeat(8, 1, 1, 1), rng()), images.repeat(8, 1, 1, 1))]
    assert 0.08 < sum(kept) / len(kept) < 0.35, "one in five stays as it is"


def test_no_faces():
    images = render(scenes(24), 64).images
    made = no_faces(images, rng())
    assert made.shape == (3, 3, 64, 64) and made.abs().max() <= 1
    assert all((made[i] - images[i]).abs().mean() > 0.02 for i in range(3))
    assert len(no_faces(images[:2], rng())) == 2


def test_shares():
    values = torch.tensor([[factor.low for factor in EXPRESSION], [factor.high for factor in EXPRESSION]])
    assert to_share(values, EXPRESSION).tolist() == [[-1] * 11, [1] * 11]
    inside = scenes(5).pose
    torch.testing.assert_close(from_share(to_share(inside, POSE), POSE), inside)
    assert torch.equal(from_share(torch.full((1, 11), 3.0), EXPRESSION), values[1:])


def test_views_of_a_person_share_nothing_but_the_person():
    scene = sample_views(4, 3, rng(), "test")
    views = scene.identity.unflatten(0, (4, 3))
    assert torch.equal(views[:, 0], views[:, 1]) and not torch.equal(views[0], views[1])
    assert len(scene.expression.unique(dim=0)) == len(scene.pose.unique(dim=0)) == 12


def test_judgement_of_any_size():
    judge = tiny_judge()
    found = judge(render(scenes(3), 96).images)
    shapes = {name: tuple(getattr(found, name).shape) for name in ("identity", "looks", "expression", "pose", "context")}
    assert shapes == {"identity": (3, 16), "looks": (3, len(LOOKS)), "expression": (3, 11), "pose": (3, 6), "context": (3, 6)}
    assert ((found.face >= 0) & (found.face <= 1)).all()
    torch.testing.assert_close(found.identity.norm(dim=1), torch.ones(3))
    low, high = (torch.tensor([getattr(f, end) for f in EXPRESSION]) for end in ("low", "high"))
    assert ((found.expression >= low) & (found.expression <= high)).all()


def test_judged_marks_pictures_without_a_face():
    judge, images = tiny_judge(), render(scenes(5), 64).images
    with torch.no_grad():
        judge.readers["face"].head.bias.add_(-judge(images).face.logit().median())  # the middle one is at 0.5
    plain, seen = judge(images), judged(judge, images)
    lost = plain.face < 0.5
    assert 0 < lost.sum() < 5 and torch.equal(seen.face, plain.face)
    for name in ("identity", "looks", "expression", "pose", "context"):
        assert getattr(seen, name)[lost].isnan().all()
        assert torch.equal(getattr(seen, name)[~lost], getattr(plain, name)[~lost])


def test_round_trip_with_errors(tmp_path):
    judge = tiny_judge().half().float()
    judge.errors = {"steps": 3, "pictures": {"smile mae": 0.25}}
    save_judge(tmp_path / "j.safetensors", judge)
    again, images = load_judge(tmp_path / "j.safetensors"), render(scenes(2), 64).images
    assert again.errors == judge.errors and again.config == TINY and not again.training
    assert read_header(tmp_path / "j.safetensors").trained_on == (DRAWN,)
    assert torch.equal(again(images).pose, judge(images).pose)


def test_a_file_that_names_no_kind_judges_drawn_faces(tmp_path):
    """As those made before there was another; the pack's own is one."""
    config = {name: value for name, value in asdict(TINY).items() if name != "pictures"}
    save_tensors(tmp_path / "judge.safetensors", "judge", tiny_judge().state_dict(), name="judge", config=config)
    assert load_judge(tmp_path / "judge.safetensors", DRAWN).config == TINY


def test_a_judge_of_other_pictures_is_refused(tmp_path):
    save_judge(tmp_path / "judge.safetensors", tiny_judge())
    with pytest.raises(ValueError, match=r"judge\.safetensors judges drawings, and rendered heads are to be judged; give"):
        load_judge(tmp_path / "judge.safetensors", RENDERED)
    config = {**asdict(TINY), "pictures": "clay"}
    save_tensors(tmp_path / "clay.safetensors", "judge", tiny_judge().state_dict(), name="judge", config=config)
    with pytest.raises(ValueError, match=r"clay\.safetensors cannot be used: it judges 'clay', this version drawings and rend"):
        load_judge(tmp_path / "clay.safetensors")


def test_other_files_are_refused_in_a_sentence(tmp_path):
    save_tensors(tmp_path / "dsid.safetensors", "dsid", {"a": torch.zeros(1)}, name="x", config={})
    save_tensors(tmp_path / "old.safetensors", "judge", {"a": torch.zeros(1)}, name="x", config={"image_size": 4})
    save_judge(tmp_path / "cut.safetensors", tiny_judge())
    (tmp_path / "cut.safetensors").write_bytes((tmp_path / "cut.safetensors").read_bytes()[:-100])
    (tmp_path / "text.safetensors").write_text("not weights at all")
    for name in ("dsid", "old", "cut", "text", "absent"):
        with pytest.raises(ValueError, match=rf"{name}\.safetensors") as caught:
            load_judge(tmp_path / f"{name}.safetensors")
        assert len(str(caught.value)) < 300 and "\n" not in str(caught.value)


def test_own_errors_of_an_untrained_judge():
    """Every factor has its figures, and they are bad."""
    scene = sample_views(12, 3, rng(), "test")
    seen = render(scene, 64).images, shown_in_scene(scene)
    found = own_errors(tiny_judge(), *seen, rng())
    for factor in (*EXPRESSION, *POSE, *LOOKS):
        assert found[f"{factor.name} mae"] > 0 and found[f"{factor.name} r2"] < 0.5
    assert found["identity top1"] < 0.7 and found["rotation degrees"] > 5
    assert {"background accuracy", "hat accuracy", "faces missed", "no faces taken"} < found.keys()
    assert found == own_errors(tiny_judge(), *seen, rng())


def test_training_writes_a_judge_that_knows_its_errors(faces, tmp_path, monkeypatch):
    """Halves make the judge that the whole makes, bit by bit; its errors are those of the file."""
    monkeypatch.setattr(train_judge, "GALLERY", 6)
    common = {"synthetic": str(faces), "batch_size": 4, "extremes": 4, "warmup": 1, "schedule": "constant", "save_every": 2}
    whole = train(JudgeSettings(out=str(tmp_path / "whole"), steps=4, **common), TINY)
    assert train(JudgeSettings(out=str(tmp_path / "halves"), steps=2, **common), TINY).is_file()
    halves = train(JudgeSettings(out=str(tmp_path / "halves"), steps=4, **common), TINY)
    one, two = load_judge(whole), load_judge(halves)
    assert all(torch.equal(value, two.state_dict()[name]) for name, value in one.state_dict().items())
    assert one.errors == two.errors and set(one.errors) == {"steps", "pictures", "degraded pictures"}
    assert one.errors["steps"] == 4
    generator = rng(1)
    assert one.errors["pictures"] == own_errors(one, *DrawnPeople(str(faces), 4, 0).held_out(6, 64, generator), generator)
    lines = [json.loads(line) for line in (tmp_path / "whole" / "log.jsonl").read_text().splitlines()]
    assert train_judge.LOSS_WEIGHTS.keys() < lines[-1].keys()
    torch.manual_seed(0)
    fresh = Judge(TINY).state_dict()
    moved = [name for name, value in one.state_dict().items() if not torch.equal(value, fresh[name].half().float())]
    assert len(moved) > len(fresh) / 2
    again = train(JudgeSettings(out=str(tmp_path / "more"), steps=1, init=str(whole), **common))
    assert load_judge(again).config == TINY, "it goes on from a judge's file"


def test_extreme_pairs():
    """Two pictures of each person, all beyond the usual poses."""
    images, scene = ExtremePairs(3, 32, rng()).sample(2, rng())
    assert images.shape == (4, 3, 32, 32) and images.abs().max() <= 1
    assert is_extreme(scene.pose).all() and torch.equal(scene.identity[::2], scene.identity[1::2])
    assert len(scene.pose.unique(dim=0)) == 4


def test_a_few_steps_lower_the_losses(faces):
    """On one batch, over and over."""
    store, judge = shards.ShardStore(faces), tiny_judge()
    optimizer = torch.optim.Adam(judge.parameters(), 3e-3)
    images, scene = sample_pairs(store, 8, rng())
    assert torch.equal(scene.identity[0::2], scene.identity[1::2]), "two pictures of each person, together"
    means = []
    for _ in range(25):
        terms = train_judge.losses(judge, images, shown_in_scene(scene), rng())
        assert terms.keys() == train_judge.LOSS_WEIGHTS.keys()
        means.append({name: term.item() for name, term in terms.items()})
        optimizer.zero_grad()
        sum(train_judge.LOSS_WEIGHTS[name] * term for name, term in terms.items()).backward()
        optimizer.step()
    for name in ("expression", "rotation", "looks", "context", "identity"):
        assert means[-1][name] < means[0][name], name

"""The judge of rendered heads: the truth that it learns, whom it is measured on, a run, its file."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from deepexpo_models.data.heads.shards import CONTEXT, FRAMES, SHARD
from deepexpo_models.dsid.rotation import euler_to_matrix
from deepexpo_models.evaluation.factors import FACTORS
from deepexpo_models.evaluation.judges.judge import Judge, JudgeConfig, load_judge, save_judge
from deepexpo_models.evaluation.judges.kinds import HEADS, RENDERED, UNKNOWN, shown_in_heads
from deepexpo_models.head import ARKIT52
from deepexpo_models.training import train_judge
from deepexpo_models.training.engine.settings import parse_settings
from deepexpo_models.training.judge.data import VIEWS, People, mirror
from deepexpo_models.training.train_judge import JudgeSettings, own_errors, train
from deepexpo_models.weights import read_header
from fake_heads import write_fake_heads

TINY = JudgeConfig(64, 32, 32, (16, 16), (16, 16), 16)
QUICK = ("--batch-size", "8", "--threads", "1", "--warmup", "5", "--ema", "0.9", "--lr", "5e-3", "--schedule", "constant")


def rng(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """Training and held-out people, whose pictures can be read."""
    root = tmp_path_factory.mktemp("heads")
    return [write_fake_heads(root / split, size=64, split=split, telling=True) for split in ("train", "test")]


@pytest.fixture
def people(folders) -> People:
    return People(*map(str, folders))


def settings(folders, out, *more) -> JudgeSettings:
    train_folder, test = map(str, folders)
    return parse_settings(JudgeSettings, ["--out", str(out), "--heads", train_folder, "--test", test, *QUICK, *more])


def column(factors, name: str) -> int:
    return [factor.name for factor in factors].index(name)


def test_the_truth_of_a_head(people):
    """By hand: 30 degrees to the right, jaw and one lid, no hair, a beard, at rest in the crop."""
    heads = people.store.heads(torch.arange(2))
    units, context = torch.zeros(2, len(ARKIT52)), torch.zeros(2, len(CONTEXT))
    units[0, ARKIT52.index("jawOpen")], units[0, ARKIT52.index("eyeBlinkRight")] = 0.75, 0.5
    told = {
        "male": 1,
        "age": 1.5,
        "hair": -1,
        "hair_colour": 3,
        "beard": 0.7,
        "glasses": 2,
        "background_colour": -1,
        "cloth": 5,
    }
    for name, value in told.items():
        context[0, CONTEXT.index(name)] = value
    turned = euler_to_matrix(torch.tensor([[30.0, -10.0, 5.0], [0.0, 0.0, 0.0]]))
    shown = shown_in_heads(replace(heads, units=units, context=context, rotation=turned))
    expected = {"jaw": 0.75, "blink": 0.5, "wink": -0.5, "smile": 0.0}
    for name, value in expected.items():
        assert shown.expression[0, column(HEADS.expression, name)] == pytest.approx(value)
    torch.testing.assert_close(shown.pose[0], torch.tensor([30.0, -10.0, 5.0, 0.0, 0.0, 0.0]), atol=1e-4, rtol=0)
    assert shown.looks[0].tolist() == pytest.approx([1, 1.5, 0.7])
    classes = {
        "hair": 0, "hair colour": UNKNOWN, "beard": 1, "glasses": 2, "background colour": UNKNOWN, "clothes": 5, "pattern": 0,
    }  # fmt: skip
    assert {name: shown.context[0, column(HEADS.context, name)].item() for name in classes} == classes
    assert shown.context[1, column(HEADS.context, "hair")] == 1, "the first of the hairs is short"


def test_every_class_and_number_has_its_place(people):
    shown = shown_in_heads(people.store.heads(torch.arange(SHARD)))
    for i, factor in enumerate(HEADS.context):
        assert shown.context[:, i].min() >= UNKNOWN and shown.context[:, i].max() == len(factor.choices) - 1, factor.name
    low, high = (torch.tensor([getattr(factor, end) for factor in HEADS.expression]) for end in ("low", "high"))
    assert ((shown.expression >= low - 1e-5) & (shown.expression <= high + 1e-5)).all() and len(low) == len(FACTORS)


def test_a_mirror_exchanges_left_and_right(people):
    """As the units and the rotation of a mirrored head do."""
    heads = people.store.heads(torch.arange(32))
    other = {"Left": "Right", "Right": "Left"}
    at = [ARKIT52.index(name[: -len(side)] + other[side] if (side := _side(name)) else name) for name in ARKIT52]
    across = torch.tensor([-1.0, 1.0, 1.0])
    true = shown_in_heads(replace(heads, units=heads.units[:, at], rotation=heads.rotation * across[:, None] * across))
    plain = shown_in_heads(heads)
    images, shown = mirror(heads.images, plain, rng())
    flipped = ~(images == heads.images).flatten(1).all(1)
    assert 0 < flipped.sum() < 32
    for name in ("expression", "pose"):
        found = getattr(shown, name)
        torch.testing.assert_close(found[flipped], getattr(true, name)[flipped], atol=1e-3, rtol=0)
        assert torch.equal(found[~flipped], getattr(plain, name)[~flipped])


def _side(name: str) -> str:
    return next((side for side in ("Left", "Right") if name.endswith(side)), "")


def test_pairs_are_of_one_person_in_two_settings(people):
    images, shown = people.sample(6, rng(), rng())
    again = people.sample(6, rng(), rng())
    assert images.shape == (12, 3, 64, 64) and torch.equal(images, again[0])
    assert torch.equal(shown.looks[::2], shown.looks[1::2]) and len(shown.looks.unique(dim=0)) == 6
    of_clip = [column(HEADS.context, name) for name in ("background", "background colour", "clothes", "pattern", "light")]
    assert (shown.context[::2, of_clip] != shown.context[1::2, of_clip]).any(1).all()


def test_shards_that_come_are_taken_in(folders, tmp_path):
    write_fake_heads(tmp_path / "train", size=64)
    people = People(str(tmp_path / "train"), str(folders[1]))
    assert len(people.sample(SHARD, rng(), rng())[0]) == 2 * SHARD // FRAMES
    (tmp_path / "train" / "shard-00001").symlink_to(folders[0] / "shard-00000")
    assert len(people.sample(SHARD, rng(), rng())[0]) == 4 * SHARD // FRAMES


def test_held_out_views_are_unspoilt_and_of_two_settings(people):
    images, shown = people.held_out(10, rng())
    views = shown.looks.unflatten(0, (-1, VIEWS))
    assert len(views) == 10 and torch.equal(views[:, 0], views[:, 1]) and torch.equal(views[:, 0], views[:, 2])
    of_clip = [column(HEADS.context, name) for name in ("background", "background colour", "clothes")]
    first, second, third = shown.context[:, of_clip].unflatten(0, (-1, VIEWS)).unbind(1)
    assert torch.equal(second, third) and (first != second).any(1).float().mean() > 0.8
    whole = people.test.heads(torch.arange(SHARD))
    spoilt = whole.images[whole.context[:, CONTEXT.index("spoilt")] == 1]
    assert not any((spoilt == image).flatten(1).all(1).any() for image in images)


def test_people_of_the_training_are_no_test(folders):
    with pytest.raises(ValueError, match="holds people of the training; render others with --split test"):
        People(str(folders[0]), str(folders[0]))


def test_a_folder_of_spoilt_pictures_is_refused(folders, tmp_path):
    test = write_fake_heads(tmp_path / "test", size=64, split="test")
    context = np.load(test / "shard-00000" / "context.npy")
    context[:, CONTEXT.index("spoilt")] = 1
    np.save(test / "shard-00000" / "context.npy", context)
    with pytest.raises(ValueError, match="holds nobody with 3 pictures that are not spoilt; render more shards"):
        People(str(folders[0]), str(test)).held_out(4, rng())


@pytest.mark.parametrize(
    "given, words",
    [
        ([], "required: --heads, --test"),
        (["--heads", "a"], "required: --test"),
    ],
)
def test_what_a_judge_cannot_learn_from_is_told(given, words, capsys):
    with pytest.raises(SystemExit):
        parse_settings(JudgeSettings, ["--out", "x", *given])
    assert words in capsys.readouterr().err


def test_a_run_lowers_the_errors_that_the_file_holds(folders, people, tmp_path, monkeypatch):
    """On people it has not seen; halves make what the whole makes."""
    monkeypatch.setattr(train_judge, "GALLERY", 12)
    first = load_judge(train(settings(folders, tmp_path / "one", "--steps", "1"), TINY)).errors
    train(settings(folders, tmp_path / "run", "--steps", "80"), TINY)
    path = train(settings(folders, tmp_path / "run", "--steps", "160"), TINY)
    judge = load_judge(path)
    assert read_header(path).trained_on == (RENDERED,)
    assert set(judge.errors) == {"steps", "pictures", "degraded pictures"} and judge.errors["steps"] == 160
    for kind in ("pictures", "degraded pictures"):
        found = judge.errors[kind]
        assert found["rotation degrees"] < 0.8 * first[kind]["rotation degrees"]
        assert found["jaw mae"] < 0.8 * first[kind]["jaw mae"] and found["jaw r"] > 0.5
        assert found["people"] == 12
        names = {f"{factor.name} accuracy" for factor in HEADS.context} | {f"{name} r2" for name in FACTORS}
        assert names < found.keys()
    generator = rng(1)
    assert judge.errors["pictures"] == own_errors(judge, *people.held_out(12, generator), generator)
    whole = load_judge(train(settings(folders, tmp_path / "whole", "--steps", "160"), TINY))
    assert all(torch.equal(value, whole.state_dict()[name]) for name, value in judge.state_dict().items())


def test_a_run_goes_on_from_a_judge_s_file(folders, tmp_path, monkeypatch):
    monkeypatch.setattr(train_judge, "GALLERY", 12)
    torch.manual_seed(0)
    begun = Judge(TINY)
    save_judge(tmp_path / "begun.safetensors", begun)
    more = settings(folders, tmp_path / "run", "--steps", "1", "--lr", "1e-9", "--init", str(tmp_path / "begun.safetensors"))
    made = load_judge(train(more))
    assert made.config == TINY, "its sizes, not those of a new one"
    weights = begun.state_dict()
    assert all(torch.allclose(value, weights[name], atol=1e-3) for name, value in made.named_parameters())


def test_a_few_steps_lower_every_loss(people):
    """On one batch, over and over."""
    torch.manual_seed(0)
    judge = Judge(TINY)
    optimizer = torch.optim.Adam(judge.parameters(), 3e-3)
    images, shown = people.sample(8, rng(), rng())
    means = []
    for _ in range(25):
        terms = train_judge.losses(judge, images, shown, rng())
        assert terms.keys() == train_judge.LOSS_WEIGHTS.keys()
        means.append({name: term.item() for name, term in terms.items()})
        optimizer.zero_grad()
        sum(train_judge.LOSS_WEIGHTS[name] * term for name, term in terms.items()).backward()
        optimizer.step()
    for name in ("expression", "rotation", "looks", "context", "identity"):
        assert means[-1][name] < means[0][name], name


def test_own_errors_of_an_untrained_judge(people):
    """Every factor has its figures, and they are bad."""
    torch.manual_seed(0)
    judge, seen = Judge(TINY).eval(), people.held_out(12, rng())
    found = own_errors(judge, *seen, rng())
    for factor in (*HEADS.expression, *HEADS.pose, *HEADS.looks):
        assert found[f"{factor.name} mae"] >= 0 and found[f"{factor.name} r2"] < 0.5
    assert found["identity top1"] < 0.7 and found["rotation degrees"] > 5
    assert {"background accuracy", "hat accuracy", "faces missed", "no faces taken"} < found.keys()
    assert found == own_errors(judge, *seen, rng())

"""The judge of rendered heads: what it says of pictures, its file, and the damage that it learns to look through."""

from dataclasses import asdict

import pytest
import torch

from deepexpo_models.evaluation.judges.judge import Judge, JudgeConfig, from_share, judged, load_judge, save_judge, to_share
from deepexpo_models.evaluation.judges.kinds import HEADS, RENDERED
from deepexpo_models.training.judge.degradations import degrade, no_faces
from deepexpo_models.weights import PACK_WEIGHTS, read_header, save_tensors

TINY = JudgeConfig(64, 32, 32, (16, 16), (16, 16), 16)
WIDTHS = {"looks": len(HEADS.looks), "expression": len(HEADS.expression), "pose": 6, "context": len(HEADS.context)}


def rng(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def tiny_judge(seed: int = 0) -> Judge:
    torch.manual_seed(seed)
    return Judge(TINY).eval()


def pictures(count: int, size: int = 64) -> torch.Tensor:
    """Smooth ones (count, 3, size, size) in [-1, 1], each another."""
    coarse = torch.rand(count, 3, 6, 6, generator=rng()) * 2 - 1
    return torch.nn.functional.interpolate(coarse, size, mode="bilinear")


def test_degrade_keeps_shape_and_range_and_follows_its_generator():
    images = pictures(10)
    spoilt = degrade(images, rng())
    assert spoilt.shape == images.shape and spoilt.abs().max() <= 1
    assert torch.equal(spoilt, degrade(images, rng())) and not torch.equal(spoilt, degrade(images, rng(1)))
    error = (spoilt - images).abs().mean((1, 2, 3))
    assert error.max() < 0.5 and (error > 0.005).any()
    kept = [torch.equal(a, b) for a, b in zip(degrade(images.repeat(8, 1, 1, 1), rng()), images.repeat(8, 1, 1, 1))]
    assert 0.08 < sum(kept) / len(kept) < 0.35, "one in five stays as it is"


def test_no_faces():
    images = pictures(24)
    made = no_faces(images, rng())
    assert made.shape == (3, 3, 64, 64) and made.abs().max() <= 1
    assert all((made[i] - images[i]).abs().mean() > 0.02 for i in range(3))
    assert len(no_faces(images[:2], rng())) == 2


def test_shares():
    factors, count = HEADS.expression, len(HEADS.expression)
    ends = torch.tensor([[factor.low for factor in factors], [factor.high for factor in factors]])
    assert to_share(ends, factors).tolist() == [[-1] * count, [1] * count]
    inside = ends[0] + (ends[1] - ends[0]) * torch.rand(5, count, generator=rng())
    torch.testing.assert_close(from_share(to_share(inside, factors), factors), inside)
    assert torch.equal(from_share(torch.full((1, count), 3.0), factors), ends[1:])


def test_judgement_of_any_size():
    found = tiny_judge()(pictures(3, 96))
    shapes = {name: tuple(getattr(found, name).shape) for name in ("identity", *WIDTHS)}
    assert shapes == {"identity": (3, 16), **{name: (3, width) for name, width in WIDTHS.items()}}
    assert ((found.face >= 0) & (found.face <= 1)).all()
    torch.testing.assert_close(found.identity.norm(dim=1), torch.ones(3))
    low, high = (torch.tensor([getattr(f, end) for f in HEADS.expression]) for end in ("low", "high"))
    assert ((found.expression >= low) & (found.expression <= high)).all()


def test_judged_marks_pictures_without_a_face():
    judge, images = tiny_judge(), pictures(5)
    with torch.no_grad():
        judge.readers["face"].head.bias.add_(-judge(images).face.logit().median())  # the middle one is at 0.5
    plain, seen = judge(images), judged(judge, images)
    lost = plain.face < 0.5
    assert 0 < lost.sum() < 5 and torch.equal(seen.face, plain.face)
    for name in ("identity", *WIDTHS):
        assert getattr(seen, name)[lost].isnan().all()
        assert torch.equal(getattr(seen, name)[~lost], getattr(plain, name)[~lost])


def test_round_trip_with_errors(tmp_path):
    judge = tiny_judge().half().float()
    judge.errors = {"steps": 3, "pictures": {"smile mae": 0.25}}
    save_judge(tmp_path / "j.safetensors", judge)
    again, images = load_judge(tmp_path / "j.safetensors"), pictures(2)
    assert again.errors == judge.errors and again.config == TINY and not again.training
    assert read_header(tmp_path / "j.safetensors").trained_on == (RENDERED,)
    assert torch.equal(again(images).pose, judge(images).pose)


def test_the_shipped_judge_knows_its_errors():
    judge = load_judge(PACK_WEIGHTS / "judge-heads.safetensors")
    for kind in ("pictures", "degraded pictures"):
        assert judge.errors[kind].keys() >= {f"{factor.name} r" for factor in HEADS.expression}
        assert judge.errors[kind]["rotation degrees"] < 8 and judge.errors[kind]["jaw r"] > 0.8


def test_a_judge_of_other_pictures_is_refused(tmp_path):
    config = {**asdict(TINY), "pictures": "clay"}
    save_tensors(tmp_path / "clay.safetensors", "judge", tiny_judge().state_dict(), name="judge", config=config)
    with pytest.raises(ValueError, match=r"clay\.safetensors cannot be used: it judges 'clay', this version rendered heads"):
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

"""The starter on rendered heads, here of noise: factor tokens, the gate, the VAE's round trip, and that runs resume."""

import json
import shutil
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch

from deepexpo_models.data.heads.scenery import BACKGROUNDS
from deepexpo_models.data.heads.shards import CONTEXT, Heads, HeadStore
from deepexpo_models.dsid import CONFIGS, DSID, save_dsid
from deepexpo_models.dsid.readout import ReadOut
from deepexpo_models.evaluation import base_gate, round_trip
from deepexpo_models.evaluation.factors import FACTORS
from deepexpo_models.evaluation.judges.judge import Judge, JudgeConfig
from deepexpo_models.evaluation.reading import agreement, asked, read, read_by_judge
from deepexpo_models.pipeline.base import load_base
from deepexpo_models.starter import STARTER, build_vocabulary
from deepexpo_models.starter.diffusers_host import build_starter, load_starter, save_starter
from deepexpo_models.starter.factors import CHOICES, TOKENS, WIDTHS, FactorTokens, load_factors, save_factors, true_factors
from deepexpo_models.training import train_starter
from deepexpo_models.training.starter import data as starter_data
from deepexpo_models.training.starter.steps import Text2ImageStep, principal_components
from deepexpo_models.training.train_starter import StarterSettings, train
from deepexpo_models.weights import load_tensors
from fake_heads import write_fake_heads

SPOILT = CONTEXT.index("spoilt")
CLEAN = 40  # pictures of the training shard that are not spoilt, the last of it


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.fixture(scope="module")
def parts(tmp_path_factory) -> Path:
    """Folder with heads/, dsid.safetensors, which has read-outs, and base.safetensors, both untrained and small."""
    folder = tmp_path_factory.mktemp("parts")
    heads = write_fake_heads(folder / "heads") / "shard-00000"
    context = np.load(heads / "context.npy")
    context[:, SPOILT] = np.arange(len(context)) < len(context) - CLEAN
    context[:, CONTEXT.index("hair")] = np.arange(len(context)) % 4 - 1
    context[:, CONTEXT.index("background")] = [BACKGROUNDS.index(("plain", "wall")[row % 2]) for row in range(len(context))]
    np.save(heads / "context.npy", context)
    torch.manual_seed(0)
    narrow = dict.fromkeys(("identity_channels", "expression_channels", "pose_channels"), (8, 8, 8, 8))
    dsid = DSID(replace(CONFIGS["photo"], **narrow)).eval()
    dsid.readout = ReadOut.of_units(0.1 * torch.randn(54, dsid.config.expression_width), torch.full((54,), 0.5))
    save_dsid(folder / "dsid.safetensors", dsid)
    config = replace(
        STARTER, latent_channels=16, vae_channels=(32, 32, 32, 32), unet_channels=(32, 32, 32), text_width=32, text_layers=1,
        merges=build_vocabulary(starter_data.HeadPictures.words),
    )  # fmt: skip
    save_starter(folder / "base.safetensors", build_starter(config), torch.float32)
    train(settings(folder, folder / "first", steps=1))
    shutil.copy(*(folder / "first").glob("latents-*.npy"), folder)
    return folder


@pytest.fixture
def heads(parts) -> Heads:
    return base_gate.held_out(HeadStore(parts / "heads"), 8)


@pytest.fixture
def reader(parts) -> DSID:
    from deepexpo_models.dsid import load_dsid

    return load_dsid(parts / "dsid.safetensors")


@pytest.fixture
def quick(monkeypatch):
    """Sample pictures of one prompt, in two steps, and a gate of four heads."""
    monkeypatch.setattr(starter_data.HeadPictures, "shown", starter_data.HeadPictures.shown[:1])
    monkeypatch.setattr(train_starter, "sample", partial(train_starter.sample, steps=2))
    monkeypatch.setattr(train_starter, "draw", partial(train_starter.draw, steps=2))
    monkeypatch.setattr(train_starter, "held_out", partial(train_starter.held_out, count=4))


def settings(parts: Path, out: Path, **others) -> StarterSettings:
    """The latents that a run has made are given to the next."""
    common = {"part": "text2image", "heads": str(parts / "heads"), "vae": str(parts / "base.safetensors"), "batch_size": 4}
    common |= {"warmup": 0, "schedule": "constant", "threads": 1, "sample_every": 0, "log_every": 1, "ema": 0.5, "steps": 4}
    out.mkdir(exist_ok=True)
    for kept in parts.glob("latents-*.npy"):
        shutil.copy(kept, out)
    return StarterSettings(out=str(out), **{**common, **others})


def test_factors_are_the_true_numbers(heads):
    """Groups stand one after the other; a place in a table is a one among zeros, none at all for -1."""
    found = true_factors(heads)
    rotation, expression, context = found.split(tuple(WIDTHS.values()), dim=1)
    assert torch.equal(expression[:, :52], heads.units) and torch.equal(expression[:, 52:], heads.gaze)
    torch.testing.assert_close(rotation.norm(dim=1), torch.full((8,), 2**0.5))
    start = CONTEXT.index("hair")  # after single numbers
    hair = context[:, start : start + CHOICES["hair"]]
    assert torch.equal(hair.argmax(1)[hair.sum(1) == 1], heads.context[:, start][hair.sum(1) == 1].long())
    assert torch.equal(hair.sum(1) == 0, heads.context[:, start] == -1) and 0 < hair.sum() < 8


def test_factor_tokens_are_kept_beside_their_base(parts, heads, tmp_path):
    module, base = FactorTokens(32), parts / "base.safetensors"
    module.scale_to(torch.randn(40, sum(WIDTHS.values()), generator=seeded()) * 3 + 1)
    save_factors(tmp_path / "factors.safetensors", module, base)
    again = load_factors(tmp_path / "factors.safetensors", base)
    tokens = module(true_factors(heads))
    assert tokens.shape == (8, sum(TOKENS.values()), 32)
    torch.testing.assert_close(again(true_factors(heads)), tokens, atol=5e-3, rtol=5e-3)
    kept = module.half().float()
    assert torch.equal(again(true_factors(heads)), kept(true_factors(heads))), "half precision, and nothing else"
    parts_of_another = replace(load_starter(base).config, name="another")
    save_starter(tmp_path / "another.safetensors", build_starter(parts_of_another))
    with pytest.raises(ValueError, match=r"trained with another base than another\.safetensors; give the one beside it"):
        load_factors(tmp_path / "factors.safetensors", tmp_path / "another.safetensors")


def test_rows_without_factors_see_none(parts, heads):
    """Whatever the factors are, an untold row's error is the same bit by bit, and that of a base without tokens; a told row
    sees its own."""
    base, factors = load_starter(parts / "base.safetensors"), true_factors(heads)
    step = Text2ImageStep(base, train_starter.training_scheduler(base.config), FactorTokens(32))
    clean, times = torch.randn(8, 16, 16, 16, generator=seeded()), torch.arange(8) * 100
    error = partial(step, clean, ["a man"] * 8, times)
    told = torch.arange(8) % 2 == 0
    with torch.no_grad():
        one, two = (error(seeded(), given=(values, told)) for values in (factors, factors.roll(1, 0) + 1))
        without = error(seeded())
    assert torch.equal(one[~told], two[~told]) and not (one[told] == two[told]).any()
    torch.testing.assert_close(one[~told], without[~told], rtol=1e-5, atol=1e-6)


def test_a_base_with_factors_resumes_bit_equal_and_draws_without(parts, heads, quick, tmp_path):
    """Two and two steps make both files that four make; gate and held-out errors are logged; words alone draw with the base."""
    test = {"test": str(parts / "heads"), "reader": str(parts / "dsid.safetensors"), "sample_every": 2}
    whole = train(settings(parts, tmp_path / "whole", **test))
    train(settings(parts, tmp_path / "halves", steps=2, **test))
    halves = train(settings(parts, tmp_path / "halves", **test))
    for name, kind in {"starter-base": "starter", "factors": "factors"}.items():
        one, two = (load_tensors(path.with_name(f"{name}.safetensors"), kind)[1] for path in (whole, halves))
        assert one.keys() == two.keys() and all(torch.equal(one[key], two[key]) for key in one), name
    tokens = load_factors(whole.with_name("factors.safetensors"), whole)
    assert any(not torch.equal(a, b) for a, b in zip(tokens.parameters(), FactorTokens(32).parameters()))
    log = [json.loads(line) for line in (whole.parent / "log.jsonl").read_text().splitlines()]
    assert [line["step"] for line in log if "gate/drawn, asked/degrees" in line and "held_out_factors" in line] == [2, 4]
    assert len(list((whole.parent / "samples").glob("gate-*.png"))) == 2
    base = load_base(str(whole), torch.device("cpu"))
    words, factors = (base_gate.draw(base, given, heads, steps=2) for given in (None, tokens))
    assert words.shape == factors.shape == (8, 3, 128, 128) and not torch.equal(words, factors)
    other = base_gate.draw(base, tokens, replace(heads, rotation=heads.rotation.roll(1, 0)), steps=2)
    assert not torch.equal(other, factors)


def test_a_second_run_goes_on_with_the_factors_of_the_first(parts, tmp_path):
    first, given = (parts / "first" / f"{name}.safetensors" for name in ("starter-base", "factors"))
    more = settings(parts, tmp_path / "second", steps=1, lr=1e-9, vae=str(first), factors=str(given))
    second = train(more).with_name("factors.safetensors")
    one, two = (load_tensors(path, "factors")[1] for path in (given, second))
    assert all(torch.allclose(one[key], two[key], atol=1e-5) for key in one)


def test_a_decoder_takes_the_factors_along(parts, tmp_path):
    """Its file is another one than they were trained with; the U-Net that they speak to is the same."""
    first, given = (parts / "first" / f"{name}.safetensors" for name in ("starter-base", "factors"))
    made = train(settings(parts, tmp_path / "decoder", part="decoder", steps=1, vae=str(first), factors=str(given), crop=64))
    one, two = load_factors(given, first), load_factors(made.with_name("factors.safetensors"), made)
    assert all(torch.equal(a, b) for a, b in zip(one.state_dict().values(), two.state_dict().values()))
    with pytest.raises(ValueError, match="trained with another base"):
        load_factors(given, made)


@pytest.mark.parametrize(("calm", "plain"), [(0.0, {0, 1}), (1.0, {0})])
def test_what_is_drawn_is_not_spoilt_and_as_calm_as_asked(parts, tmp_path, monkeypatch, calm, plain):
    seen, read_latents = set(), train_starter._read
    monkeypatch.setattr(train_starter, "_read", lambda all, rows: (seen.update(rows.tolist()), read_latents(all, rows))[1])
    train(settings(parts, tmp_path, steps=1, batch_size=64, calm_share=calm))
    assert seen <= set(range(256 - CLEAN, 256 - 32)), "an eighth is held out"
    assert {row % 2 for row in seen} == plain


def test_heads_without_plain_backgrounds_cannot_be_calm(parts, tmp_path):
    heads = tmp_path / "heads"
    shutil.copytree(parts / "heads", heads)
    context = np.load(heads / "shard-00000/context.npy")
    context[:, CONTEXT.index("background")] = BACKGROUNDS.index("wall")
    np.save(heads / "shard-00000/context.npy", context)
    with pytest.raises(ValueError, match="no head with a plain or gradient background"):
        train(settings(parts, tmp_path / "run", steps=1, calm_share=0.5, heads=str(heads)))


def test_the_gate_of_true_pictures_is_full_marks(heads, reader):
    """r 1 and 0 degrees against themselves; against what was asked they are what the reader makes of them."""
    table = base_gate.gate(heads.images, heads, reader)
    assert table["drawn, true pictures"] == pytest.approx(
        {"pictures": len(heads.images), "degrees": 0, "mean r": 1, **dict.fromkeys(FACTORS, 1)}, abs=1e-2
    )
    assert table["drawn, asked"] == table["true pictures, asked"]
    assert table["drawn, another's"]["mean r"] < 0.9


def test_the_gate_knows_the_truth(heads):
    """A head that is drawn as it was asked for is in full agreement, one turned by 90 degrees is 90 degrees off."""
    truth = asked(heads)
    full = {name: float(truth.factors[:, i].std() > 0) for i, name in enumerate(FACTORS)}
    assert agreement(truth, truth) == pytest.approx(
        {"pictures": len(truth.factors), "degrees": 0, "mean r": 1, **full}, abs=1e-2
    )
    quarter = torch.tensor([[0.0, 0, -1], [0, 1, 0], [1, 0, 0]])
    turned = replace(truth, rotation=truth.rotation @ quarter, factors=-truth.factors)
    assert agreement(turned, truth)["degrees"] == pytest.approx(90) and agreement(turned, truth)["jaw"] == pytest.approx(-1)


def test_a_reader_without_read_outs_is_refused(heads, reader):
    reader.readout = None
    with pytest.raises(ValueError, match="has no read-outs"):
        read(reader, heads.images)


def test_latents_are_the_principal_components_of_patches(heads):
    """Uncorrelated, of mean 0 and on average variance 1, each as loud as the square root of its pixels; no other linear latents
    of that many channels hold more of the pictures."""
    find = principal_components(heads.images, 5, 8)
    latents = find(heads.images).movedim(1, 3).flatten(0, 2)
    pixels = torch.nn.functional.pixel_unshuffle(heads.images, 8).movedim(1, 3).flatten(0, 2)
    _, singular, vectors = torch.linalg.svd((pixels - pixels.mean(0)).double(), full_matrices=False)
    torch.testing.assert_close(latents.mean(0), torch.zeros(5), atol=1e-4, rtol=0)
    spread = singular[:5] / (len(pixels) - 1) ** 0.5
    torch.testing.assert_close(torch.cov(latents.T).double(), torch.diag(spread / spread.mean()), atol=1e-3, rtol=1e-3)
    best = ((pixels - pixels.mean(0)).double() @ vectors[:5].T).square().sum()
    held = torch.linalg.lstsq(latents.double(), (pixels - pixels.mean(0)).double()).solution
    torch.testing.assert_close((latents.double() @ held).square().sum(), best, rtol=1e-3, atol=0)


def test_a_vae_that_loses_nothing(parts, heads, reader):
    base = load_base(str(parts / "base.safetensors"), torch.device("cpu"))
    judge = Judge(JudgeConfig(scene_channels=(8, 8, 8, 8), face_channels=(8, 8, 8, 8)))
    torch.nn.init.constant_(judge.readers["face"].head.bias, 10)  # one that sees faces in noise
    for how in (partial(read, reader), partial(read_by_judge, judge)):
        real = round_trip.losses(round_trip.rebuilt(base, heads.images), heads, how)
        assert 0 < real["after, before"]["psnr"] < 20, "untrained"
        found = round_trip.losses(heads.images + 0.02, heads, how)
        assert found["after, before"]["psnr"] == pytest.approx(40, abs=0.01), "0.02 of a range of 2"
        same = round_trip.losses(heads.images, heads, how)["after, before"]
        assert same["psnr"] == float("inf") and same["degrees"] < 0.01 and same["mean r"] == pytest.approx(1)


def test_readings_agree_on_what_both_saw(heads):
    """A judge that sees no face says so by NaN; the other pictures' figures stay."""
    lost = asked(heads)
    lost.factors[0], lost.rotation[0] = torch.nan, torch.nan
    few = asked(heads)[torch.arange(1, len(heads.images))]
    assert agreement(lost, asked(heads)) == agreement(few, few) and agreement(few, few)["pictures"] == len(heads.images) - 1


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"factor_drop": 1.5}, "factor_drop is 1.5"),
        ({"heads": "", "stills": "x", "factors": "f"}, "--factors are tokens of rendered heads"),
        ({"part": "vae", "factors": "f"}, "--factors belong to a base, and vae begins one"),
        ({"calm_share": 2.0}, "calm_share is 2.0"),
        ({"heads": "", "stills": "x", "calm_share": 0.5}, "calm_share is 0.5"),
        ({"test": "x"}, "give --test and --reader, or neither"),
    ],
)
def test_what_does_not_fit_together_is_refused(parts, tmp_path, changes, sentence):
    with pytest.raises(ValueError, match=sentence):
        settings(parts, tmp_path, **changes)


def test_the_commands_write_tables(parts, tmp_path, capsys):
    made, out = parts / "first" / "starter-base.safetensors", tmp_path / "out"
    common = ["--heads", str(parts / "heads"), "--reader", str(parts / "dsid.safetensors"), "--out", str(out), "--count", "4"]
    shutil.copy(made, made.with_name("same.safetensors"))  # two files of one folder, none of which is lost
    round_trip.main(["--base", str(made), str(made.with_name("same.safetensors")), *common])
    rows = json.loads((out / "round-trip.json").read_text())
    assert [(row["vae"], row["reader"], row["compared"]) for row in rows] == [
        (f"first/{name}", "dsid", what)
        for name in ("starter-base", "same")
        for what in ("before, truth", "after, truth", "after, before")
    ]
    files = ["--base", str(made), "--factors", str(made.with_name("factors.safetensors"))]
    base_gate.main([*files, *common, "--steps", "2"])
    rows = json.loads((out / "gate.json").read_text())
    assert len(rows) == 8 and {row["drawn from"] for row in rows} == {"factors and words", "words alone"}
    assert (out / "gate.png").is_file()
    with pytest.raises(SystemExit):
        base_gate.main(["--base", str(parts / "base.safetensors"), *files[2:], *common])
    assert "trained with another base" in capsys.readouterr().err

"""The starter's trainer on a few rendered heads: both parts, resume, a folder of captioned pictures, what is refused."""

import json
import math
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch

from deepexpo_models.data.heads.shards import HeadStore
from deepexpo_models.pipeline.base import starter_base
from deepexpo_models.starter import STARTER
from deepexpo_models.starter.diffusers_host import decode, encode, load_starter
from deepexpo_models.training import train_starter
from deepexpo_models.training.engine.settings import parse_settings
from deepexpo_models.training.starter import data as starter_data
from deepexpo_models.training.starter.steps import principal_components
from deepexpo_models.training.train_starter import StarterSettings, VAEStep, train
from deepexpo_models.weights import load_tensors
from fake_heads import small_shards, write_fake_heads

QUICK = {"batch_size": 2, "warmup": 1, "threads": 1, "sample_every": 2, "log_every": 1, "ema": 0.5}


@pytest.fixture(scope="module")
def heads(tmp_path_factory) -> Path:
    """One small shard."""
    with small_shards():
        yield write_fake_heads(tmp_path_factory.mktemp("heads"), telling=True)


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    """Sample pictures of one prompt, in two steps."""
    monkeypatch.setattr(starter_data.HeadPictures, "shown", starter_data.HeadPictures.shown[:1])
    monkeypatch.setattr(train_starter, "sample", partial(train_starter.sample, steps=2))


@pytest.fixture(scope="module")
def vae(heads, tmp_path_factory) -> Path:
    """The file that three steps of the VAE's training make."""
    out = tmp_path_factory.mktemp("vae")
    return train(StarterSettings(part="vae", out=str(out), heads=str(heads), steps=3, crop=64, **QUICK))


def settings(out: Path, **others) -> StarterSettings:
    return StarterSettings(out=str(out), **{**QUICK, **others})


def lines(out: Path) -> list[dict]:
    return [json.loads(line) for line in (out / "log.jsonl").read_text().splitlines()]


def test_vae_part_makes_a_starter_file(vae):
    assert vae.name == "starter-base.safetensors"
    log = lines(vae.parent)
    names = ("picture", "latent", "psnr", "grad_norm")
    assert len(log) == 3 and all(math.isfinite(line[name]) for line in log for name in names)
    assert (vae.parent / "samples").is_dir() and list((vae.parent / "samples").glob("vae-*2.png"))
    parts = load_starter(vae)
    store = HeadStore(json.loads((vae.parent / "settings.json").read_text())["settings"]["heads"])
    latents = encode(parts, store.images(torch.arange(len(store))))
    assert latents.shape == (len(store), STARTER.latent_channels, 16, 16) and decode(parts, latents[:1]).shape == (
        1,
        3,
        128,
        128,
    )
    assert parts.vae.encode(store.images(torch.arange(1))).latent_dist.logvar.unique().item() == -6, "the same noise everywhere"


def test_vae_steps_lower_the_loss(vae, heads):
    """On one batch, with the trainer's own optimizer: the step's terms are what a lower loss means."""
    parts, data = load_starter(vae), starter_data.HeadPictures(str(heads), 128)
    images = data.images(torch.arange(2))[..., :32, :32]
    step = VAEStep(parts.vae, parts.vae, principal_components(images, STARTER.latent_channels, 8))
    optimizer = train_starter.Muon(*train_starter.split_parameters([parts.vae], train_starter.NO_MATRICES), 2e-3)
    found = []
    for _ in range(8):
        terms, psnr = step(images, torch.ones_like(images[:, :1]), torch.Generator().manual_seed(0))
        sum(terms.values()).backward()
        optimizer.step(), optimizer.zero_grad()
        found.append((terms["picture"].item(), terms["latent"].item(), psnr.item()))
    (picture, latent, before), (picture_after, latent_after, after) = found[0], found[-1]
    assert picture_after < 0.8 * picture and latent_after < 0.8 * latent and after > before


def test_a_decoder_learns_on_and_the_latents_stay(vae, heads, tmp_path):
    """Also of a file whose U-Net is trained: nothing but the decoder changes."""
    made = train(settings(tmp_path, part="decoder", heads=str(heads), vae=str(vae), steps=2, crop=64))
    (_, given), (_, one) = (load_tensors(path, "starter") for path in (vae, made))
    changed = {name for name in given if not torch.equal(one[name], given[name])}
    assert changed and all(name.startswith(("vae.decoder.", "vae.post_quant_conv.")) for name in changed)
    before, after = (load_starter(path) for path in (vae, made))
    images = HeadStore(heads).images(torch.arange(2))
    assert torch.equal(encode(before, images), encode(after, images))
    assert starter_base(before).vae_id == starter_base(after).vae_id, "kept latents serve both"
    after.vae.quant_conv.bias.data += 1
    assert starter_base(before).vae_id != starter_base(after).vae_id


def test_a_resumed_vae_keeps_its_latents(heads, tmp_path, monkeypatch):
    """Also where pictures have come since the run began, whose principal components are others."""
    others = [torch.nn.Conv2d(3, STARTER.latent_channels, 8, stride=8).requires_grad_(False) for _ in range(2)]
    first = others[0].weight.clone()
    for steps, components in enumerate(others, 1):
        monkeypatch.setattr(train_starter, "_components", lambda *_, found=components: found)
        train(settings(tmp_path, part="vae", heads=str(heads), steps=steps, crop=32, sample_every=0))
    assert torch.equal(others[1].weight, first)


def test_text2image_resumes_bit_equal(vae, heads, tmp_path):
    """Two and two steps make the file that four make; the VAE in it is the one given."""
    common = {"part": "text2image", "heads": str(heads), "vae": str(vae), "schedule": "constant", "factor_drop": 1.0}
    whole = train(settings(tmp_path / "whole", steps=4, **common))
    train(settings(tmp_path / "halves", steps=2, **common))
    halves = train(settings(tmp_path / "halves", steps=4, **common))
    (_, one), (_, two), (_, given) = (load_tensors(path, "starter") for path in (whole, halves, vae))
    assert one.keys() == two.keys() == given.keys() and all(torch.equal(one[name], two[name]) for name in one)
    changed = {name.split(".")[0] for name in one if not torch.equal(one[name], given[name])}
    assert changed == {"unet", "text_encoder"}
    log = lines(tmp_path / "whole")
    assert [line["step"] for line in log if "held_out" in line] == [2, 4]
    assert all(math.isfinite(line["held_out"]) for line in log if "held_out" in line)
    assert len(list((tmp_path / "whole" / "samples").glob("text2image-*.png"))) == 2
    (cached,) = (tmp_path / "whole").glob("latents-*.npy")
    latents = encode(load_starter(vae), HeadStore(heads).images(torch.arange(3)))
    assert np.abs(np.load(cached)[:3] - latents.numpy()).max() < 5e-3


def test_held_out_pictures_are_never_trained_on(vae, heads, tmp_path, monkeypatch):
    seen = set()
    read = train_starter._read
    monkeypatch.setattr(train_starter, "held_out_errors", lambda *_: {})
    monkeypatch.setattr(train_starter, "_read", lambda latents, rows: (seen.update(rows.tolist()), read(latents, rows))[1])
    train(settings(tmp_path, part="text2image", heads=str(heads), vae=str(vae), steps=1, batch_size=64, sample_every=0))
    assert seen and seen <= set(range(28))  # of 32; an eighth is held out


def picture(path: Path, colour: tuple[int, int, int], size: tuple[int, int] = (40, 30)) -> None:
    from PIL import Image

    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, colour).save(path)


def test_folder_of_captioned_pictures(tmp_path):
    picture(tmp_path / "pictures" / "red.png", (255, 0, 0))
    picture(tmp_path / "pictures" / "blue.png", (0, 0, 255))
    (tmp_path / "pictures" / "red.txt").write_text("A red  wall,\nand another red wall\n")
    (tmp_path / "pictures" / "broken.png").write_bytes(b"no picture")
    told = []
    data = starter_data.CaptionedPictures(str(tmp_path / "pictures"), 128, told.append)
    assert len(data) == 2 and "broken.png" in told[0]
    red = [path.name for path in data.paths].index("red.png")
    rows = torch.tensor([red, 1 - red])
    assert data.captions(rows, torch.Generator()) == ["A red wall, and another red wall", ""]
    assert set(data.words) == {"a", "red", "wall", "and", "another"} and data.shown == ("A red wall, and another red wall",)
    frames = data.frames(rows)
    assert frames.images.shape == (2, 3, 128, 128) and frames.images[0, :, 64, 64].tolist() == [1, -1, -1]
    assert frames.region.sum() == 0 and frames.face.min() == 1
    path = train(settings(tmp_path / "vae", part="vae", stills=str(tmp_path / "pictures"), steps=1, crop=32))
    parts = load_starter(path)
    assert len(parts.tokenizer("another wall").input_ids) == 4


def test_pictures_without_captions_are_refused(tmp_path):
    picture(tmp_path / "a.png", (9, 9, 9))
    with pytest.raises(ValueError, match=r"none of the 1 pictures .* has a caption; put name\.txt"):
        starter_data.CaptionedPictures(str(tmp_path), 128, lambda _: None)


def test_heads_of_another_size_are_refused(heads):
    with pytest.raises(ValueError, match="holds heads of 128 pixels, the starter makes 64"):
        starter_data.HeadPictures(str(heads), 64)


@pytest.mark.parametrize(
    "others, sentence",
    [(["--part", "vae"], "give either --heads or --stills"),
     (["--part", "vae", "--heads", "x", "--stills", "y"], "give either --heads or --stills"),
     (["--part", "text2image", "--heads", "x"], "text2image needs --vae"),
     (["--part", "decoder", "--heads", "x"], "decoder needs --vae"),
     (["--part", "vae", "--heads", "x", "--crop", "60"], "crop is 60; it is a multiple of 8"),
     (["--part", "vae", "--heads", "x", "--latent-channels", "200"], "latent_channels is 200; it lies from 1 to 192"),
     (["--part", "unet", "--heads", "x"], "invalid choice")],
)  # fmt: skip
def test_unusable_commands_are_one_sentence(others, sentence, capsys, tmp_path):
    with pytest.raises(SystemExit) as stopped:
        parse_settings(StarterSettings, ["--out", str(tmp_path), *others], "")
    told = capsys.readouterr().err
    assert stopped.value.code == 2 and sentence in told and told.count("\n") == 1


def test_crops_stay_inside_on_the_grid_of_the_latents():
    generator = torch.Generator().manual_seed(0)
    windows = [train_starter._window(128, 64, generator) for _ in range(200)]
    starts = {side.start for window in windows for side in window}
    assert starts == set(range(0, 65, 8)) and all(side.stop - side.start == 64 for window in windows for side in window)
    assert train_starter._window(128, 0, generator) == (slice(0, 128), slice(0, 128))


def test_the_vae_has_as_many_channels_as_asked_and_its_captions_words(heads, tmp_path):
    made = train(settings(tmp_path / "vae", part="vae", heads=str(heads), latent_channels=12, steps=1, crop=64, sample_every=0))
    config = load_starter(made).config
    assert config.latent_channels == 12 and config.name == starter_data.HeadPictures.starter
    assert "woman" in "".join(config.merges).replace(" ", "").replace("</w>", "")

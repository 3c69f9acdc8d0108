"""A wider base and its MEAF draw what the old ones drew, and their new channels learn apart."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from deepexpo_models.dsid import CONFIGS, EncoderId
from deepexpo_models.meaf import MEAF, default_config, load_meaf, save_meaf
from deepexpo_models.meaf.diffusers_host import AttachedMEAF
from deepexpo_models.starter import STARTER, build_vocabulary
from deepexpo_models.starter.diffusers_host import StarterParts, build_starter, load_starter, save_starter
from deepexpo_models.starter.factors import FactorTokens, load_factors, save_factors
from deepexpo_models.training.widen import main, widen, wider_base

SMALL = replace(
    STARTER, vae_channels=(32, 32, 32, 32), unet_channels=(32, 96, 64), text_width=32, text_layers=1,
    merges=build_vocabulary(("a", "man")),
)  # fmt: skip
DOUBLED = (64, 192, 128)


def write_meaf(path: Path, **changed) -> Path:
    config = default_config(SMALL.name, SMALL.name, CONFIGS["photo"], EncoderId("a", "a" * 64), SMALL.unet_shape)
    meaf = MEAF(replace(config, **changed))
    for name, value in meaf.named_parameters():
        if name.endswith("gate"):
            value.data.fill_(1.0)
    save_meaf(path, meaf)
    return path


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """A base of random weights, its factor tokens and a MEAF that is heard."""
    torch.manual_seed(3)
    root = tmp_path_factory.mktemp("narrow")
    save_starter(root / "base.safetensors", build_starter(SMALL), torch.float32)
    save_factors(root / "factors.safetensors", FactorTokens(32), root / "base.safetensors")
    write_meaf(root / "meaf.safetensors")
    return root


def found(parts: StarterParts, meaf: MEAF | None = None) -> torch.Tensor:
    """What the U-Net says of one noise."""
    generator = torch.Generator().manual_seed(1)
    noise, text = torch.randn(2, 16, 16, 16, generator=generator), torch.randn(2, 77, 32, generator=generator)
    with torch.no_grad():
        if meaf is None:
            return parts.unet(noise, torch.tensor([20, 700]), text).sample
        code = torch.randn(2, meaf.config.streams["expression"].input_width, generator=generator)
        with AttachedMEAF(parts.unet, meaf) as attached:
            attached.condition({"expression": meaf.tokens("expression", code)}, {"expression": 1.0})
            return parts.unet(noise, torch.tensor([20, 700]), text).sample


def test_doubled_levels_keep_base_factors_and_meaf(folder, tmp_path, capsys):
    words = ["--base", "base", "--factors", "factors", "--meaf", "meaf"]
    given = [word if word.startswith("--") else str(folder / f"{word}.safetensors") for word in words]
    main([*given, "--channels", *map(str, DOUBLED), "--out", str(tmp_path)])
    made = [tmp_path / f"{name}.safetensors" for name in ("starter-base", "factors", "meaf")]
    assert capsys.readouterr().out.split() == [*map(str, made)]
    old, fused = load_starter(folder / "base.safetensors"), load_meaf(folder / "meaf.safetensors")
    new, wider = wider_base(old, DOUBLED), load_meaf(made[2])
    assert load_starter(made[0]).config == new.config == replace(SMALL, unet_channels=DOUBLED)
    assert load_factors(made[1], made[0]).width == 32
    torch.testing.assert_close(found(new), found(old), rtol=1e-3, atol=1e-4)
    assert (found(old, fused) - found(old)).abs().max() > 0.01
    torch.testing.assert_close(found(new, wider), found(old, fused), rtol=1e-3, atol=1e-4)


def test_one_level_is_near_and_twins_learn_apart(folder):
    old = load_starter(folder / "base.safetensors")
    new = wider_base(old, (64, 96, 64))
    away = (found(new) - found(old)).norm() / found(old).norm()
    assert 0 < away < 0.2
    new.unet.requires_grad_(True)
    new.unet(torch.randn(1, 16, 16, 16), 100, torch.randn(1, 77, 32)).sample.square().mean().backward()
    learned = new.unet.conv_in.weight.grad
    torch.testing.assert_close(new.unet.conv_in.weight[::2], new.unet.conv_in.weight[1::2])
    assert ((learned[::2] - learned[1::2]).flatten(1).norm(dim=1) > 0.1 * learned[::2].flatten(1).norm(dim=1)).all()


def test_what_is_not_widened(folder, tmp_path):
    other = write_meaf(tmp_path / "other.safetensors", base="drawn")
    base, out = folder / "base.safetensors", tmp_path / "out"
    for channels, given, words in (
        ((96, 96, 64), {}, "channels are 32 96 64; each of the 3 stays or is doubled, not 96 96 64"),
        ((64, 64), {}, "each of the 3 stays or is doubled, not 64 64"),
        ((64, 96, 64), {"meaf": other}, r"other\.safetensors was made for another base \(drawn\); give a MEAF of this one"),
        ((64, 96, 64), {"factors": other}, "holds meaf data"),
    ):
        with pytest.raises(ValueError, match=words):
            widen(out, base, channels, **given)
    assert not out.exists()


def test_a_level_that_would_be_as_wide_as_the_next():
    alike = replace(SMALL, unet_channels=(32, 64, 96))
    with pytest.raises(ValueError, match="a U-Net of 64 64 96 channels has other layers than one of 32 64 96"):
        wider_base(build_starter(alike), (64, 64, 96))

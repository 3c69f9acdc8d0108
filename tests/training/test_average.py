"""Means of trained files: of bases with their factor tokens, and of MEAFs."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from deepexpo_models.dsid import CONFIGS, EncoderId
from deepexpo_models.meaf import MEAF, default_config, load_meaf, save_meaf
from deepexpo_models.starter import STARTER, build_vocabulary
from deepexpo_models.starter.diffusers_host import build_starter, load_starter, save_starter
from deepexpo_models.starter.factors import FactorTokens, load_factors, save_factors
from deepexpo_models.training.average import average, main

SMALL = replace(
    STARTER, vae_channels=(32, 32, 32, 32), unet_channels=(32, 32, 32), text_width=32, text_layers=1,
    merges=build_vocabulary(("a", "man")),
)  # fmt: skip
ENCODER = EncoderId("tiny", "a" * 64)


@pytest.fixture(scope="module")
def bases(tmp_path_factory) -> list[Path]:
    """Three bases of random weights, in folders of their own beside their factor tokens."""
    root, made = tmp_path_factory.mktemp("bases"), []
    for seed in range(3):
        torch.manual_seed(seed)
        path = root / str(seed) / "starter-base.safetensors"
        path.parent.mkdir()
        save_starter(path, build_starter(SMALL))
        save_factors(path.with_name("factors.safetensors"), FactorTokens(32), path)
        made.append(path)
    return made


def write_meaf(path: Path, seed: int, encoder: EncoderId = ENCODER, trained_on=("rendered heads",)) -> Path:
    torch.manual_seed(seed)
    meaf = MEAF(default_config("heads", "heads", CONFIGS["photo"], encoder, SMALL.unet_shape)).half()
    for gate in (value for name, value in meaf.named_parameters() if name.endswith("gate")):
        gate.data.fill_(seed + 1)
    meaf.trained_on = trained_on
    save_meaf(path, meaf)
    return path


def test_bases_and_their_factors_by_shares(bases, tmp_path, capsys):
    factors = [base.with_name("factors.safetensors") for base in bases]
    out = tmp_path / "mean" / "starter-base.safetensors"
    main([*map(str, bases), "--factors", *map(str, factors), "--shares", "2", "1", "1", "--out", str(out)])
    made, given = load_starter(out), [load_starter(base) for base in bases]
    assert made.config == SMALL
    pairs = [(made.unet, [one.unet for one in given]), (made.text_encoder, [one.text_encoder for one in given])]
    pairs += [(load_factors(out.with_name("factors.safetensors"), out), [load_factors(*of) for of in zip(factors, bases)])]
    for mean, several in pairs:
        first, *others = [one.state_dict() for one in several]
        for name, value in mean.state_dict().items():
            true = 0.5 * first[name] + sum(0.25 * other[name] for other in others)
            torch.testing.assert_close(value, true.to(value.dtype), rtol=1e-3, atol=1e-6)
    assert capsys.readouterr().out.split() == [str(out), str(out.with_name("factors.safetensors"))]


def test_meafs_keep_their_dsid_and_list_what_any_of_them_saw(tmp_path):
    files = [write_meaf(tmp_path / f"{seed}.safetensors", seed, trained_on=seen)
             for seed, seen in ((1, ("rendered heads",)), (2, ("photographs",)))]  # fmt: skip
    made = load_meaf(*average(tmp_path / "mean.safetensors", files))
    gates = [value for name, value in made.named_parameters() if name.endswith("gate")]
    assert gates and all(gate.dtype == torch.float16 and gate == 2.5 for gate in gates)
    assert made.config == load_meaf(files[0]).config and made.trained_on == ("rendered heads", "photographs")


def test_what_has_no_mean(bases, tmp_path, capsys):
    one, two = (write_meaf(tmp_path / f"{seed}.safetensors", seed) for seed in (1, 2))
    other = write_meaf(tmp_path / "other.safetensors", 3, EncoderId("other", "b" * 64))
    factors, out = [base.with_name("factors.safetensors") for base in bases], tmp_path / "mean.safetensors"
    for files, shares, words in (
        ([one, other], (), r"other\.safetensors has another DSID than .*1\.safetensors; a mean is of files that began from"),
        ([one, bases[0]], (), r"starter-base\.safetensors holds starter data, expected meaf"),
        ([one], (), r"1\.safetensors alone has no mean; give two files or more"),
        ([factors[0]] * 2, (), r"holds factors data; only bases \(starter\) and MEAFs \(meaf\) are averaged"),
        ([one, two], (1.0,), r"1 shares for 2 files; give one for each"),
        ([one, two], (1.0, -1.0), r"shares are 1, -1; they are 0 or more, one of them above 0"),
    ):
        with pytest.raises(ValueError, match=words):
            average(out, files, shares)
    with pytest.raises(ValueError, match=r"1 files of factor tokens for 2 bases"):
        average(out, bases[:2], factors=factors[:1])
    with pytest.raises(ValueError, match="was trained with another base than starter-base"):
        average(out, bases[1::-1], factors=factors[:2])
    with pytest.raises(SystemExit):
        main([str(one), "--out", str(out)])
    assert "alone has no mean" in capsys.readouterr().err and not out.exists()

"""The files in weights/ are those that its list names, and say from what they learned."""

import hashlib
from pathlib import Path

import pytest

from deepexpo_models.evaluation.judges.judge import load_judge
from deepexpo_models.starter.factors import load_factors
from deepexpo_models.weights import TRAINED_ON, kinds_of_pictures, read_header

WEIGHTS = Path(__file__).parents[2] / "weights"
SUMS = [line.split() for line in (WEIGHTS / "SHA256SUMS").read_text().splitlines()]


def test_every_file_is_in_the_list():
    assert sorted(name for _, name in SUMS) == sorted(path.name for path in WEIGHTS.glob("*.safetensors"))


@pytest.mark.parametrize(("digest", "name"), SUMS, ids=[name for _, name in SUMS])
def test_a_file_is_the_listed_one(digest, name):
    assert hashlib.sha256((WEIGHTS / name).read_bytes()).hexdigest() == digest


@pytest.mark.parametrize("name", ["heads-meaf.safetensors", "photo-dsid.safetensors"])
def test_what_reads_photographs_learned_from_rendered_heads(name):
    learned = read_header(WEIGHTS / name).trained_on
    assert "rendered heads" in learned and "photographs" not in learned


def test_the_painted_heads_fit_together():
    base, meaf, dsid = (read_header(WEIGHTS / f"{name}.safetensors") for name in ("heads-base", "heads-meaf", "photo-dsid"))
    assert meaf.config["base"] == base.config["name"] == "heads"
    factors = load_factors(WEIGHTS / "heads-factors.safetensors", WEIGHTS / "heads-base.safetensors")
    assert factors.width == base.config["text_width"]
    assert meaf.config["encoder"]["sha256"] == dsid.metadata["encoder_sha256"]


def test_the_judge_knows_its_own_errors():
    errors = load_judge(WEIGHTS / "judge-heads.safetensors").errors
    assert {"pictures", "degraded pictures"} <= errors.keys() and 0 < errors["pictures"]["rotation degrees"] < 8


def test_a_training_adds_its_pictures_to_those_of_its_start():
    assert kinds_of_pictures("heads", "") == ("rendered heads",)
    assert kinds_of_pictures("", "clips", ("drawings",)) == ("drawings", "photographs")
    assert kinds_of_pictures("a", "b", ("drawings",)) == TRAINED_ON and kinds_of_pictures("", "") == ()

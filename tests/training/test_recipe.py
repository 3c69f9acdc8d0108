"""The recipe of the starter on rendered heads in its short form, on noise: every step runs and gives what the next takes."""

import os
import subprocess
import sys

import pytest
import torch

from deepexpo_models.meaf import load_meaf
from deepexpo_models.pipeline.base import load_base
from deepexpo_models.weights import PACK_WEIGHTS, read_header
from fake_heads import write_fake_heads
from toy_run import ROOT

SHORT = {"VAE_STEPS": "1", "BASE_STEPS": "1", "MEAF_STEPS": "1", "SIZE_OF_BATCH": "2", "COUNT": "2", "DRAW_STEPS": "1",
         "SAMPLE_EVERY": "0"}  # fmt: skip


@pytest.mark.skipif(os.name == "nt", reason="the recipe is a bash script")
def test_the_recipe_on_rendered_heads(tmp_path):
    for split in ("train", "test"):
        write_fake_heads(tmp_path / "heads" / split)
    python = {"PYTHON": sys.executable, "PYTHONPATH": str(ROOT / "tests" / "site")}
    recipe = ["bash", str(ROOT / "weights" / "starter_heads.sh"), str(tmp_path)]
    done = subprocess.run(recipe, cwd=tmp_path, env={**os.environ, **python, **SHORT}, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    base = load_base(str(tmp_path / "heads-base/starter-base.safetensors"), torch.device("cpu"))
    meaf = load_meaf(tmp_path / "heads-meaf/meaf.safetensors")
    assert base.unet.config.in_channels == 16 and meaf.config.unet == base.shape
    assert meaf.config.encoder.sha256 == read_header(PACK_WEIGHTS / "photo-dsid.safetensors").metadata["encoder_sha256"]
    assert meaf.trained_on == ("rendered heads",)
    assert {path.name for path in (tmp_path / "starter-figures").iterdir()} == {
        "round-trip.json", "round-trip.md", "gate.json", "gate.md", "gate.png"
    }  # fmt: skip

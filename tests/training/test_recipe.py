"""The recipe of the starter on rendered heads in its short form, on noise: every step runs and gives what the next takes."""

import importlib
import os
import subprocess
from pathlib import Path

import pytest
import torch

import fake_heads
from deepexpo_models.data.heads import shards
from deepexpo_models.evaluation import run as evaluation
from deepexpo_models.meaf import load_meaf
from deepexpo_models.pipeline.base import load_base
from deepexpo_models.training import train_judge
from deepexpo_models.weights import PACK_WEIGHTS, read_header
from toy_run import ROOT

SHORT = {"VAE_STEPS": "1", "DECODER_STEPS": "1", "BASE_STEPS": "1", "MEAF_STEPS": "1", "SIZE_OF_BATCH": "2", "COUNT": "2",
         "DRAW_STEPS": "1", "SAMPLE_EVERY": "0"}  # fmt: skip
PICTURES = shards.PEOPLE * shards.FRAMES  # of a shard


@pytest.mark.skipif(os.name == "nt", reason="the recipe is a bash script")
def test_the_recipe_on_rendered_heads(tmp_path, monkeypatch):
    """Its commands are collected from the script, then run one after the other in this process: each alone would import for
    long. Those of the judge, which have tests of their own, are but given their options."""
    judged = []
    monkeypatch.setattr(train_judge, "train", judged.append)
    monkeypatch.setattr(evaluation, "run", judged.append)
    for module in (shards, fake_heads):
        monkeypatch.setattr(module, "SHARD", PICTURES)
    for split in ("train", "test"):
        fake_heads.write_fake_heads(tmp_path / "heads" / split, split=split)
    collect, said = tmp_path / "collect", tmp_path / "said"
    collect.write_text(f"#!/bin/sh\nprintf '%s\\n' \"$@\" end >> '{said}'\n")
    collect.chmod(0o755)
    recipe = ["bash", str(ROOT / "weights" / "starter_heads.sh"), str(tmp_path)]
    subprocess.run(recipe, env={**os.environ, **SHORT, "PYTHON": str(collect)}, check=True)
    monkeypatch.chdir(ROOT)
    for command in said.read_text().removesuffix("\nend\n").split("\nend\n"):
        option, module, *given = command.splitlines()
        assert option == "-m"
        importlib.import_module(module).main(given)
    judge, tables = judged
    assert Path(judge.out) == tables.judge.parent and tables.base.is_file() and tables.meaf.is_file() and tables.dsid.is_file()
    assert Path(judge.test) == tables.heads == tmp_path / "heads" / "test"
    base = load_base(str(tmp_path / "heads-base/starter-base.safetensors"), torch.device("cpu"))
    meaf = load_meaf(tmp_path / "heads-meaf/meaf.safetensors")
    assert base.unet.config.in_channels == 16 and meaf.config.unet == base.shape
    assert meaf.config.encoder.sha256 == read_header(PACK_WEIGHTS / "photo-dsid.safetensors").metadata["encoder_sha256"]
    assert meaf.trained_on == ("rendered heads",)
    assert {path.name for path in (tmp_path / "starter-figures").iterdir()} == {
        "round-trip.json", "round-trip.md", "gate.json", "gate.md", "gate.png"
    }  # fmt: skip

"""The recipe of all weights in its short form, on noise: every step runs and gives what the next takes."""

import argparse
import importlib
import os
import shutil
import subprocess
from pathlib import Path

import pytest
import torch

from deepexpo_models.evaluation import run as evaluation
from deepexpo_models.meaf import load_meaf
from deepexpo_models.pipeline.base import load_base
from deepexpo_models.training import train_judge
from deepexpo_models.weights import PACK_WEIGHTS, read_header
from fake_heads import small_shards, write_fake_heads
from toy_run import ROOT

pytestmark = pytest.mark.skipif(os.name == "nt", reason="the recipe is a bash script")
SHORT = {"VAE_STEPS": "1", "DECODER_STEPS": "1", "BASE_STEPS": "1", "MEAF_STEPS": "1", "SIZE_OF_BATCH": "2", "COUNT": "2",
         "DRAW_STEPS": "1", "SAMPLE_EVERY": "0"}  # fmt: skip
DSID = PACK_WEIGHTS / "photo-dsid.safetensors"


def commands(folder: Path, *arguments: str, **variables: str) -> list[tuple[str, list[str]]]:
    """Module and options of every command of the script, none of which is run."""
    collect, said = folder / "collect", folder / "said"
    collect.write_text(f"#!/bin/sh\nprintf '%s\\n' \"$@\" end >> '{said}'\n")
    collect.chmod(0o755)
    clean = {name: value for name, value in os.environ.items() if name not in ("DSID", "LANDMARKER", "RECOGNISER", "CLIPS")}
    recipe = ["bash", str(ROOT / "weights" / "recipe.sh"), str(folder), *arguments]
    subprocess.run(recipe, env={**clean, **SHORT, **variables, "PYTHON": str(collect)}, check=True)
    lines = [command.splitlines() for command in said.read_text().removesuffix("\nend\n").split("\nend\n")]
    assert all(option == "-m" for option, *_ in lines)
    return [(module, options) for _, module, *options in lines]


def test_the_recipe_from_a_dsid_on(tmp_path, monkeypatch):
    """Its commands are run one after the other in this process: each alone would import for long. Those of the judge and the
    tables, which have tests of their own, are but given their options."""
    given = []
    monkeypatch.setattr(train_judge, "train", given.append)
    monkeypatch.setattr(evaluation, "run", given.append)
    monkeypatch.chdir(ROOT)
    (tmp_path / "judge").mkdir()
    shutil.copy(ROOT / "weights" / "judge-heads.safetensors", tmp_path / "judge" / "judge.safetensors")
    with small_shards():
        for split in ("train", "test"):
            write_fake_heads(tmp_path / "heads" / split, split=split)
        for module, options in commands(tmp_path, DSID=str(DSID)):
            importlib.import_module(module).main(options)
    judge, tables = given
    assert Path(judge.out) == tables.judge.parent and tables.base.is_file() and tables.meaf.is_file() and tables.dsid == DSID
    assert Path(judge.test) == tables.heads == tmp_path / "heads" / "test"
    base = load_base(str(tmp_path / "base/starter-base.safetensors"), torch.device("cpu"))
    meaf = load_meaf(tmp_path / "meaf/meaf.safetensors")
    assert base.unet.config.in_channels == 16 and meaf.config.unet == base.shape
    assert meaf.config.encoder.sha256 == read_header(DSID).metadata["encoder_sha256"]
    assert meaf.trained_on == ("rendered heads",)
    reports = ("rotation", "expression", "leak", "pictures", "round-trip", "gate")
    written = {f"{name}.{kind}" for name in reports for kind in ("json", "md")} | {"gate.png"}
    assert {path.name for path in (tmp_path / "figures").iterdir()} == written


class Parsed(Exception):
    """The options were accepted; nothing was run."""


def test_the_recipe_from_nothing(tmp_path, monkeypatch):
    """Heads are rendered, read and learned from, in this order, each from what was made before; every option is one."""
    parse, seen = argparse.ArgumentParser.parse_args, []

    def only_parse(self, args=None, namespace=None):
        seen.append(vars(parse(self, args, namespace)))
        raise Parsed

    monkeypatch.setattr(argparse.ArgumentParser, "parse_args", only_parse)
    variables = {"LANDMARKER": "face.task", "RECOGNISER": "insightface", "INSIGHTFACE": "packs", "CLIPS": "clips", "STEPS": "6"}
    listed = commands(tmp_path, "heads.npz", **variables)
    for module, options in listed:
        with pytest.raises(Parsed):
            importlib.import_module(module).main(options)
    names = [module.rpartition(".")[2] for module, _ in listed]
    assert names[:6] == ["generate", "generate", "judged", "ask_recogniser", "train_heads", "train_heads"]
    assert names[6:11] == ["fit_readout", "fit_averaging", "train_dsid", "rendered_heads", "real_faces"]
    test, train, _, recognised, semantics, identity, readouts, averaging, generator, measured, real = seen[:11]
    assert test["split"] == "test" and train["split"] == "train" and test["seed"] != train["seed"]
    assert {options["heads"] for options in (semantics, identity)} == {train["out"]} and semantics["test"] == test["out"]
    assert recognised["insightface_path"] == Path("packs") and real["clips"] == Path("clips")
    assert (semantics["steps"], identity["steps"]) == (6, 3)
    assert identity["init"] == f"{semantics['out']}/dsid.safetensors"
    assert str(readouts["dsid"]) == f"{identity['out']}/dsid.safetensors"
    assert averaging["dsid"] == readouts["out"] and averaging["heads"] == Path(train["out"])
    assert generator["init"] == str(averaging["out"]) and generator["freeze"] and generator["plain"]
    whole = Path(generator["out"]) / "dsid.safetensors"
    assert measured["dsid"] == [whole] == real["dsid"]
    meaf, tables = seen[-2:]
    assert meaf["dsid"] == str(whole) and tables["dsid"] == whole
    assert str(tables["meaf"]) == f"{meaf['out']}/meaf.safetensors" and str(tables["base"]) == meaf["base"]


def test_without_its_own_options_the_dsid_learns_from_the_renderer_alone(tmp_path):
    """No landmarker, no recogniser, no clips, and heads that are there."""
    names = [module.rpartition(".")[2] for module, _ in commands(tmp_path)]
    assert names[:5] == ["train_heads", "train_heads", "fit_averaging", "train_dsid", "rendered_heads"]
    assert names[5] == "train_judge" and names[-1] == "run"

"""MEAF's training with other optimizers, with a LoRA, and cut into slices by FSDP."""

import importlib.util
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from deepexpo_models.pipeline.base import load_base
from deepexpo_models.training.engine import sharding
from deepexpo_models.training.engine.optimizers import GATE_SPEED, OPTIMIZERS, make_optimizer, parameter_groups
from deepexpo_models.training.meaf.lora import attach_lora, without_lora
from deepexpo_models.training.train_meaf import train
from test_engine import assert_equal, log_lines
from test_train_meaf import parts, photos, settings
from toy_run import ROOT, ToySettings, state

__all__ = ["parts", "photos"]  # fixtures
LORA = {"lora_rank": 2, "lora_share": 0.5}
FSDP = """
compute_environment: LOCAL_MACHINE
distributed_type: FSDP
mixed_precision: 'no'
num_machines: 1
num_processes: 2
main_process_port: 0
use_cpu: false
fsdp_config:
  fsdp_version: 2
  fsdp_auto_wrap_policy: NO_WRAP
  fsdp_cpu_ram_efficient_loading: true
"""


def installed(package: str) -> bool:
    return importlib.util.find_spec(package) is not None


needs_peft = pytest.mark.skipif(not installed("peft"), reason="needs peft")
EACH = [
    pytest.param(
        name, marks=pytest.mark.skipif(name == "adamw8bit" and not installed("bitsandbytes"), reason="no bitsandbytes")
    )
    for name in OPTIMIZERS
]


@pytest.mark.parametrize("optimizer", EACH)
def test_each_optimizer_resumes_exactly(parts, tmp_path, optimizer):
    train(settings(parts, tmp_path / "a", optimizer=optimizer))
    train(settings(parts, tmp_path / "b", optimizer=optimizer, steps=2))
    train(settings(parts, tmp_path / "b", optimizer=optimizer))
    assert_equal(state(tmp_path / "a", 3), state(tmp_path / "b", 3))
    gates = [line["gate/pose"] for line in log_lines(tmp_path / "a")]
    assert all(gate > 0 for gate in gates)


@pytest.mark.parametrize("optimizer", EACH)
def test_numbers_learn_faster(optimizer):
    net = torch.nn.Linear(4, 4)
    net.gate = torch.nn.Parameter(torch.zeros(()))
    groups = make_optimizer(optimizer, parameter_groups([(net, 1.0), (torch.nn.Linear(2, 2), 0.5)], 0.1)).param_groups
    rates = {tuple(group["params"][0].shape): group["lr"] for group in groups}
    assert rates == pytest.approx({(4, 4): 0.1, (4,): 0.1, (): GATE_SPEED * 0.1, (2, 2): 0.05, (2,): 0.05})


def test_a_missing_package_is_named(monkeypatch, parts, tmp_path):
    groups = parameter_groups([(torch.nn.Linear(2, 2), 1.0)], 0.1)
    for package in ("bitsandbytes.optim", "peft"):
        monkeypatch.setitem(sys.modules, package, None)  # as where it is not installed
    with pytest.raises(ValueError, match=r"adamw8bit needs bitsandbytes, which is not installed; pip install"):
        make_optimizer("adamw8bit", groups)
    with pytest.raises(ValueError, match=r"--lora-rank needs peft, which is not installed; pip install"):
        train(settings(parts, tmp_path, **LORA))


@needs_peft
def test_a_lora_is_trained_and_resumed_beside(parts, tmp_path):
    train(settings(parts, tmp_path / "a", **LORA))
    train(settings(parts, tmp_path / "b", **LORA, steps=2))
    train(settings(parts, tmp_path / "b", **LORA))
    assert_equal(state(tmp_path / "a", 3), state(tmp_path / "b", 3))
    written = load_file(tmp_path / "a/lora.safetensors")
    averaged = state(tmp_path / "a", 3)["things"]["lora_ema"]
    unet = load_base(str(parts / "base.safetensors"), torch.device("cpu")).unet
    targets = {f"lora_unet_{path}".replace(".", "_") for path, _ in unet.named_modules()}
    assert len(written) == 3 * 4 * len(unet.attn_processors) and {name.split(".")[0] for name in written} <= targets
    for name, tensor in averaged.items():
        target, side, _ = name.split(".")
        assert torch.equal(written[f"lora_unet_{target}.lora_{side}.weight"], tensor.half())
        assert tensor.abs().max() > 0, "both halves have moved: up from zero"


@needs_peft
@torch.no_grad()
def test_a_lora_starts_as_nothing_and_can_be_left_out(parts):
    unet = load_base(str(parts / "base.safetensors"), torch.device("cpu")).unet
    given = torch.randn(2, unet.config.in_channels, 16, 16), 500, torch.randn(2, 77, unet.config.cross_attention_dim)
    plain = unet(*given).sample
    weights = attach_lora(unet, 2)
    assert torch.equal(unet(*given).sample, plain)
    for weight in weights.parameters():
        weight.add_(0.5)
    assert (unet(*given).sample - plain).abs().max() > 1e-3
    with without_lora(unet):
        assert torch.equal(unet(*given).sample, plain)


def launch(config, parts, photos, out, *more) -> subprocess.CompletedProcess:
    """accelerate launch, as README says it, on clips and stills."""
    command = [
        sys.executable, "-m", "accelerate.commands.launch", "--config_file", config,
        "-m", "deepexpo_models.training.train_meaf", "--out", out, "--dsid", parts / "dsid.safetensors",
        "--base", parts / "base.safetensors", "--clips", photos / "clips", "--stills", photos / "stills",
        "--batch-size", 4, "--expression-width", 16, "--pose-width", 16, "--warmup", 0, "--schedule", "constant",
        "--image-rows", 2, "--accumulate", 2, "--log-every", 1, *more,
    ]  # fmt: skip
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT / "tests" / "site")}
    return subprocess.run(list(map(str, command)), cwd=ROOT, env=environment, capture_output=True, text=True, timeout=240)


@needs_peft
def test_fsdp_on_two_processes(parts, photos, tmp_path):
    """Resumes bit by bit, learns what whole weights learn, and one process goes on from its state."""
    (tmp_path / "fsdp.yaml").write_text(FSDP)
    plain = FSDP.split("fsdp_config")[0].replace("FSDP", "MULTI_GPU")
    (tmp_path / "plain.yaml").write_text(plain)
    given = ("--optimizer", "adamw", "--lora-rank", 2, "--steps", 3, "--save-every", 1, "--keep", 3)
    first = Path("states", "state-00000001")
    for config, out in (("fsdp", "whole"), ("fsdp", "halves"), ("plain", "plain")):
        if out == "halves":  # as a run that was stopped after a step
            shutil.copytree(tmp_path / "whole" / first, tmp_path / out / first)
        done = launch(tmp_path / f"{config}.yaml", parts, photos, tmp_path / out, *given)
        assert done.returncode == 0, done.stderr[-3000:]
    assert [line["step"] for line in log_lines(tmp_path / "halves")] == [2, 3]
    assert_equal(state(tmp_path / "whole", 3), state(tmp_path / "halves", 3))
    sliced, plain = (state(tmp_path / name, 3)["things"] for name in ("whole", "plain"))
    for name in ("meaf", "lora", "ema", "lora_ema"):
        assert sliced[name].keys() == plain[name].keys()
        assert all(torch.allclose(sliced[name][key], plain[name][key], atol=1e-4) for key in plain[name])
    for file in ("meaf.safetensors", "lora.safetensors"):
        whole, halves = (load_file(tmp_path / out / file) for out in ("whole", "halves"))
        assert_equal(whole, halves)
    real = {"heads": "", "clips": str(photos / "clips"), "stills": str(photos / "stills"), "image_rows": 2}
    assert train(settings(parts, tmp_path / "halves", **real, steps=4, optimizer="adamw", lora_rank=2))


def test_muon_needs_whole_weights():
    words = r"--optimizer muon needs whole weights, and FSDP cuts them .*; choose --optimizer adamw"
    with pytest.raises(ValueError, match=words):
        make_optimizer("muon", [{"params": [torch.nn.Parameter(torch.zeros(2, 2))]}], sharded=True)


@pytest.mark.parametrize(
    "asked, words",
    [
        ({"ACCELERATE_USE_DEEPSPEED": "true"}, "DeepSpeed keeps states .* use distributed_type: FSDP in accelerate's config"),
        ({"ACCELERATE_USE_FSDP": "true", "FSDP_VERSION": "1"}, "write fsdp_version: 2"),
        ({"ACCELERATE_USE_FSDP": "true", "FSDP_AUTO_WRAP_POLICY": "SIZE_BASED_WRAP"}, "write fsdp_auto_wrap_policy: NO_WRAP"),
    ],
)
def test_what_a_config_file_cannot_ask(asked, words, monkeypatch, parts, tmp_path):
    for name, value in asked.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(ValueError, match=words):
        train(settings(parts, tmp_path))


def test_other_trainings_refuse_fsdp(monkeypatch, tmp_path):
    from deepexpo_models.training.engine.engine import Engine

    monkeypatch.setenv("ACCELERATE_USE_FSDP", "true")
    with pytest.raises(ValueError, match="FSDP is for the training of MEAF"):
        Engine(ToySettings(out=str(tmp_path)))


def test_a_module_without_scalars_computes_the_same():
    net = torch.nn.Linear(2, 2)
    net.gate = torch.nn.Parameter(torch.tensor(3.0))
    before = {name: tensor.clone() for name, tensor in net.state_dict().items()}
    kept = sharding.without_scalars(net)
    assert net.gate == 3 and min(p.ndim for p in kept.parameters()) == 1
    assert_equal(sharding.state_of(kept), before)
    sharding.load_into(kept, {**before, "gate": torch.tensor(5.0)})
    assert net.gate == 5 and sharding.shapes_of(kept)["gate"] == ()

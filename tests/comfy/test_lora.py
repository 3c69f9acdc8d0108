"""The LoRA that is trained beside MEAF, in ComfyUI: its own Load LoRA takes every tensor, and both hosts agree."""

from pathlib import Path

import comfy.lora
import comfy.sd
import pytest
import torch
from safetensors.torch import load_file

import random_weights
from deepexpo_models.meaf import load_meaf
from deepexpo_models.meaf.diffusers_host import AttachedMEAF
from deepexpo_models.starter import STARTER
from deepexpo_models.starter import diffusers_host as reference
from deepexpo_models.training.meaf.lora import attach_lora, release_lora, without_lora
from rig.models import diffusers_twin, latents, predict_noise, twin_noise
from rig.pack import the_pack
from studio import Studio, same

pytest.importorskip("peft")
ROOT = Path(__file__).parents[2]


@torch.no_grad()
def trained(unet, folder):
    """A LoRA on the U-Net that has learned something, and its file's tensors."""
    weights = attach_lora(unet, 2)
    draw = torch.Generator().manual_seed(0)
    for weight in weights.parameters():
        weight.copy_((torch.randn(weight.shape, generator=draw) * 0.3).half())
    release_lora(folder / "lora.safetensors", weights.state_dict())
    return load_file(folder / "lora.safetensors")


def patched(model, file):
    """The model behind Load LoRA, which must find a place for everything."""
    keys = comfy.lora.model_lora_keys_unet(model.model, {})
    assert 3 * len(comfy.lora.load_lora(dict(file), keys)) == len(file)
    return comfy.sd.load_lora_for_models(model, None, dict(file), 1.0, 0.0)[0]


@pytest.mark.parametrize("family", ["sd15", "sd2", "sdxl"])
@torch.no_grad()
def test_hosts_agree_with_it_and_meaf(family, tmp_path):
    studio, noisy = Studio(family), latents(batch=2)
    twin = diffusers_twin(studio.model)
    plain = twin_noise(twin, noisy, 500, studio.positive)
    file = trained(twin, tmp_path)
    with without_lora(twin):
        assert torch.equal(twin_noise(twin, noisy, 500, studio.positive), plain), "the base alone is still there"
    ours = predict_noise(studio.apply(patched(studio.model, file)), noisy, 500, studio.positive)
    meaf = load_meaf(studio.pack_weights() / random_weights.MEAF_FILE.format(f"tiny-{family}", "light")).float()
    codes = {
        "identity": studio.identity.embedding,
        "expression": studio.semantics.expression,
        "pose": studio.semantics.rotation,
    }
    with AttachedMEAF(twin, meaf) as attached:
        attached.condition({name: meaf.tokens(name, code) for name, code in codes.items()})
        theirs = twin_noise(twin, noisy, 500, studio.positive)
        with without_lora(twin):
            without = twin_noise(twin, noisy, 500, studio.positive)
    print(f"{family}: max difference {(ours - theirs).abs().max():.2g}, effect {(theirs - without).abs().max():.2g}")
    assert (ours - theirs).abs().max() < 3e-5 and (theirs - without).abs().max() > 0.05  # rounding differs from CPU to CPU


@torch.no_grad()
def test_on_the_starter(tmp_path):
    model, *_ = the_pack().run("DeepExPoLoadStarter")
    unet = reference.load_starter(ROOT / "weights" / "heads-base.safetensors").unet
    file, noisy = (
        trained(unet, tmp_path),
        torch.randn(1, STARTER.latent_channels, 16, 16, generator=torch.Generator().manual_seed(1)),
    )
    text = torch.randn(1, 77, 128, generator=torch.Generator().manual_seed(2))
    with_lora = patched(model, file)
    comfy.model_management.load_models_gpu([with_lora])
    ours = with_lora.model.diffusion_model(noisy, torch.tensor([500.0]), text)
    assert same(ours, unet(noisy, 500, text).sample)

"""Bases that MEAF is trained on: Stable Diffusion in diffusers' folders, tiny but of the real classes."""

import json

import pytest
import torch
from diffusers import (
    AutoencoderKL,
    DDPMScheduler,
    StableDiffusionPipeline,
    StableDiffusionXLPipeline,
    UNet2DConditionModel,
)
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection, CLIPTokenizer

from deepexpo_models.dsid import CONFIGS, EncoderId
from deepexpo_models.meaf import FAMILIES, MEAF, default_config
from deepexpo_models.meaf.diffusers_host import AttachedMEAF
from deepexpo_models.meaf.sites import UNetShape
from deepexpo_models.pipeline.base import load_base

SHAPES = {
    "sd15": UNetShape((32, 64, 64, 64), 1, (1, 1, 1, 0), 1, 32),
    "sdxl": UNetShape((32, 64, 64), 1, (0, 1, 2), 2, 64),
}
CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def tiny_families(monkeypatch):
    for family, shape in SHAPES.items():
        monkeypatch.setitem(FAMILIES, family, shape)


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """family -> a diffusers folder."""
    root = tmp_path_factory.mktemp("bases")
    torch.manual_seed(0)
    words = {"<|startoftext|>": 0, "<|endoftext|>": 1, "a</w>": 2, "face</w>": 3, "a": 4}
    (root / "vocab.json").write_text(json.dumps(words))
    (root / "merges.txt").write_text("#version: 0.2\n")
    tokenizer = CLIPTokenizer(str(root / "vocab.json"), str(root / "merges.txt"), model_max_length=16)
    for family, shape in SHAPES.items():
        pipeline(family, shape, tokenizer).save_pretrained(root / family)
    return {family: root / family for family in SHAPES}


def pipeline(family: str, shape: UNetShape, tokenizer: CLIPTokenizer):
    vae = AutoencoderKL(
        block_out_channels=(32,) * 4, down_block_types=("DownEncoderBlock2D",) * 4, up_block_types=("UpDecoderBlock2D",) * 4
    )
    plain, crossed = ("DownBlock2D", "UpBlock2D"), ("CrossAttnDownBlock2D", "CrossAttnUpBlock2D")
    kinds = [crossed if depth else plain for depth in shape.depth]
    sdxl = {
        "transformer_layers_per_block": [max(1, depth) for depth in shape.depth], "addition_embed_type": "text_time",
        "addition_time_embed_dim": 8, "projection_class_embeddings_input_dim": 6 * 8 + 32,
    }  # fmt: skip
    unet = UNet2DConditionModel(
        sample_size=16, block_out_channels=shape.channels, layers_per_block=shape.layers, attention_head_dim=8,
        down_block_types=[down for down, _ in kinds], up_block_types=[up for _, up in reversed(kinds)],
        cross_attention_dim=shape.context_width, use_linear_projection=family == "sdxl", **(sdxl if family == "sdxl" else {}),
    )  # fmt: skip
    text = CLIPTextConfig(
        vocab_size=5, hidden_size=32, intermediate_size=32, num_hidden_layers=2, num_attention_heads=2,
        max_position_embeddings=16, projection_dim=32, bos_token_id=0, eos_token_id=1, pad_token_id=1,
    )  # fmt: skip
    scheduler = DDPMScheduler(beta_schedule="scaled_linear", prediction_type="epsilon")
    if family == "sdxl":
        return StableDiffusionXLPipeline(
            vae, CLIPTextModel(text), CLIPTextModelWithProjection(text), tokenizer, tokenizer, unet, scheduler
        )
    parts = (vae, CLIPTextModel(text), tokenizer, unet, scheduler, None, None)
    return StableDiffusionPipeline(*parts, requires_safety_checker=False)


@pytest.mark.parametrize("family", SHAPES)
def test_a_diffusers_folder_becomes_a_base(folders, family):
    """Encoded, noised, found with MEAF's gradient, decoded: everything that a training step does."""
    base = load_base(str(folders[family]), CPU)
    assert base.family == family and base.shape == SHAPES[family] and base.size == 128 and base.prediction == "epsilon"
    assert not any(p.requires_grad for p in base.unet.parameters())
    images = torch.rand(2, 3, 128, 128, generator=torch.Generator().manual_seed(0)) * 2 - 1
    latents = base.encode(images)
    assert latents.shape == (2, 4, 16, 16)
    config = default_config("t", family, CONFIGS["photo"], EncoderId("t", "0" * 12), expression_width=16, pose_width=16)
    meaf, times = MEAF(config), torch.tensor([100, 900])
    noise = torch.randn_like(latents)
    noisy = base.schedule.add_noise(latents, noise, times)
    with AttachedMEAF(base.unet, meaf) as attached:
        attached.condition({"identity": meaf.tokens("identity", torch.randn(2, 256))})
        found = base.unet(noisy, times, **base.text(["a face", ""])).sample
    (found - base.target(latents, noise, times)).square().mean().backward()
    gates = [p.grad for name, p in meaf.named_parameters() if name.startswith("streams.identity") and name.endswith("gate")]
    assert gates and all(gate is not None and gate.isfinite() for gate in gates)
    torch.testing.assert_close(base.clean(noise, noisy, times), latents, atol=1e-3, rtol=1e-3)
    assert base.decode(latents).shape == images.shape


def test_sentences_reach_the_unet(folders):
    base = load_base(str(folders["sd15"]), CPU)
    told, again, empty = base.text(["a face", "a face", ""])["encoder_hidden_states"]
    assert torch.equal(told, again) and not torch.allclose(told, empty)
    xl = load_base(str(folders["sdxl"]), CPU).text(["a face"])
    assert xl["encoder_hidden_states"].shape == (1, 16, 64)
    assert xl["added_cond_kwargs"]["text_embeds"].shape == (1, 32)
    assert xl["added_cond_kwargs"]["time_ids"].tolist() == [[128, 128, 0, 0, 128, 128]]


def test_another_unet_is_refused(folders, monkeypatch):
    monkeypatch.setitem(FAMILIES, "sd15", UNetShape((64, 64, 64, 64), 1, (1, 1, 1, 0), 1, 32))
    with pytest.raises(ValueError, match="is none of sd15, sd2, sdxl; MEAF cannot be trained on it"):
        load_base(str(folders["sd15"]), CPU)

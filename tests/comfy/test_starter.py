"""The starter through ComfyUI's own nodes: equal to diffusers, and open to everything that takes a checkpoint."""

from dataclasses import dataclass, replace

import comfy.model_management
import comfy.sd
import pytest
import torch

import random_weights
from deepexpo_models.pipeline.base import starter_base
from deepexpo_models.pipeline.sampling import sample
from deepexpo_models.starter import STARTER, build_vocabulary, save_starter_tensors
from deepexpo_models.starter import diffusers_host as reference
from rig.families import random_weight, randomise
from rig.pack import DSID_CONFIG, the_pack, weights_folder, write_dsid
from studio import Studio

NODE = "DeepExPoLoadStarter"
FILE = "heads-base.safetensors"
CAPTIONS = ("a portrait of a person", "smiling, blue striped background", "wearing a hat")
PROMPTS = ("a portrait of a person, smiling", "", "Wearing a xylophone Ünïcode 42!", "person " * 20)
CONFIG = replace(STARTER, scale=0.7, merges=build_vocabulary(tuple(" ".join(CAPTIONS).replace(",", "").split())))


@dataclass
class Starter:
    parts: reference.StarterParts
    model: object
    clip: object
    vae: object

    def encode(self, text: str):
        """What CLIP Text Encode gives."""
        return self.clip.encode_from_tokens_scheduled(self.clip.tokenize(text))


@pytest.fixture(scope="module")
def pack():
    return the_pack()


@pytest.fixture(scope="module")
def starter(pack) -> Starter:
    parts, path = reference.build_starter(CONFIG), weights_folder() / FILE
    draw = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for module in (parts.unet, parts.vae, parts.text_encoder):
            for name, parameter in module.named_parameters():
                parameter.copy_(random_weight(name, parameter.shape, draw))
    reference.save_starter(path, parts)
    yield Starter(reference.load_starter(path), *pack.run(NODE))
    path.unlink()


def noise(seed: int, batch: int = 1, channels: int = STARTER.latent_channels):
    return torch.randn(batch, channels, 16, 16, generator=torch.Generator().manual_seed(seed))


@torch.no_grad()
@pytest.mark.parametrize("timestep", [20, 500, 980])
def test_unet_predicts_what_diffusers_predicts(starter, timestep):
    """denoised = (x - sigma v sqrt(sigma^2 + 1)) / (sigma^2 + 1), Salimans & Ho 2022 in the variance-exploding form."""
    latents, text = noise(1, batch=2), torch.randn(2, 77, 128, generator=torch.Generator().manual_seed(2))
    comfy.model_management.load_models_gpu([starter.model])
    sampling = starter.model.get_model_object("model_sampling")
    sigma = sampling.sigma(torch.tensor([float(timestep)]))
    betas = reference.training_scheduler(CONFIG).alphas_cumprod
    assert sigma.item() == pytest.approx(((1 - betas[timestep]) / betas[timestep]).sqrt().item(), rel=1e-4)
    x = latents * (sigma**2 + 1).sqrt()
    denoised = starter.model.model.apply_model(x, sigma.expand(2), c_crossattn=text)
    v = starter.parts.unet(latents, timestep, text).sample
    expected = (x - sigma * (sigma**2 + 1).sqrt() * v) / (sigma**2 + 1)
    assert (starter.model.model.diffusion_model(latents, torch.tensor([float(timestep)] * 2), text) - v).abs().max() < 1e-4
    assert (denoised - expected).abs().max() < 1e-4 * max(1, expected.abs().max())
    assert v.std() > 0.1


@torch.no_grad()
@pytest.mark.parametrize("prompt", PROMPTS)
def test_text_is_read_as_transformers_reads_it(starter, prompt):
    ids = starter.parts.tokenizer(prompt, padding="max_length", truncation=True, max_length=77).input_ids
    assert [token for token, _ in starter.clip.tokenize(prompt)["l"][0]] == ids
    (text, extra), *_ = starter.encode(prompt)
    torch.testing.assert_close(text, reference.encode_prompts(starter.parts, [prompt]), atol=1e-4, rtol=0)
    assert extra["pooled_output"].shape == (1, 128)


def test_weights_of_words_act(starter):
    plain, weak, off = (starter.encode(f"a person, {word}")[0][0] for word in ("smiling", "(smiling:0.5)", "(smiling:0)"))
    assert torch.equal(starter.encode("a person, (smiling:1.0)")[0][0], plain)
    assert 0 < (plain - weak).abs().max() < (plain - off).abs().max()


@torch.inference_mode()  # as ComfyUI runs nodes; tiling writes in place
def test_vae_encodes_and_decodes_as_diffusers_does(starter):
    images = torch.rand(2, 128, 128, 3, generator=torch.Generator().manual_seed(3))
    form = starter.model.get_model_object("latent_format")
    latents = form.process_in(starter.vae.encode(images))
    torch.testing.assert_close(latents, reference.encode(starter.parts, images.movedim(-1, 1) * 2 - 1), atol=1e-3, rtol=0)
    decoded = starter.vae.decode(form.process_out(latents))
    expected = reference.decode(starter.parts, latents).movedim(1, -1) / 2 + 0.5
    torch.testing.assert_close(decoded, expected, atol=1e-3, rtol=0)
    assert expected.std() > 0.05
    torch.testing.assert_close(starter.vae.encode_tiled(images), starter.vae.encode(images), atol=1e-3, rtol=0)


@torch.no_grad()
def sampled(starter, model, steps: int = 2, text: str = "a person"):
    """KSampler and EmptyLatentImage as ComfyUI calls them -> latents (1, 8, 16, 16)."""
    import nodes

    empty = nodes.EmptyLatentImage().generate(128, 128)[0]
    positive, negative = starter.encode(text), starter.encode("")
    return nodes.KSampler().sample(model, 7, steps, 3.0, "euler", "normal", positive, negative, empty)[0]["samples"]


def test_sampler_gives_what_the_library_samples(starter):
    """The same noise and steps; ComfyUI begins at sqrt(sigma^2 + 1) times the noise, diffusers at sigma, 0.2% less."""
    found = sampled(starter, starter.model, steps=4)
    assert found.shape == (1, STARTER.latent_channels, 16, 16)
    assert torch.equal(sampled(starter, starter.model, steps=4), found)
    expected = starter_sample(starter, steps=4)
    assert (starter.model.get_model_object("latent_format").process_in(found) - expected).abs().max() < 1e-2
    assert starter.vae.decode(found).shape == (1, 128, 128, 3)


@torch.no_grad()
def starter_sample(starter, steps: int):
    """`pipeline.sampling.sample` of the noise that KSampler draws."""
    base = starter_base(starter.parts)
    return sample(base, base.text(["a person"]), base.text([""]), noise(7), steps=steps, cfg=3.0)


def test_every_site_of_a_starter_meaf_fires(starter, pack):
    studio = Studio("sd15")
    folder = weights_folder()
    path = random_weights.write_meaf(folder, STARTER.name, DSID_CONFIG, write_dsid(folder), STARTER.unet_shape)
    loaded = pack.run("DeepExPoLoadMEAF", meaf_name=path.name)
    path.unlink()
    base = sampled(starter, starter.model)
    gates = [loaded.model.streams["identity"].sites.get_submodule(site).gate for site in loaded.model.sites]
    assert len(gates) == 7
    patched = studio.apply(starter.model, meaf=loaded, semantics=None)
    with torch.no_grad():
        for gate in gates:
            gate.zero_()
        assert torch.equal(sampled(starter, patched, steps=1), sampled(starter, starter.model, steps=1))
        for gate in gates:
            gate.fill_(1)
            assert not torch.equal(sampled(starter, patched, steps=1), sampled(starter, starter.model, steps=1))
            gate.zero_()
    assert torch.equal(sampled(starter, starter.model), base)
    with pytest.raises(ValueError, match="is for tiny-sd15 models"):
        studio.apply(starter.model)


def test_a_meaf_of_another_starter_is_refused(starter, pack):
    """Of one shape, so that it could be joined, and would draw nonsense."""
    folder = weights_folder()
    path = random_weights.write_meaf(folder, "other", DSID_CONFIG, write_dsid(folder), STARTER.unet_shape)
    loaded = pack.run("DeepExPoLoadMEAF", meaf_name=path.name)
    path.unlink()
    with pytest.raises(ValueError, match="'random-other' is for other models, the connected model is heads; connect"):
        Studio("sd15").apply(starter.model, meaf=loaded, semantics=None)


def lora(weight: str, out: int, width: int):
    draw = torch.Generator().manual_seed(4)
    return {
        f"{weight}.lora_up.weight": torch.randn(out, 2, generator=draw),
        f"{weight}.lora_down.weight": torch.randn(2, width, generator=draw),
    }


def test_loras_reach_unet_and_text_encoder(starter):
    base, text = sampled(starter, starter.model), starter.encode("a person")[0][0]
    attention = lora("lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn2_to_k", 64, 128)
    changed, _ = comfy.sd.load_lora_for_models(starter.model, None, attention, 1.0, 0.0)
    assert (sampled(starter, changed) - base).abs().max() > 1e-3
    _, reader = comfy.sd.load_lora_for_models(
        None, starter.clip, lora("lora_te_text_model_encoder_layers_0_self_attn_q_proj", 128, 128), 0.0, 1.0
    )
    other = replace(starter, clip=reader).encode("a person")[0][0]
    assert (other - text).abs().max() > 1e-3
    comfy.model_management.unload_all_models()
    assert torch.equal(sampled(starter, starter.model), base)
    assert torch.equal(starter.encode("a person")[0][0], text)


def test_a_controlnet_acts_on_it(starter):
    """One of ComfyUI's own class, shaped as the starter's U-Net, through its own apply node."""
    import comfy.cldm.cldm
    import comfy.controlnet
    import comfy.ops

    import nodes

    config = {**starter.model.model.model_config.unet_config, "hint_channels": 3, "operations": comfy.ops.disable_weight_init}
    config.pop("out_channels", None)
    network = comfy.cldm.cldm.ControlNet(**{**config, "dtype": torch.float32})
    randomise(network, 3)
    control = comfy.controlnet.ControlNet(network, load_device=torch.device("cpu"))
    hint = torch.rand(1, 128, 128, 3, generator=torch.Generator().manual_seed(2))
    positive, negative = starter.encode("a person"), starter.encode("")
    applied = nodes.ControlNetApplyAdvanced().apply_controlnet(positive, negative, control, hint, 0.7, 0.0, 1.0)
    empty = nodes.EmptyLatentImage().generate(128, 128)[0]
    sampler = nodes.KSampler()
    plain, controlled = (
        sampler.sample(starter.model, 7, 2, 3.0, "euler", "normal", *texts, empty)[0]["samples"]
        for texts in ((positive, negative), applied)
    )
    assert controlled.isfinite().all() and (controlled - plain).abs().max() > 1e-3


def test_models_are_managed_by_comfyui(starter):
    sampled(starter, starter.model, steps=1)
    loaded = [entry.model.model for entry in comfy.model_management.current_loaded_models]
    assert starter.model.model in loaded
    comfy.model_management.unload_all_models()
    assert not comfy.model_management.current_loaded_models
    assert starter.model.load_device == comfy.model_management.get_torch_device()
    assert starter.model.offload_device == comfy.model_management.unet_offload_device()
    assert starter.model.model.get_dtype() == torch.float32  # the CPU's; the file is float16


def test_a_missing_file_is_one_sentence(pack, monkeypatch):
    monkeypatch.setattr(pack.module("nodes.comfy_host.starter"), "FILE", "gone.safetensors")
    with pytest.raises(ValueError, match=r"gone\.safetensors' is in none of the deepexpo model folders"):
        pack.run(NODE)


@pytest.mark.parametrize("part, name", [("unet", "conv_in.bias"), ("vae", "quant_conv.bias"),
                                        ("text_encoder", "embeddings.position_embedding.weight")])  # fmt: skip
@pytest.mark.parametrize("damage", ["missing", "misshapen"])
def test_files_that_do_not_fit_their_config_are_one_sentence(pack, starter, monkeypatch, part, name, damage):
    states = {p: dict(getattr(starter.parts, p).state_dict()) for p in ("unet", "vae", "text_encoder")}
    name = next(key for key in states[part] if key.removeprefix("text_model.") == name)  # before transformers 5.0
    tensor = states[part].pop(name)
    if damage == "misshapen":
        states[part][name] = torch.zeros(3, *tensor.shape[1:])
    path = weights_folder() / "damaged.safetensors"
    save_starter_tensors(path, CONFIG, states)
    monkeypatch.setattr(pack.module("nodes.comfy_host.starter"), "FILE", path.name)
    with pytest.raises(ValueError, match=r"damaged\.safetensors does not .* download it again") as caught:
        pack.run(NODE)
    assert "\n" not in str(caught.value)
    path.unlink()


def test_a_server_draws_with_it(starter, server):
    """From no input to a picture, through the nodes of an ordinary workflow."""
    reference.save_starter(server.base / "models" / "deepexpo" / FILE, starter.parts)
    graph = {
        "1": {"class_type": NODE, "inputs": {}},
        "2": {"class_type": "CLIPTextEncode", "inputs": {"clip": ["1", 1], "text": "a (person:1.2), smiling"}},
        "3": {"class_type": "EmptyLatentImage", "inputs": {"width": 128, "height": 128, "batch_size": 2}},
        "4": {"class_type": "KSampler", "inputs": {
            "model": ["1", 0], "positive": ["2", 0], "negative": ["2", 0], "latent_image": ["3", 0], "seed": 1, "steps": 2,
            "cfg": 3.0, "sampler_name": "euler", "scheduler": "normal", "denoise": 1.0}},
        "5": {"class_type": "VAEDecode", "inputs": {"samples": ["4", 0], "vae": ["1", 2]}},
        "6": {"class_type": "SaveImage", "inputs": {"images": ["5", 0], "filename_prefix": "starter"}},
    }  # fmt: skip
    pictures = server.pictures(server.post_prompt(graph))
    assert len(pictures) == 2 and pictures[0] != pictures[1]

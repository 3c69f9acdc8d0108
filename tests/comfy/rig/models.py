"""Real models at random weights: ComfyUI's U-Nets, tiny or full-size, and the diffusers twin that holds the same weights."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from .families import TINY, Widths, controlnet_layers, describe, randomise, scaled

if TYPE_CHECKING:
    from comfy.model_patcher import ModelPatcher
    from diffusers import UNet2DConditionModel

DRAWN = 1_000_003  # prime, so that no row of a weight repeats another
Conditioning = list  # ComfyUI's: [[tokens (B, N, D), {"pooled_output": (B, P)}], ...]


def bare_model(family: str, widths: Widths, dtype: torch.dtype = torch.float32) -> ModelPatcher:
    """What a checkpoint loader gives as MODEL, on the CPU. Its weights are not set, and take no memory until they are."""
    from comfy.model_patcher import ModelPatcher

    cpu = torch.device("cpu")
    model = describe(family).model_config(widths, dtype).get_model({}, device=cpu)
    return ModelPatcher(model.eval(), load_device=cpu, offload_device=cpu)


def tiny_model(family: str, seed: int = 0) -> ModelPatcher:
    """At 32 channels in fp32, with random weights."""
    model = bare_model(family, TINY)
    randomise(model.model.diffusion_model, seed)
    return model


def full_model(family: str, dtype: torch.dtype = torch.bfloat16, seed: int = 0) -> ModelPatcher:
    """At the real widths. The weights repeat one draw: SDXL has 2.6 G of them, which take minutes to draw apart."""
    model = bare_model(family, describe(family).full, dtype)
    repeat_draw(model.model.diffusion_model, torch.randn(DRAWN, generator=torch.Generator().manual_seed(seed)).to(dtype))
    return model


@torch.no_grad()
def repeat_draw(module: nn.Module, draw: Tensor) -> None:
    """Every weight begins elsewhere in the draw, so that no two are alike."""
    start = 0
    for name, parameter in module.named_parameters():
        count = parameter.numel()
        noise = draw.roll(-start).repeat(-(-count // len(draw)))[:count]
        parameter.copy_(scaled(name, noise.view_as(parameter)))
        start = (start + count) % len(draw)


def tiny_controlnet(family: str, seed: int = 3):
    """What a ControlNet loader gives: for tiny_model(family), with random weights, its joins too."""
    import comfy.cldm.cldm
    import comfy.controlnet
    import comfy.ops

    config = describe(family).model_config(TINY).unet_config
    config = {**config, "hint_channels": 3, "dtype": torch.float32, "operations": comfy.ops.disable_weight_init}
    config.pop("out_channels")
    network = comfy.cldm.cldm.ControlNet(**config)
    randomise(network, seed)
    return comfy.controlnet.ControlNet(network, load_device=torch.device("cpu"))


def conditioning(family: str, seed: int = 1, batch: int = 1, tokens: int = 77, widths: Widths = TINY) -> Conditioning:
    """What a text encoder gives as CONDITIONING for a model of these widths."""
    generator = torch.Generator().manual_seed(seed)
    context = torch.randn(batch, tokens, widths.context, generator=generator)
    pooled = torch.randn(batch, widths.pooled, generator=generator)
    return [[context, {"pooled_output": pooled if describe(family).pooled else None}]]


def latents(seed: int = 2, batch: int = 1, height: int = 8, width: int = 8) -> Tensor:
    """(B, 4, H, W) of unit variance."""
    return torch.randn(batch, 4, height, width, generator=torch.Generator().manual_seed(seed))


def sample(
    model: ModelPatcher,
    positive: Conditioning,
    negative: Conditioning,
    *,
    noise: Tensor,
    steps: int = 2,
    cfg: float = 3.0,
    sampler: str = "euler",
    scheduler: str = "normal",
    **settings,
) -> Tensor:
    """KSampler's own call on an empty latent picture: noise (B, 4, H, W) -> latents (B, 4, H, W)."""
    import comfy.sample

    return comfy.sample.sample(
        model, noise, steps, cfg, sampler, scheduler, positive, negative, torch.zeros_like(noise),
        disable_pbar=True, seed=0, **settings,
    )  # fmt: skip


def predict_noise(
    model: ModelPatcher,
    noisy: Tensor,
    timestep: int,
    positive: Conditioning,
    negative: Conditioning | None = None,
    cfg: float = 1.0,
) -> Tensor:
    """One model call through everything that a sampler goes through: wrappers, hooks, batching of the conds.

    noisy (B, 4, H, W) as the U-Net sees it -> epsilon (B, 4, H, W). With cfg 1.0 only `positive` is run.
    """
    import comfy.sample
    import comfy.samplers

    sampling = model.get_model_object("model_sampling")
    sigma = sampling.sigma(torch.tensor([float(timestep)]))
    scale = 1 / sampling.calculate_input(sigma, torch.ones(1))
    found = []

    def one_call(model_k, x, sigmas, extra_args, callback, disable):
        denoised = model_k(x, sigmas[:1].expand(len(x)), **extra_args)
        found.append((x - denoised) / sigmas[0])
        return denoised

    comfy.sample.sample_custom(
        model, noisy * scale / sigma, cfg, comfy.samplers.KSAMPLER(one_call),
        torch.cat([sigma, sigma.new_zeros(1)]), positive, negative or positive, torch.zeros_like(noisy),
        disable_pbar=True, seed=0,
    )  # fmt: skip
    return found[0]


def diffusers_twin(model: ModelPatcher) -> UNet2DConditionModel:
    """The same U-Net with the same weights in diffusers."""
    from comfy.utils import unet_to_diffusers
    from diffusers import UNet2DConditionModel

    config = model.model.model_config.unet_config
    weights = model.model.diffusion_model.state_dict()
    twin = UNet2DConditionModel(**diffusers_config(config))
    names = {theirs: ours for theirs, ours in unet_to_diffusers(config).items() if ours in weights}
    unused = set(weights) - set(names.values())
    if unused:
        raise ValueError(f"weights without a place in diffusers: {sorted(unused)[:5]}")
    twin.load_state_dict({name: weights[names[name]] for name in twin.state_dict()}, strict=True)
    return twin.eval().requires_grad_(False)


def controlnet_twin(control, twin: UNet2DConditionModel, config: dict):
    """The same ControlNet with the same weights in diffusers. twin: of the model that it is for, config: its unet_config."""
    from comfy.utils import unet_to_diffusers
    from diffusers import ControlNetModel

    weights = control.control_model.state_dict()
    names = {theirs: ours for theirs, ours in unet_to_diffusers(config).items() if ours in weights}
    names |= {theirs: ours for ours, theirs in controlnet_layers(weights).items()}
    other = ControlNetModel.from_unet(twin, conditioning_channels=3, load_weights_from_unet=False)
    other.load_state_dict({name: weights[names[name]] for name in other.state_dict()}, strict=True)
    return other.eval().requires_grad_(False)


def diffusers_config(config: dict) -> dict:
    """ComfyUI's description of a U-Net -> the arguments of UNet2DConditionModel."""
    channels = [config["model_channels"] * factor for factor in config["channel_mult"]]
    depth = config["transformer_depth"][:: config["num_res_blocks"][0]]
    fixed_heads = config.get("num_heads", -1)
    adm = config["adm_in_channels"]
    return {
        "in_channels": config["in_channels"],
        "out_channels": config["out_channels"],
        "block_out_channels": channels,
        "layers_per_block": config["num_res_blocks"][0],
        "down_block_types": ["CrossAttnDownBlock2D" if n else "DownBlock2D" for n in depth],
        "up_block_types": ["CrossAttnUpBlock2D" if n else "UpBlock2D" for n in reversed(depth)],
        "transformer_layers_per_block": [max(n, 1) for n in depth[:-1]] + [config["transformer_depth_middle"]],
        "cross_attention_dim": config["context_dim"],
        # diffusers calls it the width of a head and takes it for the number of heads
        "attention_head_dim": [fixed_heads if fixed_heads > 0 else n // config["num_head_channels"] for n in channels],
        "use_linear_projection": config["use_linear_in_transformer"],
        **({} if adm is None else {
            "addition_embed_type": "text_time",
            "addition_time_embed_dim": 256,
            "projection_class_embeddings_input_dim": adm,
        }),
    }  # fmt: skip


@torch.no_grad()
def twin_noise(
    twin: UNet2DConditionModel, noisy: Tensor, timestep: int, positive: Conditioning, controlnet=None, **controlled
) -> Tensor:
    """predict_noise of the twin at cfg 1.0: noisy (B, 4, H, W) -> epsilon (B, 4, H, W).

    controlled: what a diffusers ControlNet gets beside the latents: its context, map and strength.
    """
    context, extra = positive[0]
    batch, _, height, width = noisy.shape
    size = [height * 8, width * 8]
    added = None
    if extra["pooled_output"] is not None:
        time_ids = torch.tensor([[*size, 0, 0, *size]], dtype=noisy.dtype).expand(batch, -1)
        added = {"text_embeds": extra["pooled_output"].expand(batch, -1), "time_ids": time_ids}
    down, mid = None, None
    if controlnet is not None:
        down, mid = controlnet(noisy, timestep, **controlled, added_cond_kwargs=added, return_dict=False)
    return twin(
        noisy, timestep, context.expand(batch, -1, -1), added_cond_kwargs=added,
        down_block_additional_residuals=down, mid_block_additional_residual=mid,
    ).sample  # fmt: skip

"""The frozen base that MEAF is trained on: the starter, or any Stable Diffusion checkpoint, behind one face."""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from diffusers import UNet2DConditionModel
from torch import Tensor

from ..errors import first_line
from ..meaf import FAMILIES
from ..meaf.diffusers_host import cross_attentions
from ..meaf.sites import UNetShape, unet_sites
from ..starter import FILE_KIND
from ..starter.diffusers_host import StarterParts, encode_prompts, load_starter, training_scheduler
from ..weights import read_header

DECODES = ("decoder", "post_quant_conv")  # parts of a VAE that make pictures of latents


@dataclass
class Base:
    """A text-to-image model, frozen. family: key of FAMILIES or a starter's name; shape: of its U-Net; schedule: diffusers'
    noise schedule with add_noise and get_velocity; prediction: epsilon or v_prediction; size: pixels it was made for.
    """

    family: str
    shape: UNetShape
    unet: UNet2DConditionModel
    schedule: Any
    prediction: str
    size: int
    _vae: Any  # diffusers' AutoencoderKL
    _scale: float
    _text: Callable[[list[str]], dict]  # sentences -> keyword arguments of the U-Net

    def text(self, sentences: list[str]) -> dict:
        """Sentences -> what the U-Net takes beside latents and time steps."""
        with torch.no_grad():
            return self._text(sentences)

    @property
    def factor(self) -> int:
        """Pixels per latent."""
        return self.size // self.unet.config.sample_size

    @property
    def vae_id(self) -> str:
        """A number that differs where latents would, whatever decodes them."""
        digest = hashlib.sha256(str(self._scale).encode())
        for name, tensor in self._vae.state_dict().items():
            if name.split(".")[0] not in DECODES:
                digest.update(tensor.detach().float().cpu().numpy())
        return digest.hexdigest()[:12]

    @torch.no_grad()
    def encode(self, images: Tensor) -> Tensor:
        """(B, 3, S, S) in [-1, 1] -> latents (B, C, S / 8, S / 8), as the U-Net knows them."""
        return self._vae.encode(images.to(self._vae.dtype)).latent_dist.mean.float() * self._scale

    def decode(self, latents: Tensor) -> Tensor:
        """Latents -> pictures (B, 3, S, S) around [-1, 1]; gradients pass through."""
        return self._vae.decode((latents / self._scale).to(self._vae.dtype)).sample.float()

    def target(self, clean: Tensor, noise: Tensor, times: Tensor) -> Tensor:
        """What the U-Net should find."""
        return noise if self.prediction == "epsilon" else self.schedule.get_velocity(clean, noise, times)

    def clean(self, found: Tensor, noisy: Tensor, times: Tensor) -> Tensor:
        """The clean latents that a finding of the U-Net means."""
        level = self.schedule.alphas_cumprod.to(noisy)[times][:, None, None, None]
        signal, noise = level.sqrt(), (1 - level).sqrt()
        if self.prediction == "epsilon":
            return (noisy - noise * found) / signal
        return signal * noisy - noise * found


def load_base(path: str, device: torch.device, dtype: torch.dtype = torch.float32, config: str = "") -> Base:
    """A starter file, a single checkpoint file (.safetensors) or a diffusers folder, frozen on the device.

    config: a diffusers folder of the same family, whose settings and tokenizer serve a checkpoint file; without it those in
    diffusers' own cache do, which fetches them when they are missing. Raises ValueError, in one sentence, for what cannot be
    used.
    """
    place = Path(path)
    if not place.exists():
        raise ValueError(f"there is no base model at {path}; give a checkpoint file, a diffusers folder or a starter file")
    if place.is_file() and _is_starter(place):
        return _starter(place, device)
    return _stable_diffusion(place, device, dtype, config)


def _is_starter(path: Path) -> bool:
    try:
        return read_header(path).kind == FILE_KIND
    except ValueError:
        return False


def _starter(path: Path, device: torch.device) -> Base:
    parts = load_starter(path)
    for module in (parts.unet, parts.vae, parts.text_encoder):
        module.to(device)
    return starter_base(parts)


def starter_base(parts: StarterParts) -> Base:
    """The starter's parts as they are, on their device."""
    config = parts.config
    return Base(
        config.name, config.unet_shape, parts.unet, training_scheduler(config), config.prediction, config.image_size,
        parts.vae, config.scale, lambda sentences: {"encoder_hidden_states": encode_prompts(parts, sentences)},
    )  # fmt: skip


def _stable_diffusion(path: Path, device: torch.device, dtype: torch.dtype, config: str) -> Base:
    from diffusers import DDPMScheduler

    pipe = _pipeline(path, dtype, config).to(device)
    if dtype == torch.float16:
        pipe.vae.float()  # SDXL's overflows in half precision
    unet, vae = pipe.unet.requires_grad_(False).eval(), pipe.vae.requires_grad_(False).eval()
    family = _family(unet, path)
    schedule = DDPMScheduler.from_config(pipe.scheduler.config)
    size = unet.config.sample_size * 8
    text = _sdxl_text(pipe, size) if family == "sdxl" else _plain_text(pipe)
    prediction = schedule.config.prediction_type
    return Base(family, FAMILIES[family], unet, schedule, prediction, size, vae, vae.config.scaling_factor, text)


def _pipeline(path: Path, dtype: torch.dtype, config: str):
    from diffusers import DiffusionPipeline, StableDiffusionPipeline, StableDiffusionXLPipeline

    options = {"torch_dtype": dtype, "local_files_only": True}
    try:
        if path.is_dir():
            return DiffusionPipeline.from_pretrained(path, **options)
        if config:
            options["config"] = config
        return _first_that_loads((StableDiffusionPipeline, StableDiffusionXLPipeline), path, options)
    except (OSError, ValueError, KeyError, RuntimeError, TypeError) as error:
        raise ValueError(
            f"{path} is not readable as a Stable Diffusion model ({first_line(error)}); give SD1.5, SD2.x or SDXL, and for a "
            "checkpoint file a diffusers folder of its family as --base-config"
        ) from error


def _first_that_loads(classes, path: Path, options: dict):
    *others, last = classes
    for pipeline in others:
        try:
            return pipeline.from_single_file(path, **options)
        except (OSError, ValueError, KeyError, RuntimeError, TypeError):
            continue
    return last.from_single_file(path, **options)


def _family(unet: UNet2DConditionModel, path: Path) -> str:
    sites = {name: module.to_q.out_features for name, module in cross_attentions(unet).items()}
    for family, shape in FAMILIES.items():
        if sites == unet_sites(shape) and unet.config.cross_attention_dim == shape.context_width:
            return family
    raise ValueError(f"{path} is none of {', '.join(FAMILIES)}; MEAF cannot be trained on it")


def _plain_text(pipe):
    def text(sentences: list[str]) -> dict:
        positive, _ = pipe.encode_prompt(sentences, pipe.device, 1, False)
        return {"encoder_hidden_states": positive}

    return text


def _sdxl_text(pipe, size: int):
    def text(sentences: list[str]) -> dict:
        positive, _, pooled, _ = pipe.encode_prompt(sentences, device=pipe.device, do_classifier_free_guidance=False)
        sizes = torch.tensor([[size, size, 0, 0, size, size]] * len(sentences), device=pipe.device, dtype=pooled.dtype)
        return {"encoder_hidden_states": positive, "added_cond_kwargs": {"text_embeds": pooled, "time_ids": sizes}}

    return text

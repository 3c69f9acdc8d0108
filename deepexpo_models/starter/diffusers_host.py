"""The starter as diffusers and transformers objects: training, evaluation, the command line."""

import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL, DDIMScheduler, UNet2DConditionModel
from torch import Tensor

from .config import StarterConfig
from .files import load_starter_tensors, save_starter_tensors
from .vocabulary import tokens, write_tokenizer

BETAS = {"beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012, "num_train_timesteps": 1000}


@dataclass
class StarterParts:
    """config, U-Net, VAE, CLIP text encoder and its tokenizer."""

    config: StarterConfig
    unet: UNet2DConditionModel
    vae: AutoencoderKL
    text_encoder: torch.nn.Module
    tokenizer: Any

    @property
    def latent_shape(self) -> tuple[int, int, int]:
        return self.config.latent_channels, self.config.latent_size, self.config.latent_size


def build_starter(config: StarterConfig) -> StarterParts:
    """All parts with fresh weights."""
    return StarterParts(config, _build_unet(config), _build_vae(config), _build_text_encoder(config), _tokenizer(config))


def load_starter(path: Path) -> StarterParts:
    """From one file, fp32, ready to use. Raises ValueError, in one sentence, for any other or damaged file."""
    config, tensors = load_starter_tensors(path)
    parts = build_starter(config)
    for name, state in tensors.items():
        module = getattr(parts, name)
        try:
            state = {_named_as_in(module, key): value.float() for key, value in state.items()}
            module.load_state_dict(state, strict=True)
        except RuntimeError as error:
            raise ValueError(f"{Path(path).name} does not hold the {name} of its config; download it again") from error
        module.eval().requires_grad_(False)
    return parts


def _named_as_in(module: torch.nn.Module, key: str) -> str:
    """CLIP's text encoder has its keys under text_model. in transformers 4, and not in 5."""
    names, inner = module.state_dict(), key.removeprefix("text_model.")
    return next((name for name in (key, inner, f"text_model.{inner}") if name in names), key)


def save_starter(path: Path, parts: StarterParts, dtype: torch.dtype = torch.float16) -> None:
    states = {
        name: {key: value.detach().to(dtype).contiguous() for key, value in getattr(parts, name).state_dict().items()}
        for name in ("unet", "vae", "text_encoder")
    }
    save_starter_tensors(path, parts.config, states)


def encode_prompts(parts: StarterParts, prompts: list[str]) -> Tensor:
    """Sentences -> (B, tokens, text_width)."""
    ids = parts.tokenizer(
        prompts, padding="max_length", truncation=True, max_length=parts.config.tokens, return_tensors="pt"
    ).input_ids  # fmt: skip
    return parts.text_encoder(ids.to(parts.unet.device)).last_hidden_state


@torch.no_grad()
def decode(parts: StarterParts, latents: Tensor) -> Tensor:
    """latents (B, C, h, w) of unit variance -> pictures (B, 3, S, S) in [-1, 1]."""
    return parts.vae.decode(latents / parts.config.scale).sample.clamp(-1, 1)


@torch.no_grad()
def encode(parts: StarterParts, images: Tensor) -> Tensor:
    """pictures (B, 3, S, S) in [-1, 1] -> latents (B, C, h, w) of unit variance, the mean of the VAE's distribution."""
    return parts.vae.encode(images).latent_dist.mean * parts.config.scale


def training_scheduler(config: StarterConfig) -> DDIMScheduler:
    """add_noise and get_velocity for training."""
    return DDIMScheduler(**BETAS, prediction_type=config.prediction)


def _build_unet(config: StarterConfig) -> UNet2DConditionModel:
    attended = len(config.unet_channels) - 1  # the coarsest level has none, as in Stable Diffusion
    return UNet2DConditionModel(
        sample_size=config.latent_size,
        in_channels=config.latent_channels,
        out_channels=config.latent_channels,
        block_out_channels=config.unet_channels,
        layers_per_block=config.unet_layers,
        down_block_types=("CrossAttnDownBlock2D",) * attended + ("DownBlock2D",),
        up_block_types=("UpBlock2D",) + ("CrossAttnUpBlock2D",) * attended,
        cross_attention_dim=config.text_width,
        attention_head_dim=config.heads,  # diffusers' name for the number of heads
    )


def _build_vae(config: StarterConfig) -> AutoencoderKL:
    levels = len(config.vae_channels)
    return AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * levels,
        up_block_types=("UpDecoderBlock2D",) * levels,
        block_out_channels=config.vae_channels,
        layers_per_block=config.vae_layers,
        latent_channels=config.latent_channels,
        sample_size=config.image_size,
    )


def _build_text_encoder(config: StarterConfig) -> torch.nn.Module:
    from transformers import CLIPTextConfig, CLIPTextModel

    vocabulary = tokens(config.merges)
    return CLIPTextModel(
        CLIPTextConfig(
            vocab_size=len(vocabulary),
            hidden_size=config.text_width,
            intermediate_size=4 * config.text_width,
            num_hidden_layers=config.text_layers,
            num_attention_heads=config.text_heads,
            max_position_embeddings=config.tokens,
            hidden_act="quick_gelu",
            bos_token_id=len(vocabulary) - 2,
            eos_token_id=len(vocabulary) - 1,
            pad_token_id=len(vocabulary) - 1,
            projection_dim=config.text_width,
        )
    )


def _tokenizer(config: StarterConfig):
    from transformers import CLIPTokenizer

    with tempfile.TemporaryDirectory() as folder:
        return CLIPTokenizer.from_pretrained(write_tokenizer(Path(folder), config.merges, config.tokens))

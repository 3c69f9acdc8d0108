"""Train the starter base: python -m deepexpo_models.training.train_starter --part vae|text2image --out runs/x --synthetic FACES

First the VAE, then U-Net and text encoder together on its latents (--vae runs/vae/starter-base.safetensors).
"""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Generator, Tensor, nn

from ..dsid.losses import reconstruction, weight_map
from ..pipeline.base import starter_base
from ..pipeline.sampling import sample
from ..starter import STARTER, build_vocabulary
from ..starter.diffusers_host import (
    StarterParts,
    build_starter,
    decode,
    encode,
    encode_prompts,
    load_starter,
    save_starter,
    training_scheduler,
)
from ..weights import read_header
from ..whole_files import write_file
from .engine.ema import EMA
from .engine.engine import Engine, make_scheduler
from .engine.muon import Muon, split_parameters
from .engine.settings import RunSettings, option, run_command
from .meaf.diffusion_loss import min_snr_weights, sample_times
from .starter.data import CaptionedPictures, DrawnPictures, Frames, HeadPictures, PlainFrames

NO_MATRICES = ("embedding", "conv_in", "conv_out")  # left to Adam
FIRST_LOGVAR = -6.0  # of a latent; from 0 the noise hides the picture and hundreds of steps pass before anything is learned
BACKGROUND = 0.6  # weight of what is no face, for the VAE
HELD_OUT = 256  # pictures at most, the last of the data, that text2image never trains on
COLOUR_WEIGHT = 6.0  # of squared errors of 8x8 means: L1 alone stayed content without the red-green axis for 1200 steps
CHUNK = 64  # pictures that are encoded at once


@dataclass(frozen=True, kw_only=True)
class StarterSettings(RunSettings):
    """Training of the starter base."""

    lr: float = option(2e-3, "learning rate after the warm-up")
    part: str = option(help="what to train", choices=("vae", "text2image"), fixed=True)
    synthetic: str = option("", "folder of drawn faces (deepexpo_models.data.draw)")
    heads: str = option("", "instead of them: folder of rendered heads (deepexpo_models.data.heads.generate)")
    latent_channels: int = option(STARTER.latent_channels, "vae: channels of a latent", fixed=True)
    stills: str = option("", "instead of them: folder of pictures, each with its caption in a .txt file of its name")
    vae: str = option("", "text2image: the starter file that holds the trained VAE")
    region_weight: float = option(6.0, "extra weight of eyes, brows and mouth, where they are known")
    face_weight: float = option(2.0, "text2image: extra weight of the face")
    crop: int = option(0, "vae: side of the random crops it is trained on, which are cheaper; 0: whole pictures")
    kl: float = option(1e-6, "vae: weight of the latents' Kullback-Leibler divergence")
    text_drop: float = option(0.1, "text2image: share of empty prompts")
    snr_gamma: float = option(5.0, "text2image: min-SNR weighting (Hang et al. 2023); 0: none")

    def __post_init__(self):
        super().__post_init__()
        if sum(map(bool, (self.synthetic, self.heads, self.stills))) != 1:
            raise ValueError("give either --synthetic, --heads or --stills, the pictures to train on")
        if self.latent_channels < 1:
            raise ValueError(f"latent_channels is {self.latent_channels}; it must be at least 1")
        if self.part == "text2image" and not self.vae:
            raise ValueError("text2image needs --vae, the starter file that --part vae made")
        if self.crop % 8 or not 0 <= self.crop <= STARTER.image_size:
            raise ValueError(f"crop is {self.crop}; it is a multiple of 8 up to {STARTER.image_size}, or 0")


def train(settings: StarterSettings) -> Path | None:
    """Run or resume one part; returns the starter file with it, None when the run was stopped before its end."""
    return {"vae": _train_vae, "text2image": _train_text2image}[settings.part](settings)


def _train_vae(settings: StarterSettings) -> Path | None:
    engine = Engine(settings)
    data = _data(settings, engine)
    config = replace(STARTER, latent_channels=settings.latent_channels, merges=build_vocabulary(data.words))
    parts = build_starter(config)
    with torch.no_grad():
        parts.vae.quant_conv.bias[parts.config.latent_channels :] = FIRST_LOGVAR
    if settings.checkpointing:
        parts.vae.enable_gradient_checkpointing()
    step_module, optimizer, schedule, ema = _prepared(engine, settings, VAEStep(parts.vae, settings.kl), parts.vae)
    feed = engine.feed(lambda count, generator, _: data.frames(torch.randint(len(data), (count,), generator=generator)))
    for step in engine.steps(engine.restore()):
        for part in range(settings.accumulate):
            frames, generator = feed.take(step, part)
            window = _window(frames.images.shape[-1], settings.crop, generator)
            images, region, face = (x[(..., *window)].to(engine.device) for x in (frames.images, frames.region, frames.face))
            with engine.autocast():
                terms, psnr = step_module(images, weight_map(region, face, settings.region_weight, BACKGROUND), generator)
            engine.backward(sum(terms.values()), terms)
        norm = engine.clip(parts.vae.parameters())
        optimizer.step(), schedule.step(), optimizer.zero_grad()
        ema.update(parts.vae, step)
        engine.log(step, {**terms, "grad_norm": norm, "psnr": psnr})
        if settings.sample_every and (step + 1) % settings.sample_every == 0:
            with ema.applied(parts.vae):
                whole = frames.images[:8].to(engine.device)
                again = decode(parts, encode(parts, whole))
            engine.images(step + 1, "vae", torch.stack([whole, again], 1).flatten(0, 1), columns=4)
    if not engine.finished:
        return None
    with ema.applied(parts.vae):
        parts.config = replace(parts.config, scale=1 / _spread(parts, data, engine.device))
        return _release(engine, settings, parts)


class VAEStep(nn.Module):
    """forward(images, weights, generator) -> named loss terms, and the PSNR of what was rebuilt."""

    vae: Any  # diffusers' AutoencoderKL

    def __init__(self, vae: nn.Module, kl: float):
        super().__init__()
        self.vae, self.kl = vae, kl

    def forward(self, images: Tensor, weights: Tensor, generator: Generator) -> tuple[dict[str, Tensor], Tensor]:
        distribution = self.vae.encode(images).latent_dist
        made = self.vae.decode(distribution.sample(generator)).sample.float()
        terms = {
            "picture": reconstruction(made, images, weights),
            "colour": COLOUR_WEIGHT * F.mse_loss(F.avg_pool2d(made, 8), F.avg_pool2d(images, 8)),
            "kl": self.kl * distribution.kl().mean(),
        }
        return terms, -10 * torch.log10((made - images).detach().square().mean() / 4)


def _train_text2image(settings: StarterSettings) -> Path | None:
    engine = Engine(settings)
    parts = load_starter(Path(settings.vae))
    for module in (parts.unet, parts.vae, parts.text_encoder):
        module.to(engine.device)
    data = _data(settings, engine)
    latents = _latents(settings, parts, data, engine)
    kept = len(data) - min(HELD_OUT, len(data) // 8)
    if settings.checkpointing:
        parts.unet.enable_gradient_checkpointing()
    noise_schedule = training_scheduler(parts.config)
    snr_weights = min_snr_weights(noise_schedule.alphas_cumprod, parts.config.prediction, settings.snr_gamma)
    step_module = Text2ImageStep(parts, noise_schedule)
    network = step_module.network
    step_module, optimizer, schedule, ema = _prepared(engine, settings, step_module, network)

    def sample(count: int, generator: Generator, _lead: Generator) -> tuple:
        rows = torch.randint(kept, (count,), generator=generator)
        prompts = _drop_some(data.captions(rows, generator), settings.text_drop, generator)
        times = sample_times(count, generator)
        return rows, prompts, times, _weights(data.frames(rows), settings, latents.shape[-1])

    feed = engine.feed(sample)
    for step in engine.steps(engine.restore()):
        for part in range(settings.accumulate):
            (rows, prompts, times, weights), generator = feed.take(step, part)
            with engine.autocast():
                error = step_module(_read(latents, rows), prompts, times, generator, weights)
            terms = {"noise": (error * snr_weights[times].to(error)).mean()}
            engine.backward(terms["noise"], terms)
        norm = engine.clip(network.parameters())
        optimizer.step(), schedule.step(), optimizer.zero_grad()
        ema.update(network, step)
        engine.log(step, {**terms, "error": error.mean(), "grad_norm": norm})
        if settings.sample_every and (step + 1) % settings.sample_every == 0:
            with ema.applied(network), engine.autocast():
                engine.log(step, {"held_out": held_out_error(step_module, data, latents, kept)})
                engine.images(step + 1, "text2image", show(parts, data.shown), columns=8)
    if not engine.finished:
        return None
    with ema.applied(network):
        return _release(engine, settings, parts)


class Text2ImageStep(nn.Module):
    """forward(clean latents, sentences, times, generator, weights) -> squared error (B,) of what the U-Net predicts of the
    noise, with weights (B, 1, h, w) or plain.
    """

    def __init__(self, parts: StarterParts, noise_schedule):
        super().__init__()
        self.network = nn.ModuleDict({"unet": parts.unet, "text_encoder": parts.text_encoder}).train().requires_grad_(True)
        self._frozen = (parts, noise_schedule)  # in a tuple: no part of this module's parameters

    def forward(
        self, clean: Tensor, sentences: list[str], times: Tensor, generator: Generator, weights: Tensor | float = 1.0
    ) -> Tensor:
        parts, schedule = self._frozen
        noise = torch.randn(clean.shape, generator=generator).to(parts.unet.device)
        clean, times = clean.to(noise), times.to(noise.device)
        found = parts.unet(schedule.add_noise(clean, noise, times), times, encode_prompts(parts, sentences)).sample
        target = noise if parts.config.prediction == "epsilon" else schedule.get_velocity(clean, noise, times)
        weights = weights.to(clean) if isinstance(weights, Tensor) else weights
        return ((found.float() - target).square() * weights).mean((1, 2, 3))


@torch.no_grad()
def held_out_error(step_module: nn.Module, data, latents: np.ndarray, first: int) -> Tensor:
    """Mean error on the pictures from `first` on, always with the same sentences, times and noise."""
    generator, errors = torch.Generator().manual_seed(0), []
    for rows in torch.arange(first, len(latents)).split(CHUNK):
        sentences, times = data.captions(rows, generator), sample_times(len(rows), generator)
        errors.append(step_module(_read(latents, rows), sentences, times, generator))
    return torch.cat(errors).mean()


@torch.no_grad()
def show(parts: StarterParts, prompts: tuple[str, ...], each: int = 4, seed: int = 0) -> Tensor:
    """(prompts * each, 3, S, S) in [-1, 1]: what is drawn for the prompts, always from the same noise."""
    repeated = [prompt for prompt in prompts for _ in range(each)]
    base = starter_base(parts)
    noise = torch.randn(len(repeated), *parts.latent_shape, generator=torch.Generator().manual_seed(seed))
    text, negative = base.text(repeated), base.text([""] * len(repeated))
    return base.decode(sample(base, text, negative, noise.to(parts.unet.device))).clamp(-1, 1)


def _data(settings: StarterSettings, engine: Engine) -> DrawnPictures | HeadPictures | CaptionedPictures:
    if settings.heads:
        return HeadPictures(settings.heads, STARTER.image_size)
    if settings.synthetic:
        return DrawnPictures(settings.synthetic, STARTER.image_size)
    return CaptionedPictures(settings.stills, STARTER.image_size, engine.say)


def _prepared(engine: Engine, settings: StarterSettings, step_module: nn.Module, network: nn.Module):
    """Everything around `network`, the part of the step that learns: registered, and on the run's device."""
    optimizer = Muon(*split_parameters([network], NO_MATRICES), settings.lr)
    schedule, ema = make_scheduler(optimizer, settings), EMA(network, settings.ema)
    step_module, optimizer = engine.prepare(step_module, optimizer)
    for name, thing in {"network": network, "optimizer": optimizer, "schedule": schedule, "ema": ema}.items():
        engine.register(name, thing)
    return step_module, optimizer, schedule, ema


@torch.no_grad()
def _spread(parts: StarterParts, data, device: torch.device) -> float:
    """Standard deviation of the latents of some 256 pictures."""
    rows = torch.arange(0, len(data), max(1, len(data) // 256))
    means = [parts.vae.encode(data.images(part).to(device)).latent_dist.mean for part in rows.split(CHUNK)]
    return torch.cat(means).std().item()


def _latents(settings: StarterSettings, parts: StarterParts, data, engine: Engine) -> np.ndarray:
    """(N, C, h, w) float16 of all pictures, encoded once per VAE and kept beside the run, read from disk as needed."""
    vae = read_header(Path(settings.vae)).metadata["sha256"][:12]
    path = Path(settings.out) / f"latents-{vae}-{len(data)}.npy"
    if engine.is_main and not path.exists():
        engine.say(f"encoding {len(data)} pictures")
        with write_file(path) as beside:
            whole = np.lib.format.open_memmap(beside, "w+", np.float16, (len(data), *parts.latent_shape))
            for rows in torch.arange(len(data)).split(CHUNK):
                whole[rows.numpy()] = encode(parts, data.images(rows).to(engine.device)).cpu().numpy()
            whole.flush()
    engine.accelerator.wait_for_everyone()
    return np.load(path, mmap_mode="r")


def _weights(frames: Frames | PlainFrames, settings: StarterSettings, side: int) -> Tensor:
    """(B, 1, side, side) with mean 1 per picture: a latent says of the face far more than of a plain background."""
    weights = 1 + settings.face_weight * frames.face + settings.region_weight * frames.region
    weights = F.adaptive_avg_pool2d(weights, side)
    return weights / weights.mean((1, 2, 3), keepdim=True)


def _read(latents: np.ndarray, rows: Tensor) -> Tensor:
    return torch.from_numpy(latents[rows.numpy()]).float()


def _window(size: int, crop: int, generator: Generator) -> tuple[slice, slice]:
    """Rows and columns of one random crop, on the grid of the latents."""
    side = crop or size
    top, left = (8 * torch.randint((size - side) // 8 + 1, (2,), generator=generator)).tolist()
    return slice(top, top + side), slice(left, left + side)


def _drop_some(sentences: list[str], drop: float, generator: Generator) -> list[str]:
    kept = torch.rand(len(sentences), generator=generator) >= drop
    return [sentence if keep else "" for sentence, keep in zip(sentences, kept)]


def _release(engine: Engine, settings: StarterSettings, parts: StarterParts) -> Path:
    path = Path(settings.out) / "starter-base.safetensors"
    if engine.is_main:
        save_starter(path, parts)
    return path


def main(argv: list[str] | None = None) -> None:
    run_command(train, StarterSettings, argv, "Train the starter's VAE, then its U-Net and text encoder.")


if __name__ == "__main__":
    main()

"""Train the starter base: python -m deepexpo_models.training.train_starter --part vae|text2image --out runs/x --synthetic FACES

First the VAE, then U-Net and text encoder together on its latents (--vae runs/vae/starter.safetensors).
"""

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch import Generator, Tensor, nn

from ..data.synthetic import CAPTION_WORDS, captions
from ..data.synthetic.shards import FRAMES, ShardStore
from ..dsid.losses import reconstruction, weight_map
from ..muon import Muon, split_parameters
from ..starter import STARTER, build_vocabulary
from ..starter.diffusers_host import (
    StarterParts,
    build_starter,
    decode,
    encode,
    encode_prompts,
    load_starter,
    sample,
    save_starter,
    training_scheduler,
)
from .config import RunSettings, option, parse_settings
from .diffusion_loss import min_snr_weights, sample_times
from .ema import EMA
from .engine import Engine, make_scheduler

NO_MATRICES = ("embedding", "conv_in", "conv_out")  # left to Adam
FIRST_LOGVAR = -6.0  # of a latent; from 0 the noise hides the picture and hundreds of steps pass before anything is learned
SHOWN = (
    "a portrait of a person, red striped background, blue clothes, wearing a hat",
    "a person, yellow background, green clothes, wearing glasses",
    "a portrait of a person with long blond hair, smiling, purple dotted background, white clothes",
    "a drawing of a person with black hair, with an open mouth, grey checkered background, orange clothes, wearing a scarf",
)


@dataclass(frozen=True, kw_only=True)
class StarterSettings(RunSettings):
    """Training of the starter base."""

    lr: float = option(2e-3, "learning rate after the warm-up")
    part: str = option(help="what to train", choices=("vae", "text2image"), fixed=True)
    synthetic: str = option(help="folder of drawn faces (deepexpo_models.data.draw)")
    vae: str = option("", "text2image: the starter file that holds the trained VAE")
    region_weight: float = option(6.0, "vae: extra weight of eyes, brows and mouth")
    crop: int = option(0, "vae: side of the random crops it is trained on, which are cheaper; 0: whole pictures")
    kl: float = option(1e-6, "vae: weight of the latents' Kullback-Leibler divergence")
    text_drop: float = option(0.1, "text2image: share of empty prompts")
    snr_gamma: float = option(5.0, "text2image: min-SNR weighting (Hang et al. 2023)")


def train(settings: StarterSettings) -> Path | None:
    """Run or resume one part; returns the starter file with it, None when the run was stopped before its end."""
    return {"vae": _train_vae, "text2image": _train_text2image}[settings.part](settings)


def _train_vae(settings: StarterSettings) -> Path | None:
    engine, store = Engine(settings), ShardStore(settings.synthetic)
    parts = build_starter(replace(STARTER, merges=build_vocabulary(CAPTION_WORDS)))
    with torch.no_grad():
        parts.vae.quant_conv.bias[parts.config.latent_channels :] = FIRST_LOGVAR
    ema, (_, optimizer, schedule) = _registered(engine, settings, parts.vae)
    for step in engine.steps(engine.restore()):
        for part in range(settings.accumulate):
            generator = engine.generator(step, part)
            frames = store.frames(torch.randint(len(store), (settings.batch_size,), generator=generator))
            window = _window(frames.images.shape[-1], settings.crop, generator)
            images = frames.images[(..., *window)].to(engine.device)
            with engine.autocast():
                distribution = parts.vae.encode(images).latent_dist
                made = parts.vae.decode(distribution.sample(generator)).sample
            masks = (frames.region[(..., *window)], frames.face[(..., *window)])
            weights = weight_map(*masks, settings.region_weight, background=0.6).to(images)
            terms = {"picture": reconstruction(made, images, weights), "kl": settings.kl * distribution.kl().mean()}
            engine.backward(sum(terms.values()), terms)
        norm = engine.clip(parts.vae.parameters())
        optimizer.step(), schedule.step(), optimizer.zero_grad()
        ema.update(parts.vae, step)
        engine.log(step, {**terms, "grad_norm": norm, "psnr": -10 * torch.log10((made - images).detach().square().mean() / 4)})
        if settings.sample_every and (step + 1) % settings.sample_every == 0:
            with ema.applied(parts.vae), torch.no_grad():
                whole = frames.images[:8].to(engine.device)
                again = decode(parts, encode(parts, whole))
            engine.images(step + 1, "vae", torch.stack([whole, again], 1).flatten(0, 1), columns=4)
    if not engine.finished:
        return None
    with ema.applied(parts.vae), torch.no_grad():
        rows = torch.arange(0, len(store), max(1, len(store) // 256))
        spread = torch.cat([parts.vae.encode(store.images(part)).latent_dist.mean for part in rows.split(32)]).std().item()
        parts.config = replace(parts.config, scale=1 / spread)
        return _release(engine, settings, parts)


def _train_text2image(settings: StarterSettings) -> Path | None:
    if not settings.vae:
        raise ValueError("text2image needs --vae, the starter file that --part vae made")
    engine, store = Engine(settings), ShardStore(settings.synthetic)
    parts = load_starter(Path(settings.vae))
    parts.vae.to(engine.device)
    latents = _latents(settings, parts, store, engine)
    network = nn.ModuleDict({"unet": parts.unet, "text_encoder": parts.text_encoder}).train().requires_grad_(True)
    if settings.checkpointing:
        parts.unet.enable_gradient_checkpointing()
    noise_schedule = training_scheduler(parts.config)
    snr_weights = min_snr_weights(noise_schedule.alphas_cumprod, parts.config.prediction, settings.snr_gamma)
    ema, (network, optimizer, schedule) = _registered(engine, settings, network)
    for step in engine.steps(engine.restore()):
        for part in range(settings.accumulate):
            generator = engine.generator(step, part)
            rows = torch.randint(len(latents), (settings.batch_size,), generator=generator)
            clean = torch.from_numpy(latents[rows.numpy()]).float().to(engine.device)
            told = _told(captions(store.scene(rows), generator), settings.text_drop, generator)
            noise = torch.randn(clean.shape, generator=generator).to(clean)
            times = sample_times(settings.batch_size, generator).to(engine.device)
            with engine.autocast():
                noisy = noise_schedule.add_noise(clean, noise, times)
                found = parts.unet(noisy, times, encode_prompts(parts, told)).sample
            error = (found.float() - noise_schedule.get_velocity(clean, noise, times)).square().mean((1, 2, 3))
            terms = {"noise": (error * snr_weights.to(error)[times]).mean()}
            engine.backward(terms["noise"], terms)
        norm = engine.clip(network.parameters())
        optimizer.step(), schedule.step(), optimizer.zero_grad()
        ema.update(network, step)
        engine.log(step, {**terms, "error": error.mean(), "grad_norm": norm})
        if settings.sample_every and (step + 1) % settings.sample_every == 0:
            with ema.applied(network):
                engine.images(step + 1, "text2image", show(parts), columns=8)
    if not engine.finished:
        return None
    with ema.applied(network):
        return _release(engine, settings, parts)


@torch.no_grad()
def show(parts: StarterParts, per_prompt: int = 4, seed: int = 0) -> Tensor:
    """Pictures for SHOWN, always from the same noise."""
    prompts = [prompt for prompt in SHOWN for _ in range(per_prompt)]
    parts.unet.eval()
    text, empty = encode_prompts(parts, prompts), encode_prompts(parts, [""]).expand(len(prompts), -1, -1)
    pictures = decode(parts, sample(parts, text, empty, torch.Generator().manual_seed(seed)))
    parts.unet.train()
    return pictures


def _registered(engine: Engine, settings: StarterSettings, network: nn.Module):
    optimizer = Muon(*split_parameters([network], NO_MATRICES), settings.lr)
    schedule, ema = make_scheduler(optimizer, settings), EMA(network, settings.ema)
    network, optimizer = engine.prepare(network, optimizer)
    for name, thing in {"network": network, "optimizer": optimizer, "schedule": schedule, "ema": ema}.items():
        engine.register(name, thing)
    return ema, (network, optimizer, schedule)


def _latents(settings: StarterSettings, parts: StarterParts, store: ShardStore, engine: Engine) -> np.ndarray:
    """(N, C, h, w) float16 of all pictures in the store, encoded once and kept beside the run."""
    path = Path(settings.out) / "latents.npy"
    if not path.exists():
        whole = np.empty((len(store), *parts.latent_shape), dtype=np.float16)
        with torch.no_grad():
            for rows in torch.arange(len(store)).split(64):
                whole[rows.numpy()] = encode(parts, store.images(rows).to(engine.device)).cpu().half().numpy()
                if rows[0] % (FRAMES * 800) == 0:
                    engine.say(f"encoded {rows[0].item()} of {len(store)} pictures")
        np.save(path, whole)
    return np.load(path, mmap_mode="r")


def _window(size: int, crop: int, generator: Generator) -> tuple[slice, slice]:
    """Rows and columns of one random crop, on the grid of the latents."""
    side = crop or size
    top, left = (8 * torch.randint((size - side) // 8 + 1, (2,), generator=generator)).tolist()
    return slice(top, top + side), slice(left, left + side)


def _told(sentences: list[str], drop: float, generator: Generator) -> list[str]:
    kept = torch.rand(len(sentences), generator=generator) >= drop
    return [sentence if keep else "" for sentence, keep in zip(sentences, kept)]


def _release(engine: Engine, settings: StarterSettings, parts: StarterParts) -> Path:
    path = Path(settings.out) / "starter-base.safetensors"
    if engine.is_main:
        save_starter(path, parts)
    return path


def main(argv: list[str] | None = None) -> None:
    settings = parse_settings(StarterSettings, argv, "Train the starter's VAE, then its U-Net and text encoder.")
    train(settings)


if __name__ == "__main__":
    main()

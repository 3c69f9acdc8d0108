"""Train the starter base: python -m deepexpo_models.training.train_starter --part vae|decoder|text2image --out runs/x --heads X

First the VAE, then U-Net and text encoder together on its latents (--vae runs/vae/starter-base.safetensors). Its decoder alone
can be trained further at any time, also of a finished base, since its latents stay what they are. On rendered heads (--heads)
a part of the samples is told the true factors as well, by tokens beside the caption's (see starter.factors); --stills are
pictures of the user's own.
"""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Generator, Tensor, nn

from ..data.heads.shards import HeadStore
from ..dsid import load_dsid
from ..dsid.losses import weight_map
from ..evaluation.base_gate import draw, gate, held_out
from ..evaluation.reading import MAIN
from ..pipeline.base import starter_base
from ..pipeline.sampling import sample
from ..starter import STARTER, build_vocabulary
from ..starter.diffusers_host import (
    StarterParts,
    build_starter,
    decode,
    encode,
    load_starter,
    save_starter,
    training_scheduler,
)
from ..starter.factors import FactorTokens, load_factors, save_factors
from ..whole_files import write_file
from .engine.ema import EMA
from .engine.engine import Engine, make_scheduler
from .engine.muon import Muon, split_parameters
from .engine.settings import RunSettings, option, run_command
from .meaf.diffusion_loss import min_snr_weights, sample_times
from .starter.data import CaptionedPictures, Frames, HeadPictures
from .starter.steps import Text2ImageStep, VAEStep, decoder_of, principal_components

NO_MATRICES = ("embedding", "conv_in", "conv_out")  # left to Adam
LOGVAR = -6.0  # of a latent, of which the mean alone is learned: noise of 0.05, so that a decoder forgives a U-Net its errors
MOST_CHANNELS = 3 * (STARTER.image_size // STARTER.latent_size) ** 2
COMPONENTS_OF = 1024  # pictures whose patches say what the latents are
BACKGROUND = 0.6  # weight of what is no face, for the VAE
HELD_OUT = 256  # pictures at most, the last of the data, that text2image never trains on
CHUNK = 64  # pictures that are encoded at once
SCALED_ON = 1024  # heads whose factors give mean and spread
SHOWN = 16  # heads in the gate's sample pictures, each with its true picture


@dataclass(frozen=True, kw_only=True)
class StarterSettings(RunSettings):
    """Training of the starter base."""

    lr: float = option(2e-3, "learning rate after the warm-up")
    part: str = option(help="what to train", choices=("vae", "decoder", "text2image"), fixed=True)
    heads: str = option("", "folder of rendered heads (deepexpo_models.data.heads.generate)")
    stills: str = option("", "instead of them: folder of pictures, each with its caption in a .txt file of its name")
    latent_channels: int = option(STARTER.latent_channels, "vae: channels of a latent", fixed=True)
    vae: str = option("", "decoder, text2image: the starter file that holds the trained VAE")
    region_weight: float = option(6.0, "extra weight of eyes, brows and mouth, where they are known")
    face_weight: float = option(2.0, "text2image: extra weight of the face")
    crop: int = option(0, "vae, decoder: side of the random crops it is trained on, which are cheaper; 0: whole pictures")
    text_drop: float = option(0.1, "text2image: share of empty prompts")
    snr_gamma: float = option(5.0, "text2image: min-SNR weighting (Hang et al. 2023); 0: none")
    factor_drop: float = option(0.5, "text2image on heads: share of samples without factor tokens; 1: there are none")
    calm_share: float = option(0.0, "text2image on heads: share of samples from pictures with a plain or gradient background")
    factors: str = option("", "factors file beside --vae: text2image on heads starts from it, decoder takes it along")
    test: str = option("", "text2image on heads: folder of held-out heads, drawn from their factors at every --sample-every")
    reader: str = option("", "DSID file that reads what is drawn of --test, as weights/photo-dsid.safetensors")

    def __post_init__(self):
        super().__post_init__()
        if bool(self.heads) == bool(self.stills):
            raise ValueError("give either --heads or --stills, the pictures to train on")
        if not 1 <= self.latent_channels <= MOST_CHANNELS:
            raise ValueError(f"latent_channels is {self.latent_channels}; it lies from 1 to {MOST_CHANNELS}, a patch's numbers")
        if self.part != "vae" and not self.vae:
            raise ValueError(f"{self.part} needs --vae, the starter file that --part vae made")
        if not 0 <= self.factor_drop <= 1:
            raise ValueError(f"factor_drop is {self.factor_drop}; it is a share from 0 to 1")
        if not 0 <= self.calm_share <= 1 or (self.calm_share and not self.heads):
            raise ValueError(f"calm_share is {self.calm_share}; it is a share from 0 to 1 of rendered heads (--heads)")
        if self.factors and self.part == "vae":
            raise ValueError("--factors belong to a base, and vae begins one; leave them out")
        if self.factors and not self.has_factors:
            raise ValueError("--factors are tokens of rendered heads; give --heads, and a --factor-drop below 1")
        if bool(self.test) != bool(self.reader):
            raise ValueError("--test heads are drawn and read by a DSID; give --test and --reader, or neither")
        if self.crop % 8 or not 0 <= self.crop <= STARTER.image_size:
            raise ValueError(f"crop is {self.crop}; it is a multiple of 8 up to {STARTER.image_size}, or 0")

    @property
    def has_factors(self) -> bool:
        return bool(self.heads) and self.factor_drop < 1


def train(settings: StarterSettings) -> Path | None:
    """Run or resume one part; returns the starter file with it, None when the run was stopped before its end."""
    return {"vae": _train_vae, "decoder": _train_vae, "text2image": _train_text2image}[settings.part](settings)


def _train_vae(settings: StarterSettings) -> Path | None:
    engine = Engine(settings)
    data = _data(settings, engine)
    factors = load_factors(Path(settings.factors), Path(settings.vae)) if settings.factors else None
    parts = _new_parts(settings, data) if settings.part == "vae" else load_starter(Path(settings.vae))
    network, components = (parts.vae, _components(parts, data)) if settings.part == "vae" else (decoder_of(parts.vae), None)
    if settings.checkpointing:
        parts.vae.enable_gradient_checkpointing()
    step_module, optimizer, schedule, ema = _prepared(engine, settings, VAEStep(parts.vae, network, components), network)
    if components is not None:
        engine.register("components", components)  # a resumed run keeps them, whatever pictures have come since
    feed = engine.feed(lambda count, generator, _: data.frames(torch.randint(len(data), (count,), generator=generator)))
    for step in engine.steps(engine.restore()):
        for part in range(settings.accumulate):
            frames, generator = feed.take(step, part)
            window = _window(frames.images.shape[-1], settings.crop, generator)
            images, region, face = (x[(..., *window)].to(engine.device) for x in (frames.images, frames.region, frames.face))
            with engine.autocast():
                terms, psnr = step_module(images, weight_map(region, face, settings.region_weight, BACKGROUND), generator)
            engine.backward(sum(terms.values()), terms)
        norm = engine.clip(network.parameters())
        optimizer.step(), schedule.step(), optimizer.zero_grad()
        ema.update(network, step)
        engine.log(step, {**terms, "grad_norm": norm, "psnr": psnr})
        if settings.sample_every and (step + 1) % settings.sample_every == 0:
            with ema.applied(network):
                whole = frames.images[:8].to(engine.device)
                again = decode(parts, encode(parts, whole))
            engine.images(step + 1, "vae", torch.stack([whole, again], 1).flatten(0, 1), columns=4)
    if not engine.finished:
        return None
    with ema.applied(network):
        return _release(engine, settings, parts, factors)


def _new_parts(settings: StarterSettings, data) -> StarterParts:
    merges = build_vocabulary(data.words)
    parts = build_starter(replace(STARTER, name=data.starter, latent_channels=settings.latent_channels, merges=merges))
    with torch.no_grad():
        for parameter, value in ((parts.vae.quant_conv.weight, 0.0), (parts.vae.quant_conv.bias, LOGVAR)):
            parameter[parts.config.latent_channels :] = value
    return parts


def _train_text2image(settings: StarterSettings) -> Path | None:
    engine = Engine(settings)
    parts = load_starter(Path(settings.vae))
    for module in (parts.unet, parts.vae, parts.text_encoder):
        module.to(engine.device)
    data: Any = _data(settings, engine)
    factors = _factors(settings, parts, data, engine.device)
    latents = _latents(settings, parts, data, engine)
    rows, end = data.worth_drawing(), len(data) - min(HELD_OUT, len(data) // 8)
    learned, kept = rows[rows < end], rows[rows >= end]
    calm = _calm(data, end) if settings.calm_share else learned
    tested = (
        (held_out(HeadStore(settings.test)), load_dsid(Path(settings.reader)).float().to(engine.device))
        if settings.test
        else ()
    )
    if settings.checkpointing:
        parts.unet.enable_gradient_checkpointing()
    noise_schedule = training_scheduler(parts.config)
    snr_weights = min_snr_weights(noise_schedule.alphas_cumprod, parts.config.prediction, settings.snr_gamma)
    step_module = Text2ImageStep(parts, noise_schedule, factors)
    network = step_module.network
    step_module, optimizer, schedule, ema = _prepared(engine, settings, step_module, network)

    def sample(count: int, generator: Generator, _lead: Generator) -> tuple:
        of_all, of_calm = (some[torch.randint(len(some), (count,), generator=generator)] for some in (learned, calm))
        rows = torch.where(torch.rand(count, generator=generator) < settings.calm_share, of_calm, of_all)
        prompts = _drop_some(data.captions(rows, generator), settings.text_drop, generator)
        times = sample_times(count, generator)
        told = torch.rand(count, generator=generator) >= settings.factor_drop
        given = (data.factors(rows), told) if settings.has_factors else None
        return rows, prompts, times, given, _weights(data.frames(rows), settings, latents.shape[-1])

    feed = engine.feed(sample)
    for step in engine.steps(engine.restore()):
        for part in range(settings.accumulate):
            (rows, prompts, times, given, weights), generator = feed.take(step, part)
            with engine.autocast():
                error = step_module(_read(latents, rows), prompts, times, generator, weights, given)
            terms = {"noise": (error * snr_weights[times].to(error)).mean()}
            engine.backward(terms["noise"], terms)
        norm = engine.clip(network.parameters())
        optimizer.step(), schedule.step(), optimizer.zero_grad()
        ema.update(network, step)
        engine.log(step, {**terms, "error": error.mean(), "grad_norm": norm})
        if settings.sample_every and (step + 1) % settings.sample_every == 0:
            with ema.applied(network), engine.autocast():
                engine.log(step, held_out_errors(step_module, data, latents, kept, settings.has_factors))
                engine.images(step + 1, "text2image", show(parts, data.shown), columns=8)
                if tested:
                    _show_gate(engine, step, parts, factors, *tested)
                _release(engine, settings, parts, factors)
    if not engine.finished:
        return None
    with ema.applied(network):
        return _release(engine, settings, parts, factors)


@torch.no_grad()
def held_out_errors(step_module: nn.Module, data, latents: np.ndarray, kept: Tensor, factors: bool) -> dict[str, Tensor]:
    """Mean error on the pictures of the rows `kept`, by words alone and with their factors, always with the same sentences,
    times and noise."""
    return {
        name: _held_out_error(step_module, data, latents, kept, told)
        for name, told in {"held_out": False, **({"held_out_factors": True} if factors else {})}.items()
    }


def _held_out_error(step_module: nn.Module, data, latents: np.ndarray, kept: Tensor, told: bool) -> Tensor:
    generator, errors = torch.Generator().manual_seed(0), []
    for rows in kept.split(CHUNK):
        sentences, times = data.captions(rows, generator), sample_times(len(rows), generator)
        given = (data.factors(rows), torch.ones(len(rows), dtype=torch.bool)) if told else None
        errors.append(step_module(_read(latents, rows), sentences, times, generator, given=given))
    return torch.cat(errors).mean()


def _show_gate(engine: Engine, step: int, parts: StarterParts, factors: FactorTokens | None, heads, reader) -> None:
    """Log how well held-out heads are drawn, and write some of them, each beside its true picture."""
    drawn = draw(starter_base(parts), factors, heads)
    rows = gate(drawn, heads, reader)
    engine.log(step, {f"gate/{what}/{name}": row[name] for what, row in rows.items() for name in ("degrees", "mean r", *MAIN)})
    engine.images(step + 1, "gate", torch.stack([heads.images, drawn], 1)[:SHOWN].flatten(0, 1), columns=8)


@torch.no_grad()
def show(parts: StarterParts, prompts: tuple[str, ...], each: int = 4, seed: int = 0) -> Tensor:
    """(prompts * each, 3, S, S) in [-1, 1]: what is drawn for the prompts, always from the same noise."""
    repeated = [prompt for prompt in prompts for _ in range(each)]
    base = starter_base(parts)
    noise = torch.randn(len(repeated), *parts.latent_shape, generator=torch.Generator().manual_seed(seed))
    text, negative = base.text(repeated), base.text([""] * len(repeated))
    return base.decode(sample(base, text, negative, noise.to(parts.unet.device))).clamp(-1, 1)


def _data(settings: StarterSettings, engine: Engine) -> HeadPictures | CaptionedPictures:
    if settings.heads:
        return HeadPictures(settings.heads, STARTER.image_size)
    return CaptionedPictures(settings.stills, STARTER.image_size, engine.say)


def _prepared(engine: Engine, settings: StarterSettings, step_module: nn.Module, network: nn.Module):
    """Everything around `network`, the part of the step that learns: registered, and on the run's device."""
    optimizer = Muon(*split_parameters([network], NO_MATRICES), settings.lr)
    schedule, ema = make_scheduler(optimizer, settings), EMA(network, settings.ema)
    step_module, optimizer = engine.prepare(step_module, optimizer)
    for name, thing in {"network": network, "optimizer": optimizer, "schedule": schedule, "ema": ema}.items():
        engine.register(name, thing)
    return step_module, optimizer, schedule, ema


def _calm(data: HeadPictures, end: int) -> Tensor:
    rows = data.calm()
    if not (rows := rows[rows < end]).numel():
        raise ValueError("no head with a plain or gradient background is left to learn from; render more, or --calm-share 0")
    return rows


def _factors(settings: StarterSettings, parts: StarterParts, data, device: torch.device) -> FactorTokens | None:
    if not settings.has_factors:
        return None
    if settings.factors:
        return load_factors(Path(settings.factors), Path(settings.vae)).to(device)
    module = FactorTokens(parts.config.text_width)
    rows = torch.arange(0, len(data), max(1, len(data) // SCALED_ON))
    module.scale_to(torch.cat([data.factors(part) for part in rows.split(CHUNK)]))
    return module.to(device)


def _components(parts: StarterParts, data) -> nn.Module:
    """What the latents shall be, from some of the pictures."""
    rows = data.worth_drawing()
    images = torch.cat([data.images(part) for part in rows[:: max(1, len(rows) // COMPONENTS_OF)].split(CHUNK)])
    return principal_components(images, parts.config.latent_channels, parts.config.image_size // parts.config.latent_size)


def _latents(settings: StarterSettings, parts: StarterParts, data, engine: Engine) -> np.ndarray:
    """(N, C, h, w) float16 of all pictures, encoded once per VAE and kept beside the run, read from disk as needed."""
    path = Path(settings.out) / f"latents-{starter_base(parts).vae_id}-{len(data)}.npy"
    if engine.is_main and not path.exists():
        engine.say(f"encoding {len(data)} pictures")
        with write_file(path) as beside:
            whole = np.lib.format.open_memmap(beside, "w+", np.float16, (len(data), *parts.latent_shape))
            for rows in torch.arange(len(data)).split(CHUNK):
                whole[rows.numpy()] = encode(parts, data.images(rows).to(engine.device)).cpu().numpy()
            whole.flush()
    engine.accelerator.wait_for_everyone()
    return np.load(path, mmap_mode="r")


def _weights(frames: Frames, settings: StarterSettings, side: int) -> Tensor:
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


def _release(engine: Engine, settings: StarterSettings, parts: StarterParts, factors: FactorTokens | None = None) -> Path:
    path = Path(settings.out) / "starter-base.safetensors"
    if engine.is_main:
        save_starter(path, parts)
        if factors is not None:
            save_factors(path.with_name("factors.safetensors"), factors, path)
    return path


def main(argv: list[str] | None = None) -> None:
    run_command(train, StarterSettings, argv, "Train the starter's VAE, then its U-Net and text encoder.")


if __name__ == "__main__":
    main()

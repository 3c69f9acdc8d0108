"""From text, codes and noise to latents: the one sampler of command line, training and evaluation."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext

import torch
from diffusers import EulerDiscreteScheduler
from torch import Tensor

from ..meaf import MEAF, StreamSettings
from ..meaf.diffusers_host import AttachedMEAF
from ..meaf.sampled_layers import Latents
from .base import Base

BeforeStep = Callable[[float], None]


@torch.no_grad()
def sample(
    base: Base,
    text: dict,
    negative: dict,
    noise: Tensor,
    steps: int = 25,
    cfg: float = 3.0,
    before_step: BeforeStep = lambda share: None,
    control: Callable[..., dict] = lambda *_, **__: {},
) -> Tensor:
    """text, negative: of N sentences each, see `Base.text`; noise (N, C, h, w) of unit variance -> latents (N, C, h, w).

    Euler's method over evenly spaced time steps (Karras et al. 2022), with classifier-free guidance (Ho and Salimans 2022).
    The batch of every call of the U-Net is the negative half, then the positive. before_step(share of the steps done): what
    changes on the way, e.g. MEAF's windows. control(latents, timestep, **text) -> further arguments of the U-Net.
    """
    scheduler = EulerDiscreteScheduler.from_config(base.schedule.config, timestep_spacing="linspace")
    scheduler.set_timesteps(steps)
    both, dtype = _stacked(negative, text), base.unet.dtype
    latents = noise * scheduler.init_noise_sigma
    for index, timestep in enumerate(scheduler.timesteps):
        before_step(index / steps)
        scaled = scheduler.scale_model_input(latents, timestep).to(dtype)
        pair = torch.cat([scaled, scaled])
        found = base.unet(pair, timestep, **both, **control(pair, timestep, **both)).sample.float()
        without, with_text = found.chunk(2)
        latents = scheduler.step(without + cfg * (with_text - without), timestep, latents).prev_sample
    return latents


@contextmanager
def fused(
    base: Base,
    meaf: MEAF | None,
    codes: dict[str, Tensor],
    settings: Mapping[str, StreamSettings],
    steps: int,
    latents: Latents | None = None,
) -> Iterator[BeforeStep]:
    """MEAF on the base's U-Net while the block lasts; codes: stream -> (N, width), the negative half has null tokens.

    latents: of a call of the U-Net, both halves; where they are known, layers are laid out once for each window.

    Gives the `before_step` of `sample` that opens and closes the streams' windows.
    """
    if meaf is None and codes:
        raise ValueError("codes need a MEAF that fuses them; give one made for this base")
    tokens = {} if meaf is None else {
        name: _guided(meaf, name, code.to(base.unet.device, base.unet.dtype)) for name, code in codes.items()
    }  # fmt: skip
    with AttachedMEAF(base.unet, meaf) if meaf is not None and codes else nullcontext() as attached:
        last = None

        def before_step(share: float) -> None:
            nonlocal last
            strengths = {name: settings[name].strength * acts(settings[name], share, steps) for name in tokens}
            if attached and strengths != last:
                attached.condition(tokens, strengths, latents=latents)
                last = strengths

        yield before_step


def acts(settings: StreamSettings, share: float, steps: int) -> bool:
    """Whether a stream's window is open after this share of the steps. Windows are shares of the timesteps, as in ComfyUI:
    the first step is at 0, the last at 1.
    """
    return settings.start_percent <= round(share * steps / max(steps - 1, 1), 6) <= settings.end_percent


@torch.no_grad()
def _guided(meaf: MEAF, name: str, code: Tensor) -> Tensor:
    """code (N, width) -> tokens (2 N, T, D), those of "no code" first."""
    tokens = meaf.tokens(name, code)
    return torch.cat([meaf.null_tokens(name, code).expand_as(tokens), tokens])


def _stacked(first: dict, second: dict) -> dict:
    """Nested dicts of tensors -> the same of both batches, one after the other."""
    return {
        name: _stacked(value, second[name]) if isinstance(value, dict) else torch.cat([value, second[name]])
        for name, value in first.items()
    }

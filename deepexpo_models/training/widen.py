"""More channels for a trained base, and a MEAF made for it: they draw as before, and have room to learn on.

    python -m deepexpo_models.training.widen --base weights/heads-base.safetensors --factors weights/heads-factors.safetensors \
        --meaf weights/heads-meaf.safetensors --channels 128 96 128 --out runs/wide

"Net2Net" (Chen, Goodfellow and Shlens 2016): new channels are twins of old ones, and what reads a pair of twins shares its old
weight among them, in unequal parts, so that they learn apart. A level has its old channels or twice as many. Where all levels
are doubled the function is the old one; where some are, group norms over two levels have other groups (a base of 64, 96 and
128 channels with 128 at its finest is 5% off before it learns on).
"""

import argparse
import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch
from torch import Generator, Tensor

from ..meaf import MEAF, load_meaf, save_meaf
from ..starter.diffusers_host import StarterParts, build_starter, load_starter, save_starter
from ..starter.factors import load_factors, save_factors

APART = 0.5  # how unequal the parts of twins are, in standard deviations of the old weights
TIMES = "time_embedding.linear_1.weight"  # reads sines and cosines of the time


def widen(out: Path, base: Path, channels: Sequence[int], factors: Path | None = None, meaf: Path | None = None) -> list[Path]:
    """Write the base with these U-Net channels, finest first, as starter-base.safetensors into the folder out, its factor
    tokens as factors.safetensors and a MEAF of that base as meaf.safetensors beside it. Returns the files written.

    Raises ValueError, in one sentence and before anything is written, for channels that are neither the old nor twice as many,
    and for factor tokens or a MEAF of another base.
    """
    old = load_starter(base)
    _check_channels(old.config.unet_channels, tuple(channels))
    told = load_factors(factors, base) if factors else None
    new, fusing = wider_base(old, tuple(channels)), _wider_meaf(meaf, old, tuple(channels)) if meaf else None
    out.mkdir(parents=True, exist_ok=True)
    written = [out / "starter-base.safetensors"]
    save_starter(written[0], new)
    if told is not None:
        written.append(out / "factors.safetensors")
        save_factors(written[1], told, written[0])
    if fusing is not None:
        written.append(out / "meaf.safetensors")
        save_meaf(written[-1], fusing)
    return written


def wider_base(old: StarterParts, channels: tuple[int, ...]) -> StarterParts:
    """The same VAE and text encoder, and the U-Net with these channels."""
    new = build_starter(replace(old.config, unet_channels=channels))
    if set(old.unet.state_dict()) != set(new.unet.state_dict()):
        raise ValueError(
            f"a U-Net of {_listed(channels)} channels has other layers than one of {_listed(old.config.unet_channels)}; "
            "let neighbours that differ go on to differ"
        )
    new.unet.load_state_dict(_grown(old.unet.state_dict(), new.unet.state_dict()))
    new.vae.load_state_dict(old.vae.state_dict())
    new.text_encoder.load_state_dict(old.text_encoder.state_dict())
    return new


def _wider_meaf(path: Path, base: StarterParts, channels: tuple[int, ...]) -> MEAF:
    old = load_meaf(path)
    config = old.config
    if config.base != base.config.name or config.unet != base.config.unet_shape:
        raise ValueError(f"{path.name} was made for another base ({config.base}); give a MEAF of this one")
    if config.branch:
        raise ValueError(f"{path.name} holds a copy of the base's encoder, which is not widened; give a MEAF without one")
    new = MEAF(replace(config, unet=replace(config.unet, channels=channels))).to(next(old.parameters()).dtype)
    new.load_state_dict(_grown(old.state_dict(), new.state_dict()))
    new.trained_on = old.trained_on
    return new


def _check_channels(old: tuple[int, ...], new: tuple[int, ...]) -> None:
    if len(old) != len(new) or any(wide not in (narrow, 2 * narrow) for narrow, wide in zip(old, new)):
        raise ValueError(f"channels are {_listed(old)}; each of the {len(old)} stays or is doubled, not {_listed(new)}")


def _listed(channels: tuple[int, ...]) -> str:
    return " ".join(map(str, channels))


def _grown(old: dict[str, Tensor], new: dict[str, Tensor]) -> dict[str, Tensor]:
    """Old tensors in the shapes of the new ones of their names."""
    generator = Generator().manual_seed(0)
    return {name: _grow(name, value, new[name].shape, generator) for name, value in old.items()}


def _grow(name: str, value: Tensor, shape: torch.Size, generator: Generator) -> Tensor:
    if value.shape == shape:
        return value
    outputs, _ = _twins(len(value), shape[0])
    grown = value[outputs]
    if name == TIMES:  # the old frequencies are every other one of the new
        spread = grown.new_zeros(shape)
        spread[:, :: shape[1] // value.shape[1]] = grown
        return spread
    if name.endswith("to_q.weight"):  # the product with keys has twice as many terms, and is divided by a longer root
        grown = grown / math.sqrt(shape[0] / len(value))
    return grown if value.ndim == 1 or grown.shape == shape else _shared(grown, shape[1], generator)


def _shared(value: Tensor, width: int, generator: Generator) -> Tensor:
    """(out, in, ...) -> (out, width, ...): the parts of twins add up to the old weight."""
    inputs, first = _twins(value.shape[1], width)
    second = first.roll(1)
    parts = value[:, inputs]
    noise = torch.randn(value.shape, generator=generator)[:, inputs[first]].to(value) * value.std() * APART
    half = parts[:, first] / 2
    parts[:, first], parts[:, second] = half + noise, half - noise
    return parts


def _twins(old: int, new: int) -> tuple[Tensor, Tensor]:
    """Which old channel each new one is, (new,), twins side by side, and which of them are the first of two, (new,). Where
    not all are doubled, the last are: a U-Net joins a finer level's channels behind its own.
    """
    single = 2 * old - new
    first = torch.arange(new) >= single
    first[single + 1 :: 2] = False
    return torch.cat([torch.arange(single), torch.arange(single, old).repeat_interleave(2)]), first


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--base", type=Path, required=True, help="a trained base")
    parser.add_argument("--factors", type=Path, help="its factor tokens")
    parser.add_argument("--meaf", type=Path, help="a MEAF made for it")
    parser.add_argument("--channels", type=int, nargs="+", required=True, help="of the U-Net's levels, finest first")
    parser.add_argument("--out", type=Path, required=True, help="folder to write into")
    options = parser.parse_args(argv)
    try:
        print(*widen(options.out, options.base, options.channels, options.factors, options.meaf), sep="\n")
    except ValueError as error:
        parser.exit(2, f"{error}\n")


if __name__ == "__main__":
    main()

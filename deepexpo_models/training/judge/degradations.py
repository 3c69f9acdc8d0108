"""What generators do to pictures: softness, blocks, tints and noise; and pictures that hold no face. Judges learn on both."""

import torch
import torch.nn.functional as F
from torch import Generator, Tensor

from ...data.jpeg import quantise_blocks

RADIUS = 4  # of the blur, in pixels


def degrade(images: Tensor, generator: Generator) -> Tensor:
    """(B, 3, S, S) in [-1, 1] -> the same range and shape, S a multiple of 8; each picture by strengths of its own.

    Blur of up to 1.6 px of 128, 8 x 8 blocks, a smooth colour drift, contrast, brightness and saturation, and noise. One
    in five stays as it is.
    """

    def strength() -> Tensor:  # (B, 1, 1, 1) in [0, 1], mostly small
        return (torch.rand(len(images), 1, 1, 1, generator=generator) ** 2).to(images)

    def around(spread: float, *shape: int) -> Tensor:
        return (torch.randn(len(images), *shape, generator=generator) * spread).to(images)

    spoilt = blur(images, 0.05 + 1.6 * strength().flatten() * images.shape[-1] / 128)
    spoilt = quantise_blocks(spoilt, 0.25 * strength())
    spoilt = spoilt + F.interpolate(around(0.06, 3, 6, 6), images.shape[-1], mode="bicubic") * strength()
    grey = spoilt.mean(1, keepdim=True)
    spoilt = grey + (spoilt - grey) * (1 + around(0.12, 1, 1, 1))
    spoilt = spoilt * (1 + around(0.07, 1, 1, 1)) + around(0.04, 3, 1, 1)
    spoilt = (spoilt + around(0.07, *images.shape[1:]) * strength()).clamp(-1, 1)
    kept = torch.rand(len(images), 1, 1, 1, generator=generator).to(images) < 0.2
    return torch.where(kept, images, spoilt)


def blur(images: Tensor, sigma: Tensor) -> Tensor:
    """(B, C, H, W), sigma (B,) in pixels -> Gaussian blur, borders repeated."""
    batch, channels = images.shape[:2]
    offsets = torch.arange(-RADIUS, RADIUS + 1).to(images)
    taps = torch.exp(-(offsets**2) / (2 * sigma[:, None] ** 2))
    taps = (taps / taps.sum(1, keepdim=True)).repeat_interleave(channels, dim=0)[:, None]
    flat = F.pad(images.flatten(0, 1)[None], (RADIUS,) * 4, mode="replicate")
    flat = F.conv2d(flat, taps[:, :, None], groups=batch * channels)
    return F.conv2d(flat, taps[..., None], groups=batch * channels)[0].unflatten(0, (batch, channels))


def no_faces(images: Tensor, generator: Generator) -> Tensor:
    """Pictures of faces (B, 3, S, S) -> an eighth as many, at least three, without one: shuffled tiles, a corner enlarged,
    and a smear of colours, in turn."""
    count = min(len(images), max(3, len(images) // 8))
    made = []
    for i, image in enumerate(images[:count]):
        made.append(SPOILERS[i % len(SPOILERS)](image, generator))
    return torch.stack(made)


def _shuffled(image: Tensor, generator: Generator) -> Tensor:
    side = image.shape[-1] // 4
    tiles = image.unfold(1, side, side).unfold(2, side, side).flatten(1, 2)[:, torch.randperm(16, generator=generator)]
    return tiles.unflatten(1, (4, 4)).permute(0, 1, 3, 2, 4).reshape(image.shape)


def _corner(image: Tensor, generator: Generator) -> Tensor:
    side = image.shape[-1] // 4
    flips = [axis for axis in (1, 2) if torch.rand((), generator=generator) < 0.5]
    part = image.flip(flips)[:, :side, :side]
    return F.interpolate(part[None], image.shape[-1], mode="bilinear")[0]


def _smear(image: Tensor, generator: Generator) -> Tensor:
    cells = int(torch.randint(3, 7, (), generator=generator))
    small = F.interpolate(image[None], cells, mode="area")
    return F.interpolate(small, image.shape[-1], mode="bicubic")[0].clamp(-1, 1)


SPOILERS = (_shuffled, _corner, _smear)

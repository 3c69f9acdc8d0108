"""What the steps of the starter's training compute: the VAE's latents and losses, the U-Net's error."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Generator, Tensor, nn

from ...dsid.losses import reconstruction
from ...pipeline.base import DECODES
from ...starter.diffusers_host import StarterParts, encode_prompts
from ...starter.factors import FactorTokens, beside

LATENT_WEIGHT = 4.0  # of the squared errors of latents
COLOUR_WEIGHT = 6.0  # of squared errors of 8x8 means: L1 alone stayed content without the red-green axis for 1200 steps


class VAEStep(nn.Module):
    """forward(images, weights, generator) -> named loss terms, and the PSNR of what was rebuilt. network: what of the VAE
    learns, all of it or its decoder. components: what the encoder learns to find in a picture (`principal_components`), which
    in every second row is decoded in the place of what it found; None: the latents are what the encoder finds.
    """

    vae: Any  # diffusers' AutoencoderKL

    def __init__(self, vae: nn.Module, network: nn.Module, components: nn.Module | None = None):
        super().__init__()
        self.vae, self.components = vae, components
        network.train().requires_grad_(True)

    def forward(self, images: Tensor, weights: Tensor, generator: Generator) -> tuple[dict[str, Tensor], Tensor]:
        found, terms = self.vae.encode(images).latent_dist, {}
        latents = found.mean
        if self.components is not None:
            true = self.components(images)
            terms["latent"] = LATENT_WEIGHT * F.mse_loss(latents, true)
            latents = torch.where(torch.arange(len(true), device=true.device)[:, None, None, None] % 2 > 0, latents, true)
        noise = torch.randn(latents.shape, generator=generator).to(latents)
        made = self.vae.decode(latents + found.std.detach() * noise).sample.float()
        terms |= {
            "picture": reconstruction(made, images, weights),
            "colour": COLOUR_WEIGHT * F.mse_loss(F.avg_pool2d(made, 8), F.avg_pool2d(images, 8)),
        }
        return terms, -10 * torch.log10((made - images).detach().square().mean() / 4)


@torch.no_grad()
def principal_components(images: Tensor, channels: int, patch: int) -> nn.Conv2d:
    """Frozen (B, 3, S, S) -> (B, channels, S / patch, S / patch): what of a patch of pixels differs most in images
    (N, 3, S, S), the first components of their covariance (Pearson 1901).

    Component k has the variance sqrt(l_k), l_k its eigenvalue, times a number that gives all of them the mean variance 1: what
    is coarse and shared by many pixels stays louder than what is fine, but less so than in the pixels.
    """
    pixels = F.pixel_unshuffle(images, patch).movedim(1, 3).flatten(0, 2)
    mean = pixels.mean(0)
    values, vectors = torch.linalg.eigh(torch.cov(pixels.T).double())  # in rising order
    values, vectors = values.flip(0)[:channels].clamp(min=0), vectors.flip(1)[:, :channels]
    gain = values.clamp(min=1e-12) ** -0.25 / values.sqrt().mean().sqrt()
    found = nn.Conv2d(3, channels, patch, stride=patch)
    kernels, offset = (vectors * gain).T.reshape(channels, 3, patch, patch), -(mean.double() @ (vectors * gain))
    found.load_state_dict({"weight": kernels, "bias": offset})
    return found.requires_grad_(False)


def decoder_of(vae) -> nn.Module:
    """What of a diffusers AutoencoderKL makes pictures of latents; what makes the latents stays as it is."""
    return nn.ModuleDict({name: getattr(vae, name) for name in DECODES})


class Text2ImageStep(nn.Module):
    """forward(clean latents, sentences, times, generator, weights, given) -> squared error (B,) of what the U-Net predicts of
    the noise, with weights (B, 1, h, w) or plain. given: true factors, and which rows (B,) bool are told them.
    """

    def __init__(self, parts: StarterParts, noise_schedule, factors: FactorTokens | None = None):
        super().__init__()
        self.network = nn.ModuleDict({"unet": parts.unet, "text_encoder": parts.text_encoder})
        if factors is not None:
            self.network["factors"] = factors
        self.network.train().requires_grad_(True)
        self._frozen = (parts, noise_schedule)  # in a tuple: no part of this module's parameters

    def forward(
        self,
        clean: Tensor,
        sentences: list[str],
        times: Tensor,
        generator: Generator,
        weights: Tensor | float = 1.0,
        given: tuple[Tensor, Tensor] | None = None,
    ) -> Tensor:
        parts, schedule = self._frozen
        noise = torch.randn(clean.shape, generator=generator).to(parts.unet.device)
        clean, times = clean.to(noise), times.to(noise.device)
        context = {"encoder_hidden_states": encode_prompts(parts, sentences)}
        if given is not None:
            context = beside(context["encoder_hidden_states"], self.network["factors"](given[0]), given[1])
        found = parts.unet(schedule.add_noise(clean, noise, times), times, **context).sample
        target = noise if parts.config.prediction == "epsilon" else schedule.get_velocity(clean, noise, times)
        weights = weights.to(clean) if isinstance(weights, Tensor) else weights
        return ((found.float() - target).square() * weights).mean((1, 2, 3))

"""What the steps of the starter's training compute: the VAE's losses and the scale of its latents, the U-Net's error."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Generator, Tensor, nn

from ...dsid.losses import reconstruction
from ...starter.diffusers_host import StarterParts, encode_prompts
from ...starter.factors import FactorTokens, beside

COLOUR_WEIGHT = 6.0  # of squared errors of 8x8 means: L1 alone stayed content without the red-green axis for 1200 steps


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


@torch.no_grad()
def normalise(vae, latents: Tensor) -> None:
    """Give the latents' channels the mean 0 and the variance 1 that they have not in latents (N, C, h, w): the VAE's first and
    last 1x1 convolutions take it in, so what it rebuilds stays the same, and its files need no numbers beside the weights."""
    count, middle, spread = latents.shape[1], latents.mean((0, 2, 3)), latents.std((0, 2, 3)).clamp(min=1e-4)
    into, out = vae.quant_conv, vae.post_quant_conv
    out.bias += out.weight[:, :, 0, 0] @ middle
    out.weight *= spread[:, None, None]
    into.weight[:count] /= spread[:, None, None, None]
    into.bias[:count] = (into.bias[:count] - middle) / spread
    into.bias[count:] -= 2 * spread.log()  # logarithms of variances

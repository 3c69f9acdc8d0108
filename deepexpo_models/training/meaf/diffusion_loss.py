"""The diffusion loss: weights and times."""

import torch
from torch import Generator, Tensor

PREDICTIONS = ("epsilon", "v_prediction")


def min_snr_weights(alphas_cumprod: Tensor, prediction: str, gamma: float) -> Tensor:
    """Weight per time step (T,): min(SNR, gamma) / SNR for epsilon, min(SNR, gamma) / (SNR + 1) for v; gamma 0: 1 for all,
    which gives the noisy steps, where pose and layout are decided, more weight (for v at SNR 0.1: 1 instead of 0.09).

    Hang et al. 2023, "Efficient Diffusion Training via Min-SNR Weighting Strategy"; SNR = alpha_bar / (1 - alpha_bar).
    """
    if prediction not in PREDICTIONS:
        raise ValueError(f"unknown prediction {prediction!r}; known: {', '.join(PREDICTIONS)}")
    if not gamma:
        return torch.ones_like(alphas_cumprod)
    snr = alphas_cumprod / (1 - alphas_cumprod)
    return snr.clamp(max=gamma) / (snr if prediction == "epsilon" else snr + 1)


def sample_times(count: int, generator: Generator, late_share: float = 0.0, steps: int = 1000) -> Tensor:
    """Time steps (count,), one from each of count equal parts of the range, which is less noisy than independent ones;
    late_share of them from the last 0.4 of the way to the picture, where identity and expression are decided.
    """
    spread = (torch.arange(count) + torch.rand(count, generator=generator)) / count
    late = torch.rand(count, generator=generator) < late_share
    spread = spread[torch.randperm(count, generator=generator)]
    return (torch.where(late, 0.4 * spread, spread) * steps).long().clamp(max=steps - 1)

"""Read-outs of codes: what a line can tell of them."""

import torch
from torch import Tensor


def ridge_fit(codes: Tensor, targets: Tensor, share: float) -> tuple[Tensor, Tensor]:
    """codes (N, D), targets (N, F) -> float64 weight (F, D) and bias (F,) of targets = codes @ weight.T + bias: least squares
    with a penalty of share times each entry's variance (Hoerl and Kennard 1970); the bias has none."""
    codes, targets = codes.double(), targets.double()
    mean, spread, middle = codes.mean(0), codes.std(0).clamp(min=1e-6), targets.mean(0)
    scaled = (codes - mean) / spread
    normal = scaled.T @ scaled + share * len(scaled) * torch.eye(scaled.shape[1], dtype=scaled.dtype)
    weight = (torch.linalg.solve(normal, scaled.T @ (targets - middle)) / spread[:, None]).T
    return weight, middle - weight @ mean

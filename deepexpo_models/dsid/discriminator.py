"""DSID's discriminator, used in training only."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..layers import MLP, Trunk, require_pictures
from .config import START_SIZE, DSIDConfig


class Discriminator(nn.Module):
    """Pictures (B, 3, S, S) in [-1, 1] -> logits (B, 1), high for real ones."""

    def __init__(self, config: DSIDConfig, operations=nn):
        super().__init__()
        self.config = config
        channels = config.discriminator_channels
        width = channels[-1]
        self.trunk = Trunk(channels, blocks=1, stem_stride=1, operations=operations)
        self.conv = operations.Conv2d(width + 1, width, 3, padding=1)
        self.head = MLP((width * START_SIZE**2, width // 2, 1), operations)

    def forward(self, images: Tensor) -> Tensor:
        """Raises ValueError for pictures of another shape. Logits depend on the whole batch (`append_deviation`)."""
        require_pictures(images, self.config.image_size)
        features = F.silu(self.conv(append_deviation(self.trunk(images))))
        return self.head(features.flatten(1))


def append_deviation(features: Tensor) -> Tensor:
    """(B, C, H, W) -> (B, C + 1, H, W): appends the mean standard deviation over the batch, nearly 0 for one picture.

    It gives a generator away that always draws the same (Karras et al. 2018, "Progressive Growing of GANs").
    """
    deviation = (features.float().var(dim=0, correction=0) + 1e-8).sqrt().mean().to(features.dtype)
    batch, _, height, width = features.shape
    return torch.cat([features, deviation.expand(batch, 1, height, width)], dim=1)

"""DSID's generator: a picture from the codes alone."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..layers import MLP, ModulatedBlock, group_norm
from .config import CONSTANT_SIZE, POSE_WIDTH, DSIDConfig


class Generator(nn.Module):
    """A learned 4x4 constant, doubled up to the picture's size by blocks whose style is an MLP of the codes.

    No picture enters, so the codes must carry everything they are meant to hold (METHOD 2.5).
    """

    def __init__(self, config: DSIDConfig, operations=nn):
        super().__init__()
        self.config = config
        channels, width = config.generator_channels, config.style_width
        codes = config.identity_width + config.expression_width + POSE_WIDTH
        self.style = MLP((codes, width, width, width), operations)
        self.constant = nn.Parameter(torch.randn(1, channels[0], CONSTANT_SIZE, CONSTANT_SIZE))
        pairs = zip((channels[0], *channels[:-1]), channels, strict=True)
        self.blocks = nn.ModuleList([ModulatedBlock(*pair, width, operations) for pair in pairs])
        self.norm = group_norm(channels[-1], operations)
        self.to_rgb = operations.Conv2d(channels[-1], 3, 3, padding=1)

    def forward(
        self, identity: Tensor, expression: Tensor, rotation: Tensor, translation: Tensor, log_scale: Tensor
    ) -> Tensor:
        """identity (B, identity_width), expression (B, expression_width), rotation (B, 6), translation (B, 2),
        log_scale (B, 1) -> pictures (B, 3, S, S) in [-1, 1]. Raises ValueError for other shapes.
        """
        codes = {
            "identity": identity,
            "expression": expression,
            "rotation": rotation,
            "translation": translation,
            "log_scale": log_scale,
        }
        self._require_shapes(codes)
        # A unit vector's entries shrink with its length; brought to unit variance, it weighs as much as the others.
        codes["identity"] = identity * self.config.identity_width**0.5
        style = F.silu(self.style(torch.cat(list(codes.values()), dim=-1)))
        x = self.blocks[0](self.constant.to(style).expand(len(style), -1, -1, -1), style)
        for block in self.blocks[1:]:
            x = block(F.interpolate(x, scale_factor=2, mode="bilinear", align_corners=False), style)
        return self.to_rgb(F.silu(self.norm(x))).tanh()

    def _require_shapes(self, codes: dict[str, Tensor]) -> None:
        widths = (self.config.identity_width, self.config.expression_width, 6, 2, 1)
        expected = [(len(codes["identity"]), width) for width in widths]
        found = [tuple(code.shape) for code in codes.values()]
        if found != expected:
            raise ValueError(f"expected codes {dict(zip(codes, expected))}, got {dict(zip(codes, found))}")

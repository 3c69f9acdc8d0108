"""DSID's generator: a picture from the codes alone."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..layers import MLP, ModulatedBlock, group_norm
from .config import POSE_WIDTH, START_SIZE, DSIDConfig
from .rotation import FRONTAL

# Of each code's deviations, so that all of them sway the style about as much: a rotation has 6 numbers that vary by 0.2, an
# identity hundreds. As they are, after 400 steps a turned head left the picture as it was.
CODE_SCALES = {"identity": 10.0, "expression": 10.0, "rotation": 20.0, "translation": 60.0, "log_scale": 60.0}


class Generator(nn.Module):
    """4x4 features, read from the codes, are doubled up to the picture's size by blocks whose style is an MLP of the codes.

    No picture enters, so the codes must carry everything they are meant to hold.
    """

    def __init__(self, config: DSIDConfig, operations=nn):
        super().__init__()
        self.config = config
        channels, width = config.generator_channels, config.style_width
        codes = config.identity_width + config.expression_width + POSE_WIDTH
        self.style = MLP((codes, width, width, width), operations)
        self.start = operations.Linear(width, channels[0] * START_SIZE**2)
        pairs = zip((channels[0], *channels[:-1]), channels, strict=True)
        self.blocks = nn.ModuleList([ModulatedBlock(*pair, width, operations) for pair in pairs])
        self.norm = group_norm(channels[-1], operations)
        self.to_rgb = operations.Conv2d(channels[-1], 3, 3, padding=1)

    def forward(self, identity: Tensor, expression: Tensor, rotation: Tensor, translation: Tensor, log_scale: Tensor) -> Tensor:
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
        codes["rotation"] = rotation - rotation.new_tensor(FRONTAL)
        codes["expression"] = expression / self.config.expression_width**0.5
        codes = {name: code * CODE_SCALES[name] for name, code in codes.items()}
        style = F.silu(self.style(torch.cat(list(codes.values()), dim=-1)))
        x = self.blocks[0](self.start(style).unflatten(1, (-1, START_SIZE, START_SIZE)), style)
        for block in self.blocks[1:]:
            x = block(F.interpolate(x, scale_factor=2, mode="bilinear", align_corners=False), style)
        return self.to_rgb(F.silu(self.norm(x))).tanh()

    def _require_shapes(self, codes: dict[str, Tensor]) -> None:
        widths = (self.config.identity_width, self.config.expression_width, 6, 2, 1)
        expected = [(len(codes["identity"]), width) for width in widths]
        found = [tuple(code.shape) for code in codes.values()]
        if found != expected:
            raise ValueError(f"expected codes {dict(zip(codes, expected))}, got {dict(zip(codes, found))}")

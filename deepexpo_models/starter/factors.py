"""Factor tokens: what a rendered head is, as a few cross-attention tokens beside the caption's.

They teach a base to draw what words tell poorly: pose, expression, look and person. They are removable: a part of the samples
is trained without, and they are kept in a file of their own, so that the base draws from words alone as well.
"""

from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..data.heads.build import HAIRS
from ..data.heads.people import HAIR_COLOURS, IRISES
from ..data.heads.scenery import BACKGROUNDS, COLOURS, LIGHTS, PATTERNS
from ..data.heads.shards import CONTEXT, Heads
from ..dsid.rotation import matrix_to_rotation
from ..head import ARKIT52
from ..meaf.projectors import MLPProjector, StreamConfig
from ..weights import build_module, load_tensors, read_header, save_tensors

FILE_KIND = "factors"
CHOICES = {  # entries of a context that are places in a table -> its length; the others are numbers
    "hair": len(HAIRS), "hair_colour": len(HAIR_COLOURS), "iris": len(IRISES), "glasses": 3, "background": len(BACKGROUNDS),
    "background_colour": len(COLOURS), "cloth": len(COLOURS), "pattern": len(PATTERNS), "light": len(LIGHTS),
}  # fmt: skip
WIDTHS = {  # group -> its numbers: 6 of the rotation; ARKit's units and the gaze; who it is and where
    "rotation": 6,
    "expression": len(ARKIT52) + 2,
    "context": sum(CHOICES.get(name, 1) for name in CONTEXT),
}
TOKENS = {"rotation": 2, "expression": 4, "context": 2}
HIDDEN = 256
LEAST_SPREAD = 0.1  # of a factor: seldom units would be far out otherwise


def true_factors(heads: Heads) -> Tensor:
    """-> (B, sum of WIDTHS), the groups one after the other."""
    context = [_encoded(name, value) for name, value in zip(CONTEXT, heads.context.T)]
    return torch.cat([matrix_to_rotation(heads.rotation), heads.units, heads.gaze, *context], 1)


def _encoded(name: str, value: Tensor) -> Tensor:
    """(B,) -> (B, 1), or (B, choices) with a one at the place, none for -1."""
    if name not in CHOICES:
        return value[:, None]
    return F.one_hot(value.long() + 1, CHOICES[name] + 1)[:, 1:].float()


class FactorTokens(nn.Module):
    """forward(factors (B, sum of WIDTHS)) -> tokens (B, sum of TOKENS, width)."""

    mean: Tensor
    spread: Tensor

    def __init__(self, width: int, operations=nn):
        super().__init__()
        self.width = width
        self.groups = nn.ModuleDict(
            {
                name: MLPProjector(StreamConfig((name,), WIDTHS[name], HIDDEN, count, width), operations)
                for name, count in TOKENS.items()
            }
        )
        self.register_buffer("mean", torch.zeros(sum(WIDTHS.values())))
        self.register_buffer("spread", torch.ones(sum(WIDTHS.values())))

    def scale_to(self, factors: Tensor) -> None:
        """Take mean and spread of the inputs from factors (N, sum of WIDTHS)."""
        self.mean, self.spread = factors.mean(0), factors.std(0).clamp(min=LEAST_SPREAD)

    def forward(self, factors: Tensor) -> Tensor:
        scaled = ((factors.to(self.mean) - self.mean) / self.spread).split(tuple(WIDTHS.values()), dim=1)
        return torch.cat([group(part) for group, part in zip(self.groups.values(), scaled)], dim=1)


def beside(text: Tensor, tokens: Tensor, told: Tensor) -> dict[str, Tensor]:
    """text (B, L, D), tokens (B, N, D), told (B,) bool -> what the U-Net takes: the other rows attend to the text alone."""
    there = torch.cat([told.new_ones(text.shape[:2]), told[:, None].expand(tokens.shape[:2])], 1)
    return {"encoder_hidden_states": torch.cat([text, tokens.to(text)], 1), "encoder_attention_mask": there.to(text.device)}


def save_factors(path: Path, module: FactorTokens, starter: Path) -> None:
    """Write the module, in half precision, beside the starter file that it was trained with."""
    config, belongs = {"width": module.width, **WIDTHS}, read_header(starter).metadata["sha256"]
    tensors = {name: value.half() for name, value in module.state_dict().items()}
    save_tensors(path, FILE_KIND, tensors, name="factors", config=config, starter_sha256=belongs)


def load_factors(path: Path, starter: Path) -> FactorTokens:
    """float32, in eval mode, for the starter file that it was trained with.

    Raises ValueError, in one sentence, for any other or damaged file, for another version's factors and another starter file.
    """
    header, tensors = load_tensors(path, FILE_KIND)
    width = header.config.get("width")
    if header.config != {"width": width, **WIDTHS} or type(width) is not int or width < 1:
        raise ValueError(f"{header.path.name} reads other factors than this version makes of heads; train it again")
    if header.metadata.get("starter_sha256") != read_header(starter).metadata["sha256"]:
        raise ValueError(f"{header.path.name} was trained with another base than {starter.name}; give the one beside it")
    return build_module(lambda layers: FactorTokens(width, layers), nn, header, tensors).float()

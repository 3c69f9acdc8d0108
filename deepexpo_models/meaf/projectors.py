"""From a code to a stream's tokens. `mlp` is MEAF's own; the others run the projectors of imported public adapters, and have
their weight names.

Every projector is a module: code (B, input_width) -> tokens (B, N, token_width). `null_code` is the code whose tokens stand
for "no code" where they depend on the code given; None where the stream's null tokens do.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from ..config_fields import check_fields

HEADS_DIVIDE = {  # projector with perceiver layers -> the width that its heads share
    "resampler": "hidden_width",
    "patch_resampler": "hidden_width",
    "plus": "token_width",
    "plusv2": "token_width",
}
SEVERAL = ("portrait",)  # projectors that read several codes beside each other
LOOKING = ("plus", "plusv2", "patch_resampler", "patch_mlp")  # projectors whose code ends in a picture and a blank one
WIDENING = 4  # of a perceiver's feed-forward layers


@dataclass(frozen=True)
class StreamConfig:
    """One stream: the code fields it reads (see `codes.stream_codes`), their width in all, and its tokens (N, width).

    projector: key of PROJECTORS, whose sizes are hidden_width and, where it has perceiver layers, depth and head_width;
    picture: patches and their width, where it looks at one; face_model: the public encoder (see `dsid.codes`) whose codes
    it reads, "" for the MEAF's own DSID.
    """

    inputs: tuple[str, ...]
    input_width: int
    hidden_width: int
    tokens: int
    token_width: int
    projector: str = "mlp"
    depth: int = 0
    head_width: int = 0
    picture: tuple[int, int] = (0, 0)
    face_model: str = ""

    def __post_init__(self):
        check_fields(self, zero=("depth", "head_width", "picture"), most={"tokens": 4096, "depth": 64})
        if self.projector not in PROJECTORS:
            raise ValueError(f"unknown projector {self.projector!r}; known: {', '.join(PROJECTORS)}")
        if not self.inputs:
            raise ValueError("inputs of a stream are empty; it must read at least one part of a code")

    def require_buildable(self) -> None:
        """Raise a ValueError that names the sizes which do not fit together."""
        width, patches = HEADS_DIVIDE.get(self.projector), self.picture[0] * self.picture[1]
        if width and (not self.depth or not self.head_width or getattr(self, width) % self.head_width):
            raise ValueError(
                f"the projector {self.projector} has depth {self.depth} and head_width {self.head_width}; "
                f"it needs at least one layer, and heads that divide its {width} of {getattr(self, width)}"
            )
        if self.projector in LOOKING and (not patches or self.input_width < 2 * patches):
            raise ValueError(
                f"the projector {self.projector} looks at two pictures of {self.picture} numbers each, "
                f"which is more than its input_width of {self.input_width}"
            )


class Projector(nn.Module):
    def __init__(self, config: StreamConfig):
        super().__init__()
        self.config = config

    def null_code(self, code: Tensor) -> Tensor | None:
        """code (B, input_width) -> (1, input_width)."""


class LinearProjector(Projector):
    """One linear layer and a layer norm: IP-Adapter's first projector."""

    def __init__(self, config: StreamConfig, operations=nn):
        super().__init__(config)
        self.proj = self._projection(operations)
        self.norm = operations.LayerNorm(config.token_width)

    def _projection(self, operations) -> nn.Module:
        return operations.Linear(self.config.input_width, self.config.tokens * self.config.token_width)

    def forward(self, code: Tensor) -> Tensor:
        return self.norm(self.proj(code).unflatten(-1, (self.config.tokens, self.config.token_width)))


class MLPProjector(LinearProjector):
    """Two linear layers and a layer norm: MEAF's own, and that of IP-Adapter FaceID."""

    def _projection(self, operations) -> nn.Module:
        return _mlp(self.config, self.config.input_width, operations)


class PortraitProjector(MLPProjector):
    """IP-Adapter FaceID-Portrait: the MLP's tokens of several photos of one person, side by side. The code is one photo or
    several, (B, n * input_width) -> tokens (B, n * N, token_width); "no code" is as many faces of zeros."""

    def forward(self, code: Tensor) -> Tensor:
        photos = code.unflatten(-1, (-1, self.config.input_width))
        return super().forward(photos.flatten(0, 1)).unflatten(0, photos.shape[:2]).flatten(1, 2)

    def null_code(self, code: Tensor) -> Tensor:
        return torch.zeros_like(code[:1])


class ResamplerProjector(Projector):
    """Learned latents (1, N, hidden_width) that look at the code, as InstantID has it: perceiver layers (Jaegle et al. 2021;
    Alayrac et al. 2022, "Flamingo"), then a linear layer and a layer norm."""

    def __init__(self, config: StreamConfig, operations=nn):
        super().__init__(config)
        width = config.hidden_width
        self.latents = nn.Parameter(torch.randn(1, config.tokens, width) * width**-0.5)
        self.proj_in = operations.Linear(self._context_width(), width)
        self.layers = _perceiver_layers(width, config, operations)
        self.proj_out = operations.Linear(width, config.token_width)
        self.norm_out = operations.LayerNorm(config.token_width)

    def forward(self, code: Tensor) -> Tensor:
        latents = self.latents.to(code).expand(len(code), -1, -1)
        return self.norm_out(self.proj_out(_perceive(self.layers, self.proj_in(self._context(code)), latents)))

    def _context_width(self) -> int:
        return self.config.input_width

    def _context(self, code: Tensor) -> Tensor:
        """code (B, input_width) -> what the latents look at (B, M, context width)."""
        return code[:, None]


class PatchResampler(ResamplerProjector):
    """The same looking at the patches of a picture: IP-Adapter Plus-Face. The code is the picture (B, N * D), then the blank
    picture, N x D being config.picture. "No code" is the blank picture."""

    def _context_width(self) -> int:
        return self.config.picture[1]

    def _context(self, code: Tensor) -> Tensor:
        return _patches(self.config, code)

    def null_code(self, code: Tensor) -> Tensor:
        return _blank(code)


class PatchMLP(Projector):
    """A token of each patch of a picture: IP-Adapter Full-Face. The code is as PatchResampler has it."""

    def __init__(self, config: StreamConfig, operations=nn):
        super().__init__(config)
        width = config.picture[1]
        layers = [operations.Linear(width, width), nn.GELU(), operations.Linear(width, config.token_width)]
        self.proj = nn.Sequential(*layers, operations.LayerNorm(config.token_width))

    def forward(self, code: Tensor) -> Tensor:
        return self.proj(_patches(self.config, code))

    def null_code(self, code: Tensor) -> Tensor:
        return _blank(code)


class PictureProjector(Projector):
    """IP-Adapter FaceID-Plus: the MLP's tokens look at a picture of the face.

    The code is the face (B, F), then the picture (B, N * D) and the blank picture (B, N * D), N x D being config.picture.
    shortcut: the tokens are added to what they saw (PlusV2). "No code" is the zero face and the blank picture.
    """

    def __init__(self, config: StreamConfig, operations=nn, *, shortcut: bool):
        super().__init__(config)
        patches, patch_width = config.picture
        self.shortcut, self.sizes = shortcut, (config.input_width - 2 * patches * patch_width, *[patches * patch_width] * 2)
        self.proj = _mlp(config, self.sizes[0], operations)
        self.norm = operations.LayerNorm(config.token_width)
        self.perceiver_resampler = FacePerceiver(config, operations)

    def forward(self, code: Tensor) -> Tensor:
        face, picture, _ = code.split(self.sizes, dim=-1)
        tokens = self.norm(self.proj(face).unflatten(-1, (self.config.tokens, self.config.token_width)))
        seen = self.perceiver_resampler(tokens, picture.unflatten(-1, self.config.picture))
        return tokens + seen if self.shortcut else seen

    def null_code(self, code: Tensor) -> Tensor:
        face, _, blank = code[:1].split(self.sizes, dim=-1)
        return torch.cat([torch.zeros_like(face), blank, blank], dim=-1)


class FacePerceiver(nn.Module):
    """tokens (B, N, token_width) that look at a picture (B, M, patch_width) -> (B, N, token_width)."""

    def __init__(self, config: StreamConfig, operations=nn):
        super().__init__()
        width = config.token_width
        self.proj_in = operations.Linear(config.picture[1], width)
        self.layers = _perceiver_layers(width, config, operations)
        self.proj_out = operations.Linear(width, width)
        self.norm_out = operations.LayerNorm(width)

    def forward(self, tokens: Tensor, picture: Tensor) -> Tensor:
        return self.norm_out(self.proj_out(_perceive(self.layers, self.proj_in(picture), tokens)))


class PerceiverAttention(nn.Module):
    """latents (B, N, C) look at the context (B, M, C) and at themselves -> (B, N, C)."""

    def __init__(self, width: int, head_width: int, operations=nn):
        super().__init__()
        self.heads = width // head_width
        self.norm1 = operations.LayerNorm(width)
        self.norm2 = operations.LayerNorm(width)
        self.to_q = operations.Linear(width, width, bias=False)
        self.to_kv = operations.Linear(width, 2 * width, bias=False)
        self.to_out = operations.Linear(width, width, bias=False)

    def forward(self, context: Tensor, latents: Tensor) -> Tensor:
        latents = self.norm2(latents)
        key, value = self.to_kv(torch.cat([self.norm1(context), latents], dim=1)).chunk(2, dim=-1)
        parts = [rearrange(x, "b n (h d) -> b h n d", h=self.heads) for x in (self.to_q(latents), key, value)]
        return self.to_out(rearrange(F.scaled_dot_product_attention(*parts), "b h n d -> b n (h d)"))


def _patches(config: StreamConfig, code: Tensor) -> Tensor:
    """code (B, 2 * N * D), a picture and the blank one -> the picture's patches (B, N, D)."""
    return code.chunk(2, dim=-1)[0].unflatten(-1, config.picture)


def _blank(code: Tensor) -> Tensor:
    """code (B, 2 * N * D), a picture and the blank one -> the code (1, 2 * N * D) of the blank picture."""
    return code[:1].chunk(2, dim=-1)[1].repeat(1, 2)


def _mlp(config: StreamConfig, width: int, operations) -> nn.Sequential:
    return nn.Sequential(
        operations.Linear(width, config.hidden_width),
        nn.GELU(),
        operations.Linear(config.hidden_width, config.tokens * config.token_width),
    )


def _perceiver_layers(width: int, config: StreamConfig, operations) -> nn.ModuleList:
    def feed_forward() -> nn.Sequential:
        return nn.Sequential(
            operations.LayerNorm(width),
            operations.Linear(width, WIDENING * width, bias=False),
            nn.GELU(),
            operations.Linear(WIDENING * width, width, bias=False),
        )

    return nn.ModuleList(
        nn.ModuleList([PerceiverAttention(width, config.head_width, operations), feed_forward()]) for _ in range(config.depth)
    )


def _perceive(layers: nn.ModuleList, context: Tensor, latents: Tensor) -> Tensor:
    for layer in layers:
        attention, feed_forward = layer.children()
        latents = latents + attention(context, latents)
        latents = latents + feed_forward(latents)
    return latents


PROJECTORS: dict[str, Callable[..., nn.Module]] = {
    "mlp": MLPProjector,
    "portrait": PortraitProjector,
    "linear": LinearProjector,
    "resampler": ResamplerProjector,
    "plus": partial(PictureProjector, shortcut=False),
    "plusv2": partial(PictureProjector, shortcut=True),
    "patch_resampler": PatchResampler,
    "patch_mlp": PatchMLP,
}

"""MEAF: parallel attention streams beside the text attention of a frozen U-Net.

    out = A_text(q) + sum over streams of  strength * mask * gate * A_stream(q)        then the layer's own to_out

A gate starts at zero, so an untrained MEAF leaves the base model bit-equal; in a branch (see `branch`) the joins do, and
gates start open. Which layers a MEAF has is decided by its config alone; hosts (diffusers_host, ComfyUI) call `tokens` once
per code, `project` once per layer, `fusion.fuse` once per layer and step.
"""

from typing import Any, cast

import torch
from torch import Tensor, nn

from .branch import PREFIX, Branch, site_names
from .config import MEAFConfig
from .fusion import SiteTokens
from .projectors import PROJECTORS, StreamConfig


class SiteAttention(nn.Module):
    """What a stream learns for one layer: keys, values, a gate, and the logit of the null key."""

    def __init__(self, token_width: int, channels: int, operations=nn, gate: float = 0.0):
        super().__init__()
        self.to_k = operations.Linear(token_width, channels, bias=False)
        self.to_v = operations.Linear(token_width, channels, bias=False)
        self.gate = nn.Parameter(torch.full((), gate))
        self.null_logit = nn.Parameter(torch.zeros(()))
        if operations is nn:  # other layers are made to be loaded
            nn.init.normal_(self.to_k.weight, std=0.02)
            nn.init.normal_(self.to_v.weight, std=0.02)

    def forward(self, tokens: Tensor) -> SiteTokens:
        """tokens (B, N, D) -> keys and gated values for this layer, in the tokens' dtype."""
        return SiteTokens(self.to_k(tokens), self.to_v(tokens) * self.gate.to(tokens), self.null_logit.to(tokens.device))


class Stream(nn.Module):
    """One code's way into the U-Net: its token projection, learned null tokens, and a SiteAttention per layer."""

    def __init__(self, config: StreamConfig, sites: dict[str, int], operations=nn):
        super().__init__()
        self.projection = PROJECTORS[config.projector](config, operations)
        self.null_tokens = nn.Parameter(torch.zeros(config.tokens, config.token_width))
        self.sites = nn.Module()
        for path, channels in sites.items():
            gate = float(path.startswith(PREFIX))
            _add_at_path(self.sites, path, SiteAttention(config.token_width, channels, operations, gate))

    def null(self, code: Tensor | None) -> Tensor:
        """The tokens (1, N, token_width) of "no code" beside this code (B, input_width)."""
        null_code = None if code is None else cast(Any, self.projection).null_code(code)
        return self.null_tokens[None] if null_code is None else self.projection(null_code)


class MEAF(nn.Module):
    """All streams of one config. Weight names: `streams.<stream>.sites.<diffusers path of the attn2>.to_k.weight`, ...;
    a branch's are in `branch`, what the streams learn for its layers in `streams.<stream>.sites.branch.<path>`.

    operations: the namespace that Linear and LayerNorm come from (torch.nn, or ComfyUI's casting layers).
    """

    trained_on: tuple[str, ...] = ()  # of weights.TRAINED_ON; kept in the file's metadata

    def __init__(self, config: MEAFConfig, operations=nn):
        super().__init__()
        self.config = config
        self.sites = site_names(config.unet, config.branch)
        self.branch = Branch(config.unet, config.branch, operations) if config.branch else None
        self.streams = nn.ModuleDict({name: Stream(stream, self.sites, operations) for name, stream in config.streams.items()})

    def tokens(self, stream: str, code: Tensor) -> Tensor:
        """code (B, input_width) -> tokens (B, N, token_width)."""
        return self._stream(stream).projection(code)

    def null_tokens(self, stream: str, code: Tensor | None = None) -> Tensor:
        """The tokens of "no code": (1, N, token_width). Used on the negative side and for dropped conditions.

        code (B, input_width): the one on the positive side, which some imported streams ask (see `projectors`).
        """
        return self._stream(stream).null(code)

    def project(self, stream: str, site: str, tokens: Tensor) -> SiteTokens:
        """Keys and gated values of a stream's tokens at one layer, named by its diffusers path."""
        return self._stream(stream).sites.get_submodule(site)(tokens)

    def _stream(self, name: str) -> Stream:
        return cast(Stream, self.streams[name])


def _add_at_path(root: nn.Module, path: str, leaf: nn.Module) -> None:
    """Nest `leaf` below `root` so that its parameters are named by the dotted path."""
    *parents, last = path.split(".")
    for name in parents:
        if not hasattr(root, name):
            root.add_module(name, nn.Module())
        root = getattr(root, name)
    root.add_module(last, leaf)

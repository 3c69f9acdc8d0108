"""MEAF on a diffusers U-Net: training, evaluation, the command line. The same weights and formula as in ComfyUI."""

from dataclasses import dataclass, field

import torch
from diffusers import UNet2DConditionModel
from torch import Tensor

from .config import DEFAULT_SETTINGS
from .fusion import FusedStream, fuse, join_heads, resize_mask, split_heads
from .model import MEAF
from .sites import require_family


@dataclass
class Conditions:
    """What the streams act with; set by `AttachedMEAF.condition`, read by every layer.

    tokens: stream -> (B or 1, N, D); strengths: stream -> float; masks: stream -> (B or 1, H, W) in [0, 1], in the
    proportions of the latents: a processor is not told height and width.
    """

    tokens: dict[str, Tensor] = field(default_factory=dict)
    strengths: dict[str, float] = field(default_factory=dict)
    masks: dict[str, Tensor] = field(default_factory=dict)


class AttachedMEAF:
    """A MEAF on a U-Net, until `detach` or the end of the `with` block; the U-Net's own processors come back then.

        with AttachedMEAF(unet, meaf) as attached:
            attached.condition(tokens={"identity": meaf.tokens("identity", code)})
            noise = unet(latents, timestep, text).sample

    With classifier-free guidance the caller stacks null tokens and tokens in the order of its latents. Raises ValueError
    when the U-Net is of another base family.
    """

    def __init__(self, unet: UNet2DConditionModel, meaf: MEAF):
        sites = {name: module for name, module in unet.named_modules() if name.endswith(".attn2")}
        channels = {name: module.to_q.out_features for name, module in sites.items()}
        context_width = next(iter(sites.values())).to_k.in_features if sites else 0
        require_family(meaf.config.name, meaf.config.base, meaf.config.unet, channels, context_width)
        self.unet, self.meaf, self.conditions = unet, meaf, Conditions()
        self._processors = {name: module.processor for name, module in sites.items()}
        for name, module in sites.items():
            module.set_processor(MEAFProcessor(meaf, name, self.conditions))

    def condition(
        self,
        tokens: dict[str, Tensor],
        strengths: dict[str, float] | None = None,
        masks: dict[str, Tensor] | None = None,
    ) -> None:
        """Set the codes for the calls to come. A stream without tokens is off; strengths default to the user's defaults."""
        defaults = {name: DEFAULT_SETTINGS[name].strength for name in tokens if name in DEFAULT_SETTINGS}
        self.conditions.tokens = tokens
        self.conditions.strengths = defaults | (strengths or {})
        self.conditions.masks = masks or {}

    def detach(self) -> None:
        for name, processor in self._processors.items():
            self.unet.get_submodule(name).set_processor(processor)

    def __enter__(self) -> "AttachedMEAF":
        return self

    def __exit__(self, *error) -> None:
        self.detach()


class MEAFProcessor:
    """Cross-attention of one layer with the streams added before to_out. Follows diffusers' attention processor protocol."""

    def __init__(self, meaf: MEAF, site: str, conditions: Conditions):
        self.meaf, self.site, self.conditions = meaf, site, conditions

    def __call__(self, attn, hidden_states: Tensor, encoder_hidden_states: Tensor, attention_mask=None, **_) -> Tensor:
        query = attn.to_q(hidden_states)
        key, value = attn.to_k(encoder_hidden_states), attn.to_v(encoder_hidden_states)
        heads = [split_heads(x, attn.heads) for x in (query, key, value)]
        if attention_mask is not None:
            attention_mask = attn.prepare_attention_mask(attention_mask, heads[1].shape[2], len(query))
            attention_mask = attention_mask.unflatten(0, (len(query), attn.heads))
        text = torch.nn.functional.scaled_dot_product_attention(*heads, attn_mask=attention_mask, scale=attn.scale)
        fused, streams = join_heads(text), self._streams(query)
        if streams:
            fused = fuse(fused, query, attn.heads, streams, self.meaf.config.fusion)
        return attn.to_out[1](attn.to_out[0](fused)) / attn.rescale_output_factor

    def _streams(self, query: Tensor) -> list[FusedStream]:
        conditions = self.conditions
        return [
            FusedStream(
                self.meaf.project(name, self.site, tokens.to(query)),
                conditions.strengths.get(name, 1.0),
                self._mask(name, query),
            )
            for name, tokens in conditions.tokens.items()
            if conditions.strengths.get(name, 1.0) != 0
        ]

    def _mask(self, name: str, query: Tensor) -> Tensor | None:
        mask = self.conditions.masks.get(name)
        if mask is None:
            return None
        length, (height, width) = query.shape[1], mask.shape[-2:]
        rows = max(1, round(height * (length / (height * width)) ** 0.5))
        if length % rows or abs(rows * width - (length // rows) * height) > max(height, width):
            raise ValueError(
                f"a mask of {height} x {width} does not fit the {length} positions of {self.site}; "
                f"give masks in the proportions of the latents"
            )
        return resize_mask(mask, rows, length // rows).to(query)

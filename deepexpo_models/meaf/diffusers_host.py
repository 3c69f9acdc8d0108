"""MEAF on a diffusers U-Net: training, evaluation, the command line. The same weights and formula as in ComfyUI."""

from dataclasses import dataclass, field

import torch
from diffusers import UNet2DConditionModel
from diffusers.models.attention_processor import Attention
from torch import Tensor

from .branch import PREFIX, SIZE_EMBEDDING, BranchConfig, Residuals
from .config import DEFAULT_SETTINGS
from .formulations import LayerStreams
from .fusion import FusedStream, fuse, join_heads, resize_mask, split_heads
from .model import MEAF
from .sampled_layers import Latents, lay_out_layers
from .sites import require_family
from .unet_copy import wave_embedding


@dataclass
class Conditions:
    """What the streams act with; set by `AttachedMEAF.condition`, read by every layer.

    tokens: stream -> (B or 1, N, D); strengths: stream -> float; masks: stream -> (B or 1, H, W) in [0, 1], in the
    proportions of the latents: a processor is not told height and width. layers: site -> what was laid out for the calls to
    come; empty in training.
    """

    tokens: dict[str, Tensor] = field(default_factory=dict)
    strengths: dict[str, float] = field(default_factory=dict)
    masks: dict[str, Tensor] = field(default_factory=dict)
    layers: dict[str, LayerStreams] = field(default_factory=dict)


def cross_attentions(unet: UNet2DConditionModel) -> dict[str, Attention]:
    """Module path of every attn2 -> it."""
    return {name: module for name, module in unet.named_modules() if name.endswith(".attn2")}


class AttachedMEAF:
    """A MEAF on a U-Net, until `detach` or the end of the `with` block; the U-Net's own processors come back then.

        with AttachedMEAF(unet, meaf) as attached:
            attached.condition(tokens={"identity": meaf.tokens("identity", code)})
            noise = unet(latents, timestep, text).sample

    With classifier-free guidance the caller stacks null tokens and tokens in the order of its latents. A U-Net that is
    compiled (`unet.compile()` or `torch.compile(unet)`) sees one graph for all strengths, codes, masks and windows, if
    `condition` is given the latents. Raises ValueError when the U-Net is of another base family.
    """

    def __init__(self, unet: UNet2DConditionModel, meaf: MEAF):
        self.compiled = hasattr(unet, "_orig_mod") or unet._compiled_call_impl is not None
        unet = getattr(unet, "_orig_mod", unet)
        sites = cross_attentions(unet)
        channels = {name: module.to_q.out_features for name, module in sites.items()}
        context_width = next(iter(sites.values())).to_k.in_features if sites else 0
        require_family(meaf.config.name, meaf.config.base, meaf.config.unet, channels, context_width)
        self.unet, self.meaf, self.conditions = unet, meaf, Conditions()
        fused = sites if meaf.sites.keys() >= sites.keys() else {}  # a branch alone leaves them as they are
        self._heads = {name: module.heads for name, module in fused.items()}
        self._processors = {name: module.processor for name, module in fused.items()}
        for name, module in fused.items():
            module.set_processor(MEAFProcessor(meaf, name, self.conditions))
        self._joins = JoinedBranch(unet, meaf, self.conditions) if meaf.branch else None

    def condition(
        self,
        tokens: dict[str, Tensor],
        strengths: dict[str, float] | None = None,
        masks: dict[str, Tensor] | None = None,
        latents: Latents | None = None,
    ) -> None:
        """Set the codes for the calls to come. A stream without tokens is off; strengths default to the user's defaults.

        latents: of those calls, which then take no gradients; all that does not depend on the queries is made here, once.
        """
        defaults = {name: DEFAULT_SETTINGS[name].strength for name in tokens if name in DEFAULT_SETTINGS}
        self.conditions.tokens = tokens
        self.conditions.strengths = defaults | (strengths or {})
        self.conditions.masks = masks or {}
        self.conditions.layers = self._laid_out(latents) if latents else {}

    @torch.no_grad()
    def _laid_out(self, latents: Latents) -> dict[str, LayerStreams]:
        conditions, like = self.conditions, torch.empty(0, device=self.unet.device, dtype=self.unet.dtype)
        parts = conditions.tokens, conditions.strengths, conditions.masks
        return lay_out_layers(self.meaf, self._heads, *parts, latents, like, self.compiled)

    def detach(self) -> None:
        for name, processor in self._processors.items():
            self.unet.get_submodule(name).set_processor(processor)
        if self._joins:
            self._joins.detach()

    def __enter__(self) -> "AttachedMEAF":
        return self

    def __exit__(self, *error) -> None:
        self.detach()


class JoinedBranch:
    """A MEAF's branch beside a U-Net: run before each call of it, its residuals added on the way, until `detach`."""

    def __init__(self, unet: UNet2DConditionModel, meaf: MEAF, conditions: Conditions):
        self.unet, self.meaf, self.conditions = unet, meaf, conditions
        self._residuals: Residuals | None = None
        self._hooks = [
            unet.register_forward_pre_hook(self._run, with_kwargs=True),
            unet.mid_block.register_forward_hook(lambda _, inputs, found: self._add(found, lambda r: r.mid)),
            *(block.register_forward_hook(self._adds_up(number)) for number, block in enumerate(unet.up_blocks)),
        ]

    def detach(self) -> None:
        for hook in self._hooks:
            hook.remove()

    def _run(self, unet, args, kwargs):
        """Before a call: fill self._residuals; those of skip connections go in as diffusers' own arguments."""
        given = dict(zip(("sample", "timestep", "encoder_hidden_states"), args)) | kwargs
        latents, conditions = given["sample"], self.conditions
        acting = [name for name in conditions.tokens if conditions.strengths.get(name, 1.0) != 0]
        self._residuals = None
        if not acting:
            return (), given
        times = torch.as_tensor(given["timestep"], device=latents.device).expand(len(latents))
        found = self.meaf.branch(latents, times, self._sizes(given), self._fuse)
        strengths = [conditions.strengths.get(name, 1.0) for name in acting]
        self._residuals = found = found.scaled(strengths, [conditions.masks.get(name) for name in acting])
        if found.skips:
            others = given.get("down_block_additional_residuals") or [0.0] * len(found.skips)
            given["down_block_additional_residuals"] = [a + b for a, b in zip(others, found.skips, strict=True)]
            middle = given.get("mid_block_additional_residual")
            given["mid_block_additional_residual"] = 0.0 if middle is None else middle
        return (), given

    def _sizes(self, given: dict) -> Tensor | None:
        added = given.get("added_cond_kwargs") or {}
        if "time_ids" not in added:
            return None
        return wave_embedding(added["time_ids"].flatten(), SIZE_EMBEDDING // 6).view(len(given["sample"]), -1)

    def _fuse(self, site: str, query: Tensor, found: Tensor, heads: int, size: tuple[int, int]) -> Tensor:
        streams = acting_streams(self.meaf, PREFIX + site, self.conditions, query, lambda mask: resize_mask(mask, *size))
        return fuse(found, query, heads, streams, self.meaf.config.fusion)

    def _adds_up(self, number: int):
        return lambda _, inputs, found: self._add(found, lambda residuals: residuals.ups[number] if residuals.ups else None)

    def _add(self, found: Tensor, choose) -> Tensor:
        residual = choose(self._residuals) if self._residuals else None
        return found if residual is None else found + residual


class MEAFProcessor:
    """Cross-attention of one layer with the streams added before to_out. Follows diffusers' attention processor protocol."""

    def __init__(self, meaf: MEAF, site: str, conditions: Conditions):
        self.meaf, self.site, self.conditions = meaf, site, conditions

    def __call__(self, attn, hidden_states: Tensor, encoder_hidden_states: Tensor, attention_mask=None, **_) -> Tensor:
        query = attn.to_q(hidden_states)
        key, value = attn.to_k(encoder_hidden_states), attn.to_v(encoder_hidden_states)
        q, k, v = (split_heads(x, attn.heads) for x in (query, key, value))
        if attention_mask is not None:
            attention_mask = attn.prepare_attention_mask(attention_mask, k.shape[2], len(query))
            attention_mask = attention_mask.unflatten(0, (len(query), attn.heads))
        text = torch.nn.functional.scaled_dot_product_attention(q, k, v, attn_mask=attention_mask, scale=attn.scale)
        fused = self._fused(join_heads(text), query, attn.heads)
        return attn.to_out[1](attn.to_out[0](fused)) / attn.rescale_output_factor

    def _fused(self, text: Tensor, query: Tensor, heads: int) -> Tensor:
        layer = self.conditions.layers.get(self.site)
        if layer is not None and sum(layer.rows) == len(query) and not torch.is_grad_enabled():
            return layer.add(text.contiguous(), query)
        streams = self._streams(query)
        return fuse(text, query, heads, streams, self.meaf.config.fusion) if streams else text

    def _streams(self, query: Tensor) -> list[FusedStream]:
        return acting_streams(self.meaf, self.site, self.conditions, query, lambda mask: self._resized(mask, query))

    def _resized(self, mask: Tensor, query: Tensor) -> Tensor:
        length, (height, width) = query.shape[1], mask.shape[-2:]
        rows = max(1, round(height * (length / (height * width)) ** 0.5))
        if length % rows or abs(rows * width - (length // rows) * height) > max(height, width):
            raise ValueError(
                f"a mask of {height} x {width} does not fit the {length} positions of {self.site}; "
                f"give masks in the proportions of the latents"
            )
        return resize_mask(mask, rows, length // rows)


def acting_streams(meaf: MEAF, site: str, conditions: Conditions, query: Tensor, resized) -> list[FusedStream]:
    """What of each stream that acts is fused at a layer; resized(mask) -> (B or 1, L, 1)."""
    masks = {name: resized(mask).to(query) for name, mask in conditions.masks.items() if mask is not None}
    return [
        FusedStream(meaf.project(name, site, tokens.to(query)), strength, masks.get(name))
        for name, tokens in conditions.tokens.items()
        if (strength := conditions.strengths.get(name, 1.0)) != 0
    ]


def branch_config(unet: UNet2DConditionModel, size: str, text_tokens: int = 77, light_too: bool = False) -> BranchConfig:
    """Of a copy of this U-Net."""
    config = unet.config
    heads = config.num_attention_heads or config.attention_head_dim  # diffusers' name for it, see its own remark
    levels = len(config.block_out_channels)
    return BranchConfig(
        size,
        (heads,) * levels if isinstance(heads, int) else tuple(heads),
        bool(config.use_linear_projection),
        config.in_channels,
        config.projection_class_embeddings_input_dim or 0,
        text_tokens,
        light_too,
    )

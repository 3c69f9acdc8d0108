"""A MEAF's branch in ComfyUI: run beside each call of the U-Net, joined on the U-Net's way up.

All but the last join are output block patches, which see the features that they meet: `control` adds to the skip connections
(which at that point is what a ControlNet does) and the middle, `full` to the outputs of the middle and of the levels. Other
nodes change the features' size inside the U-Net (Deep Shrink), so what is added is resized to them. The last join of `full`
comes before the U-Net's `out`, which has no patch: a hook for the length of the call.
"""

from collections.abc import Callable
from contextlib import ExitStack
from typing import cast

import torch
from comfy.ldm.modules.diffusionmodules.openaimodel import UNetModel, Upsample
from torch import Tensor

from ...deepexpo_models.meaf import MEAF, PREFIX, SIZE_EMBEDDING, Residuals
from ...deepexpo_models.meaf.branch import Branch
from .sampling import StreamCall


def join_branches(
    registered: ExitStack, model, call: StreamCall, x: Tensor, sigma: Tensor, options: dict, y: Tensor | None
) -> dict:
    """ComfyUI's BaseModel, and what its apply_model was called with -> options with the branches of the streams that act;
    registered: owns the hooks.
    """
    branched = {id(stream.meaf): stream.meaf for stream in call.active if stream.meaf.branch is not None}
    for residuals in [_residuals(model, meaf, call, x, sigma, y) for meaf in branched.values()]:
        patches = options.get("patches", {})
        joined = [_joins(model.diffusion_model, residuals), *patches.get("output_block_patch", [])]
        options = {**options, "patches": {**patches, "output_block_patch": joined}}
        if residuals.ups:
            hook = _last_join(residuals.ups[-1])
            registered.callback(model.diffusion_model.out.register_forward_pre_hook(hook).remove)
    return options


def compute_dtype(model) -> torch.dtype:
    """What a BaseModel computes in."""
    return model.manual_cast_dtype or model.get_dtype()


def _residuals(model, meaf: MEAF, call: StreamCall, x: Tensor, sigma: Tensor, y: Tensor | None) -> Residuals:
    """As BaseModel prepares latents and time steps for its own U-Net, in the dtype that it computes in."""
    latents = model.model_sampling.calculate_input(sigma, x).to(compute_dtype(model))
    times = model.model_sampling.timestep(sigma).float().expand(len(x))
    sizes = None if y is None else y[:, -SIZE_EMBEDDING:].to(latents)
    streams = tuple(stream for stream in call.active if stream.meaf is meaf)

    def fused(site: str, query: Tensor, text: Tensor, heads: int, size: tuple[int, int]) -> Tensor:
        layer = call.run.layer(streams, call.rows, PREFIX + site, heads, size, query)
        return layer.add(text.clone(memory_format=torch.contiguous_format), query.contiguous())

    found = cast(Branch, meaf.branch)(latents, times, sizes, fused)
    return found.scaled([s.settings.strength for s in streams], [call.mask(s, latents) for s in streams])


def _joins(unet: UNetModel, residuals: Residuals) -> Callable:
    """The output block patch. Block 0 follows the middle; the first block after an upsampling begins a level."""
    ends = [number for number, block in enumerate(unet.output_blocks) if any(isinstance(part, Upsample) for part in block)]
    before = dict(zip([0, *(number + 1 for number in ends)], [residuals.mid, *residuals.ups[:-1]]))
    skips = dict(enumerate(reversed(residuals.skips)))

    def patch(hidden: Tensor, skip: Tensor, options: dict) -> tuple[Tensor, Tensor]:
        number = options["block"][1]
        return _added(hidden, before.get(number)), _added(skip, skips.get(number))

    return patch


def _last_join(residual: Tensor) -> Callable:
    return lambda _, inputs: (_added(inputs[0], residual),)


def _added(features: Tensor, residual: Tensor | None) -> Tensor:
    """features (B, C, h, w) + residual (B, C, H, W), resized by area where others changed the features' size."""
    if residual is None:
        return features
    if residual.shape[-2:] != features.shape[-2:]:
        residual = torch.nn.functional.interpolate(residual.float(), features.shape[-2:], mode="area")
    return features + residual.to(features)

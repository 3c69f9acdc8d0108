"""A MEAF's branch in ComfyUI: run beside each call of the U-Net, joined where ComfyUI lets others join.

`control` goes into the dictionary that ControlNets fill, so both add up. `full` joins the outputs of the middle and of the
levels of the way up: as the output block patch of the block that comes next, and for the last one before the U-Net's `out`,
which has no patch, as a hook for the length of the call.
"""

from collections.abc import Callable
from contextlib import contextmanager

from comfy.ldm.modules.diffusionmodules.openaimodel import UNetModel, Upsample
from torch import Tensor

from ...deepexpo_models.meaf import MEAF, PREFIX, SIZE_EMBEDDING, Residuals, fuse
from .sampling import StreamCall

KINDS = ("input", "middle", "output")


@contextmanager
def joined_branches(model, call: StreamCall, x: Tensor, sigma: Tensor, control: dict | None, options: dict, y: Tensor | None):
    """ComfyUI's BaseModel, and what its apply_model was called with -> (control, options) with the branches of the streams
    that act; nothing of it stays afterwards.
    """
    branched = {id(stream.meaf): stream.meaf for stream in call.active if stream.meaf.branch is not None}
    found = [_residuals(model, meaf, call, x, sigma, y) for meaf in branched.values()]
    hooks = []
    for residuals in found:
        control = _with_skips(control, residuals)
        if residuals.ups:
            patch, last = _up_joins(model.diffusion_model, residuals)
            patches = options.get("patches", {})
            options = {**options, "patches": {**patches, "output_block_patch": [patch, *patches.get("output_block_patch", [])]}}
            hooks.append(model.diffusion_model.out.register_forward_pre_hook(last))
    try:
        yield control, options
    finally:
        for hook in hooks:
            hook.remove()


def _residuals(model, meaf: MEAF, call: StreamCall, x: Tensor, sigma: Tensor, y: Tensor | None) -> Residuals:
    """As BaseModel prepares latents and time steps for its own U-Net, in the dtype that it computes in."""
    dtype = model.manual_cast_dtype or model.get_dtype()
    latents = model.model_sampling.calculate_input(sigma, x).to(dtype)
    times = model.model_sampling.timestep(sigma).float().expand(len(x))
    sizes = None if y is None else y[:, -SIZE_EMBEDDING:].to(latents)
    streams = [stream for stream in call.active if stream.meaf is meaf]

    def fused(site: str, query: Tensor, text: Tensor, heads: int, size: tuple[int, int]) -> Tensor:
        parts = [call.fused(stream, PREFIX + site, query, size) for stream in streams]
        return fuse(text, query, heads, parts, meaf.config.fusion)

    found = meaf.branch(latents, times, sizes, fused)
    return found.scaled([s.settings.strength for s in streams], [call.mask(s, latents.device) for s in streams])


def _with_skips(control: dict | None, residuals: Residuals) -> dict | None:
    """ComfyUI takes "output" from the end as it goes up, so it is in the order in which the skip connections are made."""
    if not residuals.skips:
        return control
    ours = {"input": [], "middle": [residuals.mid], "output": residuals.skips}
    given = control or {}
    return {kind: _sums(given.get(kind, []), ours[kind]) for kind in KINDS}


def _sums(first: list[Tensor | None], second: list[Tensor | None]) -> list[Tensor | None]:
    """Both are taken from the end."""
    length = max(len(first), len(second))
    padded = [[None] * (length - len(row)) + list(row) for row in (first, second)]
    return [b if a is None else a if b is None else a + b for a, b in zip(*padded)]


def _up_joins(unet: UNetModel, residuals: Residuals) -> tuple[Callable, Callable]:
    """(output block patch, hook before unet.out)."""
    ends = [number for number, block in enumerate(unet.output_blocks) if any(isinstance(part, Upsample) for part in block)]
    *ups, last = residuals.ups
    before = dict(zip([0, *(number + 1 for number in ends)], [residuals.mid, *ups], strict=True))

    def patch(hidden: Tensor, skip: Tensor, options: dict) -> tuple[Tensor, Tensor]:
        join = before.get(options["block"][1])
        return (hidden if join is None else hidden + join), skip

    return patch, lambda _, inputs: (inputs[0] + last.to(inputs[0]),)

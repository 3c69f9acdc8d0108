"""The cross-attention layers of a loaded ComfyUI U-Net, by their diffusers path and by ComfyUI's own patch key.

ComfyUI looks attn2 replacements up by (block, number, transformer index), e.g. ("input", 4, 0) or ("middle", 0, 0).
diffusers counts per level: down_blocks.<level>.attentions.<index>.
"""

from dataclasses import dataclass

from comfy.ldm.modules.attention import SpatialTransformer
from comfy.ldm.modules.diffusionmodules.openaimodel import Downsample, UNetModel, Upsample

PatchKey = tuple[str, int, int]


@dataclass(frozen=True)
class ComfySites:
    """channels: diffusers path -> width; keys: ComfyUI's patch key -> diffusers path; context_width: text embedding;
    heads: diffusers path -> its heads; levels: diffusers path -> how often the latents are halved there."""

    channels: dict[str, int]
    keys: dict[PatchKey, str]
    context_width: int
    heads: dict[str, int]
    levels: dict[str, int]

    def size(self, site: str, height: int, width: int) -> tuple[int, int]:
        """Height and width at a layer, of latents of this size: each level's convolution rounds up."""
        half = 2 ** self.levels[site]
        return -(-height // half), -(-width // half)


def find_sites(unet) -> ComfySites:
    """Raises ValueError when the model is not a U-Net with cross-attention (a Flux or other transformer, say)."""
    attentions = list(_attentions(unet)) if isinstance(unet, UNetModel) else []
    if not attentions:
        raise ValueError(
            f"MEAF works on SD1.5, SD2.x and SDXL U-Nets, the connected model is a {type(unet).__name__}; "
            f"connect such a checkpoint"
        )
    keys, channels, heads, levels, context_width = {}, {}, {}, {}, 0
    last = sum(isinstance(layer, Downsample) for block in unet.input_blocks for layer in block)
    for block, number, path, transformer in attentions:
        for layer, inner in enumerate(transformer.transformer_blocks):
            site = f"{path}.transformer_blocks.{layer}.attn2"
            keys[block, number, layer] = site
            channels[site] = inner.attn2.to_q.weight.shape[0]
            context_width = inner.attn2.to_k.weight.shape[1]
            heads[site] = inner.attn2.heads
            level = int(path.split(".")[1]) if block != "middle" else last
            levels[site] = last - level if block == "output" else level
    return ComfySites(channels, keys, context_width, heads, levels)


def _attentions(unet: UNetModel):
    """(block name, block number, diffusers path, SpatialTransformer) in the order down, mid, up."""
    yield from _numbered("input", "down_blocks", unet.input_blocks, Downsample, starts_level=True)
    for layer in unet.middle_block:
        if isinstance(layer, SpatialTransformer):
            yield "middle", 0, "mid_block.attentions.0", layer
    yield from _numbered("output", "up_blocks", unet.output_blocks, Upsample, starts_level=False)


def _numbered(block: str, prefix: str, blocks, boundary: type, starts_level: bool):
    """A Downsample stands alone and starts a level; an Upsample is the last layer of its level's last block."""
    level, index = 0, 0
    for number, layers in enumerate(blocks):
        at_boundary = any(isinstance(layer, boundary) for layer in layers)
        if at_boundary and starts_level:
            level, index = level + 1, 0
            continue
        for layer in layers:
            if isinstance(layer, SpatialTransformer):
                yield block, number, f"{prefix}.{level}.attentions.{index}", layer
                index += 1
        if at_boundary:
            level, index = level + 1, 0

"""The base families: ComfyUI's own U-Net, at real or tiny widths, always with the real family's blocks.

Nothing of ComfyUI is imported before it is needed: see host.start().
"""

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

SD_BLOCKS = {
    "channel_mult": [1, 2, 4, 4],
    "num_res_blocks": [2, 2, 2, 2],
    "transformer_depth": [1, 1, 1, 1, 1, 1, 0, 0],
    "transformer_depth_middle": 1,
    "transformer_depth_output": [1, 1, 1, 1, 1, 1, 1, 1, 1, 0, 0, 0],
}
SDXL_BLOCKS = {
    "channel_mult": [1, 2, 4],
    "num_res_blocks": [2, 2, 2],
    "transformer_depth": [0, 0, 2, 2, 10, 10],
    "transformer_depth_middle": 10,
    "transformer_depth_output": [0, 0, 0, 2, 2, 2, 10, 10, 10],
}
TIME_IDS = 6 * 256  # SDXL: original size, crop and target size, each embedded in 256 channels


@dataclass(frozen=True)
class Widths:
    channels: int
    context: int
    head_channels: int  # of the families that fix the width of a head; SD1.5 fixes the number of heads
    pooled: int


TINY = Widths(channels=32, context=24, head_channels=16, pooled=40)


@dataclass(frozen=True)
class Family:
    name: str
    config: str  # the class in comfy.supported_models
    blocks: dict
    full: Widths
    heads: int | None = None
    linear: bool = False
    pooled: bool = False

    def unet_config(self, widths: Widths) -> dict:
        """As comfy.model_detection would find it in a checkpoint."""
        return {
            "image_size": 32, "in_channels": 4, "out_channels": 4, "use_spatial_transformer": True, "legacy": False,
            "use_temporal_attention": False, "use_temporal_resblock": False, "use_linear_in_transformer": self.linear,
            "model_channels": widths.channels, "context_dim": widths.context,
            "adm_in_channels": widths.pooled + TIME_IDS if self.pooled else None,
            **({"num_classes": "sequential"} if self.pooled else {}),
            **{name: value if isinstance(value, int) else list(value) for name, value in self.blocks.items()},
        }  # fmt: skip

    def model_config(self, widths: Widths, dtype: torch.dtype = torch.float32):
        import comfy.supported_models

        config = getattr(comfy.supported_models, self.config)(self.unet_config(widths))
        heads = {"num_heads": self.heads} if self.heads else {"num_head_channels": widths.head_channels}
        config.unet_config.update(heads)
        config.set_inference_dtype(dtype, None)
        return config


FAMILIES = {
    family.name: family
    for family in (
        Family("sd15", "SD15", SD_BLOCKS, Widths(320, 768, 40, 768), heads=8),
        Family("sd2", "SD20", SD_BLOCKS, Widths(320, 1024, 64, 1024), linear=True),
        Family("sdxl", "SDXL", SDXL_BLOCKS, Widths(320, 2048, 64, 1280), linear=True, pooled=True),
    )
}


def controlnet_layers(names: Iterable[str]) -> dict[str, str]:
    """ComfyUI's name -> diffusers' of the weights that a ControlNet has beside its U-Net's: of its map, and of its joins.

    names: all of its weights, as ComfyUI has them.
    """
    names = list(names)
    zeros = sum(name.startswith("zero_convs.") and name.endswith(".weight") for name in names)
    hints = sorted({int(name.split(".")[1]) for name in names if name.startswith("input_hint_block.")})
    places = ["conv_in", *(f"blocks.{number}" for number in range(len(hints) - 2)), "conv_out"]
    layers = {f"zero_convs.{number}.0": f"controlnet_down_blocks.{number}" for number in range(zeros)}
    layers |= {
        f"input_hint_block.{hint}": f"controlnet_cond_embedding.{place}" for hint, place in zip(hints, places, strict=True)
    }
    layers["middle_block_out.0"] = "controlnet_mid_block"
    return {f"{ours}.{part}": f"{theirs}.{part}" for ours, theirs in layers.items() for part in ("weight", "bias")}


RESIDUALS = ("to_out.0.weight", "net.2.weight", "proj_out.weight", "out_layers.3.weight")  # what a skip adds


def random_weight(name: str, shape: torch.Size, generator: torch.Generator) -> Tensor:
    """Activations keep their size through a network of these: 1/sqrt(fan in), norms about 1, biases about 0.

    What is added to a skip is halved, as trained networks add less than they carry: otherwise the 70 transformer
    blocks of SDXL amplify fp32 rounding to 1e-5.
    """
    return scaled(name, torch.randn(shape, generator=generator))


def scaled(name: str, noise: Tensor) -> Tensor:
    if noise.dim() < 2:
        return noise * 0.05 + (1 if name.endswith("weight") else 0)
    return noise * noise.shape[1:].numel() ** -0.5 * (0.5 if name.endswith(RESIDUALS) else 1)


def randomise(module: nn.Module, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in module.named_parameters():
            parameter.copy_(random_weight(name, parameter.shape, generator))


def describe(family: str) -> Family:
    if family not in FAMILIES:
        raise ValueError(f"unknown family {family!r}; known: {', '.join(FAMILIES)}")
    return FAMILIES[family]

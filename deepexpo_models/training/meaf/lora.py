"""A LoRA on the attention of the frozen base, trained beside the streams and released as a file of its own."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from diffusers import UNet2DConditionModel
from torch import Tensor, nn

from ...importers import lora_file, save_lora

ADAPTER = "default"
PROJECTIONS = ("to_q", "to_k", "to_v", "to_out.0")  # of every attention


def attach_lora(unet: UNet2DConditionModel, rank: int) -> nn.ModuleDict:
    """Put a LoRA of this rank on the U-Net's attention; it starts as nothing.

    Returns its weights, shared with the U-Net: `<path of the projection, _ for .>.down.weight` (rank, in) and `.up.weight`
    (out, rank). Raises ValueError where peft is not installed.
    """
    try:
        from peft import LoraConfig
    except ImportError as error:
        raise ValueError("--lora-rank needs peft, which is not installed; pip install peft, or give --lora-rank 0") from error
    unet.add_adapter(LoraConfig(r=rank, lora_alpha=rank, target_modules=list(PROJECTIONS)), ADAPTER)
    sides = lambda layer: {"down": layer.lora_A[ADAPTER], "up": layer.lora_B[ADAPTER]}  # noqa: E731
    return nn.ModuleDict({path.replace(".", "_"): nn.ModuleDict(sides(layer)) for path, layer in _layers(unet).items()})


@contextmanager
def without_lora(unet: UNet2DConditionModel) -> Iterator[None]:
    """Inside, the U-Net is the base alone, whether it has a LoRA or not."""
    layers = _layers(unet).values()
    try:
        for layer in layers:
            layer.set_scale(ADAPTER, 0.0)
        yield
    finally:
        for layer in layers:
            layer.set_scale(ADAPTER, 1.0)


def release_lora(path: Path, weights: Mapping[str, Tensor]) -> None:
    """Write the weights of `attach_lora`, by their names, in half precision."""
    targets = dict.fromkeys(name.split(".")[0] for name in weights)
    half = lambda target, side: weights[f"{target}.{side}.weight"].half()  # noqa: E731
    save_lora(path, lora_file({target: (half(target, "down"), half(target, "up")) for target in targets}))


def _layers(unet: UNet2DConditionModel) -> dict[str, Any]:
    """peft's layers in a U-Net, by path; none where it has no LoRA."""
    return {path: module for path, module in unet.named_modules() if hasattr(module, "lora_A")}

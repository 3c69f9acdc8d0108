"""The LoRA inside a FaceID file, as an ordinary LoRA file.

It belongs to every attention's to_q, to_k, to_v and to_out, down (rank, in) and up (out, rank), added at strength 1. Written
with the names that ComfyUI's and diffusers' loaders both read: lora_unet_<path>.lora_down.weight, .lora_up.weight, .alpha.
"""

from pathlib import Path

import torch
from torch import Tensor

from ..meaf.sites import UNetShape
from ..weights import save_whole
from .layouts import LORA_PARTS
from .sites import numbered_sites

MODULES = {"to_out": "to_out.0"}  # other parts are modules of their own name


def lora_tensors(tensors: dict[str, Tensor], unet: UNetShape) -> dict[str, Tensor]:
    """The file's tensors -> those of the LoRA file; alpha is the rank, so strength 1 is as published."""
    lora = {}
    for number, path in numbered_sites(unet).items():
        for part in LORA_PARTS:
            target = f"lora_unet_{path}.{MODULES.get(part, part)}".replace(".", "_")
            for side in ("down", "up"):
                lora[f"{target}.lora_{side}.weight"] = tensors[f"ip_adapter.{number}.{part}_lora.{side}.weight"]
            down = lora[f"{target}.lora_down.weight"]
            lora[f"{target}.alpha"] = torch.tensor(float(len(down)), dtype=down.dtype)
    return lora


def save_lora(path: Path, tensors: dict[str, Tensor], unet: UNetShape) -> None:
    """Write the LoRA file, whole or not at all."""
    save_whole(Path(path), {name: tensor.contiguous() for name, tensor in lora_tensors(tensors, unet).items()})

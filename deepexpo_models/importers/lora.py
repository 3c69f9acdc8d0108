"""LoRA files, and the LoRA inside a FaceID file.

It belongs to every attention's to_q, to_k, to_v and to_out, down (rank, in) and up (out, rank), added at strength 1. Written
with the names that ComfyUI's and diffusers' loaders both read: lora_unet_<path>.lora_down.weight, .lora_up.weight, .alpha.
"""

from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from ..meaf.sites import UNetShape
from ..weights import save_whole
from .layouts import LORA_PARTS
from .sites import numbered_sites

MODULES = {"to_out": "to_out.0"}  # other parts are modules of their own name


def lora_tensors(tensors: dict[str, Tensor], unet: UNetShape) -> dict[str, Tensor]:
    """The adapter's tensors -> those of the LoRA file."""
    return lora_file({
        f"{path}.{MODULES.get(part, part)}": (
            tensors[f"ip_adapter.{number}.{part}_lora.down.weight"], tensors[f"ip_adapter.{number}.{part}_lora.up.weight"],
        )
        for number, path in numbered_sites(unet).items()
        for part in LORA_PARTS
    })  # fmt: skip


def lora_file(weights: Mapping[str, tuple[Tensor, Tensor]]) -> dict[str, Tensor]:
    """Path of a module (. or _ between its parts) -> (down, up), as the tensors of a LoRA file.

    alpha is the rank, so strength 1 adds up @ down, as published or trained.
    """
    file = {}
    for path, (down, up) in weights.items():
        target = f"lora_unet_{path}".replace(".", "_")
        file[f"{target}.lora_down.weight"], file[f"{target}.lora_up.weight"] = down, up
        file[f"{target}.alpha"] = torch.tensor(float(len(down)), dtype=down.dtype)
    return file


def save_lora(path: Path, file: Mapping[str, Tensor]) -> None:
    """Write the tensors of a LoRA file, whole or not at all."""
    save_whole(Path(path), {name: tensor.cpu().contiguous() for name, tensor in file.items()})

"""Full-size checkpoints of random fp16 weights, in the single-file layout that CheckpointLoaderSimple takes.

A tiny one is not possible: ComfyUI tells the families apart by their real widths. Run this file's
write_checkpoint once per session: SD1.5 has 2 GB, SDXL 7 GB.
"""

import json
import math
import struct
from pathlib import Path

import torch
from torch import Tensor

from .families import controlnet_layers, describe, random_weight

DTYPES = {torch.float16: "F16", torch.float32: "F32", torch.int64: "I64"}
VAE = {
    "double_z": True, "z_channels": 4, "resolution": 256, "in_channels": 3, "out_ch": 3, "ch": 128,
    "ch_mult": [1, 2, 4, 4], "num_res_blocks": 2, "attn_resolutions": [], "dropout": 0.0,
}  # fmt: skip
UNION_TYPES = 8
MID = {"transformer_depth": [0, 0, 0, 0, 1, 1], "transformer_depth_middle": 1, "transformer_depth_output": [0] * 6 + [1] * 3}


def write_checkpoint(path: Path, family: str, seed: int = 0) -> Path:
    return _write(path, described_tensors(family), seed)


def write_controlnet(path: Path, family: str = "sd15", union: bool = False, seed: int = 0) -> Path:
    """A random ControlNet in its published layout; its joins are random too, so that a map changes the picture. SDXL's has the
    depth of diffusers' published *mid* size, a seventh of the whole one; union: with the networks of xinsir's."""
    return _write(path, CONTROLNETS[family](union), seed)


def _sd15_controlnet(_union: bool) -> dict[str, Tensor]:
    """As the v1.1 ControlNets and CrucibleAI's are."""
    return {f"control_model.{name}": tensor for name, tensor in _controlnet(_unet_config("sd15")).items()}


def _sdxl_controlnet(union: bool) -> dict[str, Tensor]:
    """As diffusers writes them: InstantID's, xinsir's."""
    import comfy.utils

    config = {**_unet_config("sdxl"), **MID}
    more = {"union_controlnet_num_control_type": UNION_TYPES} if union else {}
    tensors = _controlnet({**config, **more})
    published = {ours: theirs for theirs, ours in comfy.utils.unet_to_diffusers(config).items()} | controlnet_layers(tensors)
    return {published.get(name, name).replace(".attn.in_proj.", ".attn.in_proj_"): tensor for name, tensor in tensors.items()}


def _unet_config(family: str) -> dict:
    config = dict(describe(family).model_config(describe(family).full, torch.float16).unet_config)
    for name in ("out_channels", "use_temporal_attention"):
        config.pop(name, None)
    return config


def _controlnet(config: dict) -> dict[str, Tensor]:
    from comfy.cldm.cldm import ControlNet

    return ControlNet(**config, hint_channels=3, device=torch.device("meta")).state_dict()


CONTROLNETS = {"sd15": _sd15_controlnet, "sdxl": _sdxl_controlnet}


def _write(path: Path, tensors: dict[str, Tensor], seed: int) -> Path:
    """One tensor at a time: little memory, whatever the size."""
    generator = torch.Generator().manual_seed(seed)
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("wb") as file:
        header = json.dumps(_header(tensors)).encode()
        file.write(struct.pack("<Q", len(header)) + header)
        for name, tensor in tensors.items():
            values = tensor if tensor.device.type != "meta" else random_value(name, tensor.shape, generator)
            file.write(values.to(stored_dtype(tensor)).contiguous().numpy().tobytes())
    return path


def described_tensors(family: str) -> dict[str, Tensor]:
    """Name -> tensor of the whole checkpoint; on the meta device, except for the few that are not weights."""
    from comfy.ldm.models.autoencoder import AutoencoderKL

    described = describe(family)
    config = described.model_config(described.full, torch.float16)
    meta = torch.device("meta")
    clip = config.clip_target({})
    text = clip.clip(device=meta, dtype=torch.float16, **{"model_options": {}, **(clip.params or {})})
    with meta:
        unet = config.get_model({}, device=meta).diffusion_model
        vae = AutoencoderKL(ddconfig=VAE, embed_dim=4)
    return {
        **config.process_unet_state_dict_for_saving(unet.state_dict()),
        **config.process_vae_state_dict_for_saving(vae.state_dict()),
        **config.process_clip_state_dict_for_saving(text.state_dict()),
    }


def random_value(name: str, shape: torch.Size, generator: torch.Generator) -> Tensor:
    if name.endswith("position_ids"):
        return torch.arange(shape[-1]).expand(shape)
    if "embedding" in name or not shape:
        return torch.randn(shape, generator=generator) * 0.02
    return random_weight(name, shape, generator)


def stored_dtype(tensor: Tensor) -> torch.dtype:
    return torch.float16 if tensor.is_floating_point() else torch.int64


def _header(tensors: dict[str, Tensor]) -> dict:
    header, end = {}, 0
    for name, tensor in tensors.items():
        start, dtype = end, stored_dtype(tensor)
        end += math.prod(tensor.shape) * dtype.itemsize
        header[name] = {"dtype": DTYPES[dtype], "shape": list(tensor.shape), "data_offsets": [start, end]}
    return header

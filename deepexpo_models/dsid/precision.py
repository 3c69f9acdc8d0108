"""Encoders in bfloat16, where the hardware multiplies it: less than half the time with AMX; with AVX-512 alone two thirds for
`base` (a picture's semantics 68 ms after 105), and no gain for small ones (11 after 7). Measured on the DSIDs in
weights/: rotations within 3e-3 of float32's, expressions within 2% of their largest number (0.0125, short of the 3e-3 that was
aimed at), identities at a cosine of 0.9999.

Only the convolutional trunks are in it; what aligns a face and what makes a code of features stays float32.
"""

import torch

from ..layers import VectorEncoder
from .model import DSID

PRECISIONS = ("float32", "bfloat16")
CPU_UNITS = ("_is_avx512_bf16_supported", "_is_amx_tile_supported")  # of torch.cpu; older versions lack them


def has_bfloat16(device: torch.device) -> bool:
    """Whether the device has units for bfloat16; on a CPU without it takes several times as long as float32."""
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    return device.type == "cpu" and any(getattr(torch.cpu, name, lambda: False)() for name in CPU_UNITS)


def set_precision(dsid: DSID, precision: str, device: torch.device) -> str:
    """Let the encoders compute in that precision on that device; returns a sentence where float32 is used instead, else "".

    Raises ValueError for another name than those of PRECISIONS.
    """
    if precision not in PRECISIONS:
        raise ValueError(f"unknown precision {precision!r}; known: {', '.join(PRECISIONS)}")
    if precision == "float32":
        return ""
    if not has_bfloat16(device):
        return f"float32 is used: this {device.type} has no units for bfloat16"
    use_bfloat16(dsid)
    return ""


def use_bfloat16(dsid: DSID) -> None:
    """Wherever it runs."""
    for part in dsid.modules():
        if isinstance(part, VectorEncoder):
            part.precision = torch.bfloat16
            part.trunk.to(torch.bfloat16)

"""What one MEAF step is shown: latents and captions of a target, and the codes that its streams shall follow."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from ...dsid import DSID
from ...whole_files import write_file
from ..engine.feed import Movable

CHUNK = 64
SELF_SHARE = 0.25  # of the samples whose expression and pose are read from the target itself
AT_REST_SHARE = 0.15  # ... of those whose expression comes from the identity picture of the same clip


@dataclass(frozen=True)
class MEAFBatch(Movable):
    """latents (B, C, h, w), captions, codes: field -> (B, width); face and region (B, 1, h, w) in [0, 1]; images (B, 3, S, S)
    of the target in [-1, 1]; has_target (B,) bool: the picture that the codes and the caption ask for is the one in
    latents and images. Without, they are what the noise is put on, and only the decoded picture's codes can be judged.
    """

    latents: Tensor
    captions: list[str]
    codes: dict[str, Tensor]
    face: Tensor
    region: Tensor
    images: Tensor
    has_target: Tensor


@torch.no_grad()
def read_codes(dsid: DSID, person: Tensor, reference: Tensor) -> dict[str, Tensor]:
    """person, reference (B, 3, S, S) in [-1, 1] -> the identity of one, expression and pose of the other, as
    `MEAFBatch.codes` names them."""
    return {"identity": dsid.encode_identity(person), **dsid.encode_semantics(reference)}


def latent_masks(face: Tensor, region: Tensor, side: int) -> list[Tensor]:
    """Masks (B, 1, S, S) -> (B, 1, side, side), means."""
    return [F.adaptive_avg_pool2d(mask, side) for mask in (face, region)]


def cached(folder: Path, name: str, store, say, device: torch.device, encode) -> np.ndarray:
    """(N, width) of all pictures in the store (len, `images(rows)`), computed once: folder/<name>-<N>.npy."""
    path = folder / f"{name}-{len(store)}.npy"
    if not path.exists():
        say(f"encoding {len(store)} pictures: {name}")
        parts = [encode(store.images(rows).to(device)).cpu().numpy() for rows in torch.arange(len(store)).split(CHUNK)]
        kept = np.concatenate(parts)
        with write_file(path) as beside, open(beside, "wb") as file:
            np.save(file, kept.astype(np.float16) if "latents" in name else kept)
    return np.load(path, mmap_mode="r")

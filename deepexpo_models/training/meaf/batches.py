"""What one MEAF step is shown: latents and captions of a target, and the codes that its streams shall follow."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Generator, Tensor

from ...data.synthetic import captions
from ...data.synthetic.shards import ShardStore
from ...dsid import DSID
from ...pipeline.base import Base
from ...whole_files import write_file
from ..engine.feed import Movable

CODES = ("identity", "expression", "rotation", "translation", "log_scale")
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


class DrawnTargets:
    """Targets from shards. The encoders and the VAE are frozen, so every picture is encoded once and kept beside the run."""

    def __init__(self, folder: str, cache: Path, dsid: DSID, base: Base, say=print):
        self.store = ShardStore(folder)
        if self.store.size != dsid.config.image_size or self.store.size != base.size:
            raise ValueError(
                f"{folder} holds faces of {self.store.size} pixels, the DSID reads {dsid.config.image_size} and the base makes "
                f"{base.size}; draw faces of that size with deepexpo_models.data.draw --size"
            )
        device = next(dsid.parameters()).device
        self._latent_shape = tuple(base.encode(self.store.images(torch.tensor([0])).to(device)).shape[1:])
        encoders = {
            f"codes-{dsid.encoder.sha256[:12]}": _all_codes(dsid),
            f"latents-{base.vae_id}": lambda images: base.encode(images).flatten(1),
        }
        self.codes, self.latents = (cached(cache, name, self.store, say, device, encode) for name, encode in encoders.items())
        self._widths = (dsid.config.identity_width, dsid.config.expression_width, 6, 2, 1)

    def sample(self, count: int, generator: Generator) -> MEAFBatch:
        """Identity from another frame, expression and pose from other people or from the target: the true picture is known."""
        roles = self.store.sample_roles(count, generator, same_clip=0.25)
        own, rest = torch.rand(count, generator=generator) < SELF_SHARE, torch.rand(count, generator=generator) < AT_REST_SHARE
        target = roles.target
        expression = torch.where(own, target, roles.expression)
        pose = torch.where(own, target, roles.pose)
        source = torch.where(own & rest, target, roles.source)
        codes = self._read(source)["identity"], self._read(expression)["expression"], self._read(pose)
        frames = self.store.frames(target)
        face, region = latent_masks(frames.face, frames.region, self._latent_shape[-1])
        return MEAFBatch(
            latents=torch.from_numpy(self.latents[target.numpy()]).float().unflatten(1, self._latent_shape),
            captions=captions(frames.scene, generator),
            codes={**codes[2], "identity": codes[0], "expression": codes[1]},
            face=face,
            region=region,
            images=frames.images,
            has_target=torch.ones(count, dtype=torch.bool),
        )

    def encoded(self, batch: MEAFBatch) -> MEAFBatch:
        """What `sample` made is whole."""
        return batch

    def _read(self, rows: Tensor) -> dict[str, Tensor]:
        values = torch.from_numpy(self.codes[rows.numpy()]).float()
        return dict(zip(CODES, values.split(self._widths, dim=1)))


@torch.no_grad()
def read_codes(dsid: DSID, person: Tensor, reference: Tensor) -> dict[str, Tensor]:
    """person, reference (B, 3, S, S) in [-1, 1] -> the identity of one, expression and pose of the other, by CODES."""
    return {"identity": dsid.encode_identity(person), **dsid.encode_semantics(reference)}


def latent_masks(face: Tensor, region: Tensor, side: int) -> list[Tensor]:
    """Masks (B, 1, S, S) -> (B, 1, side, side), means."""
    return [F.adaptive_avg_pool2d(mask, side) for mask in (face, region)]


def _all_codes(dsid: DSID):
    def encode(images: Tensor) -> Tensor:
        codes = read_codes(dsid, images, images)
        return torch.cat([codes[name] for name in CODES], dim=1)

    return encode


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

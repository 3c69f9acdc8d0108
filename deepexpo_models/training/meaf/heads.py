"""Batches of rendered heads for a MEAF whose expression and pose are ARKit's numbers and the true rotation."""

from pathlib import Path

import torch
from torch import Generator

from ...data.heads.captions import captions
from ...data.heads.regions import face_of, region_of
from ...data.heads.shards import FRAMES, HeadStore
from ...dsid import DSID
from ...dsid.rotation import matrix_to_rotation
from ...image import resize
from ...pipeline.base import Base
from .batches import MEAFBatch, cached, latent_masks


class HeadTargets:
    """Targets from shards of rendered heads, whose labels are true; the person from another picture, where a DSID reads it.

    The encoder and the VAE are frozen, so every picture is encoded once and kept beside the run. Raises ValueError for heads
    of another size than the base makes.
    """

    def __init__(self, folder: str, cache: Path, dsid: DSID | None, base: Base, say=print):
        self.store = HeadStore(folder)
        if self.store.size != base.size:
            raise ValueError(
                f"{folder} holds heads of {self.store.size} pixels and the base makes {base.size}; "
                f"render some with python -m deepexpo_models.data.heads.generate --size {base.size}"
            )
        device = next(base.unet.parameters()).device
        self._latent_shape = tuple(base.encode(self.store.images(torch.tensor([0])).to(device)).shape[1:])
        encoders = {f"head-latents-{base.vae_id}": lambda images: base.encode(images).flatten(1)}
        if dsid:
            size = dsid.config.image_size
            encoders[f"head-identities-{dsid.encoder.sha256[:12]}"] = lambda images: dsid.encode_identity(resize(images, size))
        self.latents, *identities = (cached(cache, name, self.store, say, device, how) for name, how in encoders.items())
        self.identities = identities[0] if identities else None

    def sample(self, count: int, generator: Generator) -> MEAFBatch:
        """The true picture of a person with the expression and the rotation that the codes name."""
        rows = self.store.sample(count, generator)
        heads = self.store.heads(rows)
        codes = {"expression": heads.units, "rotation": matrix_to_rotation(heads.rotation)}
        if self.identities is not None:
            others = rows // FRAMES * FRAMES + torch.randint(FRAMES, (count,), generator=generator)
            codes["identity"] = torch.from_numpy(self.identities[others.numpy()]).float()
        size = self.store.size
        face, region = latent_masks(face_of(heads.surface, size), region_of(heads.five, size), self._latent_shape[-1])
        return MEAFBatch(
            latents=torch.from_numpy(self.latents[rows.numpy()]).float().unflatten(1, self._latent_shape),
            captions=captions(heads, generator),
            codes=codes,
            face=face,
            region=region,
            images=heads.images,
            has_target=torch.ones(count, dtype=torch.bool),
        )

    def encoded(self, batch: MEAFBatch) -> MEAFBatch:
        """What `sample` made is whole."""
        return batch

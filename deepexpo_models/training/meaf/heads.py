"""Batches of rendered heads for a MEAF: the true picture of a person with the expression and the pose of other people."""

from pathlib import Path
from typing import Any, cast

import torch
from torch import Generator, Tensor

from ...data.heads.captions import captions
from ...data.heads.regions import face_of, region_of
from ...data.heads.shards import Heads, HeadStore
from ...data.studio import FRAMES, same_expression, same_pose
from ...dsid import DSID
from ...dsid.codes import SEMANTIC_WIDTHS
from ...dsid.rotation import matrix_to_rotation
from ...image import resize
from ...pipeline.base import Base
from .batches import SELF_SHARE, MEAFBatch, cached, latent_masks

ROTATION = cast(int, SEMANTIC_WIDTHS["rotation"])


class HeadTargets:
    """Targets from shards of rendered heads that are not spoilt. Expression and pose are ARKit's numbers and the true rotation
    (labelled), or what the DSID reads in pictures of other people who play the same, in SELF_SHARE of the samples in the
    target itself; identity is what the DSID, where there is one, reads in another picture of the person.

    The encoders and the VAE are frozen, so every picture is encoded once and kept beside the run. Raises ValueError for heads
    of another size than the base makes.
    """

    def __init__(self, folder: str, cache: Path, dsid: DSID | None, base: Base, labelled: bool, say=print):
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
            encoders[f"head-identities-{dsid.encoder.sha256[:12]}"] = lambda images: dsid.encode_identity(_seen(dsid, images))
        if dsid and not labelled:
            encoders[f"head-semantics-{dsid.encoder.sha256[:12]}"] = lambda images: _semantics(dsid, images)
        made: list[Any] = [cached(cache, name, self.store, say, device, how) for name, how in encoders.items()]
        self.latents, self.identities, self.semantics = made + [None] * (3 - len(made))
        self._rows = self.store.unspoilt()

    def sample(self, count: int, generator: Generator) -> MEAFBatch:
        rows = self._rows[torch.randint(len(self._rows), (count,), generator=generator)]
        heads, size = self.store.heads(rows), self.store.size
        codes = self._labels(heads) if self.semantics is None else self._read(rows, generator)
        if self.identities is not None:
            others = rows // FRAMES * FRAMES + (rows + 1 + torch.randint(FRAMES - 1, (count,), generator=generator)) % FRAMES
            codes["identity"] = torch.from_numpy(self.identities[others.numpy()]).float()
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

    def _labels(self, heads: Heads) -> dict[str, Tensor]:
        return {"expression": heads.units, "rotation": matrix_to_rotation(heads.rotation)}

    def _read(self, rows: Tensor, generator: Generator) -> dict[str, Tensor]:
        own = torch.rand(len(rows), generator=generator) < SELF_SHARE
        expression, pose = (torch.where(own, rows, same(rows, generator)) for same in (same_expression, same_pose))
        expression, pose = (torch.from_numpy(self.semantics[chosen.numpy()]).float() for chosen in (expression, pose))
        return {"expression": expression[:, :-ROTATION], "rotation": pose[:, -ROTATION:]}


def _seen(dsid: DSID, images: Tensor) -> Tensor:
    return resize(images, dsid.config.image_size)


def _semantics(dsid: DSID, images: Tensor) -> Tensor:
    """-> (B, expression_width + ROTATION)."""
    codes = dsid.encode_semantics(_seen(dsid, images))
    return torch.cat([codes["expression"], codes["rotation"]], dim=1)

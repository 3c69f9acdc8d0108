"""What a DSID, or the judge of rendered heads, reads in pictures: the head's rotation and the factors of its expression, and
how two readings agree."""

from dataclasses import dataclass

import torch
from torch import Tensor

from ..data.heads.shards import Heads
from ..dsid import DSID, rotation_to_matrix
from ..dsid.rotation import euler_to_matrix, geodesic_angle
from ..image import resize
from .factors import FACTORS, MAIN, factors_of
from .judges.judge import Judge, judged
from .real_faces import correlation

CHUNK = 64


@dataclass(frozen=True)
class Reading:
    """rotation (N, 3, 3), factors (N, len(FACTORS))."""

    rotation: Tensor
    factors: Tensor

    def __getitem__(self, rows: Tensor) -> "Reading":
        return Reading(self.rotation[rows], self.factors[rows])


@torch.no_grad()
def read(reader: DSID, images: Tensor) -> Reading:
    """images (N, 3, S, S) in [-1, 1] -> what the reader sees in them. Raises ValueError for a DSID without read-outs."""
    if reader.readout is None:
        raise ValueError(
            "this DSID has no read-outs of ARKit's units, so its codes tell no factor; give photo-dsid.safetensors"
        )
    device, found = next(reader.parameters()).device, []
    for part in images.split(CHUNK):
        codes = reader.encode_semantics(resize(part.to(device), reader.config.image_size))
        found.append((rotation_to_matrix(codes["rotation"].float()).cpu(), codes["expression"].float().cpu()))
    rotation, expression = (torch.cat(parts) for parts in zip(*found))
    return Reading(rotation, factors_of(reader.readout.arkit52(expression)))


def read_by_judge(judge: Judge, images: Tensor) -> Reading:
    """images (N, 3, S, S) in [-1, 1] -> what the judge sees in them, NaN where it sees no face."""
    found = judged(judge, images.to(next(judge.parameters()).device))
    return Reading(euler_to_matrix(found.pose[:, :3]).cpu(), found.expression.cpu())


def asked(heads: Heads) -> Reading:
    """The truth, as the renderer was told."""
    return Reading(heads.rotation, factors_of(heads.units))


def agreement(found: Reading, other: Reading) -> dict[str, float]:
    """pictures: those in which both saw a face; of them the mean degrees between the rotations, the correlation of each of
    FACTORS, and the mean of those of MAIN."""
    seen = found.factors.isfinite().all(1) & other.factors.isfinite().all(1)
    found, other = found[seen], other[seen]
    r = {name: correlation(found.factors[:, i], other.factors[:, i]) for i, name in enumerate(FACTORS)}
    degrees = torch.rad2deg(geodesic_angle(found.rotation, other.rotation)).mean().item()
    return {"pictures": len(found.factors), "degrees": degrees, "mean r": sum(r[name] for name in MAIN) / len(MAIN), **r}

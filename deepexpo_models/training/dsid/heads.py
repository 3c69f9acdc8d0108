"""Batches of rendered heads for a DSID: pairs and triples of the film studio, with the renderer's labels or without any."""

from dataclasses import replace

import numpy as np
import torch
import torch.nn.functional as F
from torch import Generator, Tensor

from ...data.heads.regions import face_of, region_of
from ...data.heads.shards import Heads, HeadStore
from ...data.studio import sample_roles
from ...dsid.alignment import place_of, similarity_from_points
from ...dsid.readout import ReadOut
from ...dsid.rotation import matrix_to_rotation
from ...image import model_to_bytes
from ..heads.identity import TRAITS, traits_of
from .batches import Batch, Labels, spans_of

HELD_OUT = 64  # triples that the meters are read on
PLAIN = "plain"  # kind of background: one colour
SPECK = 1e-3  # share of a picture: 16 pixels of 128 x 128


class RenderedHeads:
    """Batches from shards of rendered heads, at `size` pixels. triples: rendered triples, else pairs of one person as clips
    have them; same_clip: share of sources from the target's own clip; labelled: False hides all labels, as in clips that
    nobody has labelled; test: folder of held-out people, for the meters; plain: targets stand on a grey ground, see
    `on_grey`, so that a generator need not draw backgrounds, which no code holds.

    A label is ARKit's 52 units and the gaze in radians. Raises ValueError where no head may be a target.
    """

    def __init__(
        self,
        folder: str,
        size: int,
        triples: bool,
        same_clip: float,
        labelled: bool = True,
        test: str = "",
        plain: bool = False,
    ):
        self.size, self.triples, self.same_clip, self.labelled, self.plain = size, triples, same_clip, labelled, plain
        self.store, self.test = HeadStore(folder), HeadStore(test) if test else None
        self.rows = self._targets(self.store)
        everyone = torch.arange(len(self.store))
        labels = torch.cat([self.store.read(name, everyone) for name in ("units", "gaze")], 1)
        self.labels = Labels(spans_of(labels), len(TRAITS))

    def sample(self, count: int, generator: Generator, lead: Generator | None = None) -> Batch:
        batch = self._batch(self.store, self.rows, count, generator, self.triples, self.same_clip)
        return batch if self.labelled else without_labels(batch)

    def held_out(self, engine) -> Batch | None:
        """Triples of people that no training sees, always the same ones, in another clip than their source; None without."""
        if self.test is None:
            return None
        return self._batch(self.test, self._targets(self.test), HELD_OUT, torch.Generator().manual_seed(7), True, 0.0)

    def readout(self, probe: torch.nn.Linear) -> ReadOut | None:
        """What the probe of the labels has learned to read, in a file's words; None where it was shown none."""
        if not self.labelled:
            return None
        spans = self.labels.spans
        return ReadOut.of_units(probe.weight.detach().cpu() * spans[:, None], probe.bias.detach().cpu() * spans)

    def _targets(self, store: HeadStore) -> Tensor:
        """(M,) rows that may be a target: no code holds a hand before a face, nor a background."""
        rows = store.unspoilt(*([PLAIN] if self.plain else []))
        if not len(rows):
            asked = "before one colour, as --plain shows them" if self.plain else "that is not spoilt"
            raise ValueError(f"{store.folder} holds no head {asked}; render more of them")
        return rows

    def _batch(self, store: HeadStore, rows: Tensor, count: int, generator, triples: bool, same_clip: float) -> Batch:
        roles = sample_roles(rows, count, generator, same_clip)
        target, source = self._shown(store.heads(roles.target)), store.heads(roles.source)
        expression = store.heads(roles.expression) if triples else target
        pose = store.images(roles.pose) if triples else target.images
        return Batch(
            source=self._resized(source.images),
            target=self._resized(target.images),
            expression=self._resized(expression.images),
            pose=self._resized(pose),
            region=region_of(target.five, self.size),
            face=face_of(target.surface, self.size),
            source_points=source.five,
            target_pose=true_pose(target),
            expression_pose=true_pose(expression),
            label=torch.cat([target.units, target.gaze], 1),
            traits=traits_of(target),
            person=store.person(roles.target),
            triples=triples,
        )

    def _shown(self, target: Heads) -> Heads:
        return replace(target, images=on_grey(target.images)) if self.plain else target

    def _resized(self, images: Tensor) -> Tensor:
        if images.shape[-1] == self.size:
            return images
        return F.interpolate(images, self.size, mode="bilinear", antialias=True)


def on_grey(images: Tensor) -> Tensor:
    """images (B, 3, S, S) in [-1, 1] of heads before one colour -> the same before grey, 0. The colour is the most frequent one
    of a picture's upper half; spots of it that are smaller than SPECK belong to the head and stay.
    """
    grounds = np.stack([_ground(picture) for picture in model_to_bytes(images.cpu()).movedim(1, -1).numpy()])
    return torch.where(torch.from_numpy(grounds).to(images.device)[:, None], 0.0, images)


def _ground(picture: np.ndarray) -> np.ndarray:
    """(S, S, 3) uint8 -> (S, S) bool."""
    import cv2

    colours = picture.astype(np.int64) @ (1, 256, 65536)
    found, counts = np.unique(colours[: len(picture) // 2], return_counts=True)
    ground = (colours == found[counts.argmax()]).astype(np.uint8)
    _, places, figures, _ = cv2.connectedComponentsWithStats(ground, connectivity=4)
    large = figures[:, cv2.CC_STAT_AREA] >= SPECK * ground.size
    return ground.astype(bool) & large[places]


def true_pose(heads: Heads) -> dict[str, Tensor]:
    """Pose codes of rendered heads; place and scale by their five points, as the alignment measures them."""
    _, place, scale = place_of(similarity_from_points(heads.five))
    return {"rotation": matrix_to_rotation(heads.rotation), "translation": place, "log_scale": scale}


def without_labels(batch: Batch) -> Batch:
    """The masks and points stay: a detector of faces finds as much."""
    unknown = lambda values: torch.full_like(values, torch.nan)  # noqa: E731
    pose = {name: unknown(code) for name, code in batch.target_pose.items()}
    return replace(batch, label=unknown(batch.label), traits=unknown(batch.traits), target_pose=pose, expression_pose=pose)

"""Batches of rendered heads for a DSID: pairs and triples of the film studio, with the renderer's labels or without any."""

from dataclasses import replace

import torch
import torch.nn.functional as F
from torch import Generator, Tensor

from ...data.heads.regions import face_of, region_of
from ...data.heads.shards import Heads, HeadStore
from ...dsid.alignment import place_of, similarity_from_points
from ...dsid.readout import ReadOut
from ...dsid.rotation import matrix_to_rotation
from ..heads.identity import TRAITS, traits_of
from ..heads.step import SPREAD_FLOOR
from .batches import Batch, Labels

HELD_OUT = 64  # triples that the meters are read on
UNIFORM = 12**0.5  # range over standard deviation of evenly spread numbers, as the drawn factors are


class RenderedHeads:
    """Batches from shards of rendered heads, at `size` pixels. triples, same_clip: as `DrawnFaces`; labelled: False hides all
    labels, as in clips that nobody has labelled. test: folder of held-out people, for the meters.

    A label is ARKit's 52 units and the gaze in radians.
    """

    def __init__(self, folder: str, size: int, triples: bool, same_clip: float, labelled: bool = True, test: str = ""):
        self.store, self.size = HeadStore(folder), size
        self.triples, self.same_clip, self.labelled = triples, same_clip, labelled
        self.test = HeadStore(test) if test else None
        everyone = torch.arange(len(self.store))
        numbers = torch.cat([self.store.read(name, everyone) for name in ("units", "gaze")], 1)
        self.labels = Labels(UNIFORM * numbers.std(0).clamp(min=SPREAD_FLOOR), len(TRAITS))

    def sample(self, count: int, generator: Generator, lead: Generator | None = None) -> Batch:
        batch = self._batch(self.store, count, generator, self.triples, self.same_clip)
        return batch if self.labelled else without_labels(batch)

    def held_out(self, engine) -> Batch | None:
        """Triples of people that no training sees, always the same ones, in another clip than their source; None without."""
        if self.test is None:
            return None
        return self._batch(self.test, HELD_OUT, torch.Generator().manual_seed(7), True, 0.0)

    def readout(self, probe: torch.nn.Linear) -> ReadOut | None:
        """What the probe of the labels has learned to read, in a file's words; None where it was shown none."""
        if not self.labelled:
            return None
        spans = self.labels.spans
        return ReadOut.of_units(probe.weight.detach().cpu() * spans[:, None], probe.bias.detach().cpu() * spans)

    def _batch(self, store: HeadStore, count: int, generator: Generator, triples: bool, same_clip: float) -> Batch:
        roles = store.sample_roles(count, generator, same_clip)
        target, source = store.heads(roles.target), store.heads(roles.source)
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

    def _resized(self, images: Tensor) -> Tensor:
        if images.shape[-1] == self.size:
            return images
        return F.interpolate(images, self.size, mode="bilinear", antialias=True)


def true_pose(heads: Heads) -> dict[str, Tensor]:
    """Pose codes of rendered heads; place and scale by their five points, as the alignment measures them."""
    _, place, scale = place_of(similarity_from_points(heads.five))
    return {"rotation": matrix_to_rotation(heads.rotation), "translation": place, "log_scale": scale}


def without_labels(batch: Batch) -> Batch:
    """The masks and points stay: a detector of faces finds as much."""
    unknown = lambda values: torch.full_like(values, torch.nan)  # noqa: E731
    pose = {name: unknown(code) for name, code in batch.target_pose.items()}
    return replace(batch, label=unknown(batch.label), traits=unknown(batch.traits), target_pose=pose, expression_pose=pose)

"""What one DSID step is shown, from drawn faces and from real ones alike."""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Generator, Tensor

from ...data.studio import FRAMES
from ...data.synthetic.factors import COLUMN, EXPRESSION, IDENTITY, Factor, concatenate
from ...data.synthetic.render import render
from ...data.synthetic.shards import ShardStore, studio_scene
from ...dsid.rotation import euler_to_matrix, matrix_to_rotation
from ..engine.feed import Movable

TRAITS = sum(len(factor.choices) or 1 for factor in IDENTITY)


@dataclass(frozen=True)
class Labels:
    """What a kind of faces tells: ranges of its expression factors (F,), that losses measure errors in, and the number of
    traits of a person.
    """

    spans: Tensor
    traits: int


DRAWN_LABELS = Labels(torch.tensor([factor.high - factor.low for factor in EXPRESSION]), TRAITS)


@dataclass(frozen=True)
class Batch(Movable):
    """Pictures (B, 3, S, S) in [-1, 1]. `source`: the target's person in another frame. `expression`, `pose`: who lends
    the target's expression and pose; other people where the data can have that (`triples`), else the target itself.
    region, face (B, 1, S, S) belong to the target, source_points (B, 5, 2) to the source. target_pose: the pose codes of
    target and of its pose lender, expression_pose those of the expression lender, NaN where unknown.
    label (B, F): the target's expression factors, traits (B, T): what is known of the person, both as the data's `Labels` say
    (drawn faces and clips: data.synthetic.EXPRESSION, and `traits`), NaN where unknown. person (B,): equal numbers are one
    person. still (B,) bool: source is target, for the person has one picture only; None: none is.
    """

    source: Tensor
    target: Tensor
    expression: Tensor
    pose: Tensor
    region: Tensor
    face: Tensor
    source_points: Tensor
    target_pose: dict[str, Tensor]
    expression_pose: dict[str, Tensor]
    label: Tensor
    traits: Tensor
    person: Tensor
    triples: bool
    still: Tensor | None = None


class DrawnFaces:
    """Batches from shards of drawn faces. triples: rendered triples, else plain pairs of one clip as real video has them."""

    labels = DRAWN_LABELS

    def __init__(self, folder: str, triples: bool, same_clip: float):
        self.store, self.triples, self.same_clip = ShardStore(folder), triples, same_clip

    @property
    def size(self) -> int:
        return self.store.size

    def sample(self, count: int, generator: Generator, lead: Generator | None = None) -> Batch:
        return _from_store(self.store, count, generator, self.triples, self.same_clip)

    def held_out(self, engine) -> Batch:
        """People that no training sees, always the same ones, in another clip than their source."""
        return held_out_faces(self.size)


def held_out_faces(size: int, groups: int = 64, seed: int = 7) -> Batch:
    """Triples of people for tests, drawn on the spot."""
    generator = torch.Generator().manual_seed(seed)
    scenes = [studio_scene(generator, "test") for _ in range(groups)]
    pick = lambda person, frame: concatenate([scene[person * FRAMES + frame : person * FRAMES + frame + 1] for scene in scenes])  # noqa: E731
    target, source = render(pick(0, 1), size), render(pick(0, FRAMES - 1), size)
    return Batch(
        source=source.images,
        target=target.images,
        expression=render(pick(1, 1), size).images,
        pose=render(pick(2, FRAMES - 1), size).images,
        region=target.region,
        face=target.face,
        source_points=source.points,
        target_pose=true_pose(pick(0, 1).pose),
        expression_pose=true_pose(pick(1, 1).pose),
        label=pick(0, 1).expression,
        traits=traits(pick(0, 1).identity),
        person=torch.arange(groups),
        triples=True,
    )


def _from_store(store: ShardStore, count: int, generator: Generator, triples: bool, same_clip: float) -> Batch:
    roles = store.sample_roles(count, generator, same_clip)
    target, source = store.frames(roles.target), store.frames(roles.source)
    return Batch(
        source=source.images,
        target=target.images,
        expression=store.images(roles.expression) if triples else target.images,
        pose=store.images(roles.pose) if triples else target.images,
        region=target.region,
        face=target.face,
        source_points=source.points,
        target_pose=true_pose(target.scene.pose),
        expression_pose=true_pose(store.scene(roles.expression).pose if triples else target.scene.pose),
        label=target.scene.expression,
        traits=traits(target.scene.identity),
        person=store.person(roles.target),
        triples=triples,
    )


def traits(identity: Tensor) -> Tensor:
    """Identity factors of a scene (B, 36) -> (B, TRAITS): lengths and shades over their range in [-1, 1], choices one by
    one as 0 or 1.
    """
    columns = zip(IDENTITY, identity.unbind(1))
    return torch.cat([_choices(factor, column) if factor.choices else _shade(factor, column) for factor, column in columns], 1)


def _choices(factor: Factor, column: Tensor) -> Tensor:
    return F.one_hot(column.long(), len(factor.choices)).float()


def _shade(factor: Factor, column: Tensor) -> Tensor:
    return ((2 * column - factor.low - factor.high) / (factor.high - factor.low))[:, None]


def true_pose(pose: Tensor) -> dict[str, Tensor]:
    """Pose factors of a scene (B, 6) -> pose codes."""
    angles = pose[:, [COLUMN[name][1] for name in ("yaw", "pitch", "roll")]]
    return {
        "rotation": matrix_to_rotation(euler_to_matrix(angles)),
        "translation": pose[:, [COLUMN["x"][1], COLUMN["y"][1]]],
        "log_scale": pose[:, [COLUMN["log_scale"][1]]],
    }

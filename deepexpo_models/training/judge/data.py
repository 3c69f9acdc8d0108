"""Pictures that a judge learns from, and those that its own errors are measured on: drawn faces, or rendered heads.

Both kinds give `sample`, two pictures of each of so many people, together, half of them mirrored, and `held_out`, VIEWS
pictures of each of people whom no training has seen, in different settings, together.
"""

from dataclasses import replace

import torch
from torch import Generator, Tensor

from ...data.heads.shards import FRAMES, HeadStore
from ...data.synthetic import Scene, concatenate, render, sample_scenes
from ...data.synthetic.shards import ShardStore
from ...evaluation.judges.kinds import DRAWN, KINDS, RENDERED, Kind, Shown, shown_in_heads, shown_in_scene
from ...image import bytes_to_model, model_to_bytes

EXTREME_SHARE = 4  # one drawn picture in so many has an extreme pose: the shards have none, the reports do
VIEWS = 3


class DrawnPeople:
    """Drawn faces of a folder; one person in EXTREME_SHARE in extreme poses, drawn at the start, `extremes` people in all."""

    pictures = DRAWN

    def __init__(self, folder: str, extremes: int, seed: int):
        self.store = ShardStore(folder)
        self.turned = ExtremePairs(extremes, self.store.size, torch.Generator().manual_seed(seed))

    def sample(self, people: int, generator: Generator, lead: Generator) -> tuple[Tensor, Shown]:
        few = people // EXTREME_SHARE
        images, scene = sample_pairs(self.store, people - few, generator)
        turned, turned_scene = self.turned.sample(few, generator)
        shown = shown_in_scene(concatenate([scene, turned_scene]))
        return mirror(torch.cat([images, turned]), shown, KINDS[DRAWN], generator)

    def held_out(self, people: int, size: int, generator: Generator) -> tuple[Tensor, Shown]:
        """(people * VIEWS, 3, size, size)."""
        scene = sample_views(people, VIEWS, generator, "test")
        return render(scene, size).images, shown_in_scene(scene)


class RenderedPeople:
    """Rendered heads of a folder, shards that come while a run goes on included, and those of held-out people of another."""

    pictures = RENDERED

    def __init__(self, folder: str, test: str):
        self.store, self.test = HeadStore(folder), HeadStore(test)
        if self.test.settings["split"] != "test":
            raise ValueError(f"{test} holds people of the training; render others with --split test, and give them as --test")

    def sample(self, people: int, generator: Generator, lead: Generator) -> tuple[Tensor, Shown]:
        self.store.refresh()
        chosen = torch.randperm(len(self.store) // FRAMES, generator=generator)[:people]
        half = FRAMES // 2
        frames = torch.randint(half, (len(chosen), 2), generator=generator) + torch.tensor([0, half])
        heads = self.store.heads((chosen[:, None] * FRAMES + frames).flatten())
        return mirror(heads.images, shown_in_heads(heads), KINDS[RENDERED], generator)

    def held_out(self, people: int, size: int, generator: Generator) -> tuple[Tensor, Shown]:
        """As rendered, not spoilt, in the store's size; fewer people where it has no more."""
        rows = self.test.unspoilt()
        rows = rows[torch.randperm(len(rows), generator=generator)]
        views = [rows[rows // (FRAMES // 2) == clip] for clip in range(2 * len(self.test) // FRAMES)]
        kept = [torch.cat([first[:1], second[: VIEWS - 1]]) for first, second in zip(views[::2], views[1::2])]
        kept = [rows for rows in kept if len(rows) == VIEWS][:people]
        if not kept:
            raise ValueError(f"{self.test.folder} holds nobody with {VIEWS} pictures that are not spoilt; render more shards")
        heads = self.test.heads(torch.cat(kept))
        return heads.images, shown_in_heads(heads)


def sample_views(people: int, views: int, generator: Generator, split: str) -> Scene:
    """(people * views) scenes: the pictures of a person stand together and differ in all but the person. One in four has
    an extreme pose."""
    count = people * views
    extreme = count // 4
    scenes = concatenate([
        sample_scenes(count - extreme, generator, split),
        sample_scenes(extreme, generator, split, poses="extreme"),
    ])[torch.randperm(count, generator=generator)]  # fmt: skip
    persons = sample_scenes(people, generator, split).identity
    return scenes.with_groups(identity=persons.repeat_interleave(views, dim=0))


def sample_pairs(store: ShardStore, people: int, generator: Generator) -> tuple[Tensor, Scene]:
    """Two pictures of each of so many people, of different clips, together: (2 * people, 3, S, S)."""
    roles = store.sample_roles(people, generator, same_clip=0.0)
    rows = torch.stack([roles.target, roles.source], dim=1).flatten()
    return store.images(rows), store.scene(rows)


class ExtremePairs:
    """Two pictures of each of so many people in extreme poses, drawn once and kept as bytes."""

    def __init__(self, people: int, size: int, generator: Generator):
        scene = sample_scenes(2 * people, generator, poses="extreme")
        self.scene = scene.with_groups(identity=scene.identity[::2].repeat_interleave(2, dim=0))
        self.levels = model_to_bytes(render(self.scene, size).images)

    def sample(self, people: int, generator: Generator) -> tuple[Tensor, Scene]:
        """As `sample_pairs`."""
        first = torch.randperm(len(self.scene) // 2, generator=generator)[:people] * 2
        rows = torch.stack([first, first + 1], dim=1).flatten()
        return bytes_to_model(self.levels[rows]), self.scene[rows]


def mirror(images: Tensor, shown: Shown, kind: Kind, generator: Generator) -> tuple[Tensor, Shown]:
    """Half of the pictures and their pose and expression seen in a mirror."""
    here = (torch.rand(len(images), generator=generator) < 0.5)[:, None]
    names = [factor.name for factor in kind.expression]
    other = {"left": "right", "right": "left"}
    swapped = [names.index("_".join(other.get(word, word) for word in name.split("_"))) for name in names]
    expression = shown.expression[:, swapped] * _signs(kind, kind.expression)
    pose = shown.pose * _signs(kind, kind.pose)
    return torch.where(here[..., None, None], images.flip(-1), images), replace(
        shown, expression=torch.where(here, expression, shown.expression), pose=torch.where(here, pose, shown.pose)
    )


def _signs(kind: Kind, factors) -> Tensor:
    return torch.tensor([-1.0 if factor.name in kind.flipped else 1.0 for factor in factors])

"""Drawn faces that a judge learns from, and those that its own errors are measured on."""

import torch
from torch import Generator, Tensor

from ...data.synthetic import EXPRESSION, POSE, Scene, concatenate, render, sample_scenes
from ...data.synthetic.shards import ShardStore
from ...image import bytes_to_model, model_to_bytes


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
    """Two pictures of each of so many people, of different clips, together: (2 * people, 3, S, S), half of them mirrored."""
    roles = store.sample_roles(people, generator, same_clip=0.0)
    rows = torch.stack([roles.target, roles.source], dim=1).flatten()
    return mirror(store.images(rows), store.scene(rows), generator)


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
        return mirror(bytes_to_model(self.levels[rows]), self.scene[rows], generator)


def mirror(images: Tensor, scene: Scene, generator: Generator) -> tuple[Tensor, Scene]:
    """Half of the pictures and their pose and expression seen in a mirror."""
    chosen = torch.rand(len(images), generator=generator) < 0.5
    names = [factor.name for factor in EXPRESSION]
    other = {"left": "right", "right": "left"}
    swapped = [names.index("_".join(other.get(word, word) for word in name.split("_"))) for name in names]
    expression = scene.expression[:, swapped] * torch.tensor([-1.0 if name == "gaze_x" else 1.0 for name in names])
    pose = scene.pose * torch.tensor([-1.0 if factor.name in ("yaw", "roll", "x") else 1.0 for factor in POSE])
    here = chosen[:, None]
    return torch.where(here[..., None, None], images.flip(-1), images), scene.with_groups(
        expression=torch.where(here, expression, scene.expression), pose=torch.where(here, pose, scene.pose)
    )

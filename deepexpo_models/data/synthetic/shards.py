"""Drawn faces on disk: what a training reads many times is drawn once.

A group is a small film studio, see `data.studio`.
"""

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Generator, Tensor

from ...image import bytes_to_comfy, bytes_to_model, comfy_to_bytes, model_to_bytes
from ...whole_files import write_folder
from ..studio import FRAMES, PEOPLE, Roles, sample_roles
from .factors import (
    GROUPS,
    Scene,
    concatenate,
    sample_contexts,
    sample_expressions,
    sample_nuisance,
    sample_people,
    sample_poses,
)
from .render import render

GROUPS_PER_SHARD = 32
SHARD = GROUPS_PER_SHARD * PEOPLE * FRAMES  # pictures


@dataclass(frozen=True)
class Frames:
    """images (B, 3, S, S) in [-1, 1]; region, face (B, 1, S, S) in [0, 1]; points (B, 5, 2) in crop coordinates; scene."""

    images: Tensor
    region: Tensor
    face: Tensor
    points: Tensor
    scene: Scene


def studio_scene(generator: Generator, split: str = "train") -> Scene:
    """One group: PEOPLE x FRAMES scenes, person by person."""
    expressions, poses = sample_expressions(FRAMES, generator), sample_poses(FRAMES, generator)
    people = sample_people(PEOPLE, generator, split)
    scenes = []
    for person in range(PEOPLE):
        clips = torch.arange(FRAMES) // (FRAMES // 2)
        nuisance = sample_nuisance(2, generator)[clips]
        nuisance[:, -1] = sample_nuisance(FRAMES, generator)[:, -1]  # grain differs from frame to frame
        context = sample_contexts(2, generator)[clips]
        order = (torch.arange(FRAMES) + person) % FRAMES
        scenes.append(Scene(people[person].expand(FRAMES, -1), expressions, poses[order], nuisance, context))
    return concatenate(scenes)


def render_shard(index: int, seed: int, split: str, size: int) -> Frames:
    """The SHARD pictures of one shard; the same numbers give the same pictures."""
    generator = torch.Generator().manual_seed(seed * 100_003 + index)
    scene = concatenate([studio_scene(generator, split) for _ in range(GROUPS_PER_SHARD)])
    drawn = render(scene, size)
    return Frames(drawn.images, drawn.region, drawn.face, drawn.points, scene)


def write_shard(folder: Path, index: int, seed: int = 0, split: str = "train", size: int = 128) -> Path:
    """Draw one shard into folder/shard-<index>/; a whole one that is there already is left as it is."""
    final = Path(folder) / f"shard-{index:05d}"
    settings = {"index": index, "seed": seed, "split": split, "size": size}
    if final.exists():
        _require_same(final, settings)
        return final
    frames = render_shard(index, seed, split, size)
    with write_folder(final, replace=False) as beside:
        np.save(beside / "images.npy", model_to_bytes(frames.images).numpy())
        planes = torch.nn.functional.avg_pool2d(torch.cat([frames.region, frames.face], dim=1), 2)
        np.save(beside / "planes.npy", comfy_to_bytes(planes).numpy())
        np.save(beside / "points.npy", frames.points.numpy())
        for name in GROUPS:
            np.save(beside / f"{name}.npy", getattr(frames.scene, name).numpy())
        (beside / "settings.json").write_text(json.dumps(settings))
    return final


class ShardStore:
    """All shards of a folder, read from disk as they are needed. Raises ValueError when there are none."""

    def __init__(self, folder: str | Path):
        self.folder = Path(folder)
        paths = sorted(self.folder.glob("shard-*"))
        if not paths:
            raise ValueError(f"{folder} holds no drawn faces; draw some: python -m deepexpo_models.data.draw --out {folder}")
        self.settings = json.loads((paths[0] / "settings.json").read_text())
        names = ("images", "planes", "points", *GROUPS)
        self._shards = [{name: np.load(path / f"{name}.npy", mmap_mode="r") for name in names} for path in paths]

    def __len__(self) -> int:
        return SHARD * len(self._shards)

    @property
    def size(self) -> int:
        return self.settings["size"]

    def scene(self, rows: Tensor) -> Scene:
        return Scene(**{name: self._read(name, rows) for name in GROUPS})

    def frames(self, rows: Tensor) -> Frames:
        """rows (B,) -> their pictures."""
        planes = torch.nn.functional.interpolate(bytes_to_comfy(self._read("planes", rows)), scale_factor=2, mode="bilinear")
        return Frames(
            self.images(rows), planes[:, :1], planes[:, 1:], self._read("points", rows).float(), self.scene(rows)
        )  # fmt: skip

    def images(self, rows: Tensor) -> Tensor:
        """rows (B,) -> (B, 3, S, S) in [-1, 1]."""
        return bytes_to_model(self._read("images", rows))

    def person(self, rows: Tensor) -> Tensor:
        """rows (B,) -> (B,) a number for each person."""
        return rows // FRAMES

    def sample_roles(self, count: int, generator: Generator, same_clip: float = 0.5) -> Roles:
        return sample_roles(len(self) // (PEOPLE * FRAMES), count, generator, same_clip)

    def _read(self, name: str, rows: Tensor) -> Tensor:
        shard, place = (rows // SHARD).tolist(), (rows % SHARD).tolist()
        return torch.from_numpy(np.stack([self._shards[s][name][p] for s, p in zip(shard, place)]))


def _require_same(folder: Path, settings: dict) -> None:
    found = json.loads((folder / "settings.json").read_text())
    if found != settings:
        raise ValueError(f"{folder} was drawn with {found}, not with {settings}; choose another folder or delete it")

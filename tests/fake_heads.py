"""Shards as the renderer writes them, without it: labels that fit together, in a film studio's order."""

import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest

from deepexpo_models.data.heads import shards as real
from deepexpo_models.data.heads.build import HAIRS
from deepexpo_models.data.heads.people import HAIR_COLOURS, IRISES
from deepexpo_models.data.heads.poses import euler_matrix, sample_pose
from deepexpo_models.data.heads.scenery import BACKGROUNDS, COLOURS, LIGHTS, PATTERNS
from deepexpo_models.data.heads.shards import CONTEXT, FRAMES, JUDGED, PEOPLE, SHARD, SPLITS
from deepexpo_models.data.heads.units import sample_expression
from deepexpo_models.dsid.alignment import TEMPLATE, TIGHT
from deepexpo_models.head import ARKIT52

CHOICES = {  # of a context; hair from -1, none
    "hair": len(HAIRS), "hair_colour": len(HAIR_COLOURS), "iris": len(IRISES), "glasses": 3, "hat": 2,
    "background": len(BACKGROUNDS), "background_colour": len(COLOURS), "cloth": len(COLOURS), "pattern": len(PATTERNS),
    "light": len(LIGHTS),
}  # fmt: skip
OF_CLIP = ("background", "background_colour", "cloth", "pattern", "light")  # the rest is the person's
TOLD = ("jawOpen", "mouthSmileLeft", "eyeBlinkLeft")  # units that a telling picture shows in its middle


def write_fake_heads(folder: Path, shards: int = 1, size: int = 128, split: str = "train", telling: bool = False) -> Path:
    """Pictures of noise; telling: of blocks whose levels are the rotation and the context, around a middle whose colour is the
    TOLD units, so that a small network can read them."""
    rng = np.random.default_rng(SPLITS[split])
    for index in range(shards):
        path = folder / f"shard-{index:05d}"
        path.mkdir(parents=True)
        units = np.stack([sample_expression(rng, split) for _ in range(SHARD)]).astype(np.float32)
        played = units.reshape(-1, PEOPLE, FRAMES, units.shape[1])
        played[:] = played[:, :1]  # all people of a group play the first one's expressions
        rotation = np.stack([euler_matrix(*sample_pose(rng, split)) for _ in range(SHARD)]).astype(np.float32)
        posed = rotation.reshape(-1, PEOPLE, FRAMES, 3, 3)
        for person in range(1, PEOPLE):
            posed[:, person] = np.roll(posed[:, 0], -person, axis=1)  # and its poses, in another order
        context = _contexts(rng)
        arrays = {
            "images": _telling(rotation, units, context, size) if telling else _noise(rng, size),
            "rotation": rotation,
            "units": units,
            "gaze": rng.normal(0, 0.2, (SHARD, 2)).astype(np.float32),
            "five": np.tile(np.array(TEMPLATE, np.float32) * TIGHT, (SHARD, 1, 1)),
            "surface": rng.uniform(-0.6, 0.6, (SHARD, 96, 2)).astype(np.float32),
            "context": context,
        }
        for name, values in arrays.items():
            np.save(path / f"{name}.npy", values)
        (path / "settings.json").write_text(json.dumps({"size": size, "index": index, "split": split}))
    return folder


def write_judged(shard: Path, units: np.ndarray, rotation: np.ndarray | None = None) -> None:
    """What a landmarker read in a shard's pictures: units (SHARD, 52), rotation (SHARD, 3, 3), else the true one."""
    turned = np.load(shard / "rotation.npy") if rotation is None else rotation
    np.savez(shard / JUDGED, units=units.astype(np.float32), rotation=turned.astype(np.float32))


def _contexts(rng: np.random.Generator) -> np.ndarray:
    """(SHARD, len(CONTEXT)): a person's, a clip's, and a fifth of the pictures spoilt."""
    columns = []
    for name in CONTEXT:
        clips, half = SHARD // (FRAMES // 2), FRAMES // 2
        if name == "spoilt":
            columns.append(rng.random(SHARD) < 0.2)
        elif name in OF_CLIP:
            columns.append(rng.integers(0, CHOICES[name], clips).repeat(half))
        elif name in CHOICES:
            columns.append(rng.integers(-1 if name == "hair" else 0, CHOICES[name], SHARD // FRAMES).repeat(FRAMES))
        else:
            columns.append(rng.random(SHARD // FRAMES).repeat(FRAMES))
    return np.stack(columns, 1).astype(np.float32)


def _noise(rng: np.random.Generator, size: int) -> np.ndarray:
    return rng.integers(0, 256, (SHARD, size, size, 3), dtype=np.uint8)


def _telling(rotation: np.ndarray, units: np.ndarray, context: np.ndarray, size: int) -> np.ndarray:
    """Sixteen blocks a side: the first rows are numbers, the middle half is the units."""
    scaled = [(rotation.reshape(SHARD, 9) + 1) / 2, context / np.array([CHOICES.get(name, 1) for name in CONTEXT])]
    levels = np.zeros((SHARD, 16, 16, 3))
    levels.reshape(SHARD, 256, 3)[:, : 9 + len(CONTEXT)] = np.concatenate(scaled, 1)[..., None]
    levels[:, 4:12, 4:12] = units[:, [ARKIT52.index(name) for name in TOLD]][:, None, None]
    return (levels.clip(0, 1) * 255).astype(np.uint8).repeat(size // 16, 1).repeat(size // 16, 2)


@contextmanager
def small_shards() -> Iterator[None]:
    """Inside, a shard is one group of the film studio: 32 pictures, for what encodes all of them."""
    with pytest.MonkeyPatch.context() as patch:
        for module in (real, sys.modules[__name__]):
            patch.setattr(module, "SHARD", PEOPLE * FRAMES)
        yield

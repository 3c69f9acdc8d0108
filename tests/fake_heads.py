"""Shards as the renderer writes them, of noise: labels that fit together, no picture that means anything."""

import json
from pathlib import Path

import numpy as np

from deepexpo_models.data.heads.poses import euler_matrix, sample_pose
from deepexpo_models.data.heads.shards import CONTEXT, FRAMES, PEOPLE, SHARD
from deepexpo_models.data.heads.units import sample_expression
from deepexpo_models.dsid.alignment import TEMPLATE, TIGHT


def write_fake_heads(folder: Path, shards: int = 1, size: int = 128) -> Path:
    rng = np.random.default_rng(0)
    for index in range(shards):
        path = folder / f"shard-{index:05d}"
        path.mkdir(parents=True)
        units = np.stack([sample_expression(rng) for _ in range(SHARD)]).astype(np.float32)
        played = units.reshape(-1, PEOPLE, FRAMES, units.shape[1])
        played[:] = played[:, :1]  # all people of a group play the first one's expressions
        rotation = np.stack([euler_matrix(*sample_pose(rng)) for _ in range(SHARD)]).astype(np.float32)
        posed = rotation.reshape(-1, PEOPLE, FRAMES, 3, 3)
        for person in range(1, PEOPLE):  # ... and its poses, in another order
            posed[:, person] = np.roll(posed[:, 0], -person, axis=1)
        arrays = {
            "images": rng.integers(0, 256, (SHARD, size, size, 3), dtype=np.uint8),
            "rotation": rotation,
            "units": units,
            "gaze": rng.normal(0, 0.2, (SHARD, 2)).astype(np.float32),
            "five": np.tile(np.array(TEMPLATE, np.float32) * TIGHT, (SHARD, 1, 1)),
            "surface": rng.uniform(-0.6, 0.6, (SHARD, 96, 2)).astype(np.float32),
            "context": np.zeros((SHARD, len(CONTEXT)), np.float32),
        }
        for name, values in arrays.items():
            np.save(path / f"{name}.npy", values)
        (path / "settings.json").write_text(json.dumps({"size": size, "index": index}))
    return folder

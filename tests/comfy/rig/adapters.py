"""Synthetic public adapters at their published sizes, imported by the command that a user runs."""

import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

import public_adapters as published

from .host import PACK


@dataclass(frozen=True)
class Adapter:
    kind: str
    base: str
    projector: dict
    lora: bool = True


ADAPTERS = {  # name of the files that the command writes -> what they are made of
    "faceid-sd15.safetensors": Adapter("faceid", "sd15", published.mlp(768)),
    "faceid-plusv2-sd15.safetensors": Adapter("faceid-plusv2", "sd15", published.plus(768)),
}


def write_adapter(models: Path, name: str) -> None:
    """The adapter's published file, made and imported: models/deepexpo/<name>, and models/loras/<name> where it has a LoRA."""
    adapter = ADAPTERS[name]
    given = (models / name).with_suffix(".bin")
    _publish(adapter, given)
    command = [sys.executable, "-m", "deepexpo_models.importers", given, "--kind", adapter.kind]
    outputs = ["--out", models / "deepexpo" / name] + (["--lora-out", models / "loras" / name] if adapter.lora else [])
    subprocess.run([*command, *outputs], cwd=PACK, check=True)
    given.unlink()


IN_PLACE = {  # models/<folder>/<name>, as their authors publish them
    "ipadapter/ip-adapter-faceid_sd15.bin": Adapter("faceid", "sd15", published.mlp(768)),
    "instantid/ip-adapter.bin": Adapter("instantid", "sdxl", published.resampler(2048), lora=False),
}


def write_in_place(models: Path, name: str) -> None:
    """models/<name>, of IN_PLACE."""
    _publish(IN_PLACE[name], models / name)


def _publish(adapter: Adapter, path: Path) -> None:
    """The file as its authors offer it, at random weights."""
    numbers, context = published.PUBLISHED[adapter.base]
    shapes = published.adapter_shapes(numbers, context, adapter.projector, adapter.lora)
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.save(published.nested(published.random_file(shapes, dtype=torch.float16)), path)


def red_face(seed: int) -> np.ndarray:
    """(128, 128, 3) uint8 RGB: what the synthetic detector of insightface_pack takes for a face."""
    noise = np.kron(np.random.default_rng(seed).random((8, 8)), np.ones((16, 16)))
    return (np.stack([0.8 + 0.2 * noise, noise, noise[::-1]], axis=-1) * 255).astype(np.uint8)

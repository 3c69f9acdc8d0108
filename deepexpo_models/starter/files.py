"""The starter's file: one safetensors file, diffusers' names under unet., vae. and text_encoder. (see ..weights)."""

from pathlib import Path

from torch import Tensor

from ..weights import load_tensors, save_tensors
from .config import StarterConfig

FILE_KIND = "starter"
PARTS = ("unet", "vae", "text_encoder")


def save_starter_tensors(path: Path, config: StarterConfig, parts: dict[str, dict[str, Tensor]]) -> None:
    """parts: name of PARTS -> its tensors."""
    tensors = {f"{part}.{key}": value for part in PARTS for key, value in parts[part].items()}
    save_tensors(path, FILE_KIND, tensors, name=config.name, config=config.to_dict())


def load_starter_tensors(path: Path) -> tuple[StarterConfig, dict[str, dict[str, Tensor]]]:
    """Config and tensors per part. Raises ValueError, in one sentence, for any other or damaged file."""
    header, tensors = load_tensors(path, FILE_KIND)
    try:
        config = StarterConfig.from_dict(header.config)
    except ValueError as error:
        raise ValueError(f"{header.path.name} cannot be used: {error}") from error
    parts = {
        part: {key.removeprefix(f"{part}."): value for key, value in tensors.items() if key.startswith(f"{part}.")}
        for part in PARTS
    }
    return config, parts

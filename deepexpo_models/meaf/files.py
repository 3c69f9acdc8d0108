"""MEAF weight files (see ..weights for the format)."""

from pathlib import Path

from torch import nn

from ..weights import build_module, load_tensors, save_tensors
from .config import MEAFConfig
from .model import MEAF
from .projectors import StreamConfig


def save_meaf(path: Path, meaf: MEAF) -> None:
    """Write config and weights, in their present dtypes, to one safetensors file."""
    config = meaf.config
    imported = [stream for stream in config.streams.values() if stream.face_model]
    save_tensors(
        path,
        "meaf",
        meaf.state_dict(),
        name=config.name,
        config=config.to_dict(),
        base=config.base,
        encoder_name=config.encoder.name,
        encoder_sha256=config.encoder.sha256,
        trained_on=", ".join(meaf.trained_on),
        **(face_metadata(imported[0]) if imported else {}),
    )


def load_meaf(path: Path, operations=nn) -> MEAF:
    """Read a MEAF onto the CPU in its stored dtypes; its `trained_on` tells from which kinds of pictures it learned.

    Raises ValueError, in one sentence, for any other or damaged file.
    """
    header, tensors = load_tensors(path, "meaf")
    try:
        config = MEAFConfig.from_dict(header.config)
    except ValueError as error:
        raise ValueError(f"{header.path.name} cannot be used: {error}") from error
    meaf = build_module(lambda layers: MEAF(config, layers), operations, header, tensors)
    meaf.trained_on = header.trained_on
    return meaf


def face_metadata(stream: StreamConfig) -> dict[str, str]:
    """For people and other programs; we read the config."""
    return {
        "face_model": stream.face_model,
        "normalise": str("identity" in stream.inputs).lower(),
        "num_tokens": str(stream.tokens),
    }

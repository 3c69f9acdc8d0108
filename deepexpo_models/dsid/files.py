"""DSID weight files and saved codes (see ..weights for the format)."""

import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn

from ..safetensors_file import open_safetensors
from ..weights import Header, build_module, load_tensors, save_tensors, tensors_sha256
from .averaging import PREFIX as AVERAGING
from .averaging import Averaging
from .codes import IDENTITY_EXTRAS, SEMANTIC_EXTRAS, SEMANTIC_FIELDS, EncoderId, Identity, Semantics
from .config import DSIDConfig
from .model import DSID
from .readout import PREFIX as READOUT
from .readout import ReadOut

THUMBNAIL, THUMBNAIL_SIZE = "thumbnail", 128  # name in a code's file; pixels a side
THUMBNAIL_SHAPE = (THUMBNAIL_SIZE, THUMBNAIL_SIZE, 3)
TAGS, MOST_TAGS, LONGEST_TAG = "tags", 32, 60  # name in the metadata; letters


def encoder_id(name: str, model: DSID) -> EncoderId:
    """Who a model's codes are from: the SHA-256 of its encoders' weights. The generator takes no part, so a file without
    it, or with a better one, still understands the same codes."""
    encoders = {key: value for key, value in model.state_dict().items() if not key.startswith("generator.")}
    return EncoderId(name, tensors_sha256(encoders))


def save_dsid(path: Path, model: DSID, encoder: EncoderId | None = None) -> EncoderId:
    """Write config and weights to one safetensors file; returns the encoder's identity.

    encoder: keep this identity instead of a new one, for a copy of the same encoder in another dtype.
    """
    encoder = encoder or encoder_id(model.config.name, model)
    beside = [part.tensors() for part in (model.readout, model.averaging) if part is not None]
    described = {} if model.readout is None else {"readout": model.readout.described()}
    save_tensors(
        path,
        "dsid",
        {name: tensor for part in (model.state_dict(), *beside) for name, tensor in part.items()},
        name=encoder.name,
        config=model.config.to_dict(),
        encoder_sha256=encoder.sha256,
        trained_on=", ".join(model.trained_on),
        **described,
    )
    return encoder


def load_dsid(path: Path, operations=nn) -> DSID:
    """Read a DSID onto the CPU in its stored dtypes; its `encoder` attribute tells whose codes it makes, `trained_on` from
    which kinds of pictures it learned.

    Raises ValueError, in one sentence, for any other or damaged file.
    """
    header, tensors = load_tensors(path, "dsid")
    try:
        config = DSIDConfig.from_dict(header.config)
        readout = ReadOut.from_file(tensors, header.metadata.get("readout", ""))
        averaging = Averaging.from_file(tensors, config.expression_width)
        if readout is not None and readout.weight.shape[1] != config.expression_width:
            raise ValueError(f"its read-outs are of {readout.weight.shape[1]} numbers, its codes of {config.expression_width}")
    except ValueError as error:
        raise ValueError(f"{header.path.name} cannot be used: {error}") from error
    own = {name: tensor for name, tensor in tensors.items() if not name.startswith((READOUT, AVERAGING))}
    shapes = {name: shape for name, shape in header.shapes.items() if name in own}
    model = build_module(lambda layers: DSID(config, layers), operations, replace(header, shapes=shapes), own)
    cast(Any, model).to(memory_format=torch.channels_last)  # a fifth to a third less time in its convolutions on a CPU
    model.readout, model.averaging = readout, averaging
    model.encoder = EncoderId(header.name, _encoder_sha256(header))
    model.trained_on = header.trained_on
    return model


def save_identity(path: Path, identity: Identity, thumbnail: Tensor | None = None, tags: Sequence[str] = ()) -> None:
    """Write (B, D) identity codes, and what they have beside the embedding, with the name and hash of their encoder.

    thumbnail (S, S, 3) uint8, see `thumbnails`: what `load_thumbnail` gives back. tags: words to find the file by.
    """
    _save_code(path, "identity", {"identity": identity.embedding, **identity.extras()}, identity.encoder, thumbnail, tags)


def load_identity(path: Path) -> Identity:
    """Read identity codes. Raises ValueError, in one sentence, for any other or damaged file."""
    header, tensors = load_tensors(path, "identity")
    extras = {name: tensors[name] for name in IDENTITY_EXTRAS if name in tensors}
    return _code(header, lambda encoder: Identity(tensors["identity"], encoder, **extras))


def save_semantics(path: Path, semantics: Semantics, thumbnail: Tensor | None = None, tags: Sequence[str] = ()) -> None:
    """Write expression (B, E), rotation (B, 6), translation (B, 2), log_scale (B, 1) with their encoder's name and hash.

    thumbnail, tags: as `save_identity`.
    """
    fields = {field: getattr(semantics, field) for field in SEMANTIC_FIELDS}
    _save_code(path, "semantics", {**fields, **semantics.extras()}, semantics.encoder, thumbnail, tags)


def load_semantics(path: Path) -> Semantics:
    """Read semantic codes. Raises ValueError, in one sentence, for any other or damaged file."""
    header, tensors = load_tensors(path, "semantics")
    extras = {name: tensors[name] for name in SEMANTIC_EXTRAS if name in tensors}
    return _code(
        header,
        lambda encoder: Semantics(**{field: tensors[field] for field in SEMANTIC_FIELDS}, encoder=encoder, **extras),
    )


def load_thumbnail(path: Path) -> Tensor | None:
    """The small picture (S, S, 3) uint8 in a saved code's file, read alone; None where it has none of that size.

    Raises ValueError, in one sentence, for what is no safetensors file.
    """
    with open_safetensors(path) as file:
        entry = file.entries.get(THUMBNAIL)
        there = entry is not None and (entry.dtype, entry.shape) == (torch.uint8, THUMBNAIL_SHAPE)
        return file.tensor(THUMBNAIL) if there else None


def split_tags(text: str) -> tuple[str, ...]:
    """Words with commas between, each once."""
    return tuple(dict.fromkeys(tag.strip()[:LONGEST_TAG] for tag in text.split(",") if tag.strip()))[:MOST_TAGS]


def _save_code(path: Path, kind: str, tensors: dict, encoder: EncoderId, thumbnail: Tensor | None, tags: Sequence[str]) -> None:
    config = {field: tensor.shape[-1] for field, tensor in tensors.items()}
    shown = {} if thumbnail is None else {THUMBNAIL: thumbnail}
    words = {TAGS: ", ".join(split_tags(", ".join(tags)))} if tags else {}
    save_tensors(path, kind, {**tensors, **shown}, name=encoder.name, config=config, encoder_sha256=encoder.sha256, **words)


def _code(header: Header, make):
    try:
        return make(EncoderId(header.name, _encoder_sha256(header)))
    except KeyError as error:
        raise ValueError(f"{header.path.name} is corrupt: it has no {error}; save the code again") from error
    except ValueError as error:
        raise ValueError(f"{header.path.name} cannot be used: {error}; save the code again") from error


def _encoder_sha256(header: Header) -> str:
    sha256 = header.metadata.get("encoder_sha256", "")
    if not re.fullmatch(r"[0-9a-f]{1,64}", sha256):
        raise ValueError(f"{header.path.name} is corrupt: it does not say which encoder made it; save or download it again")
    return sha256

"""From DSID's codes to what MEAF's streams read, with every check on the way."""

import torch
from torch import Tensor

from ..dsid.codes import SEMANTIC_FIELDS, EncoderId, Identity, Semantics, require_aligned
from .config import MEAFConfig


def stream_codes(config: MEAFConfig, identity: Identity | None, semantics: Semantics | None) -> dict[str, Tensor]:
    """Stream name -> its code (B, input_width), for the streams whose code fields are given.

    Raises ValueError, in one sentence, when neither code is given, a code comes from another encoder, its width does not
    fit, or the two batches cannot be aligned (each must hold one code, or both the same number).
    """
    if identity is None and semantics is None:
        raise ValueError("nothing to apply: connect an identity, semantics, or both")
    for what, code in (("identity", identity), ("semantics", semantics)):
        if code is not None:
            _require_encoder(config, what, code.encoder)
    fields = code_fields(identity, semantics)
    if identity is not None and semantics is not None:
        require_aligned(identity, semantics)
    return {
        name: _gather(config, name, fields)
        for name, stream in config.streams.items()
        if all(field in fields for field in stream.inputs)
    }


def code_fields(identity: Identity | None, semantics: Semantics | None) -> dict[str, Tensor]:
    """The named parts of the given codes, which a stream's `inputs` refer to."""
    fields = {}
    if identity is not None:
        fields["identity"] = identity.embedding
    if semantics is not None:
        fields |= {field: getattr(semantics, field) for field in SEMANTIC_FIELDS}
    return fields


def _gather(config: MEAFConfig, name: str, fields: dict[str, Tensor]) -> Tensor:
    stream = config.streams[name]
    code = torch.cat([fields[field] for field in stream.inputs], dim=-1)
    if code.shape[-1] != stream.input_width:
        raise ValueError(
            f"MEAF {config.name!r} reads {stream.input_width} numbers for its {name} stream, the connected code has "
            f"{code.shape[-1]}; encode with DSID {config.encoder.name!r}"
        )
    return code


def _require_encoder(config: MEAFConfig, what: str, encoder: EncoderId) -> None:
    if encoder.sha256 != config.encoder.sha256:
        raise ValueError(
            f"the {what} was encoded by DSID {encoder.name!r} ({encoder.sha256[:8]}), MEAF {config.name!r} was trained on "
            f"DSID {config.encoder.name!r} ({config.encoder.sha256[:8]}); "
            f"encode with the latter, or load the MEAF made for the former"
        )

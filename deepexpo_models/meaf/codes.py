"""From DSID's codes to what MEAF's streams read, with every check on the way."""

import torch
from torch import Tensor

from ..dsid.codes import SEMANTIC_FIELDS, EncoderId, Identity, Semantics, require_aligned
from .config import MEAFConfig
from .projectors import SEVERAL, StreamConfig

MISSING = {  # field -> how a code gets it
    "raw_identity": "encode it with a face recogniser of insightface, which keeps the embedding's length",
    "picture": "connect a CLIP Vision model (ViT-H) to Encode Identity",
    "blank": "connect a CLIP Vision model (ViT-H) to Encode Identity",
}
UNKNOWN_PART = "no node here makes it, update ComfyUI-DeepExPo"


def stream_codes(config: MEAFConfig, identity: Identity | None, semantics: Semantics | None) -> dict[str, Tensor]:
    """Stream name -> its code (B, input_width), for the streams whose code is given.

    Raises ValueError, in one sentence, when neither code is given, no stream reads one that is, a code comes from another
    encoder than its stream's, lacks a part, has another width, or the two batches cannot be aligned (each must hold one
    code, or both the same number).
    """
    if identity is None and semantics is None:
        raise ValueError("nothing to apply: connect an identity, semantics, or both")
    if identity is not None and semantics is not None:
        require_aligned(identity, semantics)
    given = {what: code for what, code in (("identity", identity), ("semantics", semantics)) if code is not None}
    readers = {name: _read_code(stream) for name, stream in config.streams.items()}
    for what in given:
        if what not in readers.values():
            raise ValueError(
                f"MEAF {config.name!r} has the streams {', '.join(readers)}, none of which reads the connected {what}; "
                f"disconnect it, or load another MEAF"
            )
    fields, codes = code_fields(identity, semantics), {}
    for name, what in readers.items():
        if what in given:
            _require_encoder(config, name, what, given[what].encoder)
            codes[name] = _gather(config, name, what, fields)
    return codes


def _read_code(stream: StreamConfig) -> str:
    """Which code a stream reads: identity or semantics."""
    return "semantics" if stream.inputs[0] in SEMANTIC_FIELDS else "identity"


def code_fields(identity: Identity | None, semantics: Semantics | None) -> dict[str, Tensor]:
    """The named parts of the given codes, which a stream's `inputs` refer to."""
    fields: dict[str, Tensor] = {}
    if identity is not None:
        fields |= {"identity": identity.embedding, "photos": identity.embedding, **identity.extras()}
        if identity.norm is not None:
            fields["raw_identity"] = identity.embedding * identity.norm
    if semantics is not None:
        fields |= {field: getattr(semantics, field) for field in SEMANTIC_FIELDS}
    return fields


def _gather(config: MEAFConfig, name: str, what: str, fields: dict[str, Tensor]) -> Tensor:
    stream = config.streams[name]
    for field in stream.inputs:
        if field not in fields:
            raise ValueError(f"MEAF {config.name!r} needs more of this {what}, its {field}: {MISSING.get(field, UNKNOWN_PART)}")
    code = torch.cat([fields[field] for field in stream.inputs], dim=-1)
    several = stream.projector in SEVERAL and code.shape[-1] % stream.input_width == 0
    if code.shape[-1] != stream.input_width and not several:
        patches, width = stream.picture
        picture = f" and a CLIP Vision model of {patches} patches of {width} (ViT-H/14)" if patches else ""
        raise ValueError(
            f"MEAF {config.name!r} reads {stream.input_width} numbers for its {name} stream, the connected code has "
            f"{code.shape[-1]}; encode with {config.encoder_of(name)}{picture}"
        )
    return code


def _require_encoder(config: MEAFConfig, stream: str, what: str, encoder: EncoderId) -> None:
    expected = config.encoder_of(stream)
    if encoder.sha256 != expected.sha256:
        raise ValueError(
            f"the {what} was encoded by {encoder}, the {stream} stream of MEAF {config.name!r} was trained on {expected}; "
            f"encode with {expected}, or load a MEAF made for {encoder}"
        )

"""Pictures to codes and back, on ComfyUI's devices."""

from torch import Tensor

from ...deepexpo_models.dsid import (
    SEMANTIC_FIELDS,
    Identity,
    Semantics,
    average_identities,
    require_aligned,
    require_same_encoder,
)
from ...deepexpo_models.image import comfy_to_model, model_to_comfy, resize
from .memory import LoadedDSID, run_in_batches


def encode_identity(dsid: LoadedDSID, image: Tensor) -> Identity:
    """image (B, H, W, 3) in [0, 1], face crops of one person -> one identity, the mean of the pictures' codes."""
    codes = run_in_batches(dsid, lambda model, x: {"identity": model.encode_identity(x)}, _crops(dsid, image))
    return average_identities(Identity(codes["identity"], dsid.encoder))


def encode_semantics(dsid: LoadedDSID, image: Tensor) -> Semantics:
    """image (B, H, W, 3) in [0, 1], face crops -> B semantic codes."""
    codes = run_in_batches(dsid, lambda model, x: model.encode_semantics(x), _crops(dsid, image))
    return Semantics(**codes, encoder=dsid.encoder)


def reenact(dsid: LoadedDSID, identity: Identity, semantics: Semantics) -> Tensor:
    """Codes -> (N, S, S, 3) in [0, 1]; one identity serves all semantics and the other way round.

    Raises ValueError for codes of another encoder or batches that do not match.
    """
    require_same_encoder(dsid, identity, semantics)
    pairs = require_aligned(identity, semantics)
    parts = (identity.embedding, *(getattr(semantics, field) for field in SEMANTIC_FIELDS))
    inputs = [part.expand(pairs, -1) for part in parts]
    pictures = run_in_batches(dsid, lambda model, *codes: {"image": model.reenact(*codes)}, *inputs)
    return model_to_comfy(pictures["image"])


def _crops(dsid: LoadedDSID, image: Tensor) -> Tensor:
    return resize(comfy_to_model(image), dsid.config.image_size)

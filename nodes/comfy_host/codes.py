"""Pictures to codes and back, on ComfyUI's devices."""

from torch import Tensor

from ...deepexpo_models.dsid import SEMANTIC_FIELDS, Identity, Semantics, average_identities, require_same_encoder
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
    inputs = _align(identity.embedding, *(getattr(semantics, field) for field in SEMANTIC_FIELDS))
    pictures = run_in_batches(dsid, lambda model, *codes: {"image": model.reenact(*codes)}, *inputs)
    return model_to_comfy(pictures["image"])


def _align(identity: Tensor, *semantics: Tensor) -> list[Tensor]:
    sizes = (len(identity), len(semantics[0]))
    if sizes[0] != sizes[1] and 1 not in sizes:
        raise ValueError(
            f"{sizes[0]} identities cannot be aligned with {sizes[1]} semantics; give one of either, or equal numbers"
        )
    return [x.expand(max(sizes), -1) for x in (identity, *semantics)]


def _crops(dsid: LoadedDSID, image: Tensor) -> Tensor:
    return resize(comfy_to_model(image), dsid.config.image_size)

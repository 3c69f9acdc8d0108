"""Pictures to codes and back, on ComfyUI's devices."""

import logging
from dataclasses import replace

import torch
from torch import Tensor

from ...deepexpo_models.dsid import (
    SEMANTIC_FIELDS,
    Identity,
    Semantics,
    average_identities,
    public_encoder,
    require_aligned,
    require_same_encoder,
)
from ...deepexpo_models.dsid.mesh import cautions, face_shape_of, semantics_of
from ...deepexpo_models.faces.landmarks import Track, track_face
from ...deepexpo_models.head import load_basis
from ...deepexpo_models.image import comfy_to_model, model_to_comfy, require_pictures, resize
from .detectors import face_recogniser
from .memory import LoadedDSID, run_in_batches

logger = logging.getLogger(__name__)
CLIP = "clip_vit_h"  # the public encoder whose codes IP-Adapter Plus-Face and Full-Face read


def encode_identity(dsid: LoadedDSID, image: Tensor) -> Identity:
    """image (B, H, W, 3) in [0, 1], face crops of one person -> one identity, the mean of the pictures' codes."""
    codes = run_in_batches(dsid, lambda model, x: {"identity": model.encode_identity(x)}, crops_of(dsid, image))
    return average_identities(Identity(codes["identity"], dsid.encoder))


def recognise_identity(recogniser: str, image: Tensor, clip_vision=None) -> Identity:
    """image (B, H, W, 3) in [0, 1], photos of one person -> one identity in a public recogniser's space.

    clip_vision: ComfyUI's CLIP_VISION, which is the recogniser CLIP itself, and for streams that look at the face beside
    another. Raises ValueError, in one sentence, for a recogniser that is not there and for a picture without a face.
    """
    require_pictures(image)
    if recogniser == CLIP:
        return average_identities(_look_at(image, clip_vision))
    faces = face_recogniser(recogniser)(image)
    norm = torch.linalg.vector_norm(faces.embeddings, dim=-1, keepdim=True)
    seen = {} if clip_vision is None else _look_at(faces.aligned, clip_vision).extras()
    return average_identities(Identity(faces.embeddings / norm, public_encoder(recogniser), norm, **seen))


def _look_at(pictures: Tensor, clip_vision) -> Identity:
    """Pictures (B, H, W, 3) in [0, 1] -> CLIP's embeddings, with its hidden_states[-2], (B, N * D), of them and of a blank:
    zeros where the normalised pixels would be, as IP-Adapter's unconditional has it, which no picture can give exactly."""
    if clip_vision is None:
        raise ValueError(f"the recogniser {CLIP} is a CLIP Vision model (ViT-H/14); connect one from Load CLIP Vision")
    seen = clip_vision.encode_image(pictures)
    picture, size = seen["penultimate_hidden_states"].float().flatten(1), clip_vision.image_size
    pixels = torch.zeros(1, 3, size, size, device=clip_vision.load_device)
    blank = clip_vision.model(pixel_values=pixels, intermediate_output=-2)[1].to(picture).flatten(1)
    embedding = torch.nn.functional.normalize(seen["image_embeds"].float(), dim=-1)
    return Identity(embedding, public_encoder(CLIP), picture=picture, blank=blank.expand(len(picture), -1))


def encode_semantics(dsid: LoadedDSID, image: Tensor) -> Semantics:
    """image (B, H, W, 3) in [0, 1], face crops -> B semantic codes."""
    codes = run_in_batches(dsid, lambda model, x: model.encode_semantics(x), crops_of(dsid, image))
    return Semantics(**codes, encoder=dsid.encoder)


def semantics_from(landmarks: dict, face_index: int, gaps: str) -> tuple[Semantics, str]:
    """FACE_LANDMARKS -> one arkit52 code per frame, and what should be known of them, in words."""
    track = track_face(landmarks, face_index, gaps=gaps)
    return semantics_of(track, load_basis()), _told(landmarks, track, face_index)


def with_face_shape(identity: Identity, landmarks: dict | None) -> tuple[Identity, str]:
    """The identity with the resting face of these landmarks' largest face, and what should be known of it, in words; frames
    without a face are left out."""
    if landmarks is None:
        return identity, ""
    track = track_face(landmarks, gaps="skip")
    return replace(identity, face_shape=face_shape_of(track, load_basis())), _told(landmarks, track, 0)


def _told(landmarks: dict, track: Track, face_index: int) -> str:
    most = max(map(len, landmarks["frames"]))
    several = f"{most} faces found, face {face_index} of them is taken, the largest being 0" if most > 1 else ""
    note = "; ".join(line for line in (track.note, several, *cautions(track, load_basis())) if line)
    if note:
        logger.warning("DeepExPo: %s", note)
    return note


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


def crops_of(dsid: LoadedDSID, image: Tensor) -> Tensor:
    """image (B, H, W, 3) in [0, 1] -> what the encoders see, (B, 3, S, S) in [-1, 1]."""
    return resize(comfy_to_model(image), dsid.config.image_size)

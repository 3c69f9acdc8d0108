"""The two codes of a face, and what can be done with them. Pure functions: no input is changed."""

import hashlib
from dataclasses import dataclass
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from ..config_fields import check_fields
from .rotation import matrix_to_rotation, rotation_to_matrix, scale_rotation

LARGEST = 1e4  # of a number in a code: no encoder's comes near it, and one of 1e30 makes a picture of NaN
NORM_TOLERANCE = 0.01  # of a unit vector kept in half precision, with room
SEMANTIC_WIDTHS = {"expression": None, "rotation": 6, "translation": 2, "log_scale": 1}  # None: the config's
SEMANTIC_FIELDS = tuple(SEMANTIC_WIDTHS)
IDENTITY_EXTRAS = ("norm", "picture", "blank", "face_shape", "photos")
MOST_PHOTOS = 16  # of one person that are kept apart; more are taken evenly
SEMANTIC_EXTRAS = ("openings",)
EXTRA_WIDTHS = {"norm": 1, "face_shape": 478 * 3, "openings": 7}


@dataclass(frozen=True)
class EncoderId:
    """Which weights made a code: their name for people, their SHA-256 for comparison."""

    name: str
    sha256: str

    def __post_init__(self):
        check_fields(self)

    def __str__(self):
        if self == public_encoder(self.name):
            return f"the public encoder {self.name!r}"
        return f"DSID {self.name!r} ({self.sha256[:8]})"


def public_encoder(name: str) -> EncoderId:
    """An encoder of others, known by its name alone (insightface's "buffalo_l", say): its weights are the user's own copy."""
    return EncoderId(name, hashlib.sha256(f"public encoder {name}".encode()).hexdigest())


@dataclass(frozen=True, eq=False)
class Identity:
    """Who: embedding (B, D) of unit norm, one row per person or photo.

    Public recognisers give more, which some imported streams read: norm (B, 1), the length that the embedding had;
    picture (B, N * D), a CLIP image encoder's N patches of the face; blank (B, N * D), the same of an empty picture.
    face_shape (B, 478 * 3), from landmarks: the resting face in cm (see `head.retarget`), for control maps.
    photos (B, n * D), of an average: the embeddings of its photos beside each other, for streams that read them so.
    Raises ValueError for another shape, an integer dtype, values that are not finite or above LARGEST, or rows of another norm.
    """

    embedding: Tensor
    encoder: EncoderId
    norm: Tensor | None = None
    picture: Tensor | None = None
    blank: Tensor | None = None
    face_shape: Tensor | None = None
    photos: Tensor | None = None

    def __post_init__(self):
        _require_rows("embedding", self.embedding, None)
        for name, value in self.extras().items():
            _require_rows(name, value, EXTRA_WIDTHS.get(name))
            if len(value) != len(self.embedding):
                raise ValueError(f"{name} has {len(value)} rows for {len(self.embedding)} embeddings; give one per embedding")
        norm = torch.linalg.vector_norm(self.embedding.float(), dim=-1)
        if (norm - 1).abs().max() > NORM_TOLERANCE:
            raise ValueError(f"embedding has norms from {norm.min():.3g} to {norm.max():.3g}, expected 1; normalise it")

    def extras(self) -> dict[str, Tensor]:
        """The optional parts that are there."""
        return {name: value for name in IDENTITY_EXTRAS if (value := getattr(self, name)) is not None}


@dataclass(frozen=True, eq=False)
class Semantics:
    """How a face looks at the moment.

    expression (B, E) latent; rotation (B, 6), see `rotation`; translation (B, 2) of the face's centre from the crop's,
    in half crop widths, x right and y down; log_scale (B, 1), natural logarithm of the face's size relative to the size
    at rest, see `alignment`.
    openings (B, 7), from landmarks: what lips, lids and irises show beyond the expression's numbers, see `head.openings`.
    Raises ValueError for other shapes, unequal batches, integer dtypes, or values that are not finite or above LARGEST.
    """

    expression: Tensor
    rotation: Tensor
    translation: Tensor
    log_scale: Tensor
    encoder: EncoderId
    openings: Tensor | None = None

    def __post_init__(self):
        for name, width in SEMANTIC_WIDTHS.items():
            _require_rows(name, getattr(self, name), width)
        for name, value in self.extras().items():
            _require_rows(name, value, EXTRA_WIDTHS[name])
        sizes = {name: len(getattr(self, name)) for name in (*SEMANTIC_WIDTHS, *self.extras())}
        if len(set(sizes.values())) > 1:
            raise ValueError(f"the parts of one semantics have different batch sizes: {sizes}")

    def extras(self) -> dict[str, Tensor]:
        """The optional parts that are there."""
        return {name: value for name in SEMANTIC_EXTRAS if (value := getattr(self, name)) is not None}


class HasEncoder(Protocol):
    @property
    def encoder(self) -> EncoderId: ...


def require_same_encoder(*codes: HasEncoder) -> EncoderId:
    """The encoder that made all the codes; a ValueError that names two when there is more than one."""
    first = codes[0].encoder
    for code in codes[1:]:
        if code.encoder.sha256 != first.sha256:
            raise ValueError(
                f"these codes come from different encoders, {first} and {code.encoder}, and cannot be mixed; "
                f"encode both with one"
            )
    return first


def require_aligned(identity: Identity, semantics: Semantics) -> int:
    """The number of pairs that identity and semantics make: one of either serves all of the other.

    Raises ValueError that names both numbers when they differ and neither is 1.
    """
    people, looks = len(identity.embedding), len(semantics.expression)
    if people != looks and 1 not in (people, looks):
        raise ValueError(
            f"{people} identities cannot be aligned with {looks} semantics; "
            f"give one of either, or as many of one as of the other"
        )
    return max(people, looks)


def blend_identities(a: Identity, b: Identity, factor: float) -> Identity:
    """From a (factor 0) to b (factor 1) along the great circle, and beyond. Batches: equal, or one of them 1.

    Opposite embeddings have no shortest way; then the way leads over the axis that a uses least. What both have beside
    the embedding goes straight from one to the other; photos are left out, there are none of who is in between.
    """
    encoder = require_same_encoder(a, b)
    start, end = _align(a.embedding, b.embedding)
    start, end = F.normalize(start.float(), dim=-1), F.normalize(end.float(), dim=-1)
    across = _reject(end, start)
    sine = torch.linalg.vector_norm(across, dim=-1, keepdim=True)
    angle = torch.atan2(sine, (start * end).sum(-1, keepdim=True)) * factor
    spare = _reject(F.one_hot(start.abs().argmin(-1), start.shape[-1]).to(start), start)
    direction = F.normalize(torch.where(sine > 1e-6, across, spare), dim=-1)
    blended = F.normalize(angle.cos() * start + angle.sin() * direction, dim=-1)
    shared = (a.extras().keys() & b.extras()) - {"photos"}
    pairs = {name: _align(a.extras()[name], b.extras()[name]) for name in shared}
    extras = {name: torch.lerp(start, end, factor) for name, (start, end) in pairs.items()}
    return Identity(blended.to(a.embedding.dtype), encoder, **extras)


def average_identities(identity: Identity) -> Identity:
    """All rows, photos of one person -> their mean direction and mean extras, batch 1, with the photos' own embeddings where
    there are several. Raises ValueError when they cancel out."""
    mean = identity.embedding.float().mean(dim=0, keepdim=True)
    if torch.linalg.vector_norm(mean) < 1e-3:
        raise ValueError(f"these {len(identity.embedding)} identities cancel out; average photos of one person")
    extras = {name: value.mean(dim=0, keepdim=True) for name, value in identity.extras().items() if name != "photos"}
    if (count := len(identity.embedding)) > 1:
        kept = torch.linspace(0, count - 1, min(count, MOST_PHOTOS)).round().long()
        extras["photos"] = identity.embedding[kept].flatten()[None]
    return Identity(F.normalize(mean, dim=-1).to(identity.embedding.dtype), identity.encoder, **extras)


def combine_semantics(expression_from: Semantics, pose_from: Semantics) -> Semantics:
    """The expression of one with rotation, translation and log scale of the other. Batches: equal, or one of them 1."""
    encoder = require_same_encoder(expression_from, pose_from)
    pose = [pose_from.rotation, pose_from.translation, pose_from.log_scale]
    expression, rotation, translation, log_scale, *rest = _align(
        expression_from.expression, *pose, *expression_from.extras().values()
    )
    extras = dict(zip(expression_from.extras(), rest))
    return Semantics(expression, rotation, translation, log_scale, encoder, **extras)


def blend_semantics(a: Semantics, b: Semantics, factor: float, neutral: Semantics | None = None) -> Semantics:
    """From a (factor 0) to b (factor 1); beyond 0..1 it exaggerates. Batches: equal, or 1.

    Without `neutral` the rotation follows the geodesic and the rest a + factor (b - a). With `neutral`, b's person at
    rest, only the change is carried over: a + factor (b - neutral), and for the rotation the turn from neutral to b,
    scaled by factor and applied to a in the camera's frame, (R_b R_neutral^T)^factor R_a. Rotations come out
    orthonormal.
    """
    origin = a if neutral is None else neutral
    encoder = require_same_encoder(a, b, origin)

    def moved(field: str) -> Tensor:
        start, end, rest = _align(getattr(a, field), getattr(b, field), getattr(origin, field))
        return start + factor * (end - rest)

    return Semantics(
        expression=moved("expression"),
        rotation=_blend_rotations(a.rotation, b.rotation, origin.rotation, factor),
        translation=moved("translation"),
        log_scale=moved("log_scale"),
        encoder=encoder,
        **{name: moved(name) for name in a.extras().keys() & b.extras().keys() & origin.extras().keys()},
    )


def _blend_rotations(a: Tensor, b: Tensor, origin: Tensor, factor: float) -> Tensor:
    start, end, rest = (rotation_to_matrix(x.float()) for x in _align(a, b, origin))
    turn = scale_rotation(end @ rest.transpose(-1, -2), factor)
    return matrix_to_rotation(turn @ start).to(a.dtype)


def _reject(x: Tensor, unit: Tensor) -> Tensor:
    """The part of x (B, D) at a right angle to unit (B, D)."""
    return x - (x * unit).sum(-1, keepdim=True) * unit


def _align(*parts: Tensor) -> list[Tensor]:
    """Rows repeated to one batch size; a ValueError that names the sizes where that cannot be."""
    sizes = sorted({len(part) for part in parts} - {1})
    if len(sizes) > 1:
        raise ValueError(f"batches of {sizes[0]} and {sizes[1]} codes cannot be aligned; give equal numbers, or one")
    return [part.expand(sizes[0] if sizes else 1, -1) for part in parts]


def _require_rows(name: str, value: Tensor, width: int | None) -> None:
    shape = f"(B, {width or 'D'})"
    if value.ndim != 2 or 0 in value.shape or (width and value.shape[1] != width) or not value.is_floating_point():
        raise ValueError(f"{name} is {value.dtype} {tuple(value.shape)}, expected floating point {shape}")
    if not (value.abs() < LARGEST).all():  # NaN is not either
        raise ValueError(f"{name} holds values that are not finite or beyond {LARGEST:g}; the encoder or its input is broken")

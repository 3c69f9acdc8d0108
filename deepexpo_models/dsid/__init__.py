"""DSID: config, encoders, generator, discriminator, and the codes with all that can be done with them."""

from .alignment import (
    TEMPLATE,
    TIGHT,
    invert_similarity,
    place_of,
    similarity_from_points,
    similarity_from_pose,
    transform_points,
    warp,
)
from .codes import (
    IDENTITY_EXTRAS,
    SEMANTIC_FIELDS,
    EncoderId,
    Identity,
    Semantics,
    average_identities,
    blend_identities,
    blend_semantics,
    combine_semantics,
    public_encoder,
    require_aligned,
    require_same_encoder,
)
from .config import CONFIGS, DSIDConfig
from .discriminator import Discriminator
from .edit import ANGLES, ARKIT, TAKE, Edit, arkit_numbers, arkit_semantics, edit_semantics
from .encoders import IdentityEncoder, SemanticEncoder
from .files import (
    encoder_id,
    load_dsid,
    load_identity,
    load_semantics,
    load_thumbnail,
    save_dsid,
    save_identity,
    save_semantics,
)
from .generator import Generator
from .model import DSID
from .pairs import every_pair, join_identities, join_semantics
from .rotation import (
    axis_angle_to_matrix,
    euler_to_matrix,
    geodesic_angle,
    matrix_to_axis_angle,
    matrix_to_euler,
    matrix_to_rotation,
    rotation_to_matrix,
    scale_rotation,
)
from .smoothing import jitter, smooth_semantics
from .thumbnails import thumbnail

__all__ = [
    "ANGLES",
    "ARKIT",
    "CONFIGS",
    "DSID",
    "IDENTITY_EXTRAS",
    "SEMANTIC_FIELDS",
    "TAKE",
    "TEMPLATE",
    "TIGHT",
    "DSIDConfig",
    "Discriminator",
    "Edit",
    "EncoderId",
    "Generator",
    "Identity",
    "IdentityEncoder",
    "SemanticEncoder",
    "Semantics",
    "arkit_numbers",
    "arkit_semantics",
    "average_identities",
    "axis_angle_to_matrix",
    "blend_identities",
    "blend_semantics",
    "combine_semantics",
    "edit_semantics",
    "encoder_id",
    "euler_to_matrix",
    "every_pair",
    "geodesic_angle",
    "invert_similarity",
    "jitter",
    "join_identities",
    "join_semantics",
    "load_dsid",
    "load_identity",
    "load_semantics",
    "load_thumbnail",
    "matrix_to_axis_angle",
    "matrix_to_euler",
    "matrix_to_rotation",
    "place_of",
    "public_encoder",
    "require_aligned",
    "require_same_encoder",
    "rotation_to_matrix",
    "save_dsid",
    "save_identity",
    "save_semantics",
    "scale_rotation",
    "similarity_from_points",
    "similarity_from_pose",
    "smooth_semantics",
    "thumbnail",
    "transform_points",
    "warp",
]

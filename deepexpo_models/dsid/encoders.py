"""DSID's encoders: who a face is, and how it looks at the moment."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..layers import VectorEncoder, require_pictures
from .alignment import similarity_from_points, similarity_from_pose, warp
from .config import EXPRESSION_STRIDE, POSE_WIDTH, DSIDConfig
from .rotation import FRONTAL, matrix_to_rotation, rotation_to_matrix

MAX_LOG_SCALE = 1.0  # a face between 1/e and e times its size at rest
POSE_HEAD_STD = 1e-3  # an untrained pose is frontal and centred, so an untrained alignment takes the middle of the crop


class IdentityEncoder(nn.Module):
    """Face crops (B, 3, S, S) in [-1, 1], S = config.image_size -> embedding (B, identity_width) of unit norm."""

    def __init__(self, config: DSIDConfig, operations=nn):
        super().__init__()
        self.config = config
        self.encoder = VectorEncoder(
            config.image_size,
            config.identity_channels,
            config.identity_blocks,
            config.identity_width,
            config.stem_stride,
            operations,
        )

    def forward(self, images: Tensor) -> Tensor:
        """Raises ValueError for pictures of another shape."""
        require_pictures(images, self.config.image_size)
        embedding = self.encoder(images)
        return F.normalize(embedding.float(), dim=-1).to(embedding.dtype)


class SemanticEncoder(nn.Module):
    """Two trunks: pose from the whole face crop, expression from a tight crop without roll, place and scale.

    A trunk for both would leave the whole pose in the expression code.
    """

    def __init__(self, config: DSIDConfig, operations=nn):
        super().__init__()
        self.config = config
        self.pose = VectorEncoder(
            config.image_size, config.pose_channels, config.pose_blocks, POSE_WIDTH, config.stem_stride, operations
        )
        self.expression = VectorEncoder(
            config.expression_size,
            config.expression_channels,
            config.expression_blocks,
            config.expression_width,
            EXPRESSION_STRIDE,
            operations,
        )
        if operations is nn:  # other layers are made to be loaded
            nn.init.normal_(self.pose.head.weight, std=POSE_HEAD_STD)
            nn.init.zeros_(self.pose.head.bias)

    def forward(self, images: Tensor, points: Tensor | None = None) -> dict[str, Tensor]:
        """images (B, 3, S, S) in [-1, 1]; points (B, 5, 2) in crop coordinates (see `alignment`), NaN rows = not known.

        Returns expression (B, expression_width), rotation (B, 6) orthonormal, translation (B, 2) in half crop widths in
        [-1, 1], log_scale (B, 1) in [-1, 1]. Raises ValueError for other shapes. Without points the crop is aligned by
        the pose found here, so a code depends on picture and weights alone; no gradient takes that way.
        """
        require_pictures(images, self.config.image_size)
        pose = self.encode_pose(images)
        similarity = _alignment(pose, points)
        return {"expression": self.expression(warp(images, similarity, self.config.expression_size)), **pose}

    def encode_pose(self, images: Tensor) -> dict[str, Tensor]:
        """images (B, 3, S, S) -> rotation, translation, log_scale as in `forward`."""
        turn, shift, size = self.pose(images).split([6, 2, 1], dim=-1)
        rest = turn.new_tensor(FRONTAL)
        return {
            "rotation": matrix_to_rotation(rotation_to_matrix(rest + turn)),
            "translation": shift.tanh(),
            "log_scale": size.tanh() * MAX_LOG_SCALE,
        }


def _alignment(pose: dict[str, Tensor], points: Tensor | None) -> Tensor:
    """Similarity (B, 2, 3): by the points where a row has them, by the pose elsewhere."""
    by_pose = similarity_from_pose(**{name: value.detach() for name, value in pose.items()})
    if points is None:
        return by_pose
    batch = len(by_pose)
    if points.shape != (batch, 5, 2):
        raise ValueError(f"expected points ({batch}, 5, 2), one row per picture, got {tuple(points.shape)}")
    by_points = similarity_from_points(points.detach().to(by_pose.device))
    known = by_points.isfinite().flatten(1).all(dim=1)[:, None, None]
    return torch.where(known, by_points, by_pose)

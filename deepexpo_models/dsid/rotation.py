"""Head rotations.

Camera frame: x to the picture's right, y down, z away from the viewer; a face at rest looks along -z. A rotation matrix
takes face coordinates to camera coordinates. Euler angles are yaw, pitch, roll in degrees, in that order, and
R = Rz(roll) Ry(yaw) Rx(pitch), where with c, s the cosine and sine of an angle

    Rz = [c -s 0; s c 0; 0 0 1]    Ry = [c 0 -s; 0 1 0; s 0 c]    Rx = [1 0 0; 0 c s; 0 -s c]

    yaw > 0    the face turns to the picture's right
    pitch > 0  the face looks up
    roll > 0   the face is turned clockwise in the picture

Roll is outermost, so turning a picture by d degrees clockwise adds d to the roll and leaves yaw and pitch as they are;
mirroring a picture changes the signs of yaw and roll. Functions compute in float32 at least and return the dtype they
were given.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

FRONTAL = (1.0, 0.0, 0.0, 0.0, 1.0, 0.0)  # 6-D rotation of a head at rest


def rotation_to_matrix(rotation: Tensor) -> Tensor:
    """6-D rotation (..., 6) -> matrix (..., 3, 3): two columns, made orthonormal by Gram-Schmidt, and their product.

    Zhou et al. 2019, "On the Continuity of Rotation Representations in Neural Networks". Any six numbers will do, but
    for two columns that are parallel or zero.
    """
    first, second = _wide(rotation).unflatten(-1, (2, 3)).unbind(-2)
    x = F.normalize(first, dim=-1)
    y = F.normalize(second - (x * second).sum(-1, keepdim=True) * x, dim=-1)
    return torch.stack([x, y, torch.linalg.cross(x, y)], dim=-1).to(rotation.dtype)


def matrix_to_rotation(matrix: Tensor) -> Tensor:
    """Matrix (..., 3, 3) -> 6-D rotation (..., 6): its first column, then its second."""
    return matrix[..., :2].transpose(-1, -2).flatten(-2)


def euler_to_matrix(angles: Tensor) -> Tensor:
    """Yaw, pitch, roll in degrees (..., 3) -> matrix (..., 3, 3)."""
    radians = torch.deg2rad(_wide(angles))
    (sy, sp, sr), (cy, cp, cr) = radians.sin().unbind(-1), radians.cos().unbind(-1)
    rows = (
        (cr * cy, cr * sy * sp - sr * cp, -cr * sy * cp - sr * sp),
        (sr * cy, sr * sy * sp + cr * cp, -sr * sy * cp + cr * sp),
        (sy, -cy * sp, cy * cp),
    )
    return torch.stack([torch.stack(row, dim=-1) for row in rows], dim=-2).to(angles.dtype)


def matrix_to_euler(matrix: Tensor) -> Tensor:
    """Matrix (..., 3, 3) -> yaw in [-90, 90], pitch and roll in [-180, 180] degrees (..., 3).

    At yaw = +-90 pitch and roll turn about the same axis; then pitch is 0 and roll holds their sum.
    """
    m = _wide(matrix)
    across = torch.hypot(m[..., 0, 0], m[..., 1, 0])  # cos(yaw)
    locked = across < 1e-6
    yaw = torch.atan2(m[..., 2, 0], across)
    pitch = torch.atan2(-m[..., 2, 1], m[..., 2, 2]).masked_fill(locked, 0.0)
    roll = torch.where(locked, torch.atan2(-m[..., 0, 1], m[..., 1, 1]), torch.atan2(m[..., 1, 0], m[..., 0, 0]))
    return torch.rad2deg(torch.stack([yaw, pitch, roll], dim=-1)).to(matrix.dtype)


def geodesic_angle(a: Tensor, b: Tensor) -> Tensor:
    """Angle in radians, in [0, pi], of the turn from a to b: matrices (..., 3, 3) -> (...).

    atan2 of sine and cosine, each read from a^T b: precise and of finite gradient at 0 and pi, where acos is neither.
    """
    relative = _wide(a).transpose(-1, -2) @ _wide(b)
    cosine = (relative.diagonal(dim1=-2, dim2=-1).sum(-1) - 1) / 2
    sine = torch.linalg.vector_norm(_skew_part(relative), dim=-1)
    return torch.atan2(sine, cosine).to(a.dtype)


def scale_rotation(matrix: Tensor, factor: float) -> Tensor:
    """The turn about the same axis by `factor` times the angle: (..., 3, 3) -> (..., 3, 3)."""
    return axis_angle_to_matrix(matrix_to_axis_angle(matrix) * factor)


def matrix_to_axis_angle(matrix: Tensor) -> Tensor:
    """Matrix (..., 3, 3) -> axis times angle in radians (..., 3), of length [0, pi]: the matrix logarithm.

    By way of the quaternion, which stays precise near 0 and near pi.
    """
    quaternion = _matrix_to_quaternion(_wide(matrix))
    real, imaginary = quaternion[..., :1], quaternion[..., 1:]
    sine = torch.linalg.vector_norm(imaginary, dim=-1, keepdim=True)  # of half the angle
    tiny = sine < 1e-6
    angle_by_sine = 2 * torch.atan2(sine, real) / sine.masked_fill(tiny, 1.0)
    return (imaginary * angle_by_sine.masked_fill(tiny, 2.0)).to(matrix.dtype)


def axis_angle_to_matrix(axis_angle: Tensor) -> Tensor:
    """Axis times angle in radians (..., 3) -> matrix (..., 3, 3), by Rodrigues' formula."""
    wide = _wide(axis_angle)
    angle = torch.linalg.vector_norm(wide, dim=-1)[..., None, None]
    x, y, z = F.normalize(wide, dim=-1).unbind(-1)
    zero = torch.zeros_like(x)
    cross = torch.stack([zero, -z, y, z, zero, -x, -y, x, zero], dim=-1).unflatten(-1, (3, 3))
    identity = torch.eye(3, device=wide.device, dtype=wide.dtype)
    return (identity + angle.sin() * cross + (1 - angle.cos()) * (cross @ cross)).to(axis_angle.dtype)


def _wide(x: Tensor) -> Tensor:
    return x.to(torch.promote_types(x.dtype, torch.float32))


def _skew_part(m: Tensor) -> Tensor:
    """The axis of the turn times the sine of its angle: (..., 3, 3) -> (..., 3)."""
    pairs = ((2, 1), (0, 2), (1, 0))
    return torch.stack([m[..., i, j] - m[..., j, i] for i, j in pairs], dim=-1) / 2


def _matrix_to_quaternion(m: Tensor) -> Tensor:
    """(..., 3, 3) -> unit quaternion (..., 4), real part first and never negative.

    The rows of 4 q q^T all hold q up to scale; the one with the largest diagonal is taken (Shepperd 1978).
    """
    a, b, c = m.diagonal(dim1=-2, dim2=-1).unbind(-1)
    u, v, w = (2 * _skew_part(m)).unbind(-1)  # 4 q0 q1, 4 q0 q2, 4 q0 q3
    p, q, r = m[..., 1, 0] + m[..., 0, 1], m[..., 2, 0] + m[..., 0, 2], m[..., 2, 1] + m[..., 1, 2]
    rows = (
        (1 + a + b + c, u, v, w),
        (u, 1 + a - b - c, p, q),
        (v, p, 1 - a + b - c, r),
        (w, q, r, 1 - a - b + c),
    )
    outer = torch.stack([torch.stack(row, dim=-1) for row in rows], dim=-2)
    largest = outer.diagonal(dim1=-2, dim2=-1).argmax(-1)[..., None, None].expand(*m.shape[:-2], 1, 4)
    quaternion = F.normalize(outer.gather(-2, largest).squeeze(-2), dim=-1)
    return torch.where(quaternion[..., :1] < 0, -quaternion, quaternion)

"""Rays and what they meet: the 3-D part of the drawing.

Camera coordinates: x right, y down, z away, the eye at the origin, one unit = half a picture width at distance DISTANCE.
A point of the head is ZOOM e^log_scale R p + (x, y, DISTANCE). Rays are parametrised by depth, so depths can be
compared.
"""

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from ...dsid.rotation import euler_to_matrix
from .factors import Scene

DISTANCE = 4.5  # half picture widths; a portrait lens
ZOOM = 1.16  # the size of a head of scale 1
FAR = 1e3


@dataclass(frozen=True)
class Rays:
    """In the frame of one body: origin (B, 3, 1, 1), direction (B, 3, H, W), pixel (B, 1, 1), a pixel's width there;
    to_camera (B, 3, 4) takes points of the body to the camera.
    """

    origin: Tensor
    direction: Tensor
    pixel: Tensor
    to_camera: Tensor

    def at(self, depth: Tensor) -> Tensor:
        """depth (B, H, W) -> points (B, 3, H, W)."""
        return self.origin + depth[:, None] * self.direction

    def project(self, points: Tensor) -> Tensor:
        """points (B, N, 3) of the body -> (B, N, 2) in the picture, [-1, 1] from border to border."""
        seen = points @ self.to_camera[:, :, :3].transpose(1, 2) + self.to_camera[:, None, :, 3]
        return seen[..., :2] / seen[..., 2:] * DISTANCE

    def window(self, centre, reach: float) -> tuple[slice, slice]:
        """Rows and columns of the pixels that can meet a ball of this centre and radius, in any of the pictures."""
        size = self.direction.shape[-1]
        middle = self.project(_vector(centre, self)[..., 0, 0][:, None])[:, 0]  # (B, 2)
        radius = 1.25 * reach * 2 / size / self.pixel.flatten()[:, None]  # nearer than DISTANCE looks larger
        low = ((middle - radius).amin(0) + 1) * size / 2
        high = ((middle + radius).amax(0) + 1) * size / 2
        (left, top), (right, bottom) = low.floor().int().tolist(), high.ceil().int().tolist()
        return slice(max(top, 0), max(bottom, 0)), slice(max(left, 0), max(right, 0))

    def __getitem__(self, window: tuple[slice, slice]) -> "Rays":
        return replace(self, direction=self.direction[(..., *window)])


@dataclass(frozen=True)
class Hit:
    """What rays meet of a body: coverage (B, H, W) in [0, 1], depth (B, H, W), point and unit normal (B, 3, H, W)."""

    coverage: Tensor
    depth: Tensor
    point: Tensor
    normal: Tensor


def head_rotation(scene: Scene) -> Tensor:
    """(B, 3, 3)."""
    return euler_to_matrix(scene.pose[:, :3])


def cast(scene: Scene, rotation: Tensor, size: int) -> Rays:
    """The rays of all pixels in the frame of a body at the head's place, turned by rotation (B, 3, 3)."""
    axis = (torch.arange(size) * 2 + 1) / size - 1
    y, x = torch.meshgrid(axis, axis, indexing="ij")
    direction = torch.stack([x / DISTANCE, y / DISTANCE, torch.ones_like(x)]).flatten(1)  # (3, H W)
    place = torch.cat([scene.pose[:, 3:5], torch.full((len(scene), 1), DISTANCE)], dim=1)[..., None]
    scale = ZOOM * scene.pose[:, 5].exp()[:, None, None]
    inverse = rotation.transpose(1, 2) / scale
    return Rays(
        origin=-(inverse @ place)[..., None],
        direction=(inverse @ direction).unflatten(-1, (size, size)),
        pixel=2 / size / scale,
        to_camera=torch.cat([rotation * scale, place], dim=-1),
    )


def edge(distance: Tensor, width: Tensor | float) -> Tensor:
    """Signed distance (negative inside) -> coverage in [0, 1], soft over `width` around the border."""
    return (0.5 - distance / width).clamp(0, 1)


def ellipsoid(rays: Rays, centre, radii) -> Hit:
    """centre, radii: three numbers or (B, 1, 1) tensors each, or (B, 3, ...) tensors."""
    centre, radii = _vector(centre, rays), _vector(radii, rays)
    a, b, c = _quadratic(rays, centre, radii)
    depth = (-b - (b * b - a * c).clamp(min=0).sqrt()) / a
    miss = (1 + c - b * b / a).clamp(min=0).sqrt()  # closest approach, in radii
    coverage = edge((miss - 1) * radii.amin(dim=1), rays.pixel)
    point = rays.at(depth)
    normal = (point - centre) / radii**2
    return Hit(coverage, depth, point, normal * (normal * normal).sum(1, keepdim=True).rsqrt())


def head(rays: Rays, width_at, radii, rounds: int = 2) -> Hit:
    """An egg whose width follows the height: an ellipsoid whose radii are found again at the height of the last hit.

    width_at: function of height y (B, H, W) -> half width; radii: (above, below, depth), each (B, 1, 1).
    """
    above, below, depth = radii
    centre = _vector((0.0, 0.0, 0.0), rays)
    radii = torch.stack(torch.broadcast_tensors(width_at(0 * below), below, depth), dim=1)
    for _ in range(rounds):
        a, b, c = _quadratic(rays, centre, radii)
        at = (-b - (b * b - a * c).clamp(min=0).sqrt()) / a
        y = rays.origin[:, 1] + at * rays.direction[:, 1]
        radii = torch.stack([width_at(y), torch.where(y < 0, above, below), depth.expand_as(y)], dim=1)
    return ellipsoid(rays, centre, radii)


def _quadratic(rays: Rays, centre: Tensor, radii: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """a, b, c of a depth^2 + 2 b depth + c = 0, the depths where rays meet the ellipsoid."""
    start, along = (rays.origin - centre) / radii, rays.direction / radii
    return (along * along).sum(1), (start * along).sum(1), (start * start).sum(1) - 1


def plane(rays: Rays, axis: int, value: Tensor) -> tuple[Tensor, Tensor]:
    """The plane where a coordinate has this value (B, 1, 1) -> depth (B, H, W), points (B, 3, H, W)."""
    along = rays.direction[:, axis]
    along = torch.where(along.abs() < 1e-4, torch.full_like(along, 1e-4), along)
    depth = (value - rays.origin[:, axis]) / along
    return depth.clamp(0, FAR), rays.at(depth)


def light_direction(scene: Scene, rotation: Tensor) -> Tensor:
    """Unit vector to the light in the frame of a body (B, 3, 1, 1)."""
    x, y = scene.factor("light_x"), scene.factor("light_y")
    light = torch.stack([x, y, -torch.ones_like(x)], dim=1)[..., 0, 0]
    light = light / light.norm(dim=1, keepdim=True)
    return (rotation.transpose(1, 2) @ light[:, :, None])[..., None]


def turn(x: Tensor, y: Tensor, angle: Tensor) -> tuple[Tensor, Tensor]:
    """Coordinates in a frame turned by angle (radians)."""
    cosine, sine = angle.cos(), angle.sin()
    return x * cosine + y * sine, y * cosine - x * sine


def _vector(values, rays: Rays) -> Tensor:
    if isinstance(values, Tensor):
        return values
    like = rays.direction[:, :1, :1, :1]
    return torch.stack(torch.broadcast_tensors(*[torch.as_tensor(v) + 0 * like[:, 0] for v in values]), dim=1)

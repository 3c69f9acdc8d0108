"""How a DSID reads expression and pose more than once: in the picture, its mirror image, and closer; kept in its file.

Test-time augmentation, as face recognition knows it: errors that differ between views of one picture cancel. Codes stay in
the space of the encoders, so what understands codes of one view understands these.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from .alignment import warp
from .encoders import SemanticEncoder
from .rotation import matrix_to_rotation, rotation_to_matrix

PREFIX = "averaging."  # of the tensors in a file
MIRRORED_FIVE = (1, 0, 2, 4, 3)  # of alignment.TEMPLATE
ACROSS = (-1.0, 1.0)  # a point or a shift, in a mirror
TURNED = (1.0, -1.0, -1.0, -1.0, 1.0, 1.0)  # a 6-D rotation, in a mirror


@dataclass(frozen=True, eq=False)
class Averaging:
    """weight (E, E), bias (E,): of the linear map from a mirror image's expression code to the picture's own; zooms (Z,): sides
    of the closer views about the middle that the rotation is read from as well, shares of the crop in (0, 1).

    Raises ValueError for other shapes or ranges.
    """

    weight: Tensor
    bias: Tensor
    zooms: Tensor

    def __post_init__(self):
        width = self.bias.numel()
        if self.weight.shape != (width, width) or self.bias.ndim != 1 or self.zooms.ndim != 1:
            raise ValueError(
                "averaging needs weight (width, width), bias (width,) and a row of zooms, got "
                f"{tuple(self.weight.shape)}, {tuple(self.bias.shape)} and {tuple(self.zooms.shape)}"
            )
        if not all(0 < zoom < 1 for zoom in self.zooms.tolist()):
            raise ValueError(f"zooms are shares of the crop between 0 and 1, got {self.zooms.tolist()}")

    def __call__(self, encoder: SemanticEncoder, images: Tensor, points: Tensor | None) -> dict[str, Tensor]:
        """As `SemanticEncoder.forward`: the mean of picture and mirror image; the rotation is that of the closer views too,
        with the same weight for each."""
        views = torch.cat([images, images.flip(-1)])
        codes = encoder(views, None if points is None else torch.cat([points, _mirrored_points(points)]))
        closer = [encoder.encode_pose(_closer(views, zoom))["rotation"] for zoom in self.zooms.tolist()]
        turns = torch.stack([_both(found, found.new_tensor(TURNED)) for found in (codes["rotation"], *closer)]).mean(0)
        return {
            "expression": self._expression(codes["expression"]),
            "rotation": matrix_to_rotation(rotation_to_matrix(turns)),
            "translation": _both(codes["translation"], codes["translation"].new_tensor(ACROSS)),
            "log_scale": _both(codes["log_scale"], codes["log_scale"].new_ones(1)),
        }

    def _expression(self, codes: Tensor) -> Tensor:
        own, mirrored = codes.float().unflatten(0, (2, -1))
        return ((own + mirrored @ self.weight.T.to(own) + self.bias.to(own)) / 2).to(codes.dtype)

    def tensors(self) -> dict[str, Tensor]:
        return {f"{PREFIX}{name}": value for name, value in vars(self).items()}

    @classmethod
    def from_file(cls, tensors: dict[str, Tensor], width: int) -> "Averaging | None":
        """For expression codes of this width; None for a file that has none. Raises ValueError for a damaged one."""
        if not any(name.startswith(PREFIX) for name in tensors):
            return None
        try:
            found = cls(*(tensors[f"{PREFIX}{name}"].float() for name in cls.__dataclass_fields__))
        except KeyError as error:
            raise ValueError(f"it has no {error}; download it again") from error
        if len(found.bias) != width:
            raise ValueError(f"its averaging is of codes of {len(found.bias)} numbers, its codes have {width}")
        return found


def _both(found: Tensor, signs: Tensor) -> Tensor:
    """(2 B, ...) of pictures, then of their mirror images, which change these signs -> their mean (B, ...)."""
    # not chunk, as not len below: in an export to ONNX it would fix the batch
    own, mirrored = found.unflatten(0, (2, -1))
    return (own + mirrored * signs) / 2


def _mirrored_points(points: Tensor) -> Tensor:
    return points[:, MIRRORED_FIVE] * points.new_tensor(ACROSS)


def _closer(images: Tensor, zoom: float) -> Tensor:
    """The middle square of this share of the sides, in the same size."""
    square = torch.tensor([[zoom, 0.0, 0.0], [0.0, zoom, 0.0]], device=images.device)
    return warp(images, square.expand(images.shape[0], 2, 3), images.shape[-1])

"""What JPEG takes from a picture, as tensor operations."""

import math

import torch
from torch import Tensor

BLOCK = 8
# RGB -> luma and two colour differences, all orthogonal to grey but luma (ITU-R BT.601)
YCC = ((0.299, 0.587, 0.114), (-0.169, -0.331, 0.5), (0.5, -0.419, -0.081))


def quantise_blocks(images: Tensor, step: Tensor) -> Tensor:
    """JPEG's loss: (B, 3, H, W), step (B, 1, 1, 1) -> cosine coefficients of 8 x 8 blocks rounded to multiples of
    step * (1 + u + v) / 4, colour differences twice as coarsely (the scheme of ITU-T T.81 with a linear table)."""
    ycc, cosines = images.new_tensor(YCC), _cosines().to(images)
    planes = torch.einsum("dc,bchw->bdhw", ycc, images)
    blocks = planes.unflatten(2, (-1, BLOCK)).unflatten(4, (-1, BLOCK))  # (B, 3, H/8, 8, W/8, 8)
    frequencies = torch.einsum("ui,bdyixj,vj->bdyuxv", cosines, blocks, cosines)
    order = torch.arange(BLOCK).to(images)
    table = (1 + order[:, None, None] + order) / 4  # (u, 1, v)
    coarse = step[..., None, None] * images.new_tensor([1, 2, 2]).view(3, 1, 1, 1, 1) * table + 1e-4
    frequencies = (frequencies / coarse).round() * coarse
    blocks = torch.einsum("ui,bdyuxv,vj->bdyixj", cosines, frequencies, cosines)
    return torch.einsum("cd,bdhw->bchw", torch.linalg.inv(ycc), blocks.flatten(4, 5).flatten(2, 3))


def _cosines() -> Tensor:
    """The orthonormal cosine transform of 8 values: (frequency, place)."""
    place, order = torch.arange(BLOCK), torch.arange(BLOCK)
    rows = torch.cos(math.pi * (2 * place + 1) * order[:, None] / (2 * BLOCK)) * math.sqrt(2 / BLOCK)
    rows[0] /= math.sqrt(2)
    return rows

"""A clip's codes without jitter.

The one-euro filter (Casiez, Roussel & Vogel 2012): x' = x' + a (x - x'), a = 1 / (1 + rate / (2 pi cutoff)),
cutoff = minimum + BETA |speed|. It follows fast movement and quiets slow one. A clip is whole, so the filter runs forward
and backward and the mean of both is taken: what one delays, the other hurries.
"""

import math
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from ..panels import Strip, draw_strips
from .codes import Semantics
from .rotation import (
    axis_angle_to_matrix,
    geodesic_angle,
    matrix_to_axis_angle,
    matrix_to_euler,
    matrix_to_rotation,
    rotation_to_matrix,
    scale_rotation,
)

BETA = {
    "expression": 3.0,
    "rotation": 1.0,
    "translation": 3.0,
    "log_scale": 3.0,
    "openings": 3.0,
}  # Hz per unit (radian) a second
SPEED_CUTOFF = 1.0  # Hz, of the speed's own low pass: the paper's
HIGHEST, LOWEST = 12.0, 0.3  # Hz: the minimum cutoff at strengths just above 0 and at 1


def smooth_semantics(semantics: Semantics, strength: float, frames_per_second: float = 25.0) -> Semantics:
    """Codes of a clip's frames in order (B >= 1) -> the same, steadier. strength 0 (unchanged) to 1.

    Raises ValueError for a strength outside 0 to 1 or a rate that is not positive.
    """
    if not 0 <= strength <= 1:
        raise ValueError(f"the strength of smoothing is {strength}; choose 0 (off) to 1")
    if not frames_per_second > 0:
        raise ValueError(f"a clip of {frames_per_second} frames a second cannot be smoothed; give the video's rate")
    if strength == 0 or len(semantics.expression) < 3:
        return semantics
    minimum = HIGHEST * (LOWEST / HIGHEST) ** strength
    plain: dict[str, Any] = {
        name: _both_ways(getattr(semantics, name).double(), minimum, BETA[name], frames_per_second).to(getattr(semantics, name))
        for name in ("expression", "translation", "log_scale", *semantics.extras())
    }
    rotation = _smooth_rotations(rotation_to_matrix(semantics.rotation.double()), minimum, frames_per_second)
    return replace(semantics, rotation=matrix_to_rotation(rotation).to(semantics.rotation), **plain)


def jitter(semantics: Semantics) -> dict[str, float]:
    """How restless a clip is: the mean length of the second difference, which is zero for steady movement. expression in
    its own numbers (root of the mean square), rotation in degrees; both per frame squared. Zero for fewer than 3 frames."""
    if len(semantics.expression) < 3:
        return {"expression": 0.0, "rotation": 0.0}
    numbers = semantics.expression.double()
    bends = (numbers[2:] - 2 * numbers[1:-1] + numbers[:-2]).square().mean(-1).sqrt()
    turns = rotation_to_matrix(semantics.rotation.double())
    steps = turns[1:] @ turns[:-1].transpose(-1, -2)
    return {
        "expression": bends.mean().item(),
        "rotation": torch.rad2deg(geodesic_angle(steps[:-1], steps[1:])).mean().item(),
    }


def describe_smoothing(before: Semantics, after: Semantics) -> str:
    """The jitter of a clip before and after, in a line."""
    was, now = jitter(before), jitter(after)
    return (
        f"jitter of {len(before.expression)} frames: expression {was['expression']:.4f} -> {now['expression']:.4f}, head "
        f"{was['rotation']:.2f} -> {now['rotation']:.2f} degrees"
    )


def plot_smoothing(before: Semantics, after: Semantics) -> Tensor:
    """The head's angles, and the expression number that moves most, before (pale) and after -> (1, H, W, 3) in [0, 1]."""
    angles = [matrix_to_euler(rotation_to_matrix(code.rotation.float())).T for code in (before, after)]
    column = int(before.expression.float().var(0, correction=0).argmax())
    moving = (before.expression[:, column].float(), after.expression[:, column].float())
    curves = {f"{name}, degrees": (angles[0][n], angles[1][n]) for n, name in enumerate(("yaw", "pitch", "roll"))}
    curves["the expression number that moves most"] = moving
    return draw_strips([
        Strip(title, tuple(curve.tolist() for curve in pair), min(map(_low, pair)), max(map(_high, pair)))
        for title, pair in curves.items()
    ])  # fmt: skip


def _low(curve: Tensor) -> float:
    return curve.min().item()


def _high(curve: Tensor) -> float:
    return curve.max().item()


def _both_ways(x: Tensor, minimum: float, beta: float, rate: float) -> Tensor:
    """x (F, C)."""
    return (_one_euro(x, minimum, beta, rate) + _one_euro(x.flip(0), minimum, beta, rate).flip(0)) / 2


def _one_euro(x: Tensor, minimum: float, beta: float, rate: float) -> Tensor:
    value, speed, out = x[0], torch.zeros_like(x[0]), [x[0]]
    for new in x[1:]:
        speed = speed + _share(SPEED_CUTOFF, rate) * ((new - value) * rate - speed)
        value = value + _share(minimum + beta * speed.abs(), rate) * (new - value)
        out.append(value)
    return torch.stack(out)


def _smooth_rotations(x: Tensor, minimum: float, rate: float) -> Tensor:
    """The same filter along geodesics: x (F, 3, 3)."""
    forward = _one_euro_rotations(x, minimum, BETA["rotation"], rate)
    backward = _one_euro_rotations(x.flip(0), minimum, BETA["rotation"], rate).flip(0)
    return scale_rotation(backward @ forward.transpose(-1, -2), 0.5) @ forward


def _one_euro_rotations(x: Tensor, minimum: float, beta: float, rate: float) -> Tensor:
    value, speed, out = x[0], torch.zeros(3).to(x), [x[0]]
    for new in x[1:]:
        turn = matrix_to_axis_angle(new @ value.T)
        speed = speed + _share(SPEED_CUTOFF, rate) * (turn * rate - speed)
        value = axis_angle_to_matrix(turn * _share(minimum + beta * torch.linalg.vector_norm(speed), rate)) @ value
        out.append(value)
    return torch.stack(out)


def _share(cutoff, rate: float):
    """How much of the way to the new value a low pass of this cutoff goes in one frame."""
    return 1 / (1 + rate / (2 * math.pi * cutoff))

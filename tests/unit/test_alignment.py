"""Laws of the alignment that removes roll, place and scale."""

import math

import pytest
import torch

from deepexpo_models.dsid import (
    TEMPLATE,
    TIGHT,
    euler_to_matrix,
    invert_similarity,
    matrix_to_rotation,
    place_of,
    similarity_from_points,
    similarity_from_pose,
    transform_points,
    warp,
)

SIZE = 96
MOVES = [  # roll in degrees, translation, log scale of a move of the whole picture
    (25.0, (0.0, 0.0), 0.0),
    (0.0, (0.2, -0.1), 0.0),
    (0.0, (0.0, 0.0), 0.25),
    (-160.0, (-0.15, 0.1), -0.3),
]


def move(roll: float, translation: tuple[float, float], log_scale: float) -> torch.Tensor:
    """A similarity (1, 2, 3) between crop coordinates."""
    angle, scale = math.radians(roll), math.exp(log_scale)
    cosine, sine = scale * math.cos(angle), scale * math.sin(angle)
    return torch.tensor([[[cosine, -sine, translation[0]], [sine, cosine, translation[1]]]])


def paint(view: torch.Tensor) -> torch.Tensor:
    """A smooth picture (1, 3, SIZE, SIZE) that `view` has moved: painted anew, so that nothing is resampled."""
    centres = (torch.arange(SIZE) * 2 + 1) / SIZE - 1
    y, x = torch.meshgrid(centres, centres, indexing="ij")
    spots = transform_points(invert_similarity(view), torch.stack([x, y], dim=-1).reshape(1, -1, 2))[0]
    u, v = spots.unbind(-1)
    planes = (torch.sin(3 * u + v), torch.cos(4 * v - u), torch.sin(2 * u) * torch.cos(3 * v))
    return torch.stack(planes).reshape(1, 3, SIZE, SIZE)


def pose(roll: float, translation: tuple[float, float], log_scale: float, yaw=0.0, pitch=0.0) -> torch.Tensor:
    rotation = matrix_to_rotation(euler_to_matrix(torch.tensor([[yaw, pitch, roll]])))
    return similarity_from_pose(rotation, torch.tensor([translation]), torch.tensor([[log_scale]]))


FACE = torch.tensor([TEMPLATE]) * 0.6 + torch.tensor([0.05, 0.02])
FACE = FACE + torch.tensor([[[0.02, 0.0], [0.0, 0.01], [0.03, 0.0], [0.0, 0.0], [-0.01, 0.02]]])


@pytest.mark.parametrize("change", MOVES)
def test_aligned_crop_does_not_see_moves_of_the_picture(change):
    view, still = move(*change), move(0.0, (0.0, 0.0), 0.0)
    before = warp(paint(still), similarity_from_points(FACE), 48)
    after = warp(paint(view), similarity_from_points(transform_points(view, FACE)), 48)
    assert (after - before).abs().max() < 0.01
    unaligned = warp(paint(view), similarity_from_points(FACE), 48)
    assert (unaligned - before).abs().max() > 0.1


@pytest.mark.parametrize("change", MOVES)
def test_points_and_pose_agree_on_a_frontal_face(change):
    similarity = pose(*change)
    points = transform_points(similarity, torch.tensor([TEMPLATE]))
    assert torch.allclose(similarity_from_points(points), similarity, atol=1e-6)


@pytest.mark.parametrize("change", MOVES)
def test_place_is_read_back(change):
    roll, translation, log_scale = place_of(pose(*change))
    assert roll.item() == pytest.approx(change[0], abs=1e-3)
    assert translation[0].tolist() == pytest.approx(change[1], abs=1e-6)
    assert log_scale.item() == pytest.approx(change[2], abs=1e-5)


def test_yaw_and_pitch_leave_the_alignment_alone():
    assert torch.allclose(pose(20.0, (0.1, 0.0), 0.1, yaw=35.0, pitch=-25.0), pose(20.0, (0.1, 0.0), 0.1), atol=1e-6)


@pytest.mark.parametrize("change", MOVES)
def test_inverse_undoes_a_similarity(change):
    similarity = pose(*change)
    points = torch.randn(1, 7, 2, generator=torch.Generator().manual_seed(0))
    there_and_back = transform_points(invert_similarity(similarity), transform_points(similarity, points))
    assert torch.allclose(there_and_back, points, atol=1e-5)


def test_clockwise_roll_lowers_the_right_eye():
    left, right = transform_points(pose(20.0, (0.0, 0.0), 0.0), torch.tensor([TEMPLATE]))[0, :2]
    assert right[1] > left[1]


def test_points_are_fitted_with_the_least_squared_error():
    noisy = FACE + 0.03 * torch.randn(1, 5, 2, generator=torch.Generator().manual_seed(2))
    fitted = similarity_from_points(noisy)

    def error(similarity):
        return (transform_points(similarity, torch.tensor([TEMPLATE])) - noisy).square().sum()

    nudges = [
        move(1.0, (0, 0), 0),
        move(-1.0, (0, 0), 0),
        move(0, (0.01, 0), 0),
        move(0, (0, -0.01), 0),
        move(0, (0, 0), 0.01),
    ]
    for nudge in nudges:
        nudged = torch.cat([nudge[:, :, :2] @ fitted[:, :, :2], fitted[:, :, 2:] + nudge[:, :, 2:]], dim=-1)
        assert error(nudged) > error(fitted)


def test_points_not_known_stay_not_known():
    points = FACE.repeat(2, 1, 1)
    points[1, 2, 0] = torch.nan
    similarity = similarity_from_points(points)
    assert similarity[0].isfinite().all() and not similarity[1].isfinite().all()


def test_warp_at_rest_is_the_middle_of_the_crop():
    crop = torch.randn(1, 3, 100, 100, generator=torch.Generator().manual_seed(0))
    middle = round(100 * TIGHT)
    border = (100 - middle) // 2
    expected = crop[:, :, border : border + middle, border : border + middle]
    assert torch.allclose(warp(crop, pose(0.0, (0.0, 0.0), 0.0), middle), expected, atol=1e-4)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_warp_in_half_precision_samples_the_same_places(dtype):
    picture = torch.rand(1, 3, 256, 256, generator=torch.Generator().manual_seed(0))  # the next pixel is another
    similarity = pose(*MOVES[3])
    half = warp(picture.to(dtype), similarity, 48)
    assert half.dtype == dtype
    assert (half.float() - warp(picture, similarity, 48)).abs().max() < 2 * torch.finfo(dtype).eps

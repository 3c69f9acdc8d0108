"""Laws of head rotations."""

import math

import pytest
import torch

from deepexpo_models.dsid import (
    axis_angle_to_matrix,
    euler_to_matrix,
    geodesic_angle,
    matrix_to_axis_angle,
    matrix_to_euler,
    matrix_to_rotation,
    rotation_to_matrix,
    scale_rotation,
)


def random_matrices(count: int, seed: int = 0) -> torch.Tensor:
    return rotation_to_matrix(torch.randn(count, 6, generator=torch.Generator().manual_seed(seed)))


def euler(*angles: float) -> torch.Tensor:
    return euler_to_matrix(torch.tensor(angles))


def about(axis: tuple[float, float, float], degrees: float) -> torch.Tensor:
    return axis_angle_to_matrix(torch.nn.functional.normalize(torch.tensor(axis), dim=-1) * math.radians(degrees))


def test_six_numbers_become_proper_rotations():
    m = random_matrices(50)
    assert torch.allclose(m @ m.mT, torch.eye(3).expand(50, 3, 3), atol=1e-5)
    assert torch.allclose(torch.linalg.det(m), torch.ones(50), atol=1e-5)


def test_six_numbers_are_the_first_two_columns():
    m = random_matrices(50)
    six = matrix_to_rotation(m)
    assert torch.equal(six[:, :3], m[:, :, 0]) and torch.equal(six[:, 3:], m[:, :, 1])
    assert torch.allclose(rotation_to_matrix(six), m, atol=1e-6)


@pytest.mark.parametrize(
    ("angles", "face_vector", "component", "sign"),
    [
        ((30.0, 0.0, 0.0), (0.0, 0.0, -1.0), 0, 1),  # yaw > 0: the nose moves to the picture's right
        ((0.0, 30.0, 0.0), (0.0, 0.0, -1.0), 1, -1),  # pitch > 0: the nose moves up
        ((0.0, 0.0, 30.0), (0.0, -1.0, 0.0), 0, 1),  # roll > 0: the top of the head moves to the right
    ],
)
def test_signs_of_euler_angles(angles, face_vector, component, sign):
    moved = euler(*angles) @ torch.tensor(face_vector)
    assert moved[component] * sign == pytest.approx(0.5, abs=1e-6)


def test_euler_angles_round_trip():
    angles = (torch.rand(200, 3, generator=torch.Generator().manual_seed(1)) * 2 - 1) * torch.tensor([89.0, 179.0, 179.0])
    assert torch.allclose(matrix_to_euler(euler_to_matrix(angles)), angles, atol=2e-2)


@pytest.mark.parametrize("yaw", [90.0, -90.0])
def test_euler_angles_of_a_profile_describe_the_same_rotation(yaw):
    m = euler_to_matrix(torch.tensor([yaw, 20.0, 35.0], dtype=torch.float64))
    assert torch.allclose(euler_to_matrix(matrix_to_euler(m)), m, atol=1e-6)


def test_turning_the_picture_adds_to_the_roll_alone():
    turned = matrix_to_euler(euler(0.0, 0.0, 25.0) @ euler(20.0, -15.0, 10.0))
    assert torch.allclose(turned, torch.tensor([20.0, -15.0, 35.0]), atol=1e-3)


def test_mirroring_the_picture_changes_the_signs_of_yaw_and_roll():
    mirror = torch.diag(torch.tensor([-1.0, 1.0, 1.0]))
    mirrored = matrix_to_euler(mirror @ euler(20.0, -15.0, 10.0) @ mirror)
    assert torch.allclose(mirrored, torch.tensor([-20.0, -15.0, -10.0]), atol=1e-3)


@pytest.mark.parametrize("degrees", [0.0, 1e-4, 0.01, 1.0, 90.0, 179.0, 179.99, 180.0])
def test_geodesic_angle_is_the_angle_turned(degrees):
    a = random_matrices(1, seed=3)[0].double()
    angle = geodesic_angle(a, a @ about((1.0, 2.0, -0.5), degrees).double())
    assert math.degrees(angle) == pytest.approx(degrees, abs=2e-3 if degrees > 1 else 5e-5)


@pytest.mark.parametrize("degrees", [0.0, 60.0, 180.0])
def test_geodesic_angle_has_finite_gradients(degrees):
    six = matrix_to_rotation(torch.eye(3)).requires_grad_()
    geodesic_angle(rotation_to_matrix(six), about((0.0, 1.0, 0.0), degrees)).backward()
    assert six.grad.isfinite().all()


@pytest.mark.parametrize("axis", [(1.0, 0.0, 0.0), (0.0, -1.0, 0.0), (0.3, -0.5, 0.8), (-1.0, -1.0, -1.0)])
@pytest.mark.parametrize("degrees", [0.0, 5e-5, 1e-3, 1.0, 90.0, 170.0, 179.9, 180.0])
def test_logarithm_and_exponential_are_inverse(axis, degrees):
    m = about(axis, degrees)
    logarithm = matrix_to_axis_angle(m)
    assert torch.linalg.vector_norm(logarithm) == pytest.approx(math.radians(degrees), rel=1e-4, abs=1e-9)
    assert torch.allclose(axis_angle_to_matrix(logarithm), m, atol=1e-5)


@pytest.mark.parametrize("degrees", [0.0, 1e-3, 60.0, 179.9, 180.0])
@pytest.mark.parametrize("factor", [-0.5, 0.0, 0.3, 1.0, 1.5])
def test_interpolation_turns_at_constant_speed(degrees, factor):
    a = random_matrices(1, seed=4)[0]
    b = a @ about((0.2, 1.0, 0.1), degrees)
    between = scale_rotation(b @ a.transpose(-1, -2), factor) @ a
    expected = math.radians(degrees) * abs(factor)
    assert geodesic_angle(a, between) == pytest.approx(min(expected, 2 * math.pi - expected), abs=2e-4)
    if factor == 1.0:
        assert torch.allclose(between, b, atol=1e-5)


def test_a_turn_scaled_by_two_is_the_turn_made_twice():
    m = euler_to_matrix(torch.tensor([[30.0, 10.0, -20.0], [-5.0, 40.0, 15.0]]))
    assert torch.allclose(scale_rotation(m, 2.0), m @ m, atol=1e-5)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_dtype_follows_the_input(dtype):
    m = rotation_to_matrix(torch.randn(4, 6).to(dtype))
    assert m.dtype == matrix_to_euler(m).dtype == matrix_to_axis_angle(m).dtype == dtype
    assert geodesic_angle(m, m).dtype == dtype

"""DSID's losses and the diffusion loss: laws in closed form."""

import math

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import save_file

from deepexpo_models.dsid import losses
from deepexpo_models.dsid.losses import (
    Perceptual,
    cross_correlation,
    gradient_penalty,
    hinge_critic,
    hinge_generator,
    info_nce,
    pose_error,
    reconstruction,
    standardised,
    variance_floor,
    weight_map,
)
from deepexpo_models.dsid.rotation import euler_to_matrix, matrix_to_rotation
from deepexpo_models.training.meaf.diffusion_loss import min_snr_weights, sample_times


def noise(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def pose(yaw: float, rows: int = 3) -> dict[str, torch.Tensor]:
    angles = torch.tensor([[yaw, 0.0, 0.0]]).expand(rows, 3)
    return {
        "rotation": matrix_to_rotation(euler_to_matrix(angles)),
        "translation": torch.zeros(rows, 2),
        "log_scale": torch.zeros(rows, 1),
    }


def test_weights_have_mean_one_and_prefer_the_region():
    region, face = torch.zeros(2, 1, 8, 8), torch.ones(2, 1, 8, 8)
    region[:, :, 2, 2] = 1
    weights = weight_map(region, face, 8.0)
    assert torch.allclose(weights.mean((1, 2, 3)), torch.ones(2))
    assert torch.allclose(weights[:, :, 2, 2], 9 * weights[:, :, 0, 0])


def test_reconstruction_is_zero_for_the_picture_itself_only():
    true, weights = noise(2, 3, 16, 16), torch.ones(2, 1, 16, 16)
    assert reconstruction(true, true, weights) == 0
    assert reconstruction(true + 0.1, true, weights) == pytest.approx(0.3, abs=1e-5)  # three scales, no gradient


def test_background_counts_its_share_of_a_face():
    """The right half is no face: its weight is 0.15 of the left half's, at mean 1."""
    face = torch.zeros(1, 1, 4, 8)
    face[..., :4] = 1
    weights = weight_map(torch.zeros_like(face), face, 8.0)
    left, right = weights[0, 0, 0, 0].item(), weights[0, 0, 0, 7].item()
    assert right / left == pytest.approx(0.15) and (left + right) / 2 == pytest.approx(1)


def test_reconstruction_counts_gradients_too():
    """A ramp of slope c beyond a flat picture: c times the mean column, 7.5 of 16, at each of three scales, and half of c,
    since one of the two directions has the gradient."""
    true, slope = torch.zeros(1, 3, 16, 16), 0.01
    ramp = slope * torch.arange(16.0).expand(1, 3, 16, 16)
    assert reconstruction(ramp, true, torch.ones(1, 1, 16, 16)) == pytest.approx(slope * (3 * 7.5 + 0.5), rel=1e-5)


def test_penalty_of_independent_codes_is_zero_in_the_mean():
    """Eight rows of independent codes correlate by chance, 1 / 7 in the mean square: that is taken off."""
    found = [cross_correlation(noise(8, 3, seed=i), noise(8, 5, seed=1000 + i)).item() for i in range(400)]
    assert sum(found) / len(found) == pytest.approx(0, abs=0.01)


VERDICTS = [(1.0, -1.0, 0.0), (3.0, -2.0, 0.0), (0.0, 0.0, 2.0), (0.5, -1.0, 0.5), (1.0, 1.0, 2.0)]


@pytest.mark.parametrize("real, made, loss", VERDICTS)
def test_critic_has_a_margin_of_one(real, made, loss):
    assert hinge_critic(torch.tensor([real]), torch.tensor([made])) == pytest.approx(loss)
    assert hinge_generator(torch.tensor([made])) == pytest.approx(-made)


def test_gradient_penalty_of_a_linear_critic_is_half_its_squared_weights():
    weights, pictures = noise(3, 4, 4), noise(2, 3, 4, 4, seed=1).requires_grad_(True)
    logits = (pictures * weights).sum((1, 2, 3))
    assert gradient_penalty(logits, pictures) == pytest.approx(weights.square().sum().item() / 2, rel=1e-5)


def test_pose_error_counts_place_and_size_twice():
    moved = {**pose(0), "translation": torch.full((3, 2), 0.1), "log_scale": torch.full((3, 1), -0.2)}
    assert pose_error(moved, pose(0)) == pytest.approx(2 * (0.1 + 0.2), abs=1e-3)


def test_info_nce_knows_pairs_from_strangers():
    codes = noise(16, 32)
    assert info_nce(codes, codes) < 0.2
    assert info_nce(torch.ones(16, 4), torch.ones(16, 4)) == pytest.approx(math.log(16), abs=1e-4)
    assert info_nce(codes, codes.roll(1, 0)) > math.log(16)


def test_info_nce_asks_from_both_sides():
    """One row near all others is no puzzle from the other side: the mean of both, -log softmax of the cosines / 0.1."""
    first, second = torch.eye(2), torch.tensor([[1.0, 0.0], [1.0, 0.0]])
    rows, columns = (math.log(2) + math.log(2)) / 2, (math.log(1 + math.exp(-10)) + math.log(1 + math.exp(10))) / 2
    assert info_nce(first, second).item() == pytest.approx((rows + columns) / 2, abs=1e-4)
    assert info_nce(second, first).item() == pytest.approx((rows + columns) / 2, abs=1e-4)


def test_cross_correlation_of_independent_and_equal_codes():
    first, second = noise(2000, 4), noise(2000, 4, seed=1)
    assert abs(cross_correlation(first, second)) < 1e-3
    assert cross_correlation(first, first) == pytest.approx(1 / 4, abs=0.01)


def test_standardised_together():
    parts = standardised(noise(50, 6) * 3 + 2, noise(30, 6, seed=1) * 3 + 2)
    together = torch.cat(parts)
    assert [len(part) for part in parts] == [50, 30]
    assert together.mean(0).abs().max() < 1e-5 and (together.std(0) - 1).abs().max() < 1e-3


def test_variance_floor():
    assert variance_floor(torch.zeros(8, 3)) == pytest.approx(0.99, abs=0.01)
    assert variance_floor(noise(500, 3) * 5) == 0
    halves = torch.tensor([[-0.125], [0.125]]).mul(8**0.5)  # a standard deviation of 0.5
    assert variance_floor(halves).item() == pytest.approx(0.5, abs=1e-3)


def test_pose_error_is_the_angle_over_known_rows():
    assert pose_error(pose(10), pose(40)) == pytest.approx(math.radians(30), abs=1e-3)
    unknown = {name: torch.full_like(code, torch.nan) for name, code in pose(0).items()}
    assert pose_error(pose(10), unknown) == 0


def test_min_snr_weights():
    levels = torch.tensor([0.99, 0.5, 0.1])
    snr = levels / (1 - levels)
    assert torch.allclose(min_snr_weights(levels, "epsilon", 5.0), snr.clamp(max=5) / snr)
    assert torch.allclose(min_snr_weights(levels, "v_prediction", 5.0), snr.clamp(max=5) / (snr + 1))
    with pytest.raises(ValueError, match="unknown prediction 'x0'"):
        min_snr_weights(levels, "x0", 5.0)


def test_times_cover_the_range_evenly():
    times = sample_times(10, torch.Generator().manual_seed(0))
    assert sorted((times // 100).tolist()) == list(range(10))
    assert sample_times(64, torch.Generator().manual_seed(0), late_share=1.0).max() < 400


def test_the_perceptual_loss_compares_the_first_relu_of_five_blocks_at_four_sizes(tmp_path, monkeypatch):
    """Against VGG-19's blocks written out (Simonyan and Zisserman 2015), three channels wide."""
    monkeypatch.setattr(losses, "VGG_WIDTHS", tuple(3 if width else 0 for width in losses.VGG_WIDTHS))
    places = [(0, 2), (5, 7), (10, 12, 14, 16), (19, 21, 23, 25), (28,)]  # of the convolutions in torchvision's vgg19.features
    weights = {
        place: (noise(3, 3, 3, 3, seed=place) * 0.3, noise(3, seed=100 + place) * 0.1) for block in places for place in block
    }
    file = tmp_path / "vgg19.safetensors"
    save_file(
        {f"features.{n}.{name}": v for n, pair in weights.items() for name, v in zip(("weight", "bias"), pair)}, str(file)
    )

    def first_relus(images):
        mean, std = (torch.tensor(row)[:, None, None] for row in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))
        x, found = ((images + 1) / 2 - mean) / std, []
        for number, block in enumerate(places):
            if number and min(x.shape[-2:]) < 2:
                break
            x = F.max_pool2d(x, 2) if number else x
            for place in block:
                x = F.conv2d(x, *weights[place], padding=1).relu()
                found += [x] if place == block[0] else []
        return found

    made, true, expected = noise(2, 3, 32, 32).tanh(), noise(2, 3, 32, 32, seed=1).tanh(), 0.0
    given = made, true
    for _ in range(4):
        expected += sum((one - other).abs().mean() for one, other in zip(first_relus(made), first_relus(true)))
        made, true = F.avg_pool2d(made, 2), F.avg_pool2d(true, 2)
    torch.testing.assert_close(Perceptual(str(file))(*given), expected, rtol=1e-5, atol=1e-6)

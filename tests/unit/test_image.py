"""Laws of the picture layouts."""

import numpy as np
import pytest
import torch

from deepexpo_models.image import (
    bytes_to_comfy,
    bytes_to_model,
    comfy_to_bgr,
    comfy_to_bytes,
    comfy_to_model,
    model_to_bytes,
    model_to_comfy,
    resize,
)


def picture(*shape: int) -> torch.Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(0))


def test_model_layout_is_channels_first_and_signed():
    image = torch.zeros(1, 4, 6, 3)
    image[..., 2, 0] = 1  # one red column
    model = comfy_to_model(image)
    assert model.shape == (1, 3, 4, 6)
    assert (model[0, 0, :, 2] == 1).all() and model.sum() == 4 - (model.numel() - 4)


def test_bgr_has_red_last():
    image = torch.zeros(4, 6, 3)
    image[:, 2, 0] = 1  # one red column
    bgr = comfy_to_bgr(image)
    assert bgr.dtype == np.uint8 and bgr.shape == (4, 6, 3) and bgr.flags.c_contiguous
    assert (bgr[:, 2] == (0, 0, 255)).all() and bgr.sum() == 4 * 255


def test_bgr_rounds_and_clamps():
    assert comfy_to_bgr(torch.tensor([-0.5, 0.5, 1.5]).view(1, 1, 3)).tolist() == [[[255, 128, 0]]]


def test_all_levels_come_back_and_what_lies_beyond_is_clamped():
    levels = torch.arange(256, dtype=torch.uint8)
    assert torch.equal(comfy_to_bytes(bytes_to_comfy(levels)), levels) and torch.equal(bytes_to_comfy(levels), levels / 255)
    assert torch.equal(model_to_bytes(bytes_to_model(levels)), levels)
    assert comfy_to_bytes(torch.tensor([-0.5, 0.5, 1.5])).tolist() == [0, 128, 255]


def test_comfy_model_round_trip():
    image = picture(2, 5, 7, 3)
    torch.testing.assert_close(model_to_comfy(comfy_to_model(image)), image)


def test_model_to_comfy_clamps():
    out = model_to_comfy(torch.tensor([-3.0, 0.0, 3.0]).view(1, 3, 1, 1))
    assert out.flatten().tolist() == [0, 0.5, 1]


def test_alpha_is_dropped_and_grey_repeated():
    image = picture(1, 5, 7, 4)
    assert torch.equal(comfy_to_model(image), comfy_to_model(image[..., :3]))
    grey = comfy_to_model(image[..., :1])
    assert grey.shape == (1, 3, 5, 7) and torch.equal(grey[:, 0], grey[:, 2])
    assert (comfy_to_bgr(image[0]) == comfy_to_bgr(image[0, ..., :3])).all()


@pytest.mark.parametrize("size", [3, 8, 20])
def test_resize_crops_the_middle_of_the_longer_side(size):
    image = torch.full((1, 3, 8, 14), -1.0)
    image[..., 3:11] = 0.5
    torch.testing.assert_close(resize(image, size), torch.full((1, 3, size, size), 0.5))


def test_resize_is_antialiased():
    stripes = torch.ones(1, 3, 48, 48)
    stripes[..., ::2] = -1
    assert resize(stripes, 16).abs().max() < 0.1  # without antialiasing: +-1


def test_resize_stays_in_range():
    edges = (picture(1, 3, 16, 16) > 0.5).float() * 2 - 1
    assert resize(edges, 50).abs().max() <= 1


@pytest.mark.parametrize(
    ("convert", "image"),
    [
        (comfy_to_model, picture(5, 7, 3)),
        (comfy_to_model, picture(1, 5, 7, 2)),
        (comfy_to_model, picture(1, 3, 5, 7)),
        (comfy_to_model, picture(0, 5, 7, 3)),
        (model_to_comfy, picture(3, 5, 7)),
        (model_to_comfy, picture(1, 5, 7, 3)),
        (comfy_to_bgr, picture(1, 5, 7, 3)),
        (comfy_to_bgr, picture(5, 7)),
        (lambda image: resize(image, 4), picture(5, 7, 3)),
        (lambda image: resize(image, 0), picture(1, 3, 5, 7)),
    ],
)
def test_wrong_shapes_are_one_sentence(convert, image):
    with pytest.raises(ValueError, match="got"):
        convert(image)


def test_inputs_are_left_alone():
    image = picture(1, 5, 7, 4)
    before = image.clone()
    resize(comfy_to_model(image), 3)
    comfy_to_bgr(image[0])
    assert torch.equal(image, before)

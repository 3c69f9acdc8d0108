"""A picture read in a mirror and closer as well, and the file that knows how."""

import pytest
import torch
import torch.nn.functional as F

from deepexpo_models.dsid import CONFIGS, DSID, load_dsid, save_dsid
from deepexpo_models.dsid.averaging import Averaging
from deepexpo_models.dsid.rotation import geodesic_angle, rotation_to_matrix
from deepexpo_models.weights import METADATA, load_tensors, save_tensors

PICTURES = torch.rand(3, 3, 128, 128, generator=torch.Generator().manual_seed(1)) * 2 - 1
FIVE = torch.tensor([[-0.25, -0.2], [0.15, -0.25], [-0.1, 0.05], [-0.2, 0.3], [0.15, 0.25]]).expand(3, 5, 2)


def model(*zooms: float) -> DSID:
    torch.manual_seed(2)
    made = DSID(CONFIGS["photo"]).eval()
    width = made.config.expression_width
    made.averaging = Averaging(torch.randn(width, width) / width, torch.randn(width), torch.tensor(zooms))
    return made


@torch.no_grad()
def test_the_mean_is_of_both_views_each_in_its_own_frame():
    dsid = model()
    own, seen = (dsid.semantic_encoder(images) for images in (PICTURES, PICTURES.flip(-1)))
    found, averaging = dsid.encode_semantics(PICTURES), dsid.averaging
    back = seen["expression"] @ averaging.weight.T + averaging.bias
    torch.testing.assert_close(found["expression"], (own["expression"] + back) / 2, atol=1e-5, rtol=1e-4)
    across = torch.tensor([-1.0, 1.0])
    torch.testing.assert_close(found["translation"], (own["translation"] + seen["translation"] * across) / 2)
    torch.testing.assert_close(found["log_scale"], (own["log_scale"] + seen["log_scale"]) / 2)
    mirror = torch.diag(torch.tensor([-1.0, 1.0, 1.0]))
    turns = [rotation_to_matrix(codes["rotation"]) for codes in (own, seen)]
    middle = rotation_to_matrix(found["rotation"])
    away = [geodesic_angle(middle, turn) for turn in (turns[0], mirror @ turns[1] @ mirror)]
    torch.testing.assert_close(away[0], away[1], atol=1e-3, rtol=0.02)  # halfway


@torch.no_grad()
def test_a_mirror_image_has_the_mirrored_pose():
    dsid = model(0.7)
    own, seen = dsid.encode_semantics(PICTURES), dsid.encode_semantics(PICTURES.flip(-1))
    signs = torch.tensor([-1.0, 1.0, 1.0])
    torch.testing.assert_close(
        rotation_to_matrix(seen["rotation"]), rotation_to_matrix(own["rotation"]) * signs * signs[:, None], atol=1e-5, rtol=1e-4
    )
    torch.testing.assert_close(seen["translation"], own["translation"] * torch.tensor([-1.0, 1.0]))


@torch.no_grad()
def test_a_closer_view_is_the_middle_of_the_picture():
    dsid = model(0.5)
    middle = F.interpolate(PICTURES[:, :, 32:96, 32:96], 128, mode="bilinear", align_corners=False)
    found = dsid.encode_semantics(PICTURES)["rotation"]
    pictures = PICTURES, PICTURES.flip(-1), middle, middle.flip(-1)
    views = [dsid.semantic_encoder.encode_pose(images)["rotation"] for images in pictures]
    signs = torch.tensor([1.0, -1.0, -1.0, -1.0, 1.0, 1.0])
    mean = (views[0] + views[1] * signs + views[2] + views[3] * signs) / 4
    torch.testing.assert_close(rotation_to_matrix(found), rotation_to_matrix(mean), atol=0.02, rtol=0.02)


@torch.no_grad()
def test_known_points_are_mirrored_too():
    dsid = model()
    own = dsid.encode_semantics(PICTURES, FIVE)["expression"]
    five = FIVE[:, [1, 0, 2, 4, 3]] * torch.tensor([-1.0, 1.0])
    views = dsid.semantic_encoder(PICTURES, FIVE)["expression"], dsid.semantic_encoder(PICTURES.flip(-1), five)["expression"]
    averaging = dsid.averaging
    torch.testing.assert_close(own, (views[0] + views[1] @ averaging.weight.T + averaging.bias) / 2, atol=1e-5, rtol=1e-4)


def test_a_file_keeps_it_and_its_encoder(tmp_path):
    dsid, plain = model(0.7, 0.85), model()
    plain.averaging = None
    saved = [save_dsid(tmp_path / f"{name}.safetensors", made) for name, made in (("with", dsid), ("plain", plain))]
    assert saved[0] == saved[1]  # codes stay in the encoders' space
    loaded = load_dsid(tmp_path / "with.safetensors")
    for name, value in vars(dsid.averaging).items():
        torch.testing.assert_close(getattr(loaded.averaging, name), value)
    assert load_dsid(tmp_path / "plain.safetensors").averaging is None


@pytest.mark.parametrize("changed, words", [
    ({"averaging.zooms": torch.tensor([1.5])}, r"zooms are shares of the crop between 0 and 1, got \[1\.5\]"),
    ({"averaging.zooms": torch.tensor(0.5)}, r"a row of zooms, got .* and \(\)"),
    ({"averaging.bias": torch.zeros(7)}, r"averaging needs weight \(width, width\)"),
    ({"averaging.bias": torch.zeros(7), "averaging.weight": torch.zeros(7, 7)}, "its averaging is of codes of 7 numbers"),
    ({"averaging.bias": None}, "it has no 'averaging.bias'; download it again"),
])  # fmt: skip
def test_a_damaged_file_is_one_sentence(tmp_path, changed, words):
    path = tmp_path / "dsid.safetensors"
    save_dsid(path, model(0.7))
    header, tensors = load_tensors(path, "dsid")
    kept = {name: value for name, value in {**tensors, **changed}.items() if value is not None}
    metadata = {name: words for name, words in header.metadata.items() if name not in (*METADATA, "deepexpo_format")}
    save_tensors(path, "dsid", kept, name=header.name, config=header.config, **metadata)
    with pytest.raises(ValueError, match=words) as raised:
        load_dsid(path)
    assert "\n" not in str(raised.value)

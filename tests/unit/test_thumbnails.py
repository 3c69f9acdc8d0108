"""The small picture in a saved code's file."""

from pathlib import Path

import pytest
import torch

from deepexpo_models.dsid import (
    EncoderId,
    Identity,
    Semantics,
    arkit_semantics,
    load_identity,
    load_semantics,
    load_thumbnail,
    public_encoder,
    save_identity,
    save_semantics,
    thumbnail,
)
from deepexpo_models.dsid.preview import head_picture
from deepexpo_models.dsid.rotation import FRONTAL
from deepexpo_models.dsid.thumbnails import CLOSE_UP
from deepexpo_models.head import ARKIT52, load_basis
from deepexpo_models.weights import load_tensors, save_tensors

ANYONE = Identity(torch.eye(2, 8), public_encoder("buffalo_l"))
SOME_DSID = Semantics(torch.zeros(1, 4), torch.tensor([FRONTAL]), torch.zeros(1, 2), torch.zeros(1, 1), EncoderId("d", "ab"))


def smiling(by: float) -> Semantics:
    units = torch.zeros(1, len(ARKIT52))
    units[:, [ARKIT52.index(name) for name in ("mouthSmileLeft", "mouthSmileRight", "jawOpen")]] = by
    return arkit_semantics(units, torch.tensor([[20.0, 0.0, 0.0]]))


def test_a_connected_picture_is_kept_square_and_small(tmp_path):
    picture = torch.zeros(2, 300, 500, 4)
    picture[0, :, 100:400, 0] = 1
    small = thumbnail(ANYONE, picture)
    assert small.shape == (128, 128, 3) and small.dtype == torch.uint8
    assert (small == torch.tensor([255, 0, 0], dtype=torch.uint8)).all(), "the middle of the first picture"
    save_identity(tmp_path / "me.safetensors", ANYONE, small)
    assert torch.equal(load_thumbnail(tmp_path / "me.safetensors"), small)
    assert torch.equal(load_identity(tmp_path / "me.safetensors").embedding, ANYONE.embedding)


def test_codes_of_landmarks_draw_themselves():
    smile, more = thumbnail(smiling(0.2)), thumbnail(smiling(0.9))
    assert (smile != more).any() and smile.float().std() > 10
    wide = load_basis().points * torch.tensor([1.3, 1.0, 1.0])
    faces = [Identity(ANYONE.embedding[:1], ANYONE.encoder, face_shape=x.flatten()[None]) for x in (load_basis().points, wide)]
    skin = [(thumbnail(face).float().amax(-1) > 60).float().mean() for face in faces]
    assert skin[1] > 1.15 * skin[0], "this person's own face"


def test_a_thumbnail_is_the_editors_head():
    picture = head_picture(None, smiling(0.9), load_basis(), side=128, framing=CLOSE_UP)
    assert torch.equal(thumbnail(smiling(0.9)), (picture[0] * 255).round().byte())


@pytest.mark.parametrize("code", [ANYONE, SOME_DSID])
def test_codes_that_tell_of_no_head_have_none(tmp_path, code):
    assert thumbnail(code) is None
    save, load = (save_identity, load_identity) if isinstance(code, Identity) else (save_semantics, load_semantics)
    save(tmp_path / "code.safetensors", code)
    assert load_thumbnail(tmp_path / "code.safetensors") is None and load(tmp_path / "code.safetensors")


@pytest.mark.parametrize("bad", [torch.zeros(128, 128, 4, dtype=torch.uint8), torch.zeros(128, 128, 3), torch.zeros(0)])
def test_what_is_no_thumbnail_is_none(tmp_path: Path, bad):
    path = tmp_path / "bad.safetensors"
    save_identity(path, ANYONE)
    header, tensors = load_tensors(path, "identity")
    extra = {"encoder_sha256": header.metadata["encoder_sha256"]}
    save_tensors(path, "identity", {**tensors, "thumbnail": bad}, name=header.name, config=header.config, **extra)
    assert load_thumbnail(path) is None and torch.equal(load_identity(path).embedding, ANYONE.embedding)

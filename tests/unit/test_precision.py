"""Encoders in bfloat16 give float32's codes, nearly, as float32; and a loaded DSID is laid out for convolutions."""

from pathlib import Path

import pytest
import torch

from deepexpo_models.dsid import load_dsid
from deepexpo_models.dsid.precision import CPU_UNITS, has_bfloat16, set_precision, use_bfloat16
from deepexpo_models.image import comfy_to_model, resize

WEIGHTS = Path(__file__).parents[2] / "weights"


@pytest.fixture(scope="module")
def face() -> torch.Tensor:
    data = pytest.importorskip("skimage.data", reason="scikit-image, which holds the photograph, is not installed")
    return comfy_to_model(torch.from_numpy(data.astronaut()[:230, 110:340].copy()).float()[None] / 255)


@torch.no_grad()
def test_bfloat16_codes_are_near_float32_ones(face):
    dsid = load_dsid(WEIGHTS / "photo-dsid.safetensors").float()
    picture = resize(face, dsid.config.image_size)
    exact = {"identity": dsid.encode_identity(picture), **dsid.encode_semantics(picture)}
    use_bfloat16(dsid)
    found = {"identity": dsid.encode_identity(picture), **dsid.encode_semantics(picture)}
    for part, code in found.items():
        assert code.dtype == torch.float32
        assert 0 < (code - exact[part]).abs().max() <= 0.02 * max(1, exact[part].abs().max()), part


def test_weights_lie_as_convolutions_read_them_in_every_dtype():
    dsid = load_dsid(WEIGHTS / "photo-dsid.safetensors")
    for model in (dsid, dsid.float(), dsid.bfloat16()):
        kernels = [weight for weight in model.parameters() if weight.ndim == 4]
        assert kernels and all(weight.is_contiguous(memory_format=torch.channels_last) for weight in kernels)


def test_without_units_float32_is_used_and_said(monkeypatch):
    dsid = load_dsid(WEIGHTS / "photo-dsid.safetensors")
    for name in CPU_UNITS:
        monkeypatch.setattr(torch.cpu, name, lambda: False, raising=False)
    assert "float32 is used: this cpu has no units" in set_precision(dsid, "bfloat16", torch.device("cpu"))
    assert all(weight.dtype != torch.bfloat16 for weight in dsid.parameters())
    monkeypatch.setattr(torch.cpu, CPU_UNITS[-1], lambda: True, raising=False)
    assert has_bfloat16(torch.device("cpu")) and set_precision(dsid, "bfloat16", torch.device("cpu")) == ""
    assert dsid.identity_encoder.encoder.trunk.stem.weight.dtype == torch.bfloat16
    assert dsid.identity_encoder.encoder.head.weight.dtype != torch.bfloat16
    with pytest.raises(ValueError, match="unknown precision 'int4'; known: float32, bfloat16"):
        set_precision(dsid, "int4", torch.device("cpu"))

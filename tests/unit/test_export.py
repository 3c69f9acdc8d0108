"""The ONNX files of a DSID's encoders give its codes."""

from pathlib import Path

import pytest
import torch

from deepexpo_models.dsid import load_dsid
from deepexpo_models.dsid.export import OUTPUTS, Encode, export

FILE = Path(__file__).parents[2] / "weights" / "photo-dsid.safetensors"


@pytest.fixture(scope="module")
def sessions(tmp_path_factory):
    pytest.importorskip("onnxscript")
    onnxruntime = pytest.importorskip("onnxruntime")
    files = export(load_dsid(FILE), tmp_path_factory.mktemp("onnx"))
    return {path.stem: onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"]) for path in files}


@pytest.mark.parametrize("count", [1, 3])
@pytest.mark.parametrize("part", OUTPUTS)
def test_codes_are_equal_to_torch(sessions, part, count):
    images = torch.rand(count, 3, 128, 128, generator=torch.Generator().manual_seed(count)) * 2 - 1
    with torch.no_grad():
        expected = Encode(load_dsid(FILE).float().eval(), part)(images)
    found = sessions[part].run(list(OUTPUTS[part]), {"images": images.numpy()})
    for code, other in zip(expected, found, strict=True):
        assert (code - torch.from_numpy(other)).abs().max() < 1e-4

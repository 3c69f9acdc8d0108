"""The DSID for photographs that comes with the pack, on the one real photograph that a test may have: scikit-image's astronaut
(NASA, public domain). MediaPipe's landmarker finds on its crop: yaw -1, pitch -8, roll 3 degrees, smile 0.90, jaw 0.02."""

from pathlib import Path

import numpy as np
import pytest
import torch

from deepexpo_models.data.heads.units import mirrored as swapped_sides
from deepexpo_models.dsid import load_dsid
from deepexpo_models.dsid.readout import GAZE
from deepexpo_models.dsid.rotation import matrix_to_euler, rotation_to_matrix
from deepexpo_models.faces.crop import crop_face
from deepexpo_models.faces.detectors import Face
from deepexpo_models.head import ARKIT52
from deepexpo_models.image import comfy_to_model, resize

FILE = Path(__file__).parents[2] / "weights" / "photo-dsid.safetensors"
BOX = (174.0, 73.0, 277.0, 176.0)  # of the astronaut's face
LARGEST = 16e6  # bytes


@pytest.fixture(scope="module")
def photo():
    return load_dsid(FILE).float()


@pytest.fixture(scope="module")
def astronaut(photo):
    data = pytest.importorskip("skimage.data")
    picture = torch.from_numpy(np.ascontiguousarray(data.astronaut())).float() / 255
    crop, _, _ = crop_face(picture, Face(BOX, None, None, "opencv"))
    return resize(comfy_to_model(crop[None]), photo.config.image_size)


def test_the_file_says_what_it_is(photo):
    assert FILE.stat().st_size < LARGEST
    assert photo.trained_on == ("drawings", "rendered heads")  # the identity encoder began with drawn faces
    assert photo.generator is not None and photo.readout.names == (*ARKIT52, *GAZE)


def test_it_reads_a_photograph(photo, astronaut):
    codes = photo.encode_semantics(astronaut)
    yaw, pitch, roll = matrix_to_euler(rotation_to_matrix(codes["rotation"]))[0].tolist()
    assert abs(yaw + 1) < 12 and abs(pitch + 8) < 12 and abs(roll - 3) < 8
    units = dict(zip(ARKIT52, photo.readout.arkit52(codes["expression"])[0].tolist()))
    assert min(units["mouthSmileLeft"], units["mouthSmileRight"]) > 0.4
    assert units["jawOpen"] < 0.3 and max(units["eyeBlinkLeft"], units["eyeBlinkRight"]) < 0.3


def test_a_mirrored_photograph_is_read_mirrored(photo, astronaut):
    plain, mirrored = (photo.encode_semantics(images) for images in (astronaut, astronaut.flip(-1)))
    angles = [matrix_to_euler(rotation_to_matrix(codes["rotation"]))[0] for codes in (plain, mirrored)]
    assert (angles[0] * torch.tensor([-1.0, 1.0, -1.0]) - angles[1]).abs().max() < 0.1  # for both are read in both
    units = [photo.readout.arkit52(codes["expression"])[0] for codes in (plain, mirrored)]
    assert (units[0] - units[1][swapped_sides()]).abs().max() < 0.15


def test_a_darker_and_smaller_photograph_is_read_alike(photo, astronaut):
    spoilt = resize(resize(astronaut, 64), astronaut.shape[-1]) * 0.7 - 0.2
    plain, other = (photo.readout.arkit52(photo.encode_semantics(images)["expression"]) for images in (astronaut, spoilt))
    assert torch.corrcoef(torch.cat([plain, other]))[0, 1] > 0.8

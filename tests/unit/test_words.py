"""The lines that nodes show of codes."""

import torch

from deepexpo_models.dsid import EncoderId, Identity, Semantics, public_encoder
from deepexpo_models.dsid.rotation import euler_to_matrix, matrix_to_rotation
from deepexpo_models.dsid.words import identity_line, semantics_line
from deepexpo_models.faces.crop import FaceCrops
from deepexpo_models.head import ARKIT52

OWN = EncoderId("mine", "a" * 64)


def semantics(encoder: EncoderId, expression: torch.Tensor, angles: tuple[float, ...] = (20.0, -10.0, 5.0)) -> Semantics:
    rows = len(expression)
    rotation = matrix_to_rotation(euler_to_matrix(torch.tensor([angles]))).expand(rows, -1)
    return Semantics(expression, rotation, torch.zeros(rows, 2), torch.zeros(rows, 1), encoder)


def test_identities():
    code = torch.eye(512)[:1]
    assert identity_line(Identity(code, OWN), 1) == "1 identity from 1 picture, by DSID 'mine' (aaaaaaaa)"
    shaped = Identity(code, public_encoder("buffalo_l"), face_shape=torch.zeros(1, 478 * 3))
    assert identity_line(shaped, 3) == "1 identity from 3 pictures, by the public encoder 'buffalo_l', with the face's shape"


def test_semantics_of_landmarks_name_what_the_face_does_most():
    numbers = torch.zeros(1, len(ARKIT52))
    at_rest = semantics(public_encoder("arkit52"), numbers, (0.0, 0.0, 0.0))
    assert semantics_line(at_rest) == "1 code by the public encoder 'arkit52'; yaw 0, pitch 0, roll 0 degrees; at rest"
    for name, value in {"jawOpen": 0.5, "mouthSmileLeft": 0.75, "browInnerUp": 0.25, "noseSneerLeft": 0.2}.items():
        numbers[0, ARKIT52.index(name)] = value
    line = semantics_line(semantics(public_encoder("arkit52"), numbers))
    assert line.endswith("yaw 20, pitch -10, roll 5 degrees; mouthSmileLeft 0.75, jawOpen 0.50, browInnerUp 0.25")


def test_semantics_of_a_dsid():
    line = semantics_line(semantics(OWN, torch.randn(4, 32)))
    assert line == "4 codes by DSID 'mine' (aaaaaaaa); the first: yaw 20, pitch -10, roll 5 degrees"


def test_what_was_found_in_a_batch_is_said_once():
    notes = (
        "image 1 of 3: one face found",
        "image 2 of 3: no face: mask",
        "image 3 of 3: one face found",
        "3 frames: 1 new",
    )
    empty = torch.zeros(3, 1, 1, 3)
    assert FaceCrops(empty, empty[..., 0], (1, 0, 1), notes, (), ()).summary() == [
        "one face found (2 pictures)",
        "no face: mask",
        "3 frames: 1 new",
    ]

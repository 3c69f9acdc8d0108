"""From face landmarks to codes, and from codes to a face's points in a picture."""

import pytest
import torch

from deepexpo_models.dsid import Identity, Semantics, blend_semantics, combine_semantics, load_semantics, save_semantics
from deepexpo_models.dsid.codes import public_encoder
from deepexpo_models.dsid.edit import Edit, edit_semantics
from deepexpo_models.dsid.mesh import Framing, Strengths, face_points, face_shape_of, semantics_of, units_of
from deepexpo_models.dsid.rotation import matrix_to_euler, rotation_to_matrix
from deepexpo_models.faces.landmarks import track_face
from deepexpo_models.head import ARKIT52, load_basis
from deepexpo_models.head.control import draw_control, draw_over
from deepexpo_models.head.openings import measure
from deepexpo_models.head.retarget import express, face_height, to_canonical
from landmark_sets import SIZE, face, landmarks, points, scores

BASIS = load_basis()


def wide_face() -> torch.Tensor:
    """(478, 3): another person's resting face, a tenth wider."""
    return BASIS.points * torch.tensor([1.1, 1.0, 1.0])


def code(units=None, **placed) -> Semantics:
    return semantics_of(track_face(landmarks([face(units, **placed)])), BASIS)


def person(shape=None) -> Identity:
    shape = wide_face() if shape is None else shape
    shown = track_face(landmarks([face(shape=shape)]))
    embedding = torch.nn.functional.normalize(torch.ones(1, 8), dim=-1)
    return Identity(embedding, public_encoder("any"), face_shape=face_shape_of(shown, BASIS))


@pytest.mark.parametrize("angles", [(0.0, 0.0, 0.0), (30.0, -10.0, 15.0), (-45.0, 20.0, -5.0)])
def test_a_code_holds_what_was_drawn(angles):
    units = scores(jawOpen=0.4, mouthSmile=0.6)
    semantics = code(units, angles=angles)
    assert semantics.encoder == public_encoder("arkit52")
    named = dict(zip(ARKIT52, semantics.expression[0].tolist()))
    assert named["jawOpen"] == pytest.approx(0.4) and named["mouthSmileLeft"] == pytest.approx(0.6)
    found = matrix_to_euler(rotation_to_matrix(semantics.rotation))[0]
    assert (found - torch.tensor(angles)).abs().max() < 0.4, "an open jaw moves the rigid points a little"


def test_the_references_proportions_leave_nothing_on_rigid_points():
    """Two people of other widths and sizes play the same: the maps of one person are equal."""
    units = scores(mouthSmile=0.5)
    one, other = code(units), code(units, shape=BASIS.points * torch.tensor([1.15, 0.95, 1.0]), scale=9.0)
    first, second = (face_points(person(), each, BASIS, SIZE) for each in (one, other))
    rigid = BASIS.rigid_weights > 0
    height = face_height(first)
    assert ((first - second)[:, rigid].norm(dim=-1) / height[:, None]).max() < 0.01
    assert (first[0, 454, 0] - first[0, 234, 0]) / height > 1.05 * (points(scores())[454, 0] - points(scores())[234, 0]) / (
        face_height(points(scores()))
    ), "the person's own width is kept"


def test_lips_and_lids_open_as_the_references_do():
    """What the scores miss is measured: a mouth that is more open than its score says."""
    shown = BASIS.points + express(scores(jawOpen=0.5, eyeBlinkLeft=0.6), BASIS)[0]
    track = track_face(landmarks([face(scores(jawOpen=0.1), shape=shown)]))
    semantics = semantics_of(track, BASIS)
    made = to_canonical(face_points(None, semantics, BASIS, SIZE), BASIS).shape
    seen = to_canonical(track.points, BASIS).shape
    gaps = (measure(made) - measure(seen))[0, :3] / face_height(BASIS.points)
    assert gaps.abs().max() < 0.005


def test_place_size_and_strengths():
    framing = Framing(height=0.5, x=0.25, y=0.6)
    drawn = face_points(None, code(scores(), angles=(40.0, 0.0, 0.0)), BASIS, (400, 800), framing, Strengths(pose=0.0))
    assert face_height(drawn).item() == pytest.approx(200, rel=0.02)
    assert drawn[0, :, 0].mean().item() == pytest.approx(200, abs=8), "0.25 of 800, and the head is not turned"
    smiling = code(scores(mouthSmile=0.8, browInnerUp=0.9))
    still = face_points(None, code(), BASIS, SIZE, strengths=Strengths(mouth=0))
    without = face_points(None, smiling, BASIS, SIZE, strengths=Strengths(mouth=0, eyes=0, brows=0, cheeks=0))
    assert (without - still).abs().max() < 2.5
    brows = face_points(None, smiling, BASIS, SIZE, strengths=Strengths(mouth=0))
    assert (brows - still)[0, [105, 334], 1].abs().min() > 2 > (brows - still)[0, [61, 291]].abs().max()


def test_codes_with_openings_are_combined_blended_saved_and_edited(tmp_path):
    a, b = code(scores(jawOpen=0.5)), code(scores(mouthSmile=0.5), angles=(20.0, 0.0, 0.0))
    joined = combine_semantics(a, b)
    assert torch.equal(joined.openings, a.openings) and torch.equal(joined.rotation, b.rotation)
    halfway = blend_semantics(a, b, 0.5)
    torch.testing.assert_close(halfway.openings, (a.openings + b.openings) / 2)
    save_semantics(tmp_path / "code.safetensors", a)
    assert torch.equal(load_semantics(tmp_path / "code.safetensors").openings, a.openings)
    turned = edit_semantics(a, Edit(yaw=10.0))
    assert torch.equal(turned.openings, a.openings)
    assert edit_semantics(a, Edit(sliders={"smile": 0.5})).openings is None, "they were measured on another expression"
    with pytest.raises(ValueError, match="openings is"):
        Semantics(a.expression, a.rotation, a.translation, a.log_scale, a.encoder, openings=torch.zeros(1, 3))


def test_what_cannot_be_drawn_is_one_sentence():
    plain = face()
    plain["blendshapes"] = {}
    with pytest.raises(ValueError, match="these landmarks have no blendshapes"):
        semantics_of(track_face(landmarks([plain])), BASIS)
    bare = Identity(torch.nn.functional.normalize(torch.ones(1, 8), dim=-1), public_encoder("any"))
    with pytest.raises(ValueError, match="this identity has no face shape"):
        face_points(bare, code(), BASIS, SIZE)
    with pytest.raises(ValueError, match="the face's height is 0"):
        Framing(height=0)
    with pytest.raises(ValueError, match="the earlier map is"):
        draw_over(torch.zeros(1, 64, 64, 3), torch.zeros(1, 32, 32, 3), "depth")


def test_a_map_over_another_keeps_both_heads():
    left, right = (
        draw_control(face_points(None, code(), BASIS, SIZE, Framing(0.3, x)), SIZE, "depth", BASIS) for x in (0.25, 0.75)
    )
    both = draw_over(left, right, "depth")
    assert torch.equal(both[:, :, :256], left[:, :, :256]) and torch.equal(both[:, :, 256:], right[:, :, 256:])


def test_numbers_by_name_become_units():
    told = units_of({"_neutral": 0.9, "jawOpen": 0.5}, untold=torch.nan)
    assert told.shape == (52,) and told[ARKIT52.index("jawOpen")] == 0.5 and told.isfinite().sum() == 1
    assert units_of({}).tolist() == [0.0] * 52

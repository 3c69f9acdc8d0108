"""Presets, sliders, edits by hand, smoothing and pairs of semantic codes."""

from dataclasses import replace

import pytest
import torch

from deepexpo_models.dsid import (
    ARKIT,
    TAKE,
    Edit,
    EncoderId,
    Identity,
    Semantics,
    arkit_numbers,
    arkit_semantics,
    edit_semantics,
    euler_to_matrix,
    every_pair,
    jitter,
    join_identities,
    join_semantics,
    matrix_to_euler,
    matrix_to_rotation,
    rotation_to_matrix,
    smooth_semantics,
)
from deepexpo_models.dsid.presets import preset_semantics
from deepexpo_models.dsid.readout import ReadOut
from deepexpo_models.head import ARKIT52
from deepexpo_models.head.expressions import (
    ACTION_UNITS,
    GROUPS,
    PRESETS,
    REST,
    SINGLE_UNITS,
    SLIDERS,
    group_mask,
    preset_units,
    slider_units,
    units,
)

FIELDS = ("expression", "rotation", "translation", "log_scale")


def number(vector: torch.Tensor, name: str) -> float:
    return vector[..., ARKIT52.index(name)].item()


def angles(code: Semantics) -> list[float]:
    return matrix_to_euler(rotation_to_matrix(code.rotation))[0].tolist()


def a_code(batch: int = 1, seed: int = 0) -> Semantics:
    draw = torch.Generator().manual_seed(seed)
    code = arkit_semantics(torch.rand(batch, 52, generator=draw), torch.randn(batch, 3, generator=draw) * 10)
    return replace(code, translation=torch.rand(batch, 2, generator=draw), log_scale=torch.rand(batch, 1, generator=draw))


def same(a: Semantics, b: Semantics) -> bool:
    return all(torch.equal(getattr(a, field), getattr(b, field)) for field in FIELDS)


def test_every_unit_belongs_to_one_group():
    assert sum(group_mask((group,)).int() for group in GROUPS).tolist() == [1] * 52


@pytest.mark.parametrize("name", PRESETS)
def test_preset_is_a_face_with_a_source(name):
    vector = preset_units(name)
    assert 0 <= vector.min() and 0.5 <= vector.max() <= 1 and PRESETS[name].source
    others = [preset_units(other) for other in PRESETS if other != name]
    assert min((vector - other).norm().item() for other in others) > 0.5


def test_presets_hold_the_action_units_that_they_name():
    happy, wink = preset_units("happy"), preset_units("wink")
    assert number(happy, "mouthSmileLeft") == pytest.approx(0.8) == number(happy, "mouthSmileRight")
    assert number(happy, "cheekSquintLeft") == pytest.approx(0.8) and number(happy, "browDownLeft") == 0
    assert number(wink, "eyeBlinkLeft") == 1 and number(wink, "eyeBlinkRight") == 0
    assert number(preset_units("shout"), "jawOpen") == 1.0
    for table in (*ACTION_UNITS.values(), *(part for slider in SLIDERS.values() for part in (slider.plus, slider.minus))):
        assert units(table).any()


def test_sliders_go_both_ways_and_add_up():
    up, down = slider_units({"smile": 1.0}), slider_units({"smile": -0.5})
    assert number(up, "mouthSmileLeft") == 1 and number(up, "mouthFrownLeft") == -1
    assert number(down, "mouthFrownRight") == 0.5 and number(down, "mouthSmileRight") == -0.5
    both = slider_units({"smile": 1.0, "mouthSmileLeft": -0.25})
    assert number(both, "mouthSmileLeft") == 0.75 and number(both, "mouthSmileRight") == 1
    assert all(slider_units({name: 1.0}).any() for name in (*SLIDERS, *SINGLE_UNITS))
    with pytest.raises(ValueError, match="no slider or ARKit unit 'grin'"):
        slider_units({"grin": 1.0})
    with pytest.raises(ValueError, match="no expression 'joy'; choose one of none, happy"):
        preset_units("joy")


def test_an_edit_of_nothing_changes_no_bit():
    code = a_code(3)
    assert same(edit_semantics(code, Edit()), code)
    latent = replace(code, expression=torch.randn(3, 8), encoder=EncoderId("own", "1" * 64))
    assert same(edit_semantics(latent, Edit()), latent)
    assert same(edit_semantics(code, Edit(preset="happy", preset_strength=0.0)), code)


def test_edit_without_a_code_starts_from_a_resting_face():
    code = edit_semantics(None, Edit(preset="happy", sliders={"mouth_open": 0.4}, yaw=20.0, pitch=-10.0, roll=5.0))
    assert code.encoder == ARKIT and number(code.expression, "jawOpen") == pytest.approx(0.4)
    assert number(code.expression, "mouthSmileLeft") == pytest.approx(0.8)
    assert angles(code) == pytest.approx([20, -10, 5], abs=1e-3)


def test_angles_are_added_and_stop_before_the_head_flips():
    code = arkit_semantics(torch.zeros(1, 52), torch.tensor([[30.0, 5.0, -4.0]]))
    assert angles(edit_semantics(code, Edit(yaw=-10.0, roll=4.0))) == pytest.approx([20, 5, 0], abs=1e-3)
    assert angles(edit_semantics(code, Edit(yaw=75.0)))[0] == pytest.approx(90, abs=0.1)


def test_exaggerate_and_neutralise():
    code = arkit_semantics(torch.full((1, 52), 0.4))
    assert not edit_semantics(code, Edit(exaggerate=0.0)).expression.any()
    torch.testing.assert_close(edit_semantics(code, Edit(exaggerate=2.0)).expression, torch.full((1, 52), 0.8))
    assert edit_semantics(code, Edit(exaggerate=9.0)).expression.max() == 1.5
    assert edit_semantics(code, Edit(sliders={"smile": -1.0})).expression.min() == 0


@pytest.mark.parametrize("take", TAKE)
def test_a_part_comes_from_one_code_and_the_rest_from_another(take):
    code, onto = a_code(2, seed=1), a_code(2, seed=2)
    done, alone = edit_semantics(code, Edit(take=take), onto), edit_semantics(code, Edit(take=take))
    groups, with_pose = TAKE[take]
    mask = group_mask(groups)
    assert torch.allclose(done.expression[:, mask], code.expression[:, mask], atol=1e-6)
    assert torch.allclose(done.expression[:, ~mask], onto.expression[:, ~mask], atol=1e-6)
    assert torch.equal(done.rotation, (code if with_pose else onto).rotation)
    assert torch.equal(done.translation, (code if with_pose else onto).translation)
    assert alone.expression[:, ~mask].abs().max() < 1e-6 if (~mask).any() else True
    if not with_pose:
        assert not torch.tensor(angles(alone)).any() and not alone.log_scale.any()


def flipped() -> ReadOut:
    """A read-out of codes that are the numbers times two, in another order."""
    return ReadOut.of_units(torch.cat([torch.eye(52).flip(1) / 2, torch.zeros(2, 52)]), torch.zeros(54))


def test_codes_of_a_dsid_are_edited_by_its_read_out():
    plain = a_code(2)
    latent = replace(plain, expression=plain.expression.flip(-1) * 2, encoder=EncoderId("own", "1" * 64))
    edit = Edit(take="mouth", exaggerate=1.2, preset="sad", preset_strength=0.5, sliders={"look_up": 0.3})
    done = edit_semantics(latent, edit, readout=flipped())
    expected = edit_semantics(plain, edit)
    torch.testing.assert_close(arkit_numbers(done, flipped()), expected.expression)
    with pytest.raises(ValueError, match=r"DSID 'own'.*connect the DSID that made it"):
        edit_semantics(latent, edit)
    assert same(edit_semantics(latent, Edit(take="rotation"), onto=latent), latent)
    turned = edit_semantics(latent, Edit(yaw=10.0))  # needs none
    assert torch.equal(turned.expression, latent.expression) and not torch.equal(turned.rotation, latent.rotation)


def test_an_edit_ends_at_its_number_where_the_code_reads_beyond_the_limits():
    """A code that reads less than rest and more than full: what is asked for is reached, and what is not stays as it was."""
    numbers = torch.zeros(1, 52)
    smile, jaw, brow = (ARKIT52.index(name) for name in ("mouthSmileLeft", "jawOpen", "browInnerUp"))
    numbers[0, [smile, jaw, brow]] = torch.tensor([-0.1, 1.3, -0.2])
    latent = replace(a_code(), expression=numbers.flip(-1) * 2, encoder=EncoderId("own", "1" * 64))
    done = edit_semantics(latent, Edit(preset="happy"), readout=flipped())
    read, wanted = done.expression.flip(-1)[0] / 2, preset_units("happy")
    assert read[smile] == pytest.approx(wanted[smile].item()) and wanted[smile] > 0.5
    assert read[jaw] == pytest.approx(wanted[jaw].item()) and read[brow] == pytest.approx(-0.2)
    for edit in (Edit(exaggerate=1.001), Edit(preset="happy", preset_strength=0.001), Edit(sliders={"smile": 0.001})):
        little = edit_semantics(latent, edit, readout=flipped())
        assert (little.expression - latent.expression).abs().max() < 0.01, "a little edit changes little"


def test_bad_edits_are_named():
    with pytest.raises(ValueError, match="nothing is called 'hair'; take one of everything"):
        edit_semantics(a_code(), Edit(take="hair"))
    foreign = replace(a_code(), encoder=EncoderId("own", "1" * 64))
    with pytest.raises(ValueError, match="different encoders"):
        edit_semantics(a_code(), Edit(take="mouth"), foreign)
    with pytest.raises(ValueError, match="3 codes cannot take parts of 2"):
        edit_semantics(a_code(2), Edit(take="mouth"), a_code(3))


def a_clip(frames: int = 60, noise: float = 0.03, degrees: float = 1.5) -> tuple[Semantics, Semantics]:
    """A smile that comes and goes while the head turns: steady, and with noise."""
    draw, time = torch.Generator().manual_seed(0), torch.linspace(0, 2, frames)[:, None]
    numbers = (0.5 - 0.5 * torch.cos(torch.pi * time)) * preset_units("happy")
    turn = torch.cat([30 * torch.sin(torch.pi * time / 2), 5 * time, 0 * time], dim=1)
    noisy = numbers + torch.randn(frames, 52, generator=draw) * noise
    shaky = turn + torch.randn(frames, 3, generator=draw) * degrees
    return arkit_semantics(numbers, turn), arkit_semantics(noisy, shaky)


def error(a: Semantics, b: Semantics) -> tuple[float, float]:
    turns = rotation_to_matrix(a.rotation), rotation_to_matrix(b.rotation)
    degrees = matrix_to_euler(turns[0].transpose(1, 2) @ turns[1]).norm(dim=-1).mean()
    return (a.expression - b.expression).square().mean().sqrt().item(), degrees.item()


def test_smoothing_takes_jitter_and_keeps_movement():
    clean, noisy = a_clip()
    before, smooth = jitter(noisy), smooth_semantics(noisy, 0.7, 30)
    after = jitter(smooth)
    print(f"jitter before {before}, after {after}; error before {error(noisy, clean)}, after {error(smooth, clean)}")
    assert all(after[name] < before[name] / 3 for name in before)
    assert all(now < was for now, was in zip(error(smooth, clean), error(noisy, clean)))
    assert smooth.encoder == noisy.encoder


def test_stronger_is_smoother_and_off_is_off():
    noisy = a_clip()[1]
    assert smooth_semantics(noisy, 0.0) is noisy
    found = [jitter(smooth_semantics(noisy, strength))["expression"] for strength in (0.1, 0.5, 1.0)]
    assert found == sorted(found, reverse=True)
    still = arkit_semantics(torch.full((9, 52), 0.25), torch.full((9, 3), 8.0))
    calm = smooth_semantics(still, 1.0)
    assert all(torch.allclose(getattr(calm, field), getattr(still, field), atol=1e-6) for field in FIELDS)


def test_a_clip_played_backwards_is_smoothed_alike():
    """Forward and backward filters are averaged, so nothing comes late."""
    noisy = a_clip()[1]
    back = replace(noisy, **{field: getattr(noisy, field).flip(0) for field in FIELDS})
    there, again = smooth_semantics(noisy, 0.8), smooth_semantics(back, 0.8)
    assert all(torch.allclose(getattr(there, field), getattr(again, field).flip(0), atol=1e-5) for field in FIELDS)


def test_jitter_of_steady_movement_is_zero():
    turn = torch.arange(10.0)[:, None] * torch.tensor([[3.0, 0.0, 0.0]])
    steady = arkit_semantics(torch.arange(10.0)[:, None] * 0.05 * torch.ones(1, 52), turn)
    assert jitter(steady) == pytest.approx({"expression": 0.0, "rotation": 0.0}, abs=0.03)
    assert jitter(arkit_semantics(torch.rand(2, 52))) == {"expression": 0.0, "rotation": 0.0}
    shaking = arkit_semantics(torch.zeros(3, 52), torch.tensor([[0.0, 0, 0], [10.0, 0, 0], [0.0, 0, 0]]))
    assert jitter(shaking)["rotation"] == pytest.approx(20, abs=0.05)


@pytest.mark.parametrize("strength, rate, words", [(1.5, 25, "0 \\(off\\) to 1"), (0.5, 0, "0 frames a second")])
def test_bad_smoothing_is_named(strength, rate, words):
    with pytest.raises(ValueError, match=words):
        smooth_semantics(a_code(4), strength, rate)


def test_short_clips_are_left_alone():
    assert same(smooth_semantics(a_code(2), 1.0), a_code(2))


def people(count: int, seed: int = 0, **extras) -> Identity:
    embedding = torch.randn(count, 16, generator=torch.Generator().manual_seed(seed))
    return Identity(torch.nn.functional.normalize(embedding, dim=-1), ARKIT, **extras)


def test_every_pair_stands_row_by_row():
    identity, semantics = people(2, norm=torch.tensor([[3.0], [4.0]])), a_code(3)
    rows, columns = every_pair(identity, semantics)
    assert len(rows.embedding) == len(columns.expression) == 6
    for row in range(2):
        for column in range(3):
            assert torch.equal(rows.embedding[3 * row + column], identity.embedding[row])
            assert rows.norm[3 * row + column] == identity.norm[row]
            assert torch.equal(columns.rotation[3 * row + column], semantics.rotation[column])


def test_openings_of_landmarks_go_with_their_code():
    """Through a sheet, a join and smoothing."""
    semantics = replace(a_code(3), openings=torch.arange(21.0).reshape(3, 7))
    assert torch.equal(every_pair(people(2), semantics)[1].openings, semantics.openings.repeat(2, 1))
    assert torch.equal(join_semantics(semantics, semantics).openings[3:], semantics.openings)
    assert join_semantics(semantics, a_code()).openings is None
    shaken = torch.where(torch.arange(3)[:, None] == 1, 1.0, 0.0).expand(3, 7)
    smooth = smooth_semantics(replace(semantics, openings=shaken), 1.0).openings
    assert 0 < smooth.amax() < 0.9


def test_codes_are_joined_in_order():
    joined = join_identities(people(1, 1, norm=torch.ones(1, 1)), people(2, 2))
    assert torch.equal(joined.embedding[1:], people(2, 2).embedding) and joined.norm is None
    looks = join_semantics(a_code(2, 3), a_code(1, 4))
    assert torch.equal(looks.expression[2:], a_code(1, 4).expression)
    with pytest.raises(ValueError, match="different encoders"):
        join_semantics(a_code(), replace(a_code(), encoder=EncoderId("own", "1" * 64)))


def test_matrices_of_the_clip_are_rotations():
    turned = rotation_to_matrix(smooth_semantics(a_clip()[1], 1.0).rotation)
    torch.testing.assert_close(turned @ turned.transpose(1, 2), torch.eye(3).expand_as(turned), atol=1e-5, rtol=0)
    assert matrix_to_rotation(euler_to_matrix(torch.zeros(1, 3))).tolist() == [[1, 0, 0, 0, 1, 0]]


def test_presets_are_a_batch_in_the_order_of_their_names():
    codes = preset_semantics("Happy, none\n surprised,", 0.5)
    assert codes.encoder == ARKIT
    assert torch.equal(codes.expression, torch.stack([preset_units(name) for name in ("happy", REST, "surprised")]) * 0.5)
    assert torch.allclose(rotation_to_matrix(codes.rotation), torch.eye(3).expand(3, 3, 3))


@pytest.mark.parametrize(
    "names, message", [(" ,\n", "no expression is named; write some of none, happy"), ("grin", "there is no expression 'grin'")]
)
def test_preset_names_that_are_none_are_refused(names, message):
    with pytest.raises(ValueError, match=message):
        preset_semantics(names)

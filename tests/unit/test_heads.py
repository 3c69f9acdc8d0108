"""Rendered heads: what is drawn by lot, what the files say, and, where the head model and EGL are, the pictures themselves.

DEEPEXPO_HEAD_MODEL names the file that `python -m deepexpo_models.data.heads.build` made; without it the tests of pictures are
skipped, with their number in the report.
"""

import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from deepexpo_models.data.heads import readers, samples
from deepexpo_models.data.heads.captions import CAPTION_WORDS, captions, context_caption
from deepexpo_models.data.heads.geometry import make_actor
from deepexpo_models.data.heads.people import HAIR_COLOURS, is_held_out, sample_person
from deepexpo_models.data.heads.poses import FRONTAL, camera_direction, euler_matrix, sample_pose
from deepexpo_models.data.heads.regions import face_of, region_of
from deepexpo_models.data.heads.render import even_hair
from deepexpo_models.data.heads.scenery import BACKGROUND_SIDE, BACKGROUNDS, sample_setting
from deepexpo_models.data.heads.shards import (
    CONTEXT,
    FRAMES,
    LABELS,
    PEOPLE,
    SHARD,
    HeadStore,
    context_of,
    render_shard,
    write_shard,
)
from deepexpo_models.data.heads.spoil import OCCLUDERS, camera, spoil
from deepexpo_models.data.heads.units import (
    HELD_OUT_PAIRS,
    INDEX,
    MOODS,
    PAIRED,
    SINGLE,
    _moods,
    mirrored,
    possible,
    sample_expression,
    sample_gaze,
    with_gaze,
)
from deepexpo_models.dsid.alignment import TEMPLATE, TIGHT, place_of, similarity_from_points
from deepexpo_models.dsid.rotation import euler_to_matrix, matrix_to_euler
from deepexpo_models.head import ARKIT52
from fake_heads import write_fake_heads
from rendered_heads import SKIP, head_model, renderer  # noqa: F401

SAMPLES = Path(__file__).parents[2] / "workflows" / "samples"


def test_every_unit_is_moved_by_some_stem():
    moved = {*SINGLE, *(stem + side for stem in PAIRED for side in ("Left", "Right"))}
    assert moved | {name for name in ARKIT52 if name.startswith("eyeLook")} == set(ARKIT52)
    assert all(stem in PAIRED or stem in SINGLE for mood in MOODS.values() for stem in mood)


def test_expressions_are_possible_ones():
    rng = np.random.default_rng(0)
    units = np.stack([sample_expression(rng) for _ in range(400)])
    assert units.min() >= 0 and units.max() <= 1.1
    assert (units[:, INDEX["mouthClose"]] <= units[:, INDEX["jawOpen"]] + 1e-9).all()
    for side in ("Left", "Right"):
        shut = units[:, INDEX[f"eyeBlink{side}"]] >= 1
        assert (units[shut, INDEX[f"eyeWide{side}"]] == 0).all()
    winks = np.abs(units[:, INDEX["eyeBlinkLeft"]] - units[:, INDEX["eyeBlinkRight"]]) > 0.5
    assert 0.04 < winks.mean() < 0.2
    assert 0.05 < (units.sum(1) == 0).mean() < 0.2  # faces at rest


def test_what_is_possible_stays_as_it_is():
    units = possible(np.random.default_rng(0).random(len(ARKIT52)))
    np.testing.assert_allclose(possible(units)[INDEX["browInnerUp"]], units[INDEX["browInnerUp"]])


def test_held_out_pairs_of_moods_are_shown_in_tests_alone():
    rng = np.random.default_rng(0)
    pairs = {split: [tuple(name for name, _ in _moods(rng, split)) for _ in range(600)] for split in ("train", "test")}
    of = {split: {frozenset(pair) for pair in shown if len(pair) == 2} for split, shown in pairs.items()}
    held = {frozenset(pair) for pair in HELD_OUT_PAIRS}
    assert not of["train"] & held and of["test"] == held


def test_mirrored_units_are_the_other_side():
    names = [ARKIT52[i] for i in mirrored()]
    assert names[INDEX["mouthSmileLeft"]] == "mouthSmileRight" and names[INDEX["jawOpen"]] == "jawOpen"
    assert [mirrored()[i] for i in mirrored()] == list(range(len(ARKIT52)))


@pytest.mark.parametrize(
    ("gaze", "raised"),
    [((0.25, 0), {"eyeLookOutLeft", "eyeLookInRight"}), ((0, -0.25), {"eyeLookDownLeft", "eyeLookDownRight"})],
)
def test_a_gaze_is_named_in_units(gaze, raised):
    units = with_gaze(np.zeros(len(ARKIT52)), np.array(gaze))
    assert {ARKIT52[i] for i in np.flatnonzero(units)} == raised and units.max() == pytest.approx(0.5)


def test_gaze_stays_in_its_limits():
    rng = np.random.default_rng(0)
    gazes = np.stack([sample_gaze(rng, np.array([1.2, 0.9])) for _ in range(200)])
    assert np.abs(gazes[:, 0]).max() <= 0.6 and gazes[:, 1].max() <= 0.35 and gazes[:, 1].min() >= -0.5


def test_rotations_follow_the_packs_convention():
    angles = (31.0, -12.0, 7.0)
    expected = euler_to_matrix(torch.tensor([angles], dtype=torch.float64))[0]
    np.testing.assert_allclose(euler_matrix(*angles), expected.numpy(), atol=1e-12)


def test_the_camera_is_seen_where_it_is():
    """A head that turns right sees the camera at its other side: yaw of the eyes is minus that of the head."""
    yaw, pitch = np.degrees(camera_direction(euler_matrix(20, 0, 0)))
    assert yaw == pytest.approx(-20) and pitch == pytest.approx(0, abs=1e-9)
    yaw, pitch = np.degrees(camera_direction(euler_matrix(0, 15, 0)))
    assert yaw == pytest.approx(0, abs=1e-9) and pitch == pytest.approx(-15)


def test_poses_reach_far_and_farther_in_tests():
    rng = np.random.default_rng(0)
    train, test = (np.stack([sample_pose(rng, split) for _ in range(2000)]) for split in ("train", "test"))
    assert 60 < np.abs(train[:, 0]).max() <= 75 < np.abs(test[:, 0]).max() <= 88
    assert (np.abs(train[:, 0]) > 45).mean() > 0.1


def test_settings_have_a_background_of_every_kind():
    rng = np.random.default_rng(0)
    settings = [sample_setting(rng, [rng.integers(0, 256, (80, 90, 3), dtype=np.uint8)]) for _ in range(60)]
    assert {setting.background_kind for setting in settings} == set(BACKGROUNDS)
    for setting in settings:
        assert setting.background.shape == (BACKGROUND_SIDE, BACKGROUND_SIDE, 3)
        assert 0 <= setting.background.min() and setting.background.max() <= 1
        assert np.linalg.norm(setting.light.key_dir) == pytest.approx(1)


@pytest.mark.parametrize("occluder", sorted(set(OCCLUDERS), key=lambda function: function.__name__))
def test_occluders_hide_a_part_of_the_picture(occluder):
    rng = np.random.default_rng(3)
    shares = [
        (occluder(rng, np.full((64, 64, 3), 128, np.uint8), np.array([0.8, 0.6, 0.5]), np.zeros(2))[1] > 0).mean()
        for _ in range(20)
    ]
    assert 0 < np.mean(shares) < 0.5


def test_spoiling_depends_on_the_generator_alone():
    picture = np.random.default_rng(1).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    first, second = (spoil(picture, np.random.default_rng(5), np.ones(3) / 2, np.zeros(2)) for _ in range(2))
    assert first.shape == picture.shape and first.dtype == np.uint8 and (first == second).all()
    assert any((camera(picture, np.random.default_rng(seed)) != picture).any() for seed in range(3))


def test_files_of_makehuman_are_read(tmp_path):
    (tmp_path / "m.obj").write_text("# a\nv 0 0 0\nv 1 0 0\nv 1 1 0\nv 0 1 0\nvt 0 0\nvt 1 1\ng body\nf 1/1 2/2 3/1 4/2\n")
    (tmp_path / "t.target").write_text("# c\n1 .5 0 -1\n3 0 2 0\n")
    (tmp_path / "f.mhclo").write_text("name x\nx_scale 0 1 2.0\nverts 0\n0 1 2 .5 .25 .25 1 0 0\n3\n")
    mesh = readers.read_mesh(tmp_path / "m.obj")
    assert mesh.faces == [("body", [(0, 0), (1, 1), (2, 0), (3, 1)])]
    np.testing.assert_allclose(readers.read_target(tmp_path / "t.target", 4)[[1, 3]], [[0.5, 0, -1], [0, 2, 0]])
    fitting = readers.read_fitting(tmp_path / "f.mhclo", mesh.vertices)
    assert fitting.vertices.tolist() == [[0, 1, 2], [3, 3, 3]] and fitting.offsets[0, 0] == pytest.approx(0.5)


def test_a_target_of_another_mesh_is_refused(tmp_path):
    (tmp_path / "t.target").write_text("9 0 0 0\n")
    with pytest.raises(ValueError, match=r"moves vertex 9, but the base mesh has 4"):
        readers.read_target(tmp_path / "t.target", 4)


def test_missing_data_is_told_in_one_sentence(tmp_path):
    with pytest.raises(ValueError, match=r"cannot be read .*MakeHuman"):
        readers.read_mesh(tmp_path / "no.obj")
    with pytest.raises(ValueError, match="holds no rendered heads; render some"):
        HeadStore(tmp_path)


@SKIP
def test_a_head_is_where_its_labels_say(renderer):  # noqa: F811
    shard = _shard(renderer)
    assert shard["images"].shape == (SHARD, renderer.size, renderer.size, 3)
    assert all(shard[name].shape[1:] == shape for name, shape in LABELS.items())
    _, place, scale = place_of(similarity_from_points(torch.from_numpy(shard["five"])))
    frontal = matrix_to_euler(torch.from_numpy(shard["rotation"]))[:, 0].abs() < 20
    assert place[frontal].mean(0).abs().max() < 0.12 and scale[frontal].mean().abs() < 0.12


@SKIP
def test_people_of_a_group_play_the_same(renderer):  # noqa: F811
    shard = _shard(renderer)
    units = shard["units"].reshape(-1, PEOPLE, FRAMES, len(ARKIT52))
    rotation = shard["rotation"].reshape(-1, PEOPLE, FRAMES, 3, 3)
    assert (units == units[:, :1]).all()
    for member in range(PEOPLE):
        np.testing.assert_array_equal(rotation[:, member], np.roll(rotation[:, 0], -member, axis=1))


def test_hair_painted_black_takes_a_colour_as_other_hair_does():
    """What counts is how bright a place is beside the strands' mean; where nothing is brighter, all of it is the mean."""
    alpha = np.full((8, 8, 1), 255, np.uint8)
    alpha[:, 4:] = 0
    black, waves = np.zeros((8, 8, 3), np.uint8), np.zeros((8, 8, 3), np.uint8)
    waves[:4, :4], waves[:, 4:] = 8, 255  # what is not seen does not count
    assert (even_hair(np.concatenate([black, alpha], 2))[..., :3] == 127).all()
    for bright in (1, 20):
        even = even_hair(np.concatenate([waves * np.uint8(bright), alpha], 2))
        assert (even[:4, :4, :3] > 200).all() and (even[4:, :4, :3] == 0).all() and (even[..., 3:] == alpha).all()


@SKIP
def test_hair_has_the_colour_that_captions_name(renderer):  # noqa: F811
    """Of every style and of brows: as MakeHuman painted them, black ones stayed black whatever their colour."""
    model, rng = renderer.model, np.random.default_rng(0)
    parts = model.names, model.skins, model.hairs, model.brows, model.lashes
    person, setting = sample_person(rng, *parts, "train"), sample_setting(rng)
    dark, blond = (np.array(HAIR_COLOURS[name]) for name in ("black", "blond"))
    turn, rest = euler_matrix(0, 0, 0), np.zeros(len(ARKIT52))
    for hair, brow in zip(model.hairs, model.brows):
        looks = [replace(person, hair=hair, brow=brow, hat=None, hair_colour=c, brow_colour=c) for c in (dark, blond)]
        drawn = [renderer.render(make_actor(model, look), rest, np.zeros(2), turn, turn, setting) for look in looks]
        before, after = (each.picture.astype(float) for each in drawn)
        changed = np.abs(after - before).max(2) > 8
        assert changed.mean() > 0.02 and (after - before)[changed].mean() > 40, hair


@SKIP
def test_clothes_are_named_where_they_are_seen(renderer):  # noqa: F811
    model, rng = renderer.model, np.random.default_rng(0)
    actor = make_actor(model, sample_person(rng, model.names, model.skins, model.hairs, model.brows, model.lashes, "train"))
    turn, rest, setting = euler_matrix(0, 0, 0), np.zeros(len(ARKIT52)), sample_setting(rng)
    red, blue = (replace(setting, cloth=np.eye(3)[i], cloth_second=np.eye(3)[i]) for i in (0, 2))
    for shift, fewest, most in ((-0.7, 0.0, 0.01), (0.3, 0.05, 0.6)):
        up = np.array([0, shift])
        drawn = [renderer.render(actor, rest, np.zeros(2), turn, turn, replace(each, shift=up)) for each in (red, blue)]
        seen = (drawn[0].picture != drawn[1].picture).any(2).mean()
        assert fewest <= drawn[0].cloth <= most and drawn[0].cloth == pytest.approx(seen, abs=0.01), shift
    context = context_of(actor.person, setting, False, False)
    assert context[CONTEXT.index("cloth")] == context[CONTEXT.index("pattern")] == -1
    assert "clothes" not in context_caption(torch.from_numpy(context))


@SKIP
def test_the_same_numbers_give_the_same_pictures(renderer, tmp_path):  # noqa: F811
    first = write_shard(renderer, tmp_path / "a", 0, 3, "test", [], "x")
    before = np.load(first / "images.npy")
    assert write_shard(renderer, tmp_path / "a", 0, 3, "test", [], "x") == first  # kept
    again = write_shard(renderer, tmp_path / "b", 0, 3, "test", [], "x")
    assert (np.load(again / "images.npy") == before).all()
    with pytest.raises(ValueError, match="was rendered with another seed"):
        write_shard(renderer, tmp_path / "a", 0, 4, "test", [], "x")


@SKIP
def test_held_out_people_are_seen_in_tests_alone(head_model):  # noqa: F811
    model, rng = head_model, np.random.default_rng(0)
    parts = model.names, model.skins, model.hairs, model.brows, model.lashes
    for split in ("train", "test"):
        people = [sample_person(rng, *parts, split) for _ in range(20)]
        assert {is_held_out(person, model.skins, model.hairs) for person in people} == {split == "test"}


@SKIP
def test_lashes_follow_the_lids(head_model):  # noqa: F811
    """A blink moves the lashes down by about what it moves the upper lid."""
    blink = np.zeros(len(ARKIT52))
    blink[[INDEX["eyeBlinkLeft"], INDEX["eyeBlinkRight"]]] = 1
    lid = head_model.move("skin", blink)[:, 1].min()
    assert head_model.move(head_model.lashes[0], blink)[:, 1].min() < 0.6 * lid < 0


def _shard(drawing):
    if not hasattr(drawing, "kept"):
        drawing.kept = render_shard(drawing, 0, 0, "train")
    return drawing.kept


def test_frontal_is_a_turn_of_a_few_degrees():
    yaw, pitch, roll = matrix_to_euler(torch.from_numpy(FRONTAL)).tolist()
    assert abs(yaw) < 1 and abs(roll) < 1 and -8 < pitch < -2


def test_captions_name_the_context_in_words_that_the_vocabulary_has(tmp_path):
    store = HeadStore(write_fake_heads(tmp_path))
    told = captions(store.heads(torch.arange(len(store))), torch.Generator().manual_seed(0))
    words = {word for sentence in told for word in re.findall("[a-z]+", sentence)}
    assert words <= set(CAPTION_WORDS) and all("clothes" in sentence for sentence in told)
    assert any("open mouth" in sentence for sentence in told) and any("looking to the left" in sentence for sentence in told)


def test_regions_lie_on_eyes_and_mouth():
    five = torch.tensor(TEMPLATE)[None] * TIGHT
    region, face = region_of(five, 64), face_of(five, 64)
    at = ((five[0] + 1) * 32).long()
    for x, y in at[[0, 1, 3, 4]].tolist():
        assert region[0, 0, y, x] > 0.5
    assert region[0, 0, :10].max() < 0.05 and face[0, 0, 32, 32] > 0.9 and region.shape == face.shape == (1, 1, 64, 64)


def test_the_photograph_of_sample_face_is_the_astronaut():
    """That all else there is as its command makes it needs the head model, see `rendered_heads`."""
    pytest.importorskip("skimage")
    with Image.open(SAMPLES / "photograph.png") as kept:
        assert np.array_equal(np.array(kept), samples.photograph())


@SKIP
def test_sample_heads_play_what_they_are_named_for(head_model):  # noqa: F811
    """Drawn anew they are the kept pictures, but for what another OpenGL rounds."""
    large = samples.HeadRenderer(head_model, samples.SIZE * samples.FINER)
    for name, how in samples.HEADS.items():
        with Image.open(SAMPLES / f"{name}.png") as kept:
            difference = np.array(kept).astype(float) - samples.draw_head(large, *how)
        assert abs(difference).mean() < 1, name

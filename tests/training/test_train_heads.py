"""Training of the semantic encoder on rendered heads, here on noise: labels stay right, runs resume, the file is whole."""

import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch

from deepexpo_models.data.heads import judged
from deepexpo_models.data.heads.poses import euler_matrix
from deepexpo_models.data.heads.shards import FRAMES, PEOPLE, RECOGNISED, SHARD, HeadStore
from deepexpo_models.data.studio import same_expression, same_pose
from deepexpo_models.dsid import CONFIGS, DSID, load_dsid, save_dsid
from deepexpo_models.dsid.alignment import place_of, similarity_from_points
from deepexpo_models.dsid.readout import ReadOut
from deepexpo_models.dsid.rotation import geodesic_angle, matrix_to_euler
from deepexpo_models.evaluation.metrics import area_under_curve
from deepexpo_models.faces.landmarks import FaceMesh
from deepexpo_models.head import ARKIT52
from deepexpo_models.training import ask_recogniser, fit_averaging, fit_readout, train_heads
from deepexpo_models.training.engine.settings import parse_settings
from deepexpo_models.training.heads import identity
from deepexpo_models.training.heads import step as heads_step
from deepexpo_models.training.heads import views as heads_views
from deepexpo_models.training.train_heads import HeadsSettings
from fake_heads import write_fake_heads, write_judged

COMMON = ("--batch-size", "4", "--threads", "1", "--log-every", "1", "--warmup", "1", "--sample-every", "0")


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_fake_heads(tmp_path_factory.mktemp("heads"))


@pytest.fixture(scope="module")
def store(folder):
    return HeadStore(folder)


def run(out, folder, *more) -> object:
    return train_heads.train(parse_settings(HeadsSettings, ["--out", str(out), "--heads", str(folder), *COMMON, *more]))


def test_others_play_the_same_expression_and_the_same_pose(store):
    rows = store.sample(64, seeded())
    actors, posers = same_expression(rows, seeded(1)), same_pose(rows, seeded(2))
    for others in (actors, posers):
        assert (rows // FRAMES != others // FRAMES).all(), "of another person"
        assert (rows // (FRAMES * PEOPLE) == others // (FRAMES * PEOPLE)).all(), "of the group"
    torch.testing.assert_close(store.heads(rows).units, store.heads(actors).units)
    torch.testing.assert_close(store.heads(rows).rotation, store.heads(posers).rotation)
    assert (store.heads(rows).rotation - store.heads(actors).rotation).abs().amax((1, 2)).min() > 1e-3


def test_labels_go_with_a_picture_that_is_turned_and_mirrored(store):
    heads = store.heads(torch.arange(8))
    plain = heads_views.plain_views(heads)
    ones = torch.ones(8)
    moved = heads_views._move(plain, ones * 0.2, ones * 1.1, torch.tensor([[0.1, -0.05]]).expand(8, 2))
    roll, place, scale = place_of(similarity_from_points(moved.five))
    torch.testing.assert_close(roll, torch.rad2deg(ones * 0.2)[:, None], atol=1e-3, rtol=0)
    torch.testing.assert_close(scale, torch.log(ones * 1.1)[:, None], atol=1e-5, rtol=0)
    torch.testing.assert_close(place, torch.tensor([[0.1, -0.05]]).expand(8, 2), atol=1e-5, rtol=0)
    before, after = matrix_to_euler(plain.rotation), matrix_to_euler(moved.rotation)
    torch.testing.assert_close(after[:, :2], before[:, :2], atol=1e-3, rtol=0)
    torch.testing.assert_close(after[:, 2] - before[:, 2], torch.rad2deg(ones * 0.2), atol=1e-3, rtol=0)
    mirrored = heads_views._mirror(plain, ones.bool())
    signs = torch.tensor([-1.0, 1.0, -1.0])
    torch.testing.assert_close(matrix_to_euler(mirrored.rotation), before * signs, atol=1e-3, rtol=0)
    left, right = (ARKIT52.index(f"mouthSmile{side}") for side in ("Left", "Right"))
    torch.testing.assert_close(mirrored.units[:, left], plain.units[:, right])
    again = heads_views._mirror(mirrored, ones.bool())
    for name in ("images", "rotation", "judged_rotation", "units", "gaze", "five", "surface"):
        torch.testing.assert_close(getattr(again, name), getattr(plain, name), equal_nan=True)
    assert not again.surface_known.any()


def test_the_landmarkers_words_teach_where_it_was_asked(store):
    """Rows without a word, and units that it does not tell, pull at nothing; a mirrored picture has mirrored words."""
    views = heads_views.plain_views(replace(store.heads(torch.arange(8)), judged=torch.full((8, 52), torch.nan)))
    step = heads_step.HeadsStep(DSID(CONFIGS["photo"]).semantic_encoder, torch.ones(52), torch.full((52,), torch.nan))
    assert step(views, seeded())["judged"] == 0
    views.judged[3:5, :51] = 1.0
    step.told.weight.data.zero_()
    step.told.bias.data.zero_()
    term = step(views, seeded())["judged"]
    assert term.item() == pytest.approx(0.5 / heads_step.SPREAD_FLOOR**2, rel=1e-4)
    term.backward()
    moved = step.told.bias.grad.abs() > 0
    assert moved[:51].all() and not moved[51]
    left, right = (ARKIT52.index(f"mouthSmile{side}") for side in ("Left", "Right"))
    views.judged[3, left] = 0.25
    mirrored = heads_views._mirror(views, torch.ones(8).bool())
    assert mirrored.judged[3, right] == 0.25 and mirrored.judged[3, left] == 1 and mirrored.judged[0].isnan().all()


def test_a_moved_picture_shows_its_content_where_its_points_say(store):
    """A bright dot at a point of the five is found at the moved point."""
    heads = store.heads(torch.arange(2))
    images = torch.full_like(heads.images, -1)
    at = ((heads.five[:, 4] + 1) * 64).long()
    for row, (x, y) in enumerate(at.tolist()):
        images[row, :, y - 1 : y + 2, x - 1 : x + 2] = 1
    views = heads_views._move(
        heads_views.plain_views(replace(heads, images=images)),
        torch.full((2,), -0.3),
        torch.full((2,), 0.9),
        torch.full((2, 2), 0.1),
    )
    brightest = views.images.mean(1).flatten(1).argmax(1)
    found = torch.stack([brightest % 128, brightest // 128], 1)
    assert (found - (views.five[:, 4] + 1) * 64).abs().max() < 3


def test_a_run_resumes_and_releases_a_whole_file(folder, tmp_path):
    whole = run(tmp_path / "whole", folder, "--steps", "4", "--test", str(folder), "--sample-every", "4")
    assert run(tmp_path / "halves", folder, "--steps", "4", "--max-minutes", "0.0001") is None
    halves = run(tmp_path / "halves", folder, "--steps", "4")
    first, second = load_dsid(whole), load_dsid(halves)
    assert first.encoder == second.encoder  # bit for bit
    torch.testing.assert_close(first.readout.weight, second.readout.weight)
    assert first.generator is None and first.readout.names[:52] == ARKIT52
    codes = first.float().encode_semantics(torch.zeros(1, 3, 128, 128))
    assert first.readout.arkit52(codes["expression"]).shape == (1, 52)
    with pytest.raises(ValueError, match="holds encoders alone"):
        first.reenact(torch.zeros(1, 256), **codes)


def test_an_odd_batch_is_refused(folder, tmp_path):
    with pytest.raises(SystemExit):
        run(tmp_path, folder, "--batch-size", "3")


def test_a_direction_raises_its_factor_alone():
    generator = seeded()
    readout = ReadOut.of_units(torch.randn(54, 128, generator=generator), torch.randn(54, generator=generator))
    code = torch.randn(1, 128, generator=generator)
    change = readout.read(code + readout.direction("jawOpen")) - readout.read(code)
    expected = torch.nn.functional.one_hot(torch.tensor([readout.names.index("jawOpen")]), 54).float()
    torch.testing.assert_close(change, expected, atol=1e-3, rtol=0)


def test_a_damaged_read_out_is_refused():
    tensors = ReadOut.of_units(torch.zeros(54, 8), torch.zeros(54)).tensors()
    with pytest.raises(ValueError, match="read-outs are damaged"):
        ReadOut.from_file(tensors, "[[1]]")
    assert ReadOut.from_file({}, "") is None


def test_the_identity_encoder_learns_beside_a_given_semantic_one(folder, tmp_path):
    start = run(tmp_path / "semantics", folder, "--steps", "1")
    given = load_dsid(start)
    given.trained_on = ("photographs",)
    first = tmp_path / "photographs.safetensors"
    save_dsid(first, given, given.encoder)
    second = run(
        tmp_path / "identity", folder, "--part", "identity", "--steps", "2", "--init", str(first), "--test", str(folder),
        "--sample-every", "2",
    )  # fmt: skip
    before, after = load_dsid(first), load_dsid(second)
    torch.testing.assert_close(before.readout.weight, after.readout.weight)
    assert all(torch.equal(a, b) for a, b in zip(before.semantic_encoder.parameters(), after.semantic_encoder.parameters()))
    assert not torch.equal(before.identity_encoder.encoder.head.weight, after.identity_encoder.encoder.head.weight)
    assert before.encoder != after.encoder
    assert after.trained_on == ("rendered heads", "photographs"), "what the given file had learned from is said as well"


def test_a_person_is_shown_in_two_places(store):
    people = identity.sample_pairs(store, 8, seeded())
    assert people.first.shape == people.second.shape == (8, 3, 128, 128) and people.traits.shape == (8, len(identity.TRAITS))
    terms = identity.IdentityStep(DSID(CONFIGS["photo"]).identity_encoder, store.recognised(torch.arange(4)))(people)
    assert terms["told"] == terms["alike"] == 0, "nobody was asked"


def test_a_recognisers_words_teach_where_it_was_asked(folder, tmp_path):
    """Each picture's own vector; what all faces have in common is taken off; unknown rows pull at nothing."""
    shutil.copytree(folder, tmp_path / "heads")
    vectors = torch.randn(SHARD, 6, generator=seeded(3)) + 5
    vectors[1::2] = torch.nan
    np.savez(tmp_path / "heads/shard-00000" / RECOGNISED, vectors=vectors.numpy(), recogniser=np.array("dlib"))
    store = HeadStore(tmp_path / "heads")
    rows = torch.arange(SHARD)
    torch.testing.assert_close(store.recognised(rows), vectors, equal_nan=True)
    step = identity.IdentityStep(DSID(CONFIGS["photo"]).identity_encoder, store.recognised(rows))
    torch.testing.assert_close(step.middle, vectors[::2].mean(0))
    people = identity.sample_pairs(store, 16, seeded())
    known = people.told.isfinite().all(1)
    assert people.told.shape == (32, 6) and 0 < known.sum() < 32
    terms = step(people)
    assert 0 < terms["told"] < 2 and terms["alike"] > 0
    terms["told"].backward(retain_graph=True)
    assert step.told.weight.grad.abs().sum() > 0
    others = replace(people, told=torch.where(known[:, None], people.told, people.told + 1))
    torch.testing.assert_close(step(others)["alike"], terms["alike"])


def test_codes_as_alike_as_the_recognisers_cost_nothing():
    told = torch.nn.functional.normalize(torch.randn(9, 6, generator=seeded()), dim=-1)
    turned = told @ torch.linalg.qr(torch.randn(6, 6, generator=seeded(1)))[0]
    assert identity.unlikeness(turned, told) < 1e-10 and identity.unlikeness(told.flip(0), told) > 0.01
    assert identity.unlikeness(told[:1], told[:1]) == identity.unlikeness(told[:0], told[:0]) == 0


def test_a_recogniser_is_asked_once_for_each_shard(folder, tmp_path, monkeypatch, capsys):
    """Every second picture here; what another one saw is not mixed in."""

    class Judge:
        def measure(self, images):
            assert images.shape[1:] == (3, 256, 256)
            return {"identity": torch.arange(float(len(images)))[:, None].expand(-1, 4)}

    shutil.copytree(folder, tmp_path / "heads")
    shard = tmp_path / "heads/shard-00000"
    monkeypatch.setattr(ask_recogniser, "_worker", {"judge": Judge(), "every": 2, "name": "dlib"})
    ask_recogniser._write(shard)
    vectors = HeadStore(tmp_path / "heads").recognised(torch.arange(SHARD))
    assert vectors[::2, 0].tolist() == list(range(SHARD // 2)) and vectors[1::2].isnan().all()
    monkeypatch.setattr(ask_recogniser, "open_judge", lambda *_: None)
    asked = ["--heads", str(tmp_path / "heads"), "--recogniser"]
    ask_recogniser.main([*asked, "dlib"])  # nothing is left
    for words, sentence in (
        ([*asked, "antelopev2"], "was shown to dlib"),
        (["--heads", str(tmp_path), *asked[2:], "dlib"], "no rendered"),
    ):
        with pytest.raises(SystemExit):
            ask_recogniser.main(words)
        assert sentence in capsys.readouterr().err


def test_the_area_under_the_curve():
    assert area_under_curve(torch.tensor([0.9, 0.8]), torch.tensor([0.1, 0.2, 0.3])) == 1
    assert area_under_curve(torch.tensor([0.5, 0.1]), torch.tensor([0.3, 0.0])) == pytest.approx(0.75)


def test_equal_codes_of_two_people_cost_nothing():
    code = torch.randn(16, 5, generator=seeded())
    same = heads_step._same_expression(code.repeat(2, 1))
    other = heads_step._same_expression(torch.randn(4000, 5, generator=seeded(1)))
    assert same == 0 and other == pytest.approx(1, abs=0.1)


def test_shards_that_come_later_keep_the_rows_of_the_first(tmp_path):
    """Also one whose number is lower than what is there: shards of several machines come in any order."""
    folder = write_fake_heads(tmp_path / "heads")
    late = folder / "shard-00005"
    (folder / "shard-00000").rename(late)
    write_judged(late, np.full((SHARD, len(ARKIT52)), 5))
    store = HeadStore(folder)
    rows, before = torch.arange(SHARD), store.heads(torch.arange(SHARD))
    shutil.copytree(late, folder / "shard-00003")
    first = folder / "shard-00003"
    np.save(first / "images.npy", 255 - np.load(late / "images.npy"))
    write_judged(first, np.full((SHARD, len(ARKIT52)), 3))
    assert store.refresh() == 2 * SHARD == store.refresh()
    after, new = store.heads(rows), store.heads(rows + SHARD)
    assert torch.equal(after.images, before.images) and (after.judged == 5).all()
    torch.testing.assert_close(new.images, -before.images)
    assert (new.judged == 3).all()


def test_a_landmarkers_numbers_are_written_beside_a_shard():
    mesh = FaceMesh(torch.zeros(478, 3), {"jawOpen": 0.5}, 1.0, 2 * torch.eye(4))
    found = iter([[mesh], []])
    words = judged.judge(torch.zeros(2, 3, 128, 128), lambda image: next(found) if image.shape == (256, 256, 3) else None)
    rows, turned = words["units"], words["rotation"]
    assert rows.shape == (2, 52) and rows[0, ARKIT52.index("jawOpen")] == 0.5 and np.isnan(rows[1]).all()
    assert turned.shape == (2, 3, 3) and np.allclose(turned[0], np.eye(3)) and np.isnan(turned[1]).all()


def test_a_rotation_is_the_landmarkers_where_it_has_found_the_face(tmp_path):
    """Ten degrees off are its words, thirty are a miss, and one that was not asked has none; a moved picture moves both."""
    folder = write_fake_heads(tmp_path)
    true = np.load(folder / "shard-00000" / "rotation.npy")
    turned = true.copy()
    for row, angle in ((0, 10.0), (1, 30.0)):
        turned[row] = euler_matrix(0, angle, 0) @ true[row]
    turned[2] = np.nan
    write_judged(folder / "shard-00000", np.zeros((SHARD, 52)), turned)
    views = heads_views.plain_views(HeadStore(folder).heads(torch.arange(3)))
    told = heads_step.told_rotation(views, 15.0)
    torch.testing.assert_close(told[0], torch.from_numpy(turned[0]).float())
    torch.testing.assert_close(told[1:], views.rotation[1:])
    assert torch.equal(heads_step.told_rotation(views, 0.0), views.rotation)
    moved = heads_views._move(views, torch.full((3,), 0.4), torch.ones(3), torch.zeros(3, 2))
    apart = [geodesic_angle(heads_step.told_rotation(v, 15.0), v.rotation) for v in (views, moved)]
    torch.testing.assert_close(apart[1], apart[0], atol=1e-3, rtol=0)
    assert torch.rad2deg(apart[1]).tolist() == pytest.approx([10, 0, 0], abs=0.1)


def test_read_outs_are_fitted_to_the_landmarkers_numbers():
    """What is linear in a code is found again; what was not asked, and the gaze, stays."""
    generator = seeded()
    codes = torch.randn(600, 16, generator=generator) * torch.rand(16, generator=generator) + 1
    before = ReadOut.of_units(torch.randn(54, 16, generator=generator), torch.zeros(54))
    truth, offset = torch.randn(16, generator=generator), 0.3
    jaw = ARKIT52.index("jawOpen")
    numbers = torch.full((600, 52), torch.nan)
    numbers[50:, jaw] = codes[50:] @ truth + offset
    after = fit_readout.fit_readout(before, codes, numbers, share=1e-9)
    torch.testing.assert_close(after.weight[jaw], truth, atol=1e-4, rtol=1e-4)
    assert after.bias[jaw] == pytest.approx(offset, abs=1e-4)
    others = [row for row in range(54) if row != jaw]
    assert torch.equal(after.weight[others], before.weight[others])
    with pytest.raises(ValueError, match="too few"):
        fit_readout.fit_readout(before, codes[:60], numbers[:60])


def test_a_file_with_fitted_read_outs_keeps_its_encoder(folder, tmp_path):
    first = run(tmp_path / "semantics", folder, "--steps", "1")
    heads = write_fake_heads(tmp_path / "heads")
    units = np.load(heads / "shard-00000" / "units.npy")
    write_judged(heads / "shard-00000", units * 0.5)
    fit_readout.main(["--dsid", str(first), "--heads", str(heads), "--out", str(tmp_path / "fitted.safetensors")])
    before, after = load_dsid(first), load_dsid(tmp_path / "fitted.safetensors")
    assert before.encoder == after.encoder and not torch.equal(before.readout.weight[:52], after.readout.weight[:52])
    with pytest.raises(SystemExit):
        fit_readout.main(["--dsid", str(first), "--heads", str(folder), "--out", str(tmp_path / "none.safetensors")])


def test_averaging_finds_a_linear_mirror():
    generator = torch.Generator().manual_seed(4)
    mirrored = torch.randn(400, 8, generator=generator)
    truth, offset = torch.randn(8, 8, generator=generator), torch.randn(8, generator=generator)
    found = fit_averaging.fit_averaging(mirrored @ truth.T + offset, mirrored, (0.6,))
    torch.testing.assert_close(found.weight, truth, atol=0.02, rtol=0.02)
    torch.testing.assert_close(found.bias, offset, atol=0.02, rtol=0.02)
    assert found.zooms.tolist() == pytest.approx([0.6])
    with pytest.raises(ValueError, match="7 pictures are too few for codes of 8 entries; render more heads"):
        fit_averaging.fit_averaging(mirrored[:7], mirrored[:7])


def test_a_file_with_averaging_keeps_its_encoder_and_loses_it_where_that_learns(folder, tmp_path, capsys):
    first, with_it = run(tmp_path / "semantics", folder, "--steps", "1"), tmp_path / "averaging.safetensors"
    heads = write_fake_heads(tmp_path / "heads")
    fit_averaging.main(["--dsid", str(first), "--heads", str(heads), "--out", str(with_it)])
    before, after = load_dsid(first), load_dsid(with_it)
    assert before.encoder == after.encoder and before.averaging is None
    assert after.averaging.zooms.tolist() == pytest.approx(fit_averaging.ZOOMS)
    again = run(tmp_path / "again", folder, "--steps", "1", "--init", str(with_it))
    assert load_dsid(again).averaging is None and load_dsid(again).encoder != after.encoder
    known = load_dsid(run(tmp_path / "people", folder, "--part", "identity", "--steps", "1", "--init", str(with_it))).averaging
    assert known is not None and torch.equal(known.weight, after.averaging.weight)
    with pytest.raises(SystemExit):
        fit_averaging.main(["--dsid", str(first), "--heads", str(tmp_path), "--out", str(tmp_path / "none.safetensors")])

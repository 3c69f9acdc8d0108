"""Training of DSID end to end on tiny data: drawn shards, and real files that show drawn people."""

import json
import math
import shutil
import warnings
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from deepexpo_models.data.heads.shards import CONTEXT, SHARD, HeadStore
from deepexpo_models.data.studio import FRAMES as FRAMES_OF_STUDIO
from deepexpo_models.data.synthetic import render, sample_scenes, shards, smooth_clip
from deepexpo_models.data.transforms import random_similarity
from deepexpo_models.dsid import CONFIGS, DSID, load_dsid, save_dsid
from deepexpo_models.dsid.alignment import TEMPLATE, TIGHT, place_of, similarity_from_points, transform_points
from deepexpo_models.dsid.losses import EncoderPerceptual
from deepexpo_models.dsid.readout import ReadOut
from deepexpo_models.dsid.rotation import matrix_to_euler, rotation_to_matrix
from deepexpo_models.evaluation import rendered_heads
from deepexpo_models.head import ARKIT52
from deepexpo_models.training import train_dsid
from deepexpo_models.training.dsid import batches as dsid_batches
from deepexpo_models.training.dsid.clips import RealFaces, pose_from_labels
from deepexpo_models.training.dsid.heads import RenderedHeads
from deepexpo_models.training.dsid.meters import meters, unlabelled
from deepexpo_models.training.train_dsid import DSIDSettings
from fake_heads import write_fake_heads

SIZE = CONFIGS["starter"].image_size
PEOPLE, FRAMES = 4, 12
COMMON = ("--batch-size", "4", "--generated", "2", "--threads", "1", "--log-every", "1", "--warmup", "1")


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.fixture(scope="module")
def films(tmp_path_factory) -> Path:
    """Videos of PEOPLE drawn people who move smoothly, the last with labels; beside them stills of three others."""
    root = tmp_path_factory.mktemp("films")
    (root / "clips").mkdir()
    for person in range(PEOPLE):
        scene = smooth_clip(FRAMES, seeded(person), fps=10)
        drawn = render(scene, SIZE)
        writer = cv2.VideoWriter(str(root / f"clips/p{person}.mp4"), cv2.VideoWriter_fourcc(*"mp4v"), 10, (SIZE, SIZE))
        for picture in pixels(drawn.images):
            writer.write(picture[..., ::-1])
        writer.release()
        if person == PEOPLE - 1:

            def label(row, s=scene, d=drawn):
                return {"points": ((d.points[row] + 1) * SIZE / 2).tolist(), "pose": s.pose[row, :3].tolist()}

            (root / f"clips/p{person}.json").write_text(json.dumps({"frames": {row: label(row) for row in range(FRAMES)}}))
    (root / "stills").mkdir()
    for person in range(3):
        Image.fromarray(pixels(render(smooth_clip(1, seeded(9 + person)), SIZE).images)[0]).save(root / f"stills/s{person}.png")
    return root


@pytest.fixture(scope="module")
def drawn(tmp_path_factory) -> Path:
    """One shard of two groups."""
    folder = tmp_path_factory.mktemp("drawn")
    with pytest.MonkeyPatch.context() as patch:
        small_shards(patch)
        shards.write_shard(folder, 0, size=SIZE)
    return folder


@pytest.fixture(autouse=True)
def small(monkeypatch):
    """Shards of two groups, and four held-out people."""
    small_shards(monkeypatch)
    whole = dsid_batches.held_out_faces
    monkeypatch.setattr(dsid_batches, "held_out_faces", lambda size: whole(size, groups=4))


def small_shards(patch) -> None:
    patch.setattr(shards, "GROUPS_PER_SHARD", 2)
    patch.setattr(shards, "SHARD", 2 * shards.PEOPLE * shards.FRAMES)


def pixels(images: torch.Tensor) -> np.ndarray:
    """(B, 3, S, S) in [-1, 1] -> (B, S, S, 3) uint8."""
    return ((images + 1) * 127.5).round().byte().movedim(1, -1).numpy()


def run(*arguments) -> None:
    train_dsid.main([str(argument) for argument in (*arguments, *COMMON)])


def log(out: Path) -> list[dict]:
    return [json.loads(line) for line in (out / "log.jsonl").read_text().splitlines()]


def settings(films: Path, **changes) -> DSIDSettings:
    return DSIDSettings(**{"out": "unused", "clips": str(films / "clips"), "stills": str(films / "stills")} | changes)


def test_training_on_clips(films, tmp_path):
    run("--clips", films / "clips", "--out", tmp_path, "--steps", 3, "--sample-every", 2)
    lines = log(tmp_path)
    values = [value for line in lines for value in line.values() if isinstance(value, float)]
    assert len(lines) == 3 and all(map(math.isfinite, values))
    assert {"picture", "identity", "frames", "cycle", "grad_norm"} <= set(lines[0]) and "expression" not in lines[0]
    assert {"icc_identity", "leak_expression_pose", "psnr_self", "psnr_swap"} <= set(lines[1]), "meters on held-out people"
    assert Image.open(next((tmp_path / "samples").glob("swap*.png"))).size[0] >= 5 * SIZE
    model = load_dsid(tmp_path / "dsid.safetensors").float()
    assert model.encode_identity(torch.zeros(1, 3, SIZE, SIZE)).shape == (1, CONFIGS["starter"].identity_width)
    assert model.trained_on == ("photographs",)


def test_what_nobody_knows_is_not_in_the_log(films, tmp_path, capsys):
    """Clips without any label: no pose of 0.0 degrees, no label term, and one line for each that says why."""
    shutil.copytree(films / "clips", tmp_path / "clips", ignore=shutil.ignore_patterns("*.json"))
    run("--clips", tmp_path / "clips", "--out", tmp_path / "run", "--steps", 2, "--sample-every", 2)
    lines = log(tmp_path / "run")
    assert any("psnr_self" in line for line in lines)
    assert not {"pose", "pose_degrees", "label", "traits"} & {name for line in lines for name in line}
    told = capsys.readouterr().out
    assert told.count("the log has no pose at step 1: no picture has a pose label in its batch") == 1
    assert told.count("the log has no") == 3


def test_people_of_one_picture_have_no_agreement():
    """Two equal pictures agree perfectly, which says nothing: no icc, no top1; both are there for the people seen twice."""
    torch.manual_seed(0)
    model, batch = DSID(CONFIGS["small"]).eval(), dsid_batches.held_out_faces(CONFIGS["small"].image_size)
    agreement = {"icc_identity", "icc_expression", "top1"}
    assert agreement | {"pose_degrees"} <= meters(model, batch).keys() and not unlabelled(batch)
    stills = replace(batch, source=batch.target, still=torch.ones(4, dtype=torch.bool))
    assert not agreement & meters(model, stills).keys() and set(unlabelled(stills)) == {"identity", "pair", "frames"}
    some = replace(stills, still=torch.tensor([True, False, True, False]))
    assert agreement <= meters(model, some).keys() and not unlabelled(some)


def test_training_on_drawn_faces_and_its_exact_resume(drawn, tmp_path):
    """The state of step 2 alone, and the same command again: the same file as without a stop, bit by bit."""
    command = ("--synthetic", drawn, "--out", tmp_path, "--steps", 3, "--save-every", 2, "--keep", 2, "--sample-every", 0)
    run(*command)
    lines = log(tmp_path)
    assert {"picture", "expression", "pose"} <= set(lines[0]) and lines[0]["pose"] > 0
    released = tmp_path / "dsid.safetensors"
    straight = load_file(released)
    released.unlink()
    last = tmp_path / "states" / "state-00000003"
    assert last.exists() and (tmp_path / "states" / "state-00000002").exists()
    last.rename(tmp_path / "put-away")
    run(*command)
    again = load_file(released)
    assert straight.keys() == again.keys() and all(torch.equal(straight[name], again[name]) for name in straight)


def test_any_number_of_workers_makes_the_same_run(films, drawn, tmp_path):
    """Clips and drawn triples in turn, two parts a step: the same weights, bit by bit, and the log says what was waited."""
    real = ("--clips", films / "clips", "--synthetic", drawn, "--teacher", 0.5)
    made = []
    for workers in (0, 1, 2):
        out = tmp_path / str(workers)
        run(*real, "--out", out, "--steps", 2, "--accumulate", 2, "--sample-every", 0, "--workers", workers)
        made.append(load_file(out / "dsid.safetensors"))
        assert all(0 <= line["waiting"] <= 1 for line in log(out))
    for other in made[1:]:
        assert all(torch.equal(made[0][name], other[name]) for name in made[0])


def test_clips_with_drawn_teacher_stills_and_critic(films, drawn, tmp_path):
    """Every part at once: both kinds of batches occur, and the critic joins."""
    run(
        *("--clips", films / "clips", "--stills", films / "stills", "--synthetic", drawn, "--teacher", 0.5),
        *("--out", tmp_path, "--steps", 4, "--critic-from", 0.5, "--sample-every", 0, "--seed", 1),
    )
    lines = log(tmp_path)
    assert {"expression" in line for line in lines} == {True, False}
    assert ["critic_loss" in line for line in lines] == [False, False, True, True]


def test_batches_of_real_faces(films):
    faces = RealFaces(settings(films))
    assert faces.size == SIZE
    batch, again = (faces.sample(16, seeded(2), seeded(2)) for _ in range(2))
    assert torch.equal(batch.source, again.source) and torch.equal(batch.person, again.person)
    assert batch.source.shape == (16, 3, SIZE, SIZE) and not batch.triples
    assert batch.expression is batch.target and batch.pose is batch.target
    same = (batch.source == batch.target).flatten(1).all(1)
    assert 0 < same.sum() < 16, "stills of one picture beside clips"
    assert batch.region.shape == batch.face.shape == (16, 1, SIZE, SIZE)


def test_held_out_people_are_no_others_and_always_the_same(films):
    faces = RealFaces(settings(films))
    held, train = ({clip.person for clip in store.clips} for store in (faces.held, faces.train))
    assert held and train and not held & train
    first, second = faces.held_out(None), faces.held_out(None)
    assert torch.equal(first.target, second.target) and len(first.target) >= 8


def test_labels_become_poses_where_there_are_any(films):
    """Rows of the labelled person tell what the drawing was made from; the others' are NaN, and their masks anyone's."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        faces = RealFaces(settings(films, stills=""))
    stores = [store for store in (faces.train, faces.held) if any(clip.labels for clip in store.clips)]
    pairs = stores[0].sample_pairs(24, seeded())
    known = pairs.second_euler.isfinite().all(1)
    pose = pose_from_labels(pairs.second_points, pairs.second_euler)
    assert known.any() and pose["rotation"][known].isfinite().all() and pose["rotation"][~known].isnan().all()
    truth = smooth_clip(FRAMES, seeded(PEOPLE - 1), fps=10).pose
    angles = matrix_to_euler(rotation_to_matrix(pose["rotation"][known]))
    nearest = torch.cdist(angles, truth[:, :3]).min(1)
    assert nearest.values.max() < 0.1
    expected = dsid_batches.true_pose(truth[nearest.indices])
    assert (pose["translation"][known] - expected["translation"]).abs().max() < 0.1


def test_labels_mean_what_drawn_poses_mean():
    """Place and scale from points and angles against the drawing's own, over the whole range of turned heads."""
    scene = sample_scenes(40, seeded())
    points = render(scene, 16).points
    pose = pose_from_labels(points, scene.pose[:, :3])
    true = dsid_batches.true_pose(scene.pose)
    torch.testing.assert_close(pose["rotation"], true["rotation"])
    assert (pose["translation"] - true["translation"]).abs().mean() < 0.04
    off = pose["log_scale"] - true["log_scale"]
    assert off.std() < 0.06 and off.mean().abs() < 0.25, "one constant: people are not the template"
    by_points_alone = pose_from_labels(points, torch.full((40, 3), torch.nan))
    assert (by_points_alone["translation"] - true["translation"]).abs().mean() > 0.08


def test_at_rest_a_label_is_the_similarity_of_its_points():
    points = transform_points(random_similarity(5, seeded(), roll=0), (torch.tensor(TEMPLATE) * TIGHT).expand(5, 5, 2))
    pose, alone = pose_from_labels(points, torch.zeros(5, 3)), place_of(similarity_from_points(points))
    torch.testing.assert_close(pose["translation"], alone[1])
    torch.testing.assert_close(pose["log_scale"], alone[2])


def test_a_rotation_without_a_place_is_not_taken():
    """pose_error judges a row by its rotation: half a label would make the loss NaN."""
    points = torch.rand(4, 5, 2, generator=seeded())
    points[1:3] = torch.nan
    euler = torch.zeros(4, 3)
    euler[2:] = torch.nan
    pose = pose_from_labels(points, euler)
    assert pose["rotation"].isfinite().all(1).tolist() == [True, False, False, False]
    assert pose["translation"].isfinite().all(1).tolist() == [True, False, False, True]


def test_teacher_comes_in_its_share(films, drawn):
    faces = RealFaces(settings(films, synthetic=str(drawn), teacher=0.25, stills=""))
    triples = [faces.sample(1, seeded(seed), seeded(seed)).triples for seed in range(60)]
    assert 5 < sum(triples) < 27
    assert triples[:5] == [faces.sample(1, seeded(seed), seeded(seed)).triples for seed in range(5)]


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"teacher": 0.5}, "give their folder as --synthetic"),
        ({"stills_share": 1.5}, "stills_share is 1.5"),
        ({"clips": "missing"}, "missing is not a folder"),
        ({"config": "base", "synthetic": "drawn", "teacher": 0.5}, "the DSID reads 256"),
    ],
)
def test_what_cannot_work_is_one_sentence(films, drawn, changes, sentence):
    changes = {name: str(drawn) if value == "drawn" else value for name, value in changes.items()}
    with pytest.raises(ValueError, match=sentence):
        RealFaces(settings(films, **changes))


@pytest.fixture(scope="module")
def heads(tmp_path_factory) -> Path:
    return write_fake_heads(tmp_path_factory.mktemp("heads"), size=64)


@pytest.fixture(scope="module")
def encoders(tmp_path_factory) -> Path:
    """A file of encoders alone, with read-outs."""
    torch.manual_seed(3)
    config = replace(CONFIGS["small"], name="small-encoders", generator_channels=(), discriminator_channels=())
    model = DSID(config)
    model.readout = ReadOut.of_units(torch.randn(54, config.expression_width), torch.zeros(54))
    path = tmp_path_factory.mktemp("encoders") / "encoders.safetensors"
    save_dsid(path, model)
    return path


def test_batches_of_rendered_heads(heads):
    """Triples of the film studio: who lends the expression plays the target's, and the labels are those of the target."""
    faces = RenderedHeads(str(heads), 32, triples=True, same_clip=0.0, test=str(heads))
    batch, roles = faces.sample(8, seeded()), faces.store.sample_roles(8, seeded(), 0.0)
    assert batch.source.shape == batch.pose.shape == (8, 3, 32, 32) and batch.region.shape == batch.face.shape == (8, 1, 32, 32)
    played, shown = (faces.store.heads(rows) for rows in (roles.expression, roles.target))
    torch.testing.assert_close(played.units, shown.units)
    torch.testing.assert_close(batch.label[:, :52], shown.units)
    torch.testing.assert_close(rotation_to_matrix(batch.target_pose["rotation"]), shown.rotation)
    torch.testing.assert_close(rotation_to_matrix(batch.expression_pose["rotation"]), played.rotation)
    assert (batch.person == roles.source // FRAMES_OF_STUDIO).all() and batch.target_pose["log_scale"].abs().max() < 1e-5
    assert len(faces.held_out(None).target) == 64 and RenderedHeads(str(heads), 64, True, 0.5).held_out(None) is None
    pairs = RenderedHeads(str(heads), 64, triples=False, same_clip=1.0, labelled=False).sample(4, seeded())
    assert pairs.expression is pairs.target and not pairs.triples
    assert set(unlabelled(pairs)) == {"pose", "label", "traits"} and pairs.expression_pose["translation"].isnan().all()


def test_spoilt_heads_are_no_targets(tmp_path):
    folder = write_fake_heads(tmp_path)
    context = np.load(folder / "shard-00000/context.npy")
    context[::2, CONTEXT.index("spoilt")] = 1
    np.save(folder / "shard-00000/context.npy", context)
    store = HeadStore(folder)
    drawn = [store.sample_roles(16, seeded(number)) for number in range(20)]
    assert all((roles.target % 2 == 1).all() for roles in drawn) and any((roles.source % 2 == 0).any() for roles in drawn)
    assert len(torch.cat([roles.target for roles in drawn]).unique()) > SHARD // 4, "any of the others may be one"


def test_training_on_rendered_heads_and_its_exact_resume(heads, tmp_path):
    """Bit by bit; the released file reads ARKit's numbers by what its labels taught."""
    common = ("--heads", heads, "--test", heads, "--config", "small", "--steps", 4)
    run(*common, "--out", tmp_path / "whole", "--sample-every", 3)
    lines = log(tmp_path / "whole")
    assert {"picture", "expression", "label", "traits", "pose"} <= set(lines[0])
    assert any("psnr_swap" in line and "pose_degrees" in line for line in lines)
    run(*common, "--out", tmp_path / "halves", "--sample-every", 3, "--save-every", 2, "--max-minutes", 0.00001)
    assert not (tmp_path / "halves/dsid.safetensors").exists()
    run(*common, "--out", tmp_path / "halves", "--sample-every", 3, "--save-every", 2)
    whole, halves = (load_file(tmp_path / name / "dsid.safetensors") for name in ("whole", "halves"))
    assert whole.keys() == halves.keys() and all(torch.equal(whole[name], halves[name]) for name in whole)
    model = load_dsid(tmp_path / "whole/dsid.safetensors")
    assert model.readout.names[:52] == ARKIT52 and model.trained_on == ("rendered heads",)


def test_heads_without_labels_teach_no_label(heads, tmp_path):
    run("--heads", heads, "--no-labels", "--config", "small", "--out", tmp_path, "--steps", 2)
    lines = log(tmp_path)
    assert all(map(math.isfinite, (value for line in lines for value in line.values() if isinstance(value, float))))
    assert "picture" in lines[0] and not {"label", "pose", "traits"} & set(lines[0])
    assert load_dsid(tmp_path / "dsid.safetensors").readout is None


def test_frozen_encoders_are_given_a_generator(heads, encoders, tmp_path):
    """Their codes and read-outs stay, bit by bit; the perceptual loss is theirs, and pictures are drawn."""
    run(
        *("--heads", heads, "--init", encoders, "--freeze", "--perceptual-from", encoders, "--config", "small"),
        *("--out", tmp_path, "--steps", 2, "--sample-every", 0),
    )
    given, made = load_dsid(encoders), load_dsid(tmp_path / "dsid.safetensors")
    assert made.encoder == given.encoder and torch.equal(made.readout.weight, given.readout.weight)
    assert log(tmp_path)[0]["perceptual"] > 0 and "label" not in log(tmp_path)[0]
    codes = made.float().encode_semantics(torch.zeros(1, 3, 64, 64))
    assert made.reenact(made.encode_identity(torch.zeros(1, 3, 64, 64)), **codes).shape == (1, 3, 64, 64)
    figures = rendered_heads.drawn(made, HeadStore(heads), count=4)
    assert figures["same clip"].keys() == figures["other clip"].keys() and 0 < figures["same clip"]["PSNR self"] < 40


def test_the_encoders_perceptual_loss(encoders):
    perceptual = EncoderPerceptual(load_dsid(encoders).float().semantic_encoder)
    images = torch.rand(2, 3, 64, 64, generator=seeded()) * 2 - 1
    near, far = images + 0.05 * torch.randn(images.shape, generator=seeded(1)), images.flip(0)
    assert perceptual(images, images) == 0 < perceptual(near.clamp(-1, 1), images) < perceptual(far, images)
    made = torch.zeros(1, 3, 32, 32, requires_grad=True)  # any size
    perceptual(made, images[:1, :, ::2, ::2]).backward()
    assert made.grad.abs().sum() > 0 and not any(parameter.requires_grad for parameter in perceptual.parameters())


@pytest.mark.parametrize(
    ("more", "sentence"),
    [
        (("--synthetic", "drawn"), "--heads is trained on alone"),
        (("--vgg", "vgg.safetensors", "--perceptual-from", "dsid.safetensors"), "give one of them"),
        (("--init", "encoders", "--config", "starter"), "is of config 'small-encoders', not 'starter'"),
    ],
)
def test_options_that_do_not_fit_heads(heads, encoders, tmp_path, capsys, more, sentence):
    more = [encoders if part == "encoders" else part for part in more]
    with pytest.raises(SystemExit):
        run("--heads", heads, "--out", tmp_path, *more)
    assert sentence in capsys.readouterr().err

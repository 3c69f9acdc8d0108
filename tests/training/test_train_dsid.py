"""Training of DSID end to end on tiny data: shards of heads, and files as cameras write them."""

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
from deepexpo_models.data.studio import GROUP, sample_roles
from deepexpo_models.data.transforms import random_similarity
from deepexpo_models.dsid import CONFIGS, DSID, load_dsid, save_dsid
from deepexpo_models.dsid.alignment import TEMPLATE, TIGHT, place_of, similarity_from_points, transform_points
from deepexpo_models.dsid.losses import EncoderPerceptual
from deepexpo_models.dsid.readout import ReadOut
from deepexpo_models.dsid.rotation import matrix_to_euler, rotation_to_matrix
from deepexpo_models.evaluation import rendered_heads
from deepexpo_models.head import ARKIT52
from deepexpo_models.training import train_dsid
from deepexpo_models.training.dsid.batches import spans_of
from deepexpo_models.training.dsid.clips import RealFaces, expression_label, pose_from_labels
from deepexpo_models.training.dsid.heads import RenderedHeads, on_grey, true_pose
from deepexpo_models.training.dsid.meters import meters, unlabelled
from deepexpo_models.training.train_dsid import DSIDSettings
from fake_heads import write_fake_heads

CONFIG = CONFIGS[DSIDSettings(out="unused", heads="unused").config]
SIZE = CONFIG.image_size
PEOPLE, FRAMES = 4, 12
COMMON = ("--batch-size", "4", "--generated", "2", "--threads", "1", "--log-every", "1", "--warmup", "1")


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def film(person: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """A face of three spots that moves smoothly: pictures (FRAMES, SIZE, SIZE, 3) uint8, points (FRAMES, 5, 2) in pixels, and
    yaw, pitch, roll (FRAMES, 3) in degrees, all of them different."""
    phase = (np.arange(FRAMES) / FRAMES)[:, None] * np.pi + person
    euler = np.sin(phase) * [25.0, 12.0, 8.0] + np.arange(FRAMES)[:, None]
    middle = 0.15 * np.concatenate([np.sin(phase), np.cos(phase)], 1)
    points = ((np.array(TEMPLATE) * TIGHT + middle[:, None] + 1) * SIZE / 2).astype(np.float32)
    pictures = np.full((FRAMES, SIZE, SIZE, 3), (30 + 40 * person, 90, 160), np.uint8)
    for picture, five in zip(pictures, points):
        cv2.circle(picture, five[2].astype(int).tolist(), SIZE // 3, (210, 180 - 20 * person, 150), -1)
        for eye in (*five[:2], five[3:].mean(0)):
            cv2.circle(picture, eye.astype(int).tolist(), SIZE // 16, (40, 30, 30), -1)
    return pictures, points, euler


@pytest.fixture(scope="module")
def films(tmp_path_factory) -> Path:
    """Videos of PEOPLE people who move smoothly, the last with labels; beside them stills of three others."""
    root = tmp_path_factory.mktemp("films")
    for folder in ("clips", "stills"):
        (root / folder).mkdir()
    for person in range(PEOPLE):
        pictures, points, euler = film(person)
        writer = cv2.VideoWriter(str(root / f"clips/p{person}.mp4"), cv2.VideoWriter_fourcc(*"mp4v"), 10, (SIZE, SIZE))
        for picture in pictures:
            writer.write(picture[..., ::-1])
        writer.release()
    told = {
        row: {"points": points[row].tolist(), "pose": euler[row].tolist(), "blendshapes": {"jawOpen": row / FRAMES}}
        for row in range(FRAMES)
    }
    (root / f"clips/p{PEOPLE - 1}.json").write_text(json.dumps({"frames": told}))
    for person in range(3):
        Image.fromarray(film(person)[0][0]).save(root / f"stills/s{person}.png")
    return root


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
    assert model.encode_identity(torch.zeros(1, 3, SIZE, SIZE)).shape == (1, CONFIG.identity_width)
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


def test_people_of_one_picture_have_no_agreement(heads):
    """Two equal pictures agree perfectly, which says nothing: no icc, no top1; both are there for the people seen twice."""
    torch.manual_seed(0)
    model, batch = DSID(CONFIGS["small"]).eval(), RenderedHeads(str(heads), 64, True, 0.0).sample(4, seeded())
    agreement = {"icc_identity", "icc_expression", "top1"}
    assert agreement | {"pose_degrees"} <= meters(model, batch).keys() and not unlabelled(batch)
    stills = replace(batch, source=batch.target, still=torch.ones(4, dtype=torch.bool))
    assert not agreement & meters(model, stills).keys() and set(unlabelled(stills)) == {"identity", "pair", "frames"}
    some = replace(stills, still=torch.tensor([True, False, True, False]))
    assert agreement <= meters(model, some).keys() and not unlabelled(some)


def test_a_lost_state_is_made_again(heads, tmp_path):
    """The state of step 2 alone, and the same command again: the same file as without a stop, bit by bit."""
    command = ("--heads", heads, "--config", "small", "--out", tmp_path, "--steps", 3, "--save-every", 2, "--keep", 2)
    run(*command)
    released = tmp_path / "dsid.safetensors"
    straight = load_file(released)
    released.unlink()
    last = tmp_path / "states" / "state-00000003"
    assert last.exists() and (tmp_path / "states" / "state-00000002").exists()
    last.rename(tmp_path / "put-away")
    run(*command)
    again = load_file(released)
    assert straight.keys() == again.keys() and all(torch.equal(straight[name], again[name]) for name in straight)


@pytest.mark.parametrize("kind", ["clips and stills", "heads on grey"])
def test_any_number_of_workers_makes_the_same_run(films, tmp_path, kind):
    """Two parts a step: the same weights, bit by bit, and the log says what was waited."""
    given = ("--clips", films / "clips", "--stills", films / "stills")
    if kind == "heads on grey":
        on_one_colour(write_fake_heads(tmp_path / "heads", size=64))
        given = ("--heads", tmp_path / "heads", "--plain")
    made = []
    for workers in (0, 1, 2):
        out = tmp_path / str(workers)
        more = ("--config", "small", "--steps", 2, "--accumulate", 2, "--sample-every", 0, "--workers", workers)
        run(*given, "--out", out, *more)
        made.append(load_file(out / "dsid.safetensors"))
        assert all(0 <= line["waiting"] <= 1 for line in log(out))
    for other in made[1:]:
        assert all(torch.equal(made[0][name], other[name]) for name in made[0])


def test_clips_with_stills_and_a_critic(films, tmp_path):
    """Every part at once; labels teach where a frame has any, and the critic joins late."""
    real = ("--clips", films / "clips", "--stills", films / "stills", "--out", tmp_path, "--config", "small")
    run(*real, "--steps", 4, "--critic-from", 0.5, "--sample-every", 0, "--seed", 1)
    lines = log(tmp_path)
    assert not any("expression" in line for line in lines), "no other plays the same face"
    assert ["critic_loss" in line for line in lines] == [False, False, True, True]
    assert any("label" in line for line in lines) and all(math.isfinite(line.get("label", 0)) for line in lines)


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
    _, points, euler = (torch.from_numpy(part) for part in film(PEOPLE - 1))
    angles = matrix_to_euler(rotation_to_matrix(pose["rotation"][known]))
    nearest = torch.cdist(angles, euler.float()).min(1)
    assert nearest.values.max() < 0.01
    expected = place_of(similarity_from_points(points[nearest.indices] / SIZE * 2 - 1))
    torch.testing.assert_close(pose["translation"][known], expected[1], atol=1e-4, rtol=0)
    torch.testing.assert_close(pose["log_scale"][known], expected[2], atol=1e-4, rtol=0)
    jaw = pairs.second_units[known, ARKIT52.index("jawOpen")]
    torch.testing.assert_close(jaw, nearest.indices / FRAMES)


def test_labels_of_clips_mean_what_those_of_rendered_heads_mean(heads):
    """The same points and turn told of a frame give the same pose codes, and the same units the same columns."""
    shown = HeadStore(heads).heads(torch.arange(40))
    shown = replace(shown, five=transform_points(random_similarity(40, seeded(), roll=30), shown.five))
    told = pose_from_labels(shown.five, matrix_to_euler(shown.rotation))
    for name, code in true_pose(shown).items():
        torch.testing.assert_close(told[name], code, atol=1e-5, rtol=0)
    label = RenderedHeads(str(heads), 64, True, 0.5).sample(4, seeded()).label
    torch.testing.assert_close(expression_label(label[:, :52])[:, :52], label[:, :52])
    assert expression_label(label[:, :52]).shape == label.shape


def test_spans_are_of_what_is_known():
    even = torch.linspace(0, 2, 201)
    labels = torch.stack([even, torch.full((201,), 0.5), torch.full((201,), torch.nan)], 1)
    spans = spans_of(labels)
    assert spans[0].item() == pytest.approx(2, abs=0.02) and (spans > 0).all() and spans[1] == spans[2]
    half = labels.repeat_interleave(2, 0)
    half[::2] = torch.nan
    torch.testing.assert_close(spans_of(half), spans)
    assert torch.equal(spans_of(torch.empty(0, 3)), spans[[2, 2, 2]]), "nothing is told of any frame"


def test_a_rotation_without_a_place_is_not_taken():
    """pose_error judges a row by its rotation: half a label would make the loss NaN."""
    points = torch.rand(4, 5, 2, generator=seeded())
    points[1:3] = torch.nan
    euler = torch.zeros(4, 3)
    euler[2:] = torch.nan
    pose = pose_from_labels(points, euler)
    assert pose["rotation"].isfinite().all(1).tolist() == [True, False, False, False]
    assert pose["translation"].isfinite().all(1).tolist() == [True, False, False, True]


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"stills_share": 1.5}, "stills_share is 1.5"),
        ({"clips": "missing"}, "missing is not a folder"),
    ],
)
def test_what_cannot_work_is_one_sentence(films, changes, sentence):
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


def test_targets_are_of_the_given_rows_alone():
    """Groups that have none are left out, and come again where more targets are asked for than there are groups."""
    rows = torch.tensor([3, 5, 2 * GROUP + 7, 5 * GROUP])
    roles = sample_roles(rows, 9, seeded())
    assert torch.isin(roles.target, rows).all()
    assert (roles.target // GROUP).bincount(minlength=6).tolist() == [3, 0, 3, 0, 0, 3]
    assert (roles.source // GROUP == roles.target // GROUP).all() and (roles.source != roles.target).all()
    assert len(sample_roles(rows, 3, seeded()).target.unique()) == 3


def on_one_colour(folder: Path) -> torch.Tensor:
    """Makes each clip's background one colour behind a disc of noise, of which some pixels have that colour too; every second
    clip's background is plain. -> where the heads are, (1, 1, S, S) bool."""
    shard = folder / "shard-00000"
    images, context = np.load(shard / "images.npy"), np.load(shard / "context.npy")
    y, x = np.mgrid[: images.shape[1], : images.shape[1]]
    disc = (x - 32) ** 2 + (y - 36) ** 2 < 22**2
    colours = np.random.default_rng(1).integers(0, 256, (len(images) // 4, 1, 3), dtype=np.uint8).repeat(4, 0)
    images[:, ~disc] = colours
    images[:, 30:31, 30:32] = colours[:, None]
    context[:, CONTEXT.index("background")] = np.arange(len(images)) // 4 % 2
    np.save(shard / "images.npy", images)
    np.save(shard / "context.npy", context)
    return torch.from_numpy(disc)[None, None]


def test_the_ground_becomes_grey_and_the_head_stays(tmp_path):
    folder = write_fake_heads(tmp_path, size=64)
    head = on_one_colour(folder)
    images = HeadStore(folder).images(torch.arange(SHARD))
    kept, shown = images.clone(), on_grey(images)
    assert torch.equal(images, kept), "the given pictures are left as they are"
    head = head.expand_as(images)
    assert (shown[~head] == 0).all() and torch.equal(shown[head], images[head]), "specks of the ground's colour too"


def test_plain_targets_stand_on_grey(tmp_path):
    """Heads before one colour alone are targets, in training and in the meters; their sources are as they are."""
    folder = write_fake_heads(tmp_path, size=64)
    disc = on_one_colour(folder)
    faces = RenderedHeads(str(folder), 64, True, 0.0, plain=True, test=str(folder))
    context = faces.store.read("context", faces.rows)
    assert (context[:, CONTEXT.index("background")] == 0).all() and (context[:, CONTEXT.index("spoilt")] == 0).all()
    batch, roles = faces.sample(8, seeded()), sample_roles(faces.rows, 8, seeded(), 0.0)
    for shown in (batch, faces.held_out(None)):
        ground = ~disc.expand_as(shown.target)
        assert (shown.target[ground] == 0).all() and (shown.source[ground] != 0).any()
    head = disc.expand_as(batch.target)
    assert torch.equal(batch.target[head], faces.store.images(roles.target)[head])
    assert torch.equal(batch.source, faces.store.images(roles.source))
    values = np.load(folder / "shard-00000/context.npy")
    values[:, CONTEXT.index("background")] = 1
    np.save(folder / "shard-00000/context.npy", values)
    with pytest.raises(ValueError, match="holds no head before one colour, as --plain shows them; render more"):
        RenderedHeads(str(folder), 64, True, 0.0, plain=True)


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
        (("--clips", "films"), "--heads is trained on alone"),
        (("--vgg", "vgg.safetensors", "--perceptual-from", "dsid.safetensors"), "give one of them"),
        (("--init", "encoders", "--config", "base"), "is of config 'small-encoders', not 'base'"),
    ],
)
def test_options_that_do_not_fit_heads(heads, encoders, tmp_path, capsys, more, sentence):
    more = [encoders if part == "encoders" else part for part in more]
    with pytest.raises(SystemExit):
        run("--heads", heads, "--out", tmp_path, *more)
    assert sentence in capsys.readouterr().err


def test_plain_is_of_heads(films, tmp_path, capsys):
    with pytest.raises(SystemExit):
        run("--clips", films / "clips", "--plain", "--out", tmp_path)
    assert "--plain shows rendered heads on grey" in capsys.readouterr().err

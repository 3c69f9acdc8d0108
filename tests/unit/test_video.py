"""Real files on disk: what is taken, what is skipped and told, what pairs come of it, and crops made once."""

import json
import sys
from fractions import Fraction
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from PIL import Image

import landmark_sets
from deepexpo_models.data import prepare as prepare_module
from deepexpo_models.data.clips.frame_store import FrameStore, split_people
from deepexpo_models.data.clips.index import Clip, index_clips, read_frames
from deepexpo_models.data.clips.labels import PARTS, points_in_square
from deepexpo_models.data.clips.masks import face_ellipse, region_mask
from deepexpo_models.data.clips.read import Unreadable, read_picture, square_frame
from deepexpo_models.data.clips.stills import index_stills
from deepexpo_models.data.heads.geometry import make_actor, stage
from deepexpo_models.data.heads.people import sample_person
from deepexpo_models.data.heads.poses import euler_matrix, sample_pose
from deepexpo_models.data.heads.regions import face_of, region_of
from deepexpo_models.data.heads.scenery import sample_setting
from deepexpo_models.data.heads.units import sample_expression
from deepexpo_models.data.prepare import low_pass, prepare
from deepexpo_models.data.transforms import random_similarity
from deepexpo_models.dsid.alignment import TEMPLATE, TIGHT, transform_points
from deepexpo_models.faces.detectors import Detector, Face
from deepexpo_models.faces.find import OpenedDetector
from deepexpo_models.faces.landmarks import FaceMesh
from deepexpo_models.head import ARKIT52
from deepexpo_models.head.landmarks import FEATURES, FIVE
from rendered_heads import SKIP, head_model  # noqa: F401

WIDTH, HEIGHT, FPS = 64, 48, 10


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def frame(number: int, tint: int = 0) -> np.ndarray:
    """(H, W, 3) RGB that tells its number: red is 8 times it."""
    picture = np.zeros((HEIGHT, WIDTH, 3), np.uint8)
    picture[..., 0], picture[..., 1] = 8 * number, tint
    return picture


def write_clip(path: Path, count: int = 20, tint: int = 0) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    code = {".avi": "MJPG"}.get(path.suffix, "mp4v")
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*code), FPS, (WIDTH, HEIGHT))
    for number in range(count):
        writer.write(frame(number, tint)[..., ::-1])
    writer.release()
    return path


def write_frames(folder: Path, count: int = 12, tint: int = 0) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for number in range(count):
        Image.fromarray(frame(number, tint)).save(folder / f"{number}.png")
    return folder


def number_of(picture: torch.Tensor) -> torch.Tensor:
    """What `frame` told, in pictures (..., 3, S, S) in [-1, 1]."""
    return ((picture[..., 0, :, :].mean((-2, -1)) + 1) * 127.5 / 8).round()


def without_av(monkeypatch):
    monkeypatch.setitem(sys.modules, "av", None)


# Index


def test_people_are_told_by_names_and_folders(tmp_path):
    write_clip(tmp_path / "anna#film#1.mp4", 3)
    write_clip(tmp_path / "anna#film#2.avi", 3)
    write_clip(tmp_path / "ben" / "talk" / "one.mp4", 3)
    write_frames(tmp_path / "ben" / "two", 3)
    write_clip(tmp_path / "alone ü.mp4", 3)
    write_frames(tmp_path / "cleo", 3)
    write_clip(tmp_path / "dora#film" / "one.mp4", 3)
    report = index_clips(tmp_path)
    people = sorted((str(clip.path.relative_to(tmp_path).as_posix()), clip.person) for clip in report.clips)
    assert people == [
        ("alone ü.mp4", "alone ü"), ("anna#film#1.mp4", "anna"), ("anna#film#2.avi", "anna"),
        ("ben/talk/one.mp4", "ben"), ("ben/two", "ben"), ("cleo", "cleo"), ("dora#film/one.mp4", "dora"),
    ]  # fmt: skip
    assert not report.skipped and {clip.count for clip in report.clips} == {3}


def test_what_cannot_be_used_is_told_and_the_rest_is_kept(tmp_path):
    whole = write_clip(tmp_path / "whole.mp4")
    (tmp_path / "empty.mp4").touch()
    (tmp_path / "noise.mkv").write_bytes(bytes(range(256)) * 20)
    (tmp_path / "cut.mp4").write_bytes(whole.read_bytes()[:400])
    write_clip(tmp_path / "short.mp4", 1)
    write_frames(tmp_path / "folder", 4)
    (write_frames(tmp_path / "broken") / "0.png").write_bytes(b"no picture")
    write_frames(tmp_path / ".partial-x")
    (tmp_path / "notes.txt").write_text("not data")
    Image.fromarray(frame(0)).save(tmp_path / "cover.png")
    (tmp_path / "folder.json").write_text("{broken")
    report = index_clips(tmp_path)
    assert sorted(clip.path.name for clip in report.clips) == ["folder", "whole.mp4"]
    told = {path.name: reason for path, reason in report.skipped}
    names = {"empty.mp4", "noise.mkv", "cut.mp4", "short.mp4", "broken", "folder.json", tmp_path.name}
    assert set(told) == names and all(told.values())
    assert "empty" in told["empty.mp4"] and "short" in told["short.mp4"] and "labels" in told["folder.json"]
    assert "2 clips" in report.summary() and "7 files skipped" in report.summary() and "noise.mkv" in report.summary()


def test_nothing_at_all_is_one_sentence(tmp_path):
    with pytest.raises(ValueError, match="holds nothing to train on; give a folder with videos"):
        index_clips(tmp_path)
    (tmp_path / "empty.mp4").touch()
    with pytest.raises(ValueError, match=r"1 skipped, the first is .*empty\.mp4"):
        index_clips(tmp_path)
    with pytest.raises(ValueError, match="holds nothing"):
        index_stills(tmp_path)
    for index in (index_clips, index_stills):
        with pytest.raises(ValueError, match="not a folder"):
            index(tmp_path / "missing")


def test_frames_are_in_the_order_of_their_numbers(tmp_path):
    clip = index_clips(write_frames(tmp_path / "clip", 12).parent).clips[0]
    assert [picture[0, 0, 0] // 8 for picture in read_frames(clip)] == list(range(12))


@pytest.mark.parametrize("suffix", [".mp4", ".avi", ".mkv"])
@pytest.mark.parametrize("reader", ["av", "opencv"])
def test_videos_are_read_in_order_and_colour(tmp_path, suffix, reader, monkeypatch):
    if reader == "opencv":
        without_av(monkeypatch)
    else:
        pytest.importorskip("av")
    write_clip(tmp_path / f"clip{suffix}", 20, tint=200)
    clip = index_clips(tmp_path).clips[0]
    pictures = list(read_frames(clip))
    assert clip.count == len(pictures) == 20 and clip.fps == pytest.approx(FPS)
    assert pictures[0].shape == (HEIGHT, WIDTH, 3) and pictures[0].dtype == np.uint8
    red = [picture[..., 0].mean() for picture in pictures]
    assert max(abs(value - 8 * number) for number, value in enumerate(red)) < 8
    assert all(abs(picture[..., 1].mean() - 200) < 8 and picture[..., 2].mean() < 12 for picture in pictures)


def test_a_gif_is_a_clip(tmp_path):
    pytest.importorskip("av")
    pictures = [Image.fromarray(frame(number)) for number in range(4)]
    pictures[0].save(tmp_path / "clip.gif", save_all=True, append_images=pictures[1:], duration=100)
    clip = index_clips(tmp_path).clips[0]
    assert [round(picture[..., 0].mean() / 8) for picture in read_frames(clip)] == [0, 1, 2, 3]


def test_a_clip_filmed_sideways_stands_upright(tmp_path):
    """A phone's file says in its display matrix how to turn it; OpenCV, which follows it, is the judge."""
    pytest.importorskip("av")
    path = tmp_path / "clip.mp4"
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*"mp4v"), FPS, (WIDTH, HEIGHT))
    picture = np.zeros((HEIGHT, WIDTH, 3), np.uint8)
    picture[: HEIGHT // 3], picture[:, : WIDTH // 4] = 255, 128
    for _ in range(4):
        writer.write(picture)
    writer.release()
    data = bytearray(path.read_bytes())
    matrix = [65536, 0, 0, 0, 65536, 0, 0, 0, 0x40000000]
    turned = [0, 65536, 0, -65536, 0, 0, HEIGHT * 65536, 0, 0x40000000]
    as_bytes = lambda values: b"".join(value.to_bytes(4, "big", signed=True) for value in values)  # noqa: E731
    at = data.index(as_bytes(matrix), data.index(b"tkhd"))
    data[at : at + 36] = as_bytes(turned)
    path.write_bytes(data)
    clip = index_clips(tmp_path).clips[0]
    ours = next(read_frames(clip))
    theirs = cv2.VideoCapture(str(path)).read()[1][..., ::-1]
    assert ours.shape == (WIDTH, HEIGHT, 3)
    assert np.abs(ours.astype(int) - theirs).mean() < 4


# Labels


def label_file(path: Path, points, pose, number: int = 0) -> None:
    path.write_text(json.dumps({"frames": {str(number): {"points": points, "pose": pose}}}))


def test_points_follow_the_middle_square(tmp_path):
    """A dot at a labelled point is found in the square frame where its crop coordinates say."""
    picture = np.zeros((40, 100, 3), np.uint8)
    picture[10:14, 60:64] = 255
    point = torch.tensor([[62.0, 12.0]])
    square = square_frame(picture, 80)[0].float()
    rows, columns = torch.nonzero(square > 128, as_tuple=True)
    seen = (torch.tensor([[columns.float().mean(), rows.float().mean()]]) + 0.5) / 80 * 2 - 1
    torch.testing.assert_close(points_in_square(point, 40, 100), seen, atol=0.01, rtol=0)


@pytest.mark.parametrize("kind", ["video", "inside", "beside"])
def test_labels_reach_their_frame_and_no_other(tmp_path, kind):
    points, pose = [[10, 12], [20, 12], [15, 20], [11, 30], [19, 30]], [5.0, -3.0, 2.0]
    if kind == "video":
        write_clip(tmp_path / "clip.mp4", 4)
    else:
        write_frames(tmp_path / "clip", 4)
    label_file(tmp_path / ("clip/labels.json" if kind == "inside" else "clip.json"), points, pose, number=2)
    clip = index_clips(tmp_path).clips[0]
    store = FrameStore([clip], 32)
    _, found, euler, *_ = store.frame(clip, 2)
    torch.testing.assert_close(found, (torch.tensor(points) - torch.tensor([8.0, 0.0])) / 48 * 2 - 1)
    assert euler.tolist() == pose
    _, found, euler, *_ = store.frame(clip, 1)
    assert found.isnan().all() and euler.isnan().all()


def test_half_a_label_is_half_known(tmp_path):
    write_frames(tmp_path / "clip", 3)
    (tmp_path / "clip.json").write_text(json.dumps({"fps": 50, "frames": {"0": {"pose": [1, 2, 3]}}}))
    clip = index_clips(tmp_path).clips[0]
    _, points, euler, *_ = FrameStore([clip], 32).frame(clip, 0)
    assert points.isnan().all() and euler.tolist() == [1, 2, 3] and clip.fps == 50


def test_blendshapes_stay_arkits_numbers(tmp_path):
    """In ARKit's order, whatever the file's; what is not told is not known, other names are no label; crops keep it."""
    write_frames(tmp_path / "in" / "clip", 3)
    shapes = {"jawOpen": 0.5, "browInnerUp": 0.25, "eyeBlinkLeft": 0.75, "mouthPucker": 0.0, "smile": 1.0}
    (tmp_path / "in" / "clip.json").write_text(json.dumps({"frames": {"1": {"blendshapes": shapes}}}))
    prepare(tmp_path / "in", tmp_path / "out", 32, "none")
    for folder in ("in", "out"):
        store = FrameStore(index_clips(tmp_path / folder).clips, 32)
        told = dict(zip(ARKIT52, store.frame(store.clips[0], 1)[3].tolist()))
        known = {name: value for name, value in told.items() if value == value}
        assert known == {name: value for name, value in shapes.items() if name in ARKIT52}
        assert store.frame(store.clips[0], 0)[3].isnan().all()


def test_captions_follow_their_pictures(tmp_path):
    write_clip(tmp_path / "clips" / "film.mp4", 4)
    (tmp_path / "clips" / "film.txt").write_text("a film\n of rain")
    write_frames(tmp_path / "clips" / "inside", 3)
    (tmp_path / "clips" / "inside" / "caption.txt").write_text("frames")
    clips = {clip.path.stem: clip for clip in index_clips(tmp_path / "clips").clips}
    assert clips["film"].caption(3) == "a film of rain" and clips["inside"].caption(2) == "frames"
    prepare(tmp_path / "clips", tmp_path / "out", 32, "none")
    assert [clip.caption(1) for clip in index_clips(tmp_path / "out").clips] == ["a film of rain", "frames"]
    write_frames(tmp_path / "stills" / "ann", 2)
    pictures = sorted((tmp_path / "stills" / "ann").iterdir())
    pictures[1].with_suffix(".txt").write_text("the second")
    (ann,) = index_stills(tmp_path / "stills").clips
    assert [ann.caption(0), ann.caption(1)] == ["", "the second"]


# Pairs


@pytest.fixture(scope="module")
def collection(tmp_path_factory):
    """Five people in clips of 30 frames (3 s), three in stills, the last with two pictures; tint tells the person."""
    root = tmp_path_factory.mktemp("collection")
    for person in range(4):
        write_clip(root / "clips" / f"p{person}" / "clip.mp4", 30, tint=40 * person)
    folder = write_frames(root / "clips" / "p4", 30, tint=160)
    (folder / "labels.json").write_text(json.dumps({"fps": FPS}))
    for name, count, tint in (("a", 1, 180), ("b", 1, 200), ("c", 2, 220)):
        write_frames(root / "stills" / name, count, tint)
    return index_clips(root / "clips").clips, index_stills(root / "stills").clips


def test_pairs_are_of_one_clip_and_far_enough_apart(collection):
    store = FrameStore(collection[0], 16)
    pairs = store.sample_pairs(100, seeded(), far=0.0)
    gaps = (number_of(pairs.first) - number_of(pairs.second)).abs()
    assert gaps.min() >= 3 and gaps.max() <= 17  # 0.4 s to 1.6 s of ten frames, and a frame for the codec
    assert gaps.unique().numel() > 8
    tint = lambda pictures: pictures[:, 1].mean((1, 2))  # noqa: E731
    assert (tint(pairs.first) - tint(pairs.second)).abs().max() < 0.1
    assert not pairs.still.any() and ((number_of(pairs.first) > number_of(pairs.second)).float().mean() - 0.5).abs() < 0.2


def test_far_and_consecutive_pairs(collection):
    store = FrameStore(collection[0][-1:], 16)
    gap = lambda **how: (lambda p: (number_of(p.first) - number_of(p.second)).abs())(store.sample_pairs(80, seeded(), **how))  # noqa: E731
    assert gap(far=1.0).max() > 22 and gap(far=1.0).min() >= 4
    assert gap(consecutive=True).unique().tolist() == [1]
    assert gap(min_gap_seconds=60).unique().tolist() == [29], "as far as the clip is long enough"


def write_uneven(path: Path) -> list[float]:
    """Frames 0 to 19 at 20 a second, then 20 to 29 at three a second; their times."""
    av = pytest.importorskip("av")
    times = [number / 20 for number in range(20)] + [1 + number / 3 for number in range(10)]
    path.parent.mkdir(parents=True)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg4", rate=20)
        stream.width, stream.height, stream.pix_fmt, stream.time_base = WIDTH, HEIGHT, "yuv420p", Fraction(1, 1000)
        stream.codec_context.time_base = Fraction(1, 1000)
        for number, time in enumerate(times):
            picture = av.VideoFrame.from_ndarray(frame(number, 0), format="rgb24")
            picture.pts, picture.time_base = round(1000 * time), Fraction(1, 1000)
            container.mux(stream.encode(picture))
        container.mux(stream.encode())
    return times


@pytest.mark.parametrize("how", ["av", "opencv", "prepared"])
def test_pairs_are_seconds_apart_where_the_frame_rate_varies(tmp_path, monkeypatch, how):
    """Its mean rate is 7.5 frames a second, which is right nowhere in it."""
    times = np.array(write_uneven(tmp_path / "in" / "clip.mkv"))
    if how == "opencv":
        without_av(monkeypatch)
    if how == "prepared":
        prepare(tmp_path / "in", tmp_path / "out", 32, "none")
    (clip,) = index_clips(tmp_path / ("out" if how == "prepared" else "in")).clips
    assert clip.times == pytest.approx(times, abs=2e-3)
    store, asked = FrameStore([clip], 16), []
    frame_of = store.frame
    monkeypatch.setattr(store, "frame", lambda clip, index: (asked.append(index), frame_of(clip, index))[1])
    store.sample_pairs(200, seeded(), min_gap_seconds=0.5, far=0.0)
    first, second = np.array(asked).reshape(-1, 2).T
    gaps = np.abs(times[first] - times[second])
    assert 0.499 < gaps.min() < 0.6 and 1.9 < gaps.max() < 2.001
    assert (first < 20).any() and (second > 20).any() and abs((first < second).mean() - 0.5) < 0.1
    asked.clear()
    store.sample_pairs(20, seeded(), min_gap_seconds=60)
    assert set(asked) == {0, 29}, "as far as the clip is long enough"


def test_even_clips_keep_the_rate_and_the_draws_they_had(collection):
    assert not any(clip.times for clip in collection[0])


def test_a_batch_has_different_people_while_there_are_any(collection):
    store = FrameStore([*collection[0], *collection[1]], 16)
    assert store.people == 8
    clips = FrameStore(collection[0], 16)
    assert clips.sample_pairs(5, seeded()).person.unique().numel() == 5
    assert clips.sample_pairs(10, seeded()).person.bincount().tolist() == [2] * 5


def test_the_generator_alone_decides(collection):
    first, again = (FrameStore([*collection[0], *collection[1]], 16).sample_pairs(6, seeded(3)) for _ in range(2))
    for name, value in vars(first).items():
        other = vars(again)[name]
        assert value == other if isinstance(value, list) else torch.equal(value.nan_to_num(7), other.nan_to_num(7)), name
    used = FrameStore([*collection[0], *collection[1]], 16)
    used.sample_pairs(6, seeded(4))
    assert torch.equal(used.sample_pairs(6, seeded(3)).first, first.first), "what was read before does not matter"


def test_video_and_stills_are_mixed_in_their_share(collection):
    store = FrameStore([*collection[0], *collection[1]], 16)
    pairs = store.sample_pairs(300, seeded())
    photographs = pairs.first[:, 1].mean((1, 2)) > 0.3  # tints from 180
    assert 0.2 < photographs.float().mean() < 0.4
    alone = pairs.first[:, 1].mean((1, 2)) < 0.65  # below 210: those of one picture
    assert torch.equal(pairs.still, photographs & alone)
    assert (pairs.first == pairs.second).flatten(1).all(1)[pairs.still].all()
    assert not (pairs.first == pairs.second).flatten(1).all(1)[~pairs.still].any()
    assert FrameStore(collection[1], 16).sample_pairs(9, seeded()).person.unique().numel() == 3, "stills alone work too"


def test_a_clip_that_breaks_later_is_told_and_replaced(tmp_path):
    for name in ("a", "b"):
        write_frames(tmp_path / name, 4)
    clips = index_clips(tmp_path).clips
    for path in clips[0].frames:
        path.write_bytes(b"gone")
    store = FrameStore(clips, 16)
    with pytest.warns(UserWarning, match="a is left out: not a readable picture"):
        pairs = store.sample_pairs(6, seeded())
    assert pairs.person.unique().tolist() == [1]
    for path in clips[1].frames:
        path.unlink()
    with pytest.warns(UserWarning), pytest.raises(ValueError, match="8 clips in a row cannot be read"):
        store.sample_pairs(1, seeded())


def test_a_broken_video_is_decoded_once(tmp_path, monkeypatch):
    clips = [index_clips(write_clip(tmp_path / name / "a.mp4", 4).parent).clips[0] for name in ("x", "y")]
    clips[0].path.write_bytes(b"gone")
    opened = []
    read = lambda clip: opened.append(clip) or read_frames(clip)  # noqa: E731
    monkeypatch.setattr("deepexpo_models.data.clips.frame_store.read_frames", read)
    with pytest.warns(UserWarning, match="left out"):
        FrameStore(clips, 16).sample_pairs(20, seeded())
    assert opened.count(clips[0]) == 1


def test_grey_of_sixteen_bits_keeps_its_shades(tmp_path):
    Image.fromarray(np.full((8, 8), 0x4000, np.uint16)).save(tmp_path / "a.png")
    assert (read_picture(tmp_path / "a.png") == 0x40).all()


def test_memory_for_videos_is_limited_and_long_ones_are_thinned(collection, monkeypatch):
    videos = [clip for clip in collection[0] if not clip.frames]
    store = FrameStore(videos, 16, cache_bytes=2 * 30 * 3 * 16 * 16)
    store.sample_pairs(8, seeded())
    assert len(store._films) == 2
    monkeypatch.setattr("deepexpo_models.data.clips.frame_store.LONGEST", 8)
    thinned = FrameStore(videos[:1], 16)
    pairs = thinned.sample_pairs(30, seeded(), far=0.0)
    assert len(thinned._films[videos[0]].frames) == 8
    assert (number_of(pairs.first) - number_of(pairs.second)).abs().min() >= 3, "seconds stay seconds"


def test_held_out_people_stay_who_they_are():
    clips = [Clip(Path(f"{person}/{n}"), f"id{person}", 5) for person in range(200) for n in range(2)]
    train, held = split_people(clips)
    assert len(train) + len(held) == 400 and not {c.person for c in train} & {c.person for c in held}
    assert 8 < len({clip.person for clip in held}) < 35
    fewer = split_people(clips[:200])[1]
    assert {clip.person for clip in fewer} == {clip.person for clip in held} & {clip.person for clip in clips[:200]}
    assert {len({clip.person for clip in part}) for part in split_people(clips[:4])} == {1}
    with pytest.raises(ValueError, match="two at least"):
        split_people(clips[:2])


# Masks


def test_masks_from_points_are_where_the_face_is():
    """Of faces turned anyhow, whose 478 points are known: lids, brows and lips lie in the region, all of them in the face."""
    moving = sorted({at for feature in ("left eye", "right eye", "left brow", "right brow", "lips") for at in places(feature)})
    for angles in ((0.0, 0.0, 0.0), (30.0, 10.0, 5.0), (-30.0, -15.0, 20.0), (15.0, 20.0, -30.0)):
        mesh = landmark_sets.points(landmark_sets.scores(jawOpen=0.5, browInnerUp=0.5), angles, 1.8, (30.0, 34.0, 0.0))
        points = (mesh[None, list(FIVE), :2] / 32) - 1
        region, face = region_mask(points, 64), face_ellipse(points, 64)
        x, y = mesh[:, :2].long().clamp(0, 63).unbind(1)
        assert (region[0, 0, y, x][moving] > 0.5).float().mean() > 0.9 and region.mean() < 0.2, angles
        assert (face[0, 0, y, x] > 0.5).float().mean() > 0.95 and face.mean() < 0.6, angles
        assert all(0 <= mask.min() and mask.max() <= 1 for mask in (region, face))


def places(feature: str) -> set[int]:
    return {at for chain in FEATURES[feature] for at in chain}


@SKIP
def test_masks_from_points_are_those_of_rendered_heads(head_model):  # noqa: F811
    """Any pose, person and lens: `FACE` was fitted to heads of the same kind."""
    rng, five, surface = np.random.default_rng(0), [], []
    for _ in range(40):
        parts = [getattr(head_model, name) for name in ("names", "skins", "hairs", "brows", "lashes")]
        actor = make_actor(head_model, sample_person(rng, *parts, "train"))
        rotation, units, setting = euler_matrix(*sample_pose(rng)), sample_expression(rng), sample_setting(rng)
        labels = stage(head_model, actor, units, np.zeros(2), rotation, rotation, setting).labels
        five.append(torch.tensor(labels["five"]).float())
        surface.append(torch.tensor(labels["surface"]).float())
    points = torch.stack(five)
    face, true = face_ellipse(points, 48) > 0.5, face_of(torch.stack(surface), 48) > 0.5
    assert ((face & true).sum((1, 2, 3)) / (face | true).sum((1, 2, 3))).mean() > 0.6
    region, true = region_mask(points, 48), region_of(points, 48)
    assert ((region * true).sum((1, 2, 3)) / true.sum((1, 2, 3))).mean() > 0.9


def test_masks_move_with_the_points():
    points = (torch.tensor(TEMPLATE) * 0.6 * TIGHT).expand(3, 5, 2)  # small enough to stay within the crop
    moved = transform_points(random_similarity(3, seeded(1)), points)
    for make in (region_mask, face_ellipse):
        centre = lambda mask: torch.nonzero(mask[0] > 0.5).float().mean(0)  # noqa: E731
        shifted = make(points + torch.tensor([0.25, -0.125]), 64)
        assert torch.allclose(centre(shifted[0]) - centre(make(points, 64)[0]), torch.tensor([-4.0, 8.0]), atol=0.3)
        assert (make(moved, 64) - make(points, 64)).abs().mean() > 0.01


def test_masks_of_unknown_points():
    nothing = torch.full((1, 5, 2), torch.nan)
    one = (torch.tensor(TEMPLATE) * TIGHT)[None]
    points = torch.cat([nothing, one])
    assert (region_mask(points, 32)[0] == 1).all() and region_mask(points, 32)[1].mean() < 0.3
    torch.testing.assert_close(face_ellipse(points, 32)[0], face_ellipse(points, 32)[1])


# Crops


def test_crops_keep_people_labels_and_order(tmp_path):
    write_clip(tmp_path / "in" / "ann" / "clip.mp4", 6)
    write_frames(tmp_path / "in" / "id7#film", 3)
    label_file(tmp_path / "in" / "id7#film.json", [[32, 24]] * 5, [4.0, 5.0, 6.0], number=1)
    report = prepare(tmp_path / "in", tmp_path / "out", 32, "none")
    assert len(report.clips) == 2 and not report.skipped
    clips = {clip.person: clip for clip in index_clips(tmp_path / "out").clips}
    assert {name: clip.count for name, clip in clips.items()} == {"ann": 6, "id7": 3}
    assert clips["ann"].fps == pytest.approx(FPS)
    store = FrameStore(list(clips.values()), 32)
    pictures = torch.stack([store.frame(clips["ann"], number)[0] for number in range(6)])
    assert pictures.shape == (6, 3, 32, 32) and (number_of(pictures) - torch.arange(6)).abs().max() <= 1
    assert pictures[:, 0].mean((1, 2)).diff().min() > 0
    _, points, euler, *_ = store.frame(clips["id7"], 1)
    assert points.abs().max() < 1e-3 and euler.tolist() == [4, 5, 6], "the middle stays the middle"


def test_crops_are_made_once(tmp_path):
    write_frames(tmp_path / "in" / "a", 3)
    write_frames(tmp_path / "in" / "b", 3)
    prepare(tmp_path / "in", tmp_path / "out", 32, "none")
    mark = tmp_path / "out" / "a" / "000000.jpg"
    before = mark.stat().st_mtime_ns
    (tmp_path / "out" / "b" / "labels.json").unlink()
    (tmp_path / "out" / "b").rename(tmp_path / "out" / ".deepexpo-b.partial")  # as a stop midway leaves it
    prepare(tmp_path / "in", tmp_path / "out", 32, "none")
    assert mark.stat().st_mtime_ns == before and len(list((tmp_path / "out" / "b").glob("*.jpg"))) == 3
    assert not list((tmp_path / "out").glob(".deepexpo-*"))
    with pytest.raises(ValueError, match=r"was made with .*another --out"):
        prepare(tmp_path / "in", tmp_path / "out", 16, "none")
    with pytest.raises(ValueError, match="lies within"):
        prepare(tmp_path / "in", tmp_path / "in" / "out", 32, "none")


class Square:
    """Finds white squares, as a detector that shakes by up to a pixel and misses one picture in four."""

    def __init__(self):
        self.random, self.calls = np.random.default_rng(0), 0

    def __call__(self, image: torch.Tensor) -> list[Face]:
        self.calls += 1
        rows, columns = torch.nonzero(image[..., 0] > 0.5, as_tuple=True)
        if not len(rows) or self.calls % 4 == 2:
            return []
        left, top = (axis.min().item() + self.random.uniform(-1, 1) for axis in (columns, rows))
        points = np.array([[left + 4, top + 4]] * 5)
        return [Face((left, top, left + 8, top + 8), points, 1.0, "square")]


@pytest.fixture
def square_detector(monkeypatch):
    opened = OpenedDetector("square", Detector(Square()), {})
    monkeypatch.setattr(prepare_module, "open_detector", lambda *_: opened)


def write_moving_square(folder: Path, count: int, path) -> None:
    folder.mkdir(parents=True)
    for number in range(count):
        picture = np.zeros((48, 96, 3), np.uint8)
        x, y = path(number)
        picture[round(y) : round(y) + 8, round(x) : round(x) + 8] = 255
        Image.fromarray(picture).save(folder / f"{number}.png")


def centre_of_light(folder: Path) -> np.ndarray:
    pictures = [np.array(Image.open(path))[..., 0].astype(float) for path in sorted(folder.glob("*.jpg"))]
    return np.array([[(p.sum(axis) * np.arange(p.shape[0])).sum() / p.sum() + 0.5 for axis in (0, 1)] for p in pictures])


def test_one_crop_serves_a_head_that_stays(tmp_path, square_detector):
    """What the detector's shaking would do to the crop is not to be seen: the square stands still in it."""
    write_moving_square(tmp_path / "in" / "a", 40, lambda number: (40, 20))
    prepare(tmp_path / "in", tmp_path / "out", 36, "auto")
    light = centre_of_light(tmp_path / "out" / "a")
    assert len(light) == 40 and np.abs(light - light[0]).max() < 0.1 and np.abs(light - 18).max() < 4
    clip = index_clips(tmp_path / "out").clips[0]
    _, points, *_ = FrameStore([clip], 36).frame(clip, 0)
    assert np.abs((points.numpy()[0] + 1) * 18 - light[0]).max() < 4
    assert FrameStore([clip], 36).frame(clip, 1)[1].isnan().all(), "seen by no detector"


def test_a_crop_follows_a_head_that_walks(tmp_path, square_detector):
    """Over 60 pixels, in a crop of 14: it is never further from the middle than half a head."""
    write_moving_square(tmp_path / "in" / "a", 60, lambda number: (10 + number, 20))
    (tmp_path / "in" / "a.json").write_text(json.dumps({"fps": 10}))
    prepare(tmp_path / "in", tmp_path / "out", 36, "auto")
    assert np.abs(centre_of_light(tmp_path / "out" / "a") - 18).max() < 4 * 36 / 14


def test_a_crop_follows_a_head_there_and_back(tmp_path, square_detector):
    write_moving_square(tmp_path / "in" / "a", 121, lambda number: (10 + 0.4 * (60 - abs(number - 60)), 20))
    (tmp_path / "in" / "a.json").write_text(json.dumps({"fps": 10}))
    prepare(tmp_path / "in", tmp_path / "out", 36, "auto")
    assert np.abs(centre_of_light(tmp_path / "out" / "a") - 18).max() < 10


def test_a_clip_without_a_face_is_told(tmp_path, square_detector):
    write_moving_square(tmp_path / "in" / "a", 12, lambda number: (40, 20))
    write_frames(tmp_path / "in" / "dark", 6)
    report = prepare(tmp_path / "in", tmp_path / "out", 32, "auto")
    assert [clip.person for clip in report.clips] == ["a"] and "no face found in 6 frames" in report.skipped[0][1]
    assert not (tmp_path / "out" / "dark").exists()


def test_low_pass_follows_movement_and_drops_shaking():
    frames = np.arange(0, 101, 5)
    line = np.stack([frames * 2.0, 50 - frames], axis=1)
    at = np.arange(101)
    expected = np.stack([at * 2.0, 50.0 - at], axis=1)
    np.testing.assert_allclose(low_pass(frames, line, 101, 10), expected, atol=5.1)  # the median flattens the ends by one step
    np.testing.assert_allclose(low_pass(frames, line, 101, 10)[30:70], expected[30:70], atol=0.1)
    shaken = line + np.random.default_rng(0).normal(0, 2, line.shape)
    shaken[7] += 60  # one false face
    smooth = low_pass(frames, shaken, 101, 10)
    assert np.abs(smooth - expected)[20:80].max() < 4
    assert np.abs(np.diff(smooth, 2, axis=0)).max() < 0.3


def test_prepare_from_the_command_line(tmp_path, capsys):
    write_clip(tmp_path / "in" / "ann" / "clip.mp4", 4)
    (tmp_path / "in" / "bad.mp4").touch()
    prepare_module.main(["--clips", str(tmp_path / "in"), "--out", str(tmp_path / "out"), "--size", "32", "--detector", "none"])
    assert "1 clips of 1 people, 1 files skipped" in capsys.readouterr().out
    with pytest.raises(SystemExit):
        prepare_module.main(["--clips", str(tmp_path / "missing"), "--out", str(tmp_path / "out"), "--detector", "none"])
    assert "is not a folder" in capsys.readouterr().err


def test_the_landmarker_labels_every_frame_of_a_clip(tmp_path, monkeypatch, capsys):
    """A made-up landmarker, whose second picture holds no face: an expression and a turn that are known."""
    units, angles = landmark_sets.scores(eyeBlink=0.5, mouthSmile=0.25), (20.0, -10.0, 5.0)
    mesh = FaceMesh(landmark_sets.points(units, angles, 0.6, (16.0, 16.0, 0.0)), dict(zip(ARKIT52, units[0].tolist())), 1.0)
    answers = iter([[mesh], [], [mesh]])
    monkeypatch.setattr(prepare_module, "open_landmarker", lambda path, faces: lambda crop: next(answers))
    write_frames(tmp_path / "in" / "ann", 3)
    words = ["--clips", str(tmp_path / "in"), "--out", str(tmp_path / "out"), "--size", "32", "--detector", "none"]
    prepare_module.main([*words, "--landmarker", "face_landmarker.task"])
    assert "labels: a head pose in 2 frames, an expression in 2, of 3\n" in capsys.readouterr().out
    (clip,) = index_clips(tmp_path / "out").clips
    assert clip.labels.keys() == {0, 2}
    points, pose, known = np.split(np.array(clip.labels[0]), np.cumsum(PARTS)[:-1])
    np.testing.assert_allclose(points.reshape(5, 2), mesh.face.points, atol=0.01)
    np.testing.assert_allclose(pose, angles, atol=0.1)
    np.testing.assert_allclose(known, units[0], atol=1e-3)
    with pytest.raises(SystemExit):
        prepare_module.main(words)  # the same folder without the landmarker
    assert "was made with" in capsys.readouterr().err


def test_preparing_says_what_stays_unlabelled_and_what_to_do(tmp_path, capsys):
    write_frames(tmp_path / "in" / "ann", 3)
    words = ["--clips", str(tmp_path / "in"), "--out", str(tmp_path / "out"), "--size", "32", "--detector", "none"]
    prepare_module.main(words)
    assert "a head pose in 0 frames, an expression in 0, of 3; what has no label is learned" in capsys.readouterr().out
    with pytest.raises(SystemExit):
        prepare_module.main([*words, "--landmarker", str(tmp_path / "gone.task")])
    assert "face_landmarker.task (3.7 MB) is missing" in capsys.readouterr().err


def test_unreadable_is_no_other_error(tmp_path):
    (tmp_path / "a.mp4").write_bytes(b"x" * 100)
    with pytest.raises(Unreadable):
        list(read_frames(Clip(tmp_path / "a.mp4", "a", 1)))

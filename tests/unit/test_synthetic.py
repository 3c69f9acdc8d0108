"""The laws of the drawn faces: what a factor changes and what it leaves, who is held out, and what the shards promise."""

import numpy as np
import pytest
import torch

from deepexpo_models.data.synthetic import (
    CAPTION_WORDS,
    COLUMN,
    CONTEXT,
    EXPRESSION,
    GROUPS,
    NUISANCE,
    POSE,
    Scene,
    captions,
    context_caption,
    is_extreme,
    is_held_out,
    render,
    sample_expressions,
    sample_people,
    sample_poses,
    sample_scenes,
    shards,
    smooth_clip,
)
from deepexpo_models.data.synthetic.shards import FRAMES, PEOPLE, ShardStore, render_shard, studio_scene, write_shard

SIZE = 64
BARE = {"glasses": 0, "hat": 0, "scarf": 0, "noise": 0, "hair_style": 1, "beard": 0, "moustache": 0, "freckles": 0}


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def bare(count: int, seed: int = 0, **factors) -> Scene:
    """Scenes in which nothing covers the face, and which have no grain."""
    scene = sample_scenes(count, seeded(seed))
    for name, value in {**BARE, **factors}.items():
        scene = scene.with_factor(name, value)
    return scene


def frontal(count: int, seed: int = 0, **factors) -> Scene:
    """Faces at rest that look straight ahead."""
    rest = {factor.name: 0 for factor in (*EXPRESSION, *POSE)}
    return bare(count, seed, **{**rest, **factors})


def at(images: torch.Tensor, points: torch.Tensor) -> torch.Tensor:
    """images (B, C, S, S) at points (B, N, 2) -> (B, N, C)."""
    found = torch.nn.functional.grid_sample(images, points[:, :, None], align_corners=False)
    return found[..., 0].transpose(1, 2)


# Factors and splits


def test_scenes_stay_within_their_ranges():
    scene = sample_scenes(500, seeded())
    for group, factors in GROUPS.items():
        values = getattr(scene, group)
        assert values.shape == (500, len(factors)) and values.dtype == torch.float32
        for column, factor in enumerate(factors):
            assert factor.low <= values[:, column].min() and values[:, column].max() <= factor.high, factor.name
            if factor.choices:
                assert values[:, column].unique().tolist() == list(range(len(factor.choices))), factor.name


def test_the_seed_alone_decides():
    first, again, other = (sample_scenes(8, seeded(seed)) for seed in (1, 1, 2))
    for name in GROUPS:
        assert torch.equal(getattr(first, name), getattr(again, name))
        assert not torch.equal(getattr(first, name), getattr(other, name))


@pytest.mark.parametrize("seed", range(3))
def test_people_for_tests_are_never_trained_on(seed):
    assert not is_held_out(sample_people(2000, seeded(seed), "train")).any()
    assert is_held_out(sample_people(500, seeded(seed), "test")).all()
    assert not is_held_out(smooth_clip(2, seeded(seed)).identity).any()
    assert is_held_out(smooth_clip(2, seeded(seed), "test").identity).all()
    assert not is_held_out(studio_scene(seeded(seed)).identity).any()


def test_both_splits_span_the_ranges():
    """A checkerboard holds out combinations, not ends of ranges."""
    train, test = (sample_people(3000, seeded(), split) for split in ("train", "test"))
    spread = torch.tensor([factor.high - factor.low for factor in GROUPS["identity"]])
    assert ((train.mean(0) - test.mean(0)).abs() / spread).max() < 0.06


def test_extreme_poses_are_never_usual():
    usual, extreme = (sample_poses(2000, seeded(), poses) for poses in ("usual", "extreme"))
    assert not is_extreme(usual).any() and is_extreme(extreme).all()
    assert usual[:, 0].abs().max() > 40 and usual[:, 1].abs().max() > 22


def test_no_brow_goes_two_ways_and_plain_faces_occur():
    drawn = sample_expressions(2000, seeded())
    for side in ("left", "right"):
        up, down = (drawn[:, COLUMN[f"brow_{way}_{side}"][1]] for way in ("raise", "frown"))
        assert not ((up > 0) & (down > 0)).any() and (up > 0.5).any() and (down > 0.5).any()
    assert ((drawn == 0).float().mean(0) > 0.25).all()


@pytest.mark.parametrize("draw", [lambda: sample_people(1, seeded(), "all"), lambda: sample_poses(1, seeded(), "wild")])
def test_unknown_splits_are_one_sentence(draw):
    with pytest.raises(ValueError, match=r"unknown .*; known: "):
        draw()


# Pictures


@pytest.fixture(scope="module")
def drawn():
    scene = sample_scenes(6, seeded())
    return scene, render(scene, SIZE)


def test_pictures_do_not_depend_on_what_is_drawn_with_them(drawn):
    scene, together = drawn
    order = torch.tensor([4, 1, 5])
    apart = render(scene[order], SIZE)
    for name in ("images", "region", "face", "points"):
        assert torch.equal(getattr(apart, name), getattr(together, name)[order]), name


def test_pictures_have_the_ranges_they_promise(drawn):
    _, pictures = drawn
    assert pictures.images.shape == (6, 3, SIZE, SIZE) and pictures.points.shape == (6, 5, 2)
    assert -1 <= pictures.images.min() < -0.3 and 0.3 < pictures.images.max() <= 1
    for plane in (pictures.region, pictures.face):
        assert plane.shape == (6, 1, SIZE, SIZE) and plane.min() >= 0 and 0.9 < plane.max() <= 1
    assert ((pictures.region > 0.5) <= (pictures.face > 0.5)).float().mean() > 0.999, "eyes and mouth are in the face"
    with pytest.raises(ValueError, match="at least 16"):
        render(drawn[0], 8)


def test_drawing_leaves_scene_and_global_generator_alone(drawn):
    scene = drawn[0][:2]
    before = {name: getattr(scene, name).clone() for name in GROUPS}
    state = torch.random.get_rng_state()
    render(scene, 32)
    assert torch.equal(torch.random.get_rng_state(), state)
    assert all(torch.equal(getattr(scene, name), value) for name, value in before.items())


def test_a_larger_picture_shows_the_same():
    scene = bare(3)
    small, large = render(scene, 48), render(scene, 96)
    assert (torch.nn.functional.avg_pool2d(large.images, 2) - small.images).abs().mean() < 0.05
    torch.testing.assert_close(small.points, large.points)


def test_points_lie_on_eyes_and_mouth():
    """Wide open eyes that look ahead: at their points is the dark pupil and the region; the mouth's points are in it too."""
    pictures = render(frontal(12, eye_opening=0.07), 128)
    assert (at(pictures.region, pictures.points[:, [0, 1]]) > 0.9).all()
    assert (at(pictures.region, pictures.points[:, [3, 4]]) > 0.3).float().mean() > 0.8
    assert (at(pictures.region, pictures.points[:, [2]]) < 0.5).all(), "the tip of the nose is not in the region"
    assert (at(pictures.face, pictures.points) > 0.9).all()
    eyes = at(pictures.images, pictures.points[:, :2]).mean(-1)
    beside = at(pictures.images, pictures.points[:, :2] + torch.tensor([0.075, 0.0])).mean(-1)
    assert (eyes < -0.5).all() and (beside > eyes + 0.4).all(), "a dark pupil, the white of the eye beside it"


def test_points_follow_the_head():
    """In order, the picture's left first; place and roll move them as the pose says, a turn moves the nose most."""
    points = render(frontal(4), 16).points
    assert (points[:, 0, 0] < points[:, 2, 0]).all() and (points[:, 2, 0] < points[:, 1, 0]).all()
    assert (points[:, :2, 1].amax(1) < points[:, 2, 1]).all() and (points[:, 2, 1] < points[:, 3:, 1].amin(1)).all()
    moved = render(frontal(4, x=0.08, y=-0.05), 16).points - points
    torch.testing.assert_close(moved, torch.tensor([0.08, -0.05]).expand_as(moved), atol=0.02, rtol=0)
    larger = render(frontal(4, log_scale=0.08), 16).points
    assert (larger.norm(dim=-1) > points.norm(dim=-1)).all()
    turned = render(frontal(4, yaw=20.0), 16).points - points
    assert (turned[:, 2, 0] > turned[:, 0, 0]).all() and (turned[..., 0] > 0).all(), "yaw > 0: to the picture's right"
    up = render(frontal(4, pitch=15.0), 16).points - points
    assert (up[:, 2, 1] < 0).all(), "pitch > 0: up"
    rolled = render(frontal(4, roll=15.0), 16).points
    eyes = rolled[:, 1] - rolled[:, 0]
    torch.testing.assert_close(torch.rad2deg(torch.atan2(eyes[:, 1], eyes[:, 0])), torch.full((4,), 15.0), atol=1.0, rtol=0)


@pytest.mark.parametrize("factor", EXPRESSION, ids=lambda factor: factor.name)
def test_an_expression_factor_changes_its_part_of_the_face_alone(factor):
    """Nothing outside of the region's neighbourhood and, for the jaw, of the lower face; landmarks stay."""
    low, high = (render(frontal(4, **{factor.name: value}), SIZE) for value in (factor.low, factor.high))
    changed = (low.images - high.images).abs().amax(1, keepdim=True)
    near = torch.nn.functional.max_pool2d(torch.maximum(low.region, high.region), 5, stride=1, padding=2) > 0.05
    if factor.name == "jaw_open":
        below = (torch.arange(SIZE) * 2 + 1) / SIZE - 1 > 0.1
        near = near | below[:, None]
    outside = (changed > 0.1) & ~near
    assert outside.float().mean() < 0.002, f"{int(outside.sum())} pixels outside"
    assert ((changed > 0.1) & near).sum() > 30
    assert torch.equal(low.points, high.points)


@pytest.mark.parametrize("movement", ["brow_raise", "brow_frown", "blink"])
@pytest.mark.parametrize("side", ["left", "right"])
def test_left_and_right_are_the_pictures(movement, side):
    low, high = (render(frontal(4, **{f"{movement}_{side}": value}), SIZE).images for value in (0.0, 1.0))
    changed = (low - high).abs().amax(1)
    left, right = changed[..., : SIZE // 2].sum(), changed[..., SIZE // 2 :].sum()
    assert (left > 20 * right) if side == "left" else (right > 20 * left)


def test_identity_and_expression_are_in_different_hands():
    """Another expression leaves clothes and background as they are; another background leaves the face as it is."""
    scene = frontal(4)
    smiling = render(scene.with_factor("smile", 1.0), SIZE)
    elsewhere = render(scene.with_factor("background", (scene.context[:, 0] + 1) % 8), SIZE)
    rest = render(scene, SIZE)
    assert torch.equal(smiling.images[..., :8, :], rest.images[..., :8, :])
    inside = torch.nn.functional.avg_pool2d(rest.face, 3, 1, 1) > 0.999
    assert ((elsewhere.images - rest.images).abs() * inside).max() < 1e-5
    assert ((elsewhere.images - rest.images).abs() * (rest.face < 0.01)).mean() > 0.05


def test_grain_is_a_factor_like_others():
    scene = bare(1, noise=1.0).with_factor("noise_seed", 5)
    again, other = scene.with_factor("noise_seed", 5), scene.with_factor("noise_seed", 6)
    first, second, third = (render(each, SIZE).images for each in (scene, again, other))
    assert torch.equal(first, second) and 0.005 < (first - third).abs().mean() < 0.1


# Captions


def test_captions_name_the_context_and_nothing_else():
    scene = sample_scenes(60, seeded())
    for row, sentence in enumerate(captions(scene, seeded())):
        values = {f.name: f.choices[int(scene.context[row, i])] for i, f in enumerate(CONTEXT)}
        worn = tuple(name for name in ("glasses", "hat", "scarf") if values[name] == "yes")
        context = context_caption(values["background"], values["pattern"], values["clothing"], worn, opening="")
        assert sentence.endswith(context), (sentence, context)
        assert ("wearing glasses" in sentence) == ("glasses" in worn) and ("hat" in sentence) == ("hat" in worn)
        assert set(sentence.replace(",", "").split()) <= set(CAPTION_WORDS)


def test_captions_tell_the_truth_about_the_face_half_of_the_time():
    scene = sample_scenes(400, seeded())
    smile, told = scene.expression[:, 0], captions(scene, seeded())
    smiling = [", smiling" in sentence for sentence in told]
    assert all(smile[row] > 0.5 for row, said in enumerate(smiling) if said)
    assert 0.3 < sum(smiling) / (smile > 0.5).sum() < 0.7
    assert 0.4 < np.mean(["hair" in sentence or "bald" in sentence for sentence in told]) < 0.6
    assert told == captions(scene, seeded()) and told != captions(scene, seeded(1))


# Clips


def test_a_clip_is_one_person_in_one_place():
    clip = smooth_clip(30, seeded(3))
    assert len(clip) == 30
    for group, names in (("identity", ()), ("context", ()), ("nuisance", ("noise_seed",))):
        values = getattr(clip, group)
        still = [column for column, factor in enumerate(GROUPS[group]) if factor.name not in names]
        assert (values[:, still] == values[:1, still]).all()
    assert clip.factor("noise_seed").unique().numel() > 20, "grain is new in every frame"


BROWS = [[COLUMN[f"brow_{way}_{side}"][1] for way in ("raise", "frown")] for side in ("left", "right")]


@pytest.mark.parametrize("seed", range(5))
def test_a_clip_moves_smoothly_within_the_ranges(seed):
    clip = smooth_clip(125, seeded(seed), fps=25)
    up, down = (list(columns) for columns in zip(*BROWS))
    assert (clip.expression[:, up].minimum(clip.expression[:, down]) == 0).all(), "one brow goes one way at a time"
    for group, factors in (("expression", EXPRESSION), ("pose", POSE)):
        values = getattr(clip, group).clone()
        low, high = (torch.tensor([getattr(factor, end) for factor in factors]) for end in ("low", "high"))
        assert (values >= low - 1e-6).all() and (values <= high + 1e-6).all()
        if group == "expression":  # raise and frown are the two ends of one movement
            values[:, up], values[:, down] = (values[:, up] - values[:, down]) / 2, 0
        moved = values / (high - low)
        assert moved.diff(dim=0).abs().max() < 0.08, "never a jump"
        assert moved.diff(n=2, dim=0).abs().max() < 0.013, "nor a jerk"
        assert (moved.amax(0) - moved.amin(0)).sort().values[2:].mean() > 0.5, "but it moves"
    assert not is_extreme(clip.pose).any()


def test_a_clip_in_pictures_changes_little_from_frame_to_frame():
    images = render(smooth_clip(8, seeded(1)).with_factor("noise", 0), 48).images
    following, others = (images[1:] - images[:-1]).abs().mean(), (images - images.roll(4, 0)).abs().mean()
    assert 0 < following < 0.5 * others


def test_clips_follow_their_generator_and_frame_rate():
    assert torch.equal(smooth_clip(9, seeded(2)).pose, smooth_clip(9, seeded(2)).pose)
    slow, fast = (smooth_clip(20, seeded(2), fps=fps).pose.diff(dim=0).abs().mean() for fps in (100, 10))
    assert fast > 3 * slow
    assert len(smooth_clip(1, seeded())) == 1
    for count, fps in ((0, 25), (5, 0)):
        with pytest.raises(ValueError, match="use at least 1 frame and an fps above 0"):
            smooth_clip(count, seeded(), fps=fps)


# Shards


@pytest.fixture(scope="module", autouse=True)
def small():
    """Shards of three groups."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(shards, "GROUPS_PER_SHARD", 3)
        patch.setattr(shards, "SHARD", 3 * PEOPLE * FRAMES)
        yield


@pytest.fixture(scope="module")
def store(small, tmp_path_factory):
    folder = tmp_path_factory.mktemp("shards")
    for index in range(2):
        write_shard(folder, index, size=16)
    return ShardStore(folder)


def test_a_studio_is_a_square_of_people_and_frames():
    scene = studio_scene(seeded())
    grid = lambda values: values.unflatten(0, (PEOPLE, FRAMES))  # noqa: E731
    expression, pose, identity = grid(scene.expression), grid(scene.pose), grid(scene.identity)
    assert (identity == identity[:, :1]).all() and (expression == expression[:1]).all()
    for person in range(PEOPLE):
        assert torch.equal(pose[person], pose[0].roll(-person, 0))
    context = grid(scene.context)
    half = FRAMES // 2
    assert (context[:, :half] == context[:, :1]).all() and (context[:, half:] == context[:, half : half + 1]).all()
    assert grid(scene.nuisance)[..., -1].unique().numel() > FRAMES
    assert NUISANCE[-1].name == "noise_seed"


def test_what_was_written_is_read(store):
    """The scene tells the whole picture, so it is drawn again; masks are kept at half the size."""
    rows = torch.tensor([0, 50, 96 + 7, 191])
    frames = store.frames(rows)
    again = render(frames.scene, 16)
    assert len(store) == 192 and store.size == 16
    assert (again.images - frames.images).abs().max() < 1 / 127
    torch.testing.assert_close(frames.points, again.points)
    for name in ("region", "face"):
        coarse, fine = (torch.nn.functional.avg_pool2d(getattr(each, name), 4) for each in (frames, again))
        assert getattr(frames, name).shape == (4, 1, 16, 16) and (coarse - fine).abs().mean() < 0.03
    assert torch.equal(store.images(rows), frames.images)


def test_a_shard_is_a_matter_of_its_numbers(store):
    drawn = render_shard(1, 0, "train", 16)
    rows = slice(7, 9)
    assert torch.equal(drawn.scene[rows].pose, store.scene(torch.tensor([103, 104])).pose)
    assert (drawn.images[rows] - store.images(torch.tensor([103, 104]))).abs().max() < 1 / 127
    assert not torch.equal(drawn.scene.pose, store.scene(torch.arange(96)).pose), "another index, other people"


def test_roles_share_what_they_promise(store):
    roles = store.sample_roles(200, seeded())
    target, source, actor, poser = (store.scene(getattr(roles, name)) for name in ("target", "source", "expression", "pose"))
    assert torch.equal(actor.expression, target.expression) and torch.equal(poser.pose, target.pose)
    assert torch.equal(source.identity, target.identity) and (source.expression != target.expression).any(1).all()
    for lender in (actor, poser):
        assert (lender.identity != target.identity).any(1).all()
    assert torch.equal(store.person(roles.source), store.person(roles.target))
    assert (store.person(roles.expression) != store.person(roles.target)).all()
    light = (source.nuisance[:, :-1] == target.nuisance[:, :-1]).all(1)
    assert 0.35 < light.float().mean() < 0.65, "half of the sources are of the target's clip"
    for share, expected in ((1.0, True), (0.0, False)):
        roles = store.sample_roles(50, seeded(), same_clip=share)
        one, other = store.scene(roles.source), store.scene(roles.target)
        assert ((one.nuisance[:, :-1] == other.nuisance[:, :-1]).all(1) == expected).all()
        assert (roles.source != roles.target).all()


def test_roles_are_of_different_groups_and_follow_the_generator(store):
    first, again = (store.sample_roles(6, seeded(1)) for _ in range(2))
    assert all(torch.equal(value, vars(again)[name]) for name, value in vars(first).items())
    assert (first.target // (PEOPLE * FRAMES)).unique().numel() == 6


def test_whole_shards_are_kept_and_others_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(shards, "GROUPS_PER_SHARD", 1)
    path = write_shard(tmp_path, 0, size=16)
    before = (path / "images.npy").stat().st_mtime_ns
    (tmp_path / ".deepexpo-x.partial").mkdir()  # as a stop midway leaves it
    assert write_shard(tmp_path, 0, size=16) == path and (path / "images.npy").stat().st_mtime_ns == before
    assert write_shard(tmp_path, 1, size=16).exists() and not (tmp_path / ".deepexpo-x.partial").exists()
    with pytest.raises(ValueError, match="choose another folder or delete it"):
        write_shard(tmp_path, 0, seed=1, size=16)
    with pytest.raises(ValueError, match="holds no drawn faces; draw some"):
        ShardStore(tmp_path / "empty")

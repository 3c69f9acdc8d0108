"""The laws of augmentation: what it must change, and what it must leave alone."""

import pytest
import torch
import torch.nn.functional as F

from deepexpo_models.data.transforms import (
    augment_colour,
    augment_identity_input,
    augment_semantic_input,
    augment_shape,
    random_similarity,
    replace_background,
    transform_pose,
    without_similarity,
)
from deepexpo_models.dsid.alignment import (
    TEMPLATE,
    TIGHT,
    invert_similarity,
    place_of,
    similarity_from_points,
    similarity_from_pose,
    transform_points,
    warp,
)
from deepexpo_models.dsid.rotation import euler_to_matrix, matrix_to_euler, matrix_to_rotation, rotation_to_matrix

SIZE = 64
AUGMENTATIONS = (augment_semantic_input, augment_colour, augment_shape, augment_identity_input)
POINTS = torch.tensor(TEMPLATE) * TIGHT


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.fixture(scope="module")
def faces() -> torch.Tensor:
    """Pictures of soft spots, in colours as strong as those of photographs."""
    coarse = torch.rand(4, 3, SIZE // 8, SIZE // 8, generator=seeded()) * 2 - 1
    return F.interpolate(coarse, SIZE, mode="bilinear")


def poses(count: int, seed: int = 0) -> dict[str, torch.Tensor]:
    draw = lambda width: 2 * torch.rand(count, width, generator=seeded(seed)) - 1  # noqa: E731
    angles = draw(3) * torch.tensor([60.0, 40.0, 40.0])
    return {"rotation": matrix_to_rotation(euler_to_matrix(angles)), "translation": 0.2 * draw(2), "log_scale": 0.3 * draw(1)}


def spots(points: torch.Tensor, size: int = SIZE) -> torch.Tensor:
    """(N, 2) -> (N, 3, size, size), a soft white spot on black at each point."""
    axis = (torch.arange(size) * 2 + 1) / size - 1
    x, y = points[:, 0, None, None], points[:, 1, None, None]
    light = torch.exp(-((axis - x) ** 2 + (axis[:, None] - y) ** 2) / (2 * 0.06**2))
    return (light * 2 - 1)[:, None].repeat(1, 3, 1, 1)


def centres(images: torch.Tensor) -> torch.Tensor:
    """The middle of the spot in each picture (N, 2)."""
    axis = (torch.arange(images.shape[-1]) * 2 + 1) / images.shape[-1] - 1
    light = (images[:, 0] + 1) / 2
    light = torch.where(light > 0.1, light, 0.0)
    total = light.sum((1, 2))
    return torch.stack([(light * axis).sum((1, 2)) / total, (light * axis[:, None]).sum((1, 2)) / total], dim=-1)


@pytest.mark.parametrize("augment", AUGMENTATIONS)
def test_the_generator_alone_decides(augment, faces):
    first, again, other = (augment(faces, seeded(seed)) for seed in (3, 3, 4))
    assert torch.equal(first, again)
    assert (first - other).abs().mean() > 0.01
    assert first.shape == faces.shape and first.isfinite().all() and first.abs().max() <= 1


@pytest.mark.parametrize("augment", AUGMENTATIONS)
def test_every_row_is_changed_on_its_own(augment, faces):
    rows = augment(faces[:1].expand(4, -1, -1, -1), seeded(5))
    assert all((rows[0] - rows[other]).abs().mean() > 0.01 for other in (1, 2, 3))


@pytest.mark.parametrize("augment", AUGMENTATIONS)
def test_input_and_global_generator_stay_untouched(augment, faces):
    before, state = faces.clone(), torch.random.get_rng_state()
    augment(faces, seeded())
    assert torch.equal(faces, before) and torch.equal(torch.random.get_rng_state(), state)


@pytest.mark.parametrize("augment", [augment_semantic_input, augment_colour, augment_shape])
def test_strength_zero_changes_nothing_and_more_changes_more(augment, faces):
    change = [(augment(faces, seeded(1), strength) - faces).abs().mean() for strength in (0.0, 0.3, 1.0)]
    assert change[0] < 1e-3 < change[1] < change[2]


def test_semantic_input_loses_its_colours():
    """A skin tone says little about the person any more: of two, the darker one often comes out as the brighter."""
    light, dark = torch.tensor([0.5, 0.2, 0.0]), torch.tensor([0.3, 0.0, -0.2])
    skins = [skin[:, None, None].expand(200, 3, 8, 8) for skin in (light, dark)]
    tones = [augment_colour(skin, seeded(seed)).mean((2, 3)) for seed, skin in enumerate(skins)]
    assert min(tone.std(0).min() for tone in tones) > 0.2
    assert 0.1 < (tones[1].mean(1) > tones[0].mean(1)).float().mean() < 0.5


def test_shape_is_changed_but_not_the_place_of_the_face():
    """Spots at a face's five points: roll, place and scale fitted to them stay, distances between them do not."""
    generators = [seeded(7) for _ in POINTS]
    moved = torch.stack(
        [centres(augment_shape(spots(point[None]).expand(100, -1, -1, -1), g)) for point, g in zip(POINTS, generators)], dim=1
    )
    fitted = similarity_from_points(moved)
    roll, translation, log_scale = place_of(fitted)
    assert roll.mean().abs() < 0.5 and roll.std() < 2
    assert translation.mean(0).abs().max() < 0.003 and translation.std(0).max() < 0.01
    assert log_scale.mean().abs() < 0.03 and log_scale.std() < 0.04
    left_over = moved - transform_points(fitted, torch.tensor(TEMPLATE).expand(100, 5, 2))
    assert 0.01 < left_over.square().mean().sqrt() < 0.06


def test_a_similarity_is_taken_out_whole():
    axis = (torch.arange(32) * 2 + 1) / 32 - 1
    y, x = torch.meshgrid(axis, axis, indexing="ij")
    points = torch.stack([x, y], dim=-1).flatten(0, 1)[None]
    similarity = random_similarity(5, seeded())
    field = (transform_points(similarity, points.expand(5, -1, -1)) - points).unflatten(1, (32, 32))
    assert field.abs().max() > 0.1 and without_similarity(field).abs().max() < 1e-5


def test_identity_input_keeps_colours(faces):
    """What holds between the channels of every pixel holds still, cut-outs included, and no value lies outside."""
    linked = torch.stack([faces[:, 0], 0.5 * faces[:, 0] + 0.2, -0.3 * faces[:, 0]], dim=1)
    for seed in range(10):
        out = augment_identity_input(linked, seeded(seed))
        torch.testing.assert_close(out[:, 1], 0.5 * out[:, 0] + 0.2, atol=1e-5, rtol=0)
        torch.testing.assert_close(out[:, 2], -0.3 * out[:, 0], atol=1e-5, rtol=0)
        assert (out.amax((1, 2, 3)) <= linked.amax((1, 2, 3)) + 1e-5).all()


def test_identity_input_is_mirrored_half_of_the_time():
    right = spots(torch.tensor([[0.5, 0.0]])).expand(300, -1, -1, -1)
    share = (centres(augment_identity_input(right, seeded()))[:, 0] < 0).float().mean()
    assert 0.4 < share < 0.6


@pytest.mark.parametrize("known", [True, False])
def test_cut_out_covers_eyes_or_mouth(known):
    """White pictures with black ends: where the mean of the picture shows, something was cut."""
    images = torch.ones(400, 3, SIZE, SIZE)
    images[..., :4] = -1
    points = (POINTS + torch.tensor([0.0, 0.1])).expand(400, 5, 2)
    out = augment_identity_input(images, seeded(), points if known else torch.full_like(points, torch.nan))
    middle = out[:, 0, :, SIZE // 2]
    cut = (middle < 0.95).any(1)
    assert 0.2 < cut.float().mean() < 0.4
    axis = (torch.arange(SIZE) * 2 + 1) / SIZE - 1
    rows = ((middle < 0.95) * axis).sum(1)[cut] / (middle < 0.95).sum(1)[cut]
    if known:
        assert ((rows + 0.12).abs() < 0.15).any() and ((rows - 0.38).abs() < 0.15).any()
        assert ((rows + 0.12).abs().minimum((rows - 0.38).abs()) < 0.2).all()
    else:
        assert (rows.abs() < 0.2).all()


def test_transformed_pose_is_the_transformed_similarity():
    pose, moved = poses(8), random_similarity(8, seeded(1))
    after = transform_pose(pose, moved)
    points = torch.randn(8, 7, 2, generator=seeded(2))
    once = transform_points(similarity_from_pose(**after), points)
    twice = transform_points(moved, transform_points(similarity_from_pose(**pose), points))
    torch.testing.assert_close(once, twice, atol=1e-5, rtol=0)
    before_angles, after_angles = (matrix_to_euler(rotation_to_matrix(p["rotation"])) for p in (pose, after))
    torch.testing.assert_close(after_angles[:, :2], before_angles[:, :2], atol=1e-3, rtol=0)
    assert (after_angles[:, 2] - before_angles[:, 2]).abs().max() > 1


def test_picture_and_pose_are_transformed_alike():
    """Spots at the landmarks, moved by the warp that goes with it, are found where the transformed pose says."""
    moved = random_similarity(3, seeded(5))
    rest = {
        "rotation": torch.tensor([[1.0, 0, 0, 0, 1, 0]]).expand(3, 6),
        "translation": torch.zeros(3, 2),
        "log_scale": torch.zeros(3, 1),
    }
    expected = transform_points(similarity_from_pose(**transform_pose(rest, moved)), torch.tensor(TEMPLATE).expand(3, 5, 2))
    for row in range(3):
        shown = warp(spots(POINTS), invert_similarity(moved[row : row + 1]).expand(5, 2, 3), SIZE)
        torch.testing.assert_close(centres(shown), expected[row], atol=0.01, rtol=0)


def test_random_similarities_stay_in_their_ranges():
    moved = random_similarity(500, seeded(), roll=20, shift=0.1, growth=0.12)
    roll, translation, log_scale = place_of(moved * torch.tensor([TIGHT, TIGHT, 1.0]))
    assert 15 < roll.abs().max() <= 20.01 and 0.08 < translation.abs().max() <= 0.1001
    assert 0.1 < log_scale.abs().max() <= 0.1201


def test_backgrounds_are_replaced_around_the_face_alone(faces):
    face = torch.zeros_like(faces[:, :1])
    face[..., 20:40, 20:40] = 1
    same, changed = (replace_background(faces, face, seeded(), share) for share in (0.0, 1.0))
    assert torch.equal(same, faces)
    inside = face.bool().expand_as(faces)
    assert torch.equal(changed[inside], faces[inside]) and torch.equal(changed[~inside], faces.roll(1, 0).flip(-2)[~inside])
    half = replace_background(faces.repeat(50, 1, 1, 1), face.repeat(50, 1, 1, 1), seeded(), 0.5)
    replaced = (half != faces.repeat(50, 1, 1, 1)).flatten(1).any(1).float().mean()
    assert 0.4 < replaced < 0.6

"""Laws of the codes and of what is done with them."""

import re
from dataclasses import FrozenInstanceError, replace

import pytest
import torch
import torch.nn.functional as F

from deepexpo_models.dsid import (
    EncoderId,
    Identity,
    Semantics,
    average_identities,
    blend_identities,
    blend_semantics,
    combine_semantics,
    euler_to_matrix,
    geodesic_angle,
    join_identities,
    matrix_to_euler,
    matrix_to_rotation,
    public_encoder,
    require_same_encoder,
    rotation_to_matrix,
)

ONE, OTHER = EncoderId("one", "1" * 64), EncoderId("other", "2" * 64)
FIELDS = ("expression", "rotation", "translation", "log_scale")


def make_identity(batch: int, seed: int = 0, encoder: EncoderId = ONE) -> Identity:
    return Identity(F.normalize(torch.randn(batch, 16, generator=torch.Generator().manual_seed(seed)), dim=-1), encoder)


def make_semantics(batch: int, seed: int = 0, encoder: EncoderId = ONE) -> Semantics:
    draw = torch.Generator().manual_seed(seed)
    return Semantics(
        expression=torch.randn(batch, 8, generator=draw),
        rotation=matrix_to_rotation(euler_to_matrix(torch.randn(batch, 3, generator=draw) * 15)),
        translation=torch.randn(batch, 2, generator=draw) * 0.1,
        log_scale=torch.randn(batch, 1, generator=draw) * 0.1,
        encoder=encoder,
    )


def turned(angles: tuple[float, float, float]) -> Semantics:
    return replace(make_semantics(1), rotation=matrix_to_rotation(euler_to_matrix(torch.tensor([angles]))))


def euler_of(code: Semantics) -> torch.Tensor:
    return matrix_to_euler(rotation_to_matrix(code.rotation))[0]


def close(a: Semantics, b: Semantics) -> bool:
    return all(torch.allclose(getattr(a, field), getattr(b, field), atol=1e-5) for field in FIELDS)


def test_codes_are_frozen():
    with pytest.raises(FrozenInstanceError):
        make_identity(1).embedding = torch.zeros(1, 16)


@pytest.mark.parametrize(
    ("embedding", "message"),
    [
        (torch.ones(16) / 4, "expected floating point"),
        (torch.ones(1, 16, dtype=torch.int64), "expected floating point"),
        (torch.ones(0, 16), "expected floating point"),
        (torch.full((1, 16), torch.nan), "not finite"),
        (torch.full((1, 16), 1e5), "beyond 10000"),
        (torch.ones(1, 16), "norms from 4 to 4"),
    ],
)
def test_unusable_identities_are_refused(embedding, message):
    with pytest.raises(ValueError, match=message):
        Identity(embedding, ONE)


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("rotation", torch.zeros(2, 9), r"rotation .*\(2, 9\).*\(B, 6\)"),
        ("translation", torch.zeros(2, 3), r"translation .*\(B, 2\)"),
        ("log_scale", torch.zeros(2), r"log_scale .*\(B, 1\)"),
        ("log_scale", torch.zeros(3, 1), "different batch sizes.*'log_scale': 3"),
        ("expression", torch.full((2, 8), torch.inf), "expression .*not finite"),
    ],
)
def test_unusable_semantics_are_refused(field, value, message):
    with pytest.raises(ValueError, match=message):
        replace(make_semantics(2), **{field: value})


def test_half_precision_codes_are_accepted():
    code = Identity(make_identity(3).embedding.half(), ONE)
    assert blend_identities(code, code, 0.5).embedding.dtype == torch.float16


def test_identity_blend_reaches_both_ends():
    a, b = make_identity(3, 1), make_identity(3, 2)
    assert torch.allclose(blend_identities(a, b, 0.0).embedding, a.embedding, atol=1e-6)
    assert torch.allclose(blend_identities(a, b, 1.0).embedding, b.embedding, atol=1e-6)


@pytest.mark.parametrize("factor", [-0.3, 0.25, 0.5, 1.2])
def test_identity_blend_moves_along_the_great_circle(factor):
    a, b = make_identity(4, 1), make_identity(4, 2)
    blended = blend_identities(a, b, factor).embedding
    angle = torch.acos((a.embedding * b.embedding).sum(-1))
    assert torch.allclose((blended * a.embedding).sum(-1), torch.cos(factor * angle), atol=1e-5)
    assert torch.allclose((blended * b.embedding).sum(-1), torch.cos((1 - factor) * angle), atol=1e-5)


def test_identity_blend_of_equals_and_of_opposites():
    a = make_identity(2)
    opposite = Identity(-a.embedding, ONE)
    assert torch.allclose(blend_identities(a, a, 0.7).embedding, a.embedding, atol=1e-6)
    halfway = blend_identities(a, opposite, 0.5).embedding
    assert torch.allclose((halfway * a.embedding).sum(-1), torch.zeros(2), atol=1e-5)


def test_average_is_one_unit_vector_closest_to_all():
    codes = make_identity(5)
    mean = average_identities(codes).embedding
    assert mean.shape == (1, 16) and mean.norm() == pytest.approx(1)
    assert (codes.embedding @ mean.T).mean() > (codes.embedding @ codes.embedding.T).mean(0).max()
    with pytest.raises(ValueError, match="cancel"):
        average_identities(Identity(torch.cat([codes.embedding, -codes.embedding]), ONE))


def test_combination_takes_expression_from_one_and_pose_from_the_other():
    a, b = make_semantics(1, 1), make_semantics(3, 2)
    combined = combine_semantics(a, b)
    assert torch.equal(combined.expression, a.expression.expand(3, -1))
    assert all(torch.equal(getattr(combined, field), getattr(b, field)) for field in FIELDS[1:])


def test_semantic_blend_reaches_both_ends():
    a, b = make_semantics(3, 1), make_semantics(3, 2)
    assert close(blend_semantics(a, b, 0.0), a) and close(blend_semantics(a, b, 1.0), b)


@pytest.mark.parametrize("factor", [-0.5, 0.5, 1.5])
def test_semantic_blend_is_linear_and_geodesic(factor):
    a, b = turned((10.0, 0.0, 0.0)), replace(turned((30.0, 0.0, 0.0)), expression=torch.randn(1, 8))
    blended = blend_semantics(a, b, factor)
    assert torch.allclose(blended.expression, a.expression + factor * (b.expression - a.expression), atol=1e-6)
    assert euler_of(blended)[0] == pytest.approx(10 + factor * 20, abs=1e-3)


def test_relative_blend_with_the_neutral_itself_changes_nothing():
    a, neutral = make_semantics(2, 1), make_semantics(2, 2)
    assert close(blend_semantics(a, neutral, 1.7, neutral), a)


def test_relative_blend_carries_only_the_change():
    a, b, neutral = make_semantics(2, 1), make_semantics(2, 2), make_semantics(1, 3)
    moved = blend_semantics(a, b, 2.0, neutral)
    for field in ("expression", "translation", "log_scale"):
        expected = getattr(a, field) + 2 * (getattr(b, field) - getattr(neutral, field))
        assert torch.allclose(getattr(moved, field), expected, atol=1e-5)
    start, rest, end, result = (rotation_to_matrix(code.rotation) for code in (a, neutral, b, moved))
    assert torch.allclose(result, end @ rest.mT @ end @ rest.mT @ start, atol=1e-5)


def test_relative_blend_turns_in_the_camera_frame():
    a, b, neutral = turned((0.0, 0.0, 40.0)), turned((20.0, 0.0, 0.0)), turned((0.0, 0.0, 0.0))
    result = rotation_to_matrix(blend_semantics(a, b, 1.0, neutral).rotation)
    expected = rotation_to_matrix(b.rotation) @ rotation_to_matrix(a.rotation)
    other_order = rotation_to_matrix(a.rotation) @ rotation_to_matrix(b.rotation)
    assert geodesic_angle(result, expected) < 1e-4 < geodesic_angle(result, other_order)


@pytest.mark.parametrize(
    "operation",
    [
        lambda a, b: blend_identities(make_identity(a), make_identity(b, 1), 0.5).embedding,
        lambda a, b: blend_semantics(make_semantics(a), make_semantics(b, 1), 0.5).rotation,
        lambda a, b: combine_semantics(make_semantics(a), make_semantics(b, 1)).expression,
        lambda a, b: blend_semantics(make_semantics(1), make_semantics(a), 0.5, make_semantics(b)).rotation,
    ],
)
def test_one_code_serves_many_and_other_batches_are_refused(operation):
    assert len(operation(1, 4)) == len(operation(4, 1)) == 4
    with pytest.raises(ValueError, match="2 and 3 codes"):
        operation(2, 3)


def test_blending_a_batch_equals_blending_its_rows():
    a, b = make_semantics(3, 1), make_semantics(3, 2)
    row = [Semantics(*[getattr(code, field)[1:2] for field in FIELDS], ONE) for code in (a, b)]
    whole = blend_semantics(a, b, 1.3)
    assert all(
        torch.allclose(getattr(whole, field)[1:2], getattr(blend_semantics(*row, 1.3), field), atol=1e-6) for field in FIELDS
    )


@pytest.mark.parametrize(
    "mix",
    [
        lambda: blend_identities(make_identity(1), make_identity(1, encoder=OTHER), 0.5),
        lambda: combine_semantics(make_semantics(1), make_semantics(1, encoder=OTHER)),
        lambda: blend_semantics(make_semantics(1), make_semantics(1, encoder=OTHER), 0.5),
        lambda: blend_semantics(make_semantics(1), make_semantics(1), 0.5, make_semantics(1, encoder=OTHER)),
    ],
)
def test_codes_of_two_encoders_are_refused_by_both_names(mix):
    with pytest.raises(ValueError, match=r"DSID 'one' \(11111111\) and DSID 'other' \(22222222\)"):
        mix()


def test_encoders_are_told_apart_by_their_weights_not_their_names():
    renamed = make_identity(1, encoder=EncoderId("copy of one", ONE.sha256))
    assert require_same_encoder(make_identity(1), make_semantics(1), renamed) == ONE
    retrained = make_semantics(1, encoder=EncoderId(ONE.name, "f" * 64))
    with pytest.raises(ValueError, match=rf"different encoders, {re.escape(str(ONE))} and DSID '{ONE.name}' \(ffffffff\)"):
        require_same_encoder(make_identity(1), retrained)


def test_inputs_are_left_as_they_were():
    codes = [make_semantics(2, seed) for seed in range(3)]
    people = [make_identity(2, seed) for seed in range(2)]
    tensors = [getattr(code, field) for code in codes for field in FIELDS] + [who.embedding for who in people]
    before = [tensor.clone() for tensor in tensors]
    blend_semantics(codes[0], codes[1], 1.4, codes[2])
    combine_semantics(codes[0], codes[1])
    blend_identities(*people, 0.4)
    average_identities(people[0])
    assert all(torch.equal(tensor, copy) for tensor, copy in zip(tensors, before, strict=True))


def public(seed: int, batch: int = 1) -> Identity:
    embedding = make_identity(batch, seed).embedding
    norm = torch.full((batch, 1), 20.0 + seed)
    picture = torch.full((batch, 6), float(seed))
    return Identity(embedding, public_encoder("buffalo_l"), norm, picture, torch.zeros(batch, 6))


def test_what_a_recogniser_gives_beside_the_embedding_is_averaged_and_blended():
    two = public(1, batch=2)
    mean = average_identities(replace(two, norm=torch.tensor([[10.0], [30.0]])))
    assert mean.norm.item() == 20 and mean.picture.shape == mean.blank.shape == (1, 6)
    half = blend_identities(public(1), public(3, batch=2), 0.5)
    assert half.norm.tolist() == [[22.0], [22.0]] and torch.equal(half.picture, torch.full((2, 6), 2.0))
    bare = Identity(public(2).embedding, public_encoder("buffalo_l"))
    assert blend_identities(public(1), bare, 0.5).extras() == {}


def test_an_average_keeps_its_photos_apart_too():
    two = average_identities(make_identity(2))
    assert (
        torch.equal(two.photos, make_identity(2).embedding.flatten()[None])
        and average_identities(make_identity(1)).photos is None
    )
    many = average_identities(make_identity(40)).photos.unflatten(1, (16, -1))[0]
    assert torch.equal(many[0], make_identity(40).embedding[0]) and torch.equal(many[-1], make_identity(40).embedding[-1])
    assert blend_identities(two, average_identities(make_identity(3)), 0.5).photos is None, "nobody's photos"
    assert join_identities(two, two).photos.shape == (2, two.photos.shape[1])
    assert join_identities(two, average_identities(make_identity(3))).photos is None


def test_public_encoders_differ_by_name_and_from_any_dsid():
    assert public_encoder("buffalo_l") == public_encoder("buffalo_l") != public_encoder("antelopev2")
    with pytest.raises(ValueError, match=r"DSID 'one' \(11111111\) and the public encoder 'buffalo_l'"):
        blend_identities(make_identity(1), public(1), 0.5)


def test_extras_need_a_row_per_embedding():
    with pytest.raises(ValueError, match="norm has 2 rows for 1 embeddings"):
        replace(public(1), norm=torch.ones(2, 1))

"""Laws of DSID's networks, on a shipped config where it is cheap, else on a tiny one."""

import json
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from deepexpo_models.dsid import CONFIGS, DSID, TEMPLATE, Discriminator, DSIDConfig
from deepexpo_models.layers import AdaptiveGroupNorm, BlurPool, ResidualBlock, SpatialPool

TINY = DSIDConfig(
    name="tiny",
    image_size=32,
    expression_size=16,
    stem_stride=2,
    identity_width=24,
    expression_width=12,
    identity_channels=(8, 16, 24),
    identity_blocks=2,
    expression_channels=(8, 16),
    expression_blocks=1,
    pose_channels=(8, 16, 16),
    pose_blocks=1,
    generator_channels=(16, 16, 8, 8),
    style_width=20,
    discriminator_channels=(8, 8, 16, 16),
)
CODES = ("expression", "rotation", "translation", "log_scale")
MILLIONS = {  # config -> part -> least and most parameters, in millions
    "base": {
        "identity": (20, 22.5),
        "expression": (11, 13),
        "pose": (4.5, 6),
        "generator": (22, 27),
        "critic": (22, 26),
    },
    "small": {
        "identity": (0.4, 0.7),
        "expression": (0.1, 0.3),
        "pose": (0.1, 0.2),
        "generator": (0.3, 0.6),
        "critic": (0.2, 0.4),
    },
    "photo-generator": {
        "identity": (1, 1.7),
        "expression": (0.6, 1.0),
        "pose": (0.3, 0.6),
        "generator": (1.4, 1.9),
        "critic": (1, 2),
    },
}


def make(config: DSIDConfig, seed: int = 0) -> DSID:
    torch.manual_seed(seed)
    return DSID(config).eval()


def pictures(config: DSIDConfig, batch: int, seed: int = 0) -> torch.Tensor:
    size = config.image_size
    return torch.rand(batch, 3, size, size, generator=torch.Generator().manual_seed(seed)) * 2 - 1


def with_lively_pose(model: DSID) -> DSID:
    """The pose head of a fresh model is near zero; here it is not, so that the pose depends on the picture."""
    nn.init.normal_(model.semantic_encoder.pose.head.weight, std=0.5)
    return model


@pytest.mark.parametrize("name", MILLIONS)
def test_parameter_counts(name):
    config = CONFIGS[name]
    with torch.device("meta"):
        model, critic = DSID(config), Discriminator(config)
    parts = {
        "identity": model.identity_encoder,
        "expression": model.semantic_encoder.expression,
        "pose": model.semantic_encoder.pose,
        "generator": model.generator,
        "critic": critic,
    }
    for part, module in parts.items():
        least, most = MILLIONS[name][part]
        assert least <= sum(p.numel() for p in module.parameters()) / 1e6 <= most, part


@pytest.mark.parametrize("name", MILLIONS)
def test_group_norm_is_the_only_normalisation(name):
    with torch.device("meta"):
        modules = [*DSID(CONFIGS[name]).modules(), *Discriminator(CONFIGS[name]).modules()]
    normalisations = {type(module) for module in modules if "Norm" in type(module).__name__}
    assert normalisations == {nn.GroupNorm, AdaptiveGroupNorm}


@pytest.mark.parametrize("config", [TINY, CONFIGS["photo-generator"]], ids=lambda config: config.name)
def test_codes_and_pictures_have_the_stated_shapes_and_ranges(config):
    model, images = with_lively_pose(make(config)), pictures(config, 2)
    with torch.inference_mode():
        identity, semantics = model.encode_identity(images), model.encode_semantics(images)
        drawn = model.reenact(identity, **semantics)
    assert identity.shape == (2, config.identity_width)
    assert torch.allclose(identity.norm(dim=-1), torch.ones(2), atol=1e-5)
    assert [tuple(semantics[code].shape) for code in CODES] == [(2, config.expression_width), (2, 6), (2, 2), (2, 1)]
    columns = semantics["rotation"].reshape(2, 2, 3)
    assert torch.allclose(columns @ columns.mT, torch.eye(2).expand(2, 2, 2), atol=1e-5)
    assert all(semantics[code].abs().max() <= 1 for code in ("translation", "log_scale"))
    assert drawn.shape == images.shape and drawn.abs().max() <= 1


def test_base_works_on_a_picture():
    config = CONFIGS["base"]
    model, images = make(config), pictures(config, 1)
    with torch.inference_mode():
        drawn = model.reenact(model.encode_identity(images), **model.encode_semantics(images))
    assert drawn.shape == (1, 3, 256, 256) and drawn.isfinite().all()


@pytest.mark.parametrize("config", [TINY, CONFIGS["photo-generator"]], ids=lambda config: config.name)
def test_a_picture_is_encoded_alike_alone_and_in_a_batch(config):
    model, images = with_lively_pose(make(config)), pictures(config, 3)
    with torch.inference_mode():
        together = {"identity": model.encode_identity(images), **model.encode_semantics(images)}
        alone = {"identity": model.encode_identity(images[1:2]), **model.encode_semantics(images[1:2])}
        drawn = [model.reenact(**codes) for codes in (together, alone)]
    assert all(torch.allclose(together[code][1:2], alone[code], atol=1e-5) for code in alone)
    assert torch.allclose(drawn[0][1:2], drawn[1], atol=1e-5)


def test_an_untrained_pose_is_nearly_at_rest():
    with torch.inference_mode():
        semantics = make(TINY).encode_semantics(pictures(TINY, 4))
    rest = torch.tensor([1.0, 0.0, 0.0, 0.0, 1.0, 0.0])
    assert (semantics["rotation"] - rest).abs().max() < 0.02
    assert max(semantics["translation"].abs().max(), semantics["log_scale"].abs().max()) < 0.02


def test_place_and_size_stay_within_their_bounds():
    model = make(TINY)
    nn.init.constant_(model.semantic_encoder.pose.head.bias, 10.0)
    with torch.inference_mode():
        semantics = model.encode_semantics(pictures(TINY, 1))
    assert all(0.99 < semantics[code].max() <= 1 for code in ("translation", "log_scale"))


def test_every_parameter_gets_a_gradient():
    model, critic, images = with_lively_pose(make(TINY)), Discriminator(TINY), pictures(TINY, 2)
    drawn = model.reenact(model.encode_identity(images), **model.encode_semantics(images))
    critic(drawn).sum().backward()
    parameters = [*model.named_parameters(), *critic.named_parameters()]
    assert [name for name, p in parameters if p.grad is None or not p.grad.any()] == []


def test_expression_teaches_the_pose_trunk_nothing():
    model = with_lively_pose(make(TINY))
    model.encode_semantics(pictures(TINY, 2))["expression"].sum().backward()
    assert all(p.grad is None for p in model.semantic_encoder.pose.parameters())
    assert all(p.grad is not None for p in model.semantic_encoder.expression.parameters())


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_stays_near_full_precision(dtype):
    model, images = make(TINY), pictures(TINY, 2)
    points = torch.tensor([TEMPLATE] * 2) * 0.6
    with torch.inference_mode():
        full = model.reenact(model.encode_identity(images), **model.encode_semantics(images, points))
        model, images = model.to(dtype), images.to(dtype)
        half = model.reenact(model.encode_identity(images), **model.encode_semantics(images, points))
        judged = Discriminator(TINY).to(dtype)(images)
    assert half.dtype == dtype and judged.dtype == dtype and judged.isfinite().all()
    assert (half.float() - full).abs().max() < 20 * torch.finfo(dtype).eps


def test_points_decide_the_alignment_where_they_are_known():
    model, images = with_lively_pose(make(TINY)), pictures(TINY, 2)
    points = torch.tensor([TEMPLATE] * 2) * 0.5
    points[1, 0, 0] = torch.nan
    with torch.inference_mode():
        found, given = model.encode_semantics(images), model.encode_semantics(images, points)
    assert (found["expression"][0] - given["expression"][0]).abs().max() > 1e-3
    assert torch.allclose(found["expression"][1], given["expression"][1], atol=1e-6)
    assert all(torch.equal(found[code], given[code]) for code in CODES[1:])


def test_expression_does_not_see_what_lies_outside_the_tight_crop():
    model, images = make(TINY), pictures(TINY, 1)
    changed = images.clone()
    changed[:, :, :4] = 0
    points = torch.tensor([TEMPLATE]) * 0.5
    with torch.inference_mode():
        before, after = (model.encode_semantics(x, points) for x in (images, changed))
    assert torch.equal(before["expression"], after["expression"])
    assert not torch.equal(before["translation"], after["translation"])


def test_every_code_changes_the_picture():
    model, images = with_lively_pose(make(TINY)), pictures(TINY, 2)
    with torch.inference_mode():
        codes = {"identity": model.encode_identity(images), **model.encode_semantics(images)}
        drawn = model.reenact(**codes)
        for code, value in codes.items():
            assert not torch.equal(model.reenact(**{**codes, code: value.flip(0)}), drawn), code


def test_a_discriminator_sees_a_generator_that_always_draws_the_same():
    torch.manual_seed(0)
    critic, images = Discriminator(TINY), pictures(TINY, 4)
    repeated = images[:1].expand(4, -1, -1, -1)
    with torch.inference_mode():
        assert critic(images).shape == (4, 1)
        assert not torch.allclose(critic(images)[0], critic(repeated)[0], atol=1e-6)


@pytest.mark.parametrize("shape", [(1, 3, 16, 16), (1, 1, 32, 32), (3, 32, 32), (1, 32, 32, 3)])
def test_pictures_of_another_shape_are_refused(shape):
    model, images = make(TINY), torch.zeros(shape)
    for encode in (model.encode_identity, model.encode_semantics, Discriminator(TINY)):
        with pytest.raises(ValueError, match=r"expected floating-point pictures \(B, 3, 32, 32\), got"):
            encode(images)


def test_points_and_codes_of_another_shape_are_refused():
    model, images = make(TINY), pictures(TINY, 2)
    with pytest.raises(ValueError, match=r"expected points \(2, 5, 2\).*got \(1, 5, 2\)"):
        model.encode_semantics(images, torch.zeros(1, 5, 2))
    with torch.inference_mode():
        semantics = model.encode_semantics(images)
    with pytest.raises(ValueError, match=r"expected codes .*'identity': \(2, 24\).*got .*'identity': \(2, 7\)"):
        model.reenact(torch.zeros(2, 7), **semantics)


def test_another_size_is_another_config():
    config = replace(TINY, image_size=64, generator_channels=(16, 16, 8, 8, 8), discriminator_channels=(8, 8, 8, 16, 16))
    model, images = make(config), pictures(config, 1)
    assert model.reenact(model.encode_identity(images), **model.encode_semantics(images)).shape == images.shape


class Operations:
    """Layers as ComfyUI's: the same constructors; weights of any dtype, cast to the input's when they are used."""

    class Linear(nn.Linear):
        def forward(self, x):
            return F.linear(x, self.weight.to(x), self.bias.to(x))

    class Conv2d(nn.Conv2d):
        def forward(self, x):
            return self._conv_forward(x, self.weight.to(x), None if self.bias is None else self.bias.to(x))

    class GroupNorm(nn.GroupNorm):
        def forward(self, x):
            return F.group_norm(x, self.num_groups, self.weight.to(x), self.bias.to(x), self.eps)


def test_every_weight_is_in_a_layer_of_the_given_operations():
    given = (Operations.Linear, Operations.Conv2d, Operations.GroupNorm)
    outside = [
        f"{path}.{name}"
        for net in (DSID(TINY, Operations), Discriminator(TINY, Operations))
        for path, module in net.named_modules()
        if not isinstance(module, given)
        for name, _ in module.named_parameters(recurse=False)
    ]
    assert not outside


@pytest.mark.parametrize("dtype", [torch.float16, torch.float8_e4m3fn])
def test_casting_layers_compute_in_the_dtype_of_the_picture(dtype):
    images = pictures(TINY, 1)
    kept, rounded = DSID(TINY, Operations), DSID(TINY, Operations)
    small = {name: weight.to(dtype) for name, weight in make(TINY).state_dict().items()}
    kept.load_state_dict(small, assign=True)
    rounded.load_state_dict({name: weight.float() for name, weight in small.items()}, assign=True)
    with torch.inference_mode():
        drawn, expected = (m.reenact(m.encode_identity(images), **m.encode_semantics(images)) for m in (kept, rounded))
    assert drawn.dtype == torch.float32
    assert torch.equal(drawn, expected)


def test_a_model_built_on_meta_works_once_it_has_its_weights():
    model, images = make(TINY), pictures(TINY, 1)
    with torch.device("meta"):
        empty = DSID(TINY)
    empty.load_state_dict(model.state_dict(), assign=True)
    assert torch.equal(empty.encode_identity(images), model.encode_identity(images))


@pytest.mark.parametrize("config", [*CONFIGS.values(), TINY], ids=lambda config: config.name)
def test_config_survives_json(config):
    assert DSIDConfig.from_dict(json.loads(json.dumps(config.to_dict()))) == config


@pytest.mark.parametrize(
    ("missing", "unknown"), [(["style_width"], []), ([], ["stylewidth"]), (["style_width"], ["stylewidth"])]
)
def test_config_with_missing_or_unknown_entries_is_refused(missing, unknown):
    values = {key: value for key, value in TINY.to_dict().items() if key not in missing} | dict.fromkeys(unknown, 20)
    with pytest.raises(ValueError, match="not a usable DSID config") as caught:
        DSIDConfig.from_dict(values)
    assert all(name in str(caught.value) for name in missing + unknown)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"image_size": 36}, "image_size is 36, but identity_channels has 3 entries"),
        ({"image_size": 64}, "generator_channels has 4 entries, which is for pictures of 32 pixels"),
        ({"expression_size": 18}, "expression_size is 18, but expression_channels has 2 entries"),
        ({"identity_channels": (8, 12)}, r"identity_channels is \(8, 12\).*multiples of 8"),
        ({"pose_channels": ()}, r"pose_channels is \(\)"),
        ({"style_width": 0}, "style_width is 0"),
        ({"identity_blocks": "2"}, "identity_blocks is '2'"),
    ],
)
def test_configs_that_cannot_work_are_refused(change, message):
    with pytest.raises(ValueError, match=message):
        replace(TINY, **change)


def test_blur_pool_keeps_a_constant_and_removes_the_finest_stripes():
    stripes = torch.tensor([1.0, -1.0]).repeat(8).expand(1, 2, 16, 16)
    assert torch.allclose(BlurPool()(torch.full((1, 2, 16, 16), 0.7)), torch.full((1, 2, 8, 8), 0.7), atol=1e-6)
    assert BlurPool()(stripes)[..., 1:-1].abs().max() < 1e-6


def test_blur_pool_follows_the_dtype_of_its_input():
    assert BlurPool()(torch.ones(1, 2, 4, 4, dtype=torch.bfloat16)).dtype == torch.bfloat16


def test_blur_pool_shifts_nothing():
    ramp = torch.linspace(-1, 1, 16).expand(1, 1, 16, 16)
    assert torch.allclose(BlurPool()(ramp)[..., 1:-1], ramp.unfold(-1, 2, 2).mean(-1)[..., ::2, 1:-1], atol=1e-6)


def test_spatial_pool_can_tell_where_a_feature_is():
    torch.manual_seed(0)
    pool, spot = SpatialPool(8, 6), torch.zeros(2, 8, 6, 6)
    spot[0, :, 1, 1] = spot[1, :, 4, 4] = 5.0
    pooled = pool(spot)
    assert pooled.shape == (2, 8) and (pooled[0] - pooled[1]).abs().max() > 1e-3


def test_residual_block_keeps_its_input_when_its_branch_is_silent():
    block, x = ResidualBlock(8, 8), torch.randn(1, 8, 5, 5)
    nn.init.zeros_(block.conv2.weight)
    nn.init.zeros_(block.conv2.bias)
    assert torch.equal(block(x), x)

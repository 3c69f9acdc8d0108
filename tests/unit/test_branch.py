"""The dual branch against diffusers' own U-Net, and its laws on a tiny one."""

from dataclasses import replace

import pytest
import torch
from diffusers import UNet2DConditionModel

from deepexpo_models.dsid import CONFIGS, EncoderId
from deepexpo_models.meaf import FAMILIES, MEAF, BranchConfig, UNetShape, default_config, load_meaf, save_meaf
from deepexpo_models.meaf.branch import COPIED, PREFIX, SIZE_EMBEDDING, Branch, Residuals, site_names
from deepexpo_models.meaf.diffusers_host import AttachedMEAF, branch_config
from deepexpo_models.meaf.unet_copy import UNetCopy, wave_embedding

ENCODER = EncoderId("tiny-dsid", "0" * 64)
SD = UNetShape((32, 64, 64), 2, (1, 1, 0), 1, 24)
XL = UNetShape((32, 64, 64), 2, (0, 1, 2), 2, 24)
POOLED = 40
SIZES = [[64.0, 48.0, 0.0, 0.0, 64.0, 48.0]]


def make_unet(shape: UNetShape, linear: bool = False, seed: int = 0) -> UNet2DConditionModel:
    """A real U-Net with random weights; linear: as SDXL, told sizes and pooled text."""
    torch.manual_seed(seed)
    down = ["CrossAttnDownBlock2D" if depth else "DownBlock2D" for depth in shape.depth]
    up = ["CrossAttnUpBlock2D" if depth else "UpBlock2D" for depth in reversed(shape.depth)]
    more = {"addition_embed_type": "text_time", "addition_time_embed_dim": 256}
    more["projection_class_embeddings_input_dim"] = POOLED + SIZE_EMBEDDING
    return (
        UNet2DConditionModel(
            block_out_channels=shape.channels, layers_per_block=shape.layers, down_block_types=down, up_block_types=up,
            transformer_layers_per_block=[max(1, depth) for depth in shape.depth[:-1]] + [shape.mid_depth],
            cross_attention_dim=shape.context_width, attention_head_dim=[4, 8, 8], use_linear_projection=linear,
            **(more if linear else {}),
        )
        .eval()
        .requires_grad_(False)
    )  # fmt: skip


def inputs(batch: int = 2, height: int = 16, width: int = 12, linear: bool = False):
    draw = torch.Generator().manual_seed(5)
    latents, text = torch.randn(batch, 4, height, width, generator=draw), torch.randn(batch, 7, 24, generator=draw)
    added = {"text_embeds": torch.randn(batch, POOLED, generator=draw), "time_ids": torch.tensor(SIZES).expand(batch, -1)}
    return latents, torch.full((batch,), 321), text, ({"added_cond_kwargs": added} if linear else {})


def branched(unet, shape: UNetShape, size: str, light_too: bool = False, seed: int = 1) -> MEAF:
    """A MEAF with a branch begun as the base."""
    torch.manual_seed(seed)
    branch = branch_config(unet, size, text_tokens=7, light_too=light_too)
    meaf = MEAF(default_config("tiny", "tiny", CONFIGS["photo"], ENCODER, shape, branch=branch))
    meaf.branch.copy_base(unet, torch.randn(7, 24), torch.randn(POOLED) if branch.vector_width else None)
    return meaf.eval().requires_grad_(False)


@torch.no_grad()
def opened(meaf: MEAF) -> MEAF:
    """As if trained: joins and gates away from zero, values large enough to show."""
    for name, parameter in meaf.named_parameters():
        if name.startswith("branch.joins") or name.endswith(".to_v.weight"):
            parameter.normal_(std=0.1)
        elif name.endswith(".gate"):
            parameter.fill_(0.8)
    return meaf


def tokens(meaf: MEAF, batch: int = 1, seed: int = 3):
    torch.manual_seed(seed)
    return {name: meaf.tokens(name, torch.randn(batch, s.input_width)) for name, s in meaf.config.streams.items()}


@torch.no_grad()
def run(unet, meaf=None, linear=False, **condition):
    latents, times, text, added = inputs(linear=linear)
    if meaf is None:
        return unet(latents, times, text, **added).sample
    with AttachedMEAF(unet, meaf) as attached:
        attached.condition(**condition)
        return unet(latents, times, text, **added).sample


@pytest.fixture(scope="module")
def unet():
    return make_unet(SD)


@pytest.mark.parametrize(("shape", "linear"), [(SD, False), (XL, True)])
@pytest.mark.parametrize("side", [(16, 12), (20, 12)])  # 20 is 5 at the lowest level: the way up has no plain doubling
@torch.no_grad()
def test_the_copy_computes_what_diffusers_does(shape, linear, side):
    unet, found = make_unet(shape, linear), {}
    hooks = {"mid": unet.mid_block, **{f"up{i}": block for i, block in enumerate(unet.up_blocks)}}
    hooks |= {f"down{i}": block for i, block in enumerate(unet.down_blocks)}
    for name, module in hooks.items():
        module.register_forward_hook(lambda _, args, out, name=name: found.__setitem__(name, out))
    latents, times, text, added = inputs(2, *side, linear=linear)
    unet(latents, times, text, **added)
    config = branch_config(unet, "full")
    copy = UNetCopy(shape, config.heads, config.linear, 4, config.vector_width, up=True).eval()
    weights = unet.state_dict()
    copy.load_state_dict({name: weights[name] for name in copy.state_dict()})
    vector = None
    if linear:
        values = added["added_cond_kwargs"]
        sizes = wave_embedding(values["time_ids"].flatten(), 256).view(2, -1)
        vector = torch.cat([values["text_embeds"], sizes], dim=1)
    skips, mid, ups = copy(latents, times, text, vector, lambda name, query, found, heads, size: found)
    theirs = [x for i in range(3) for x in found[f"down{i}"][1]]
    assert len(skips) == 1 + len(theirs) and len(ups) == 3
    for ours, expected in zip([*skips[1:], mid, *ups], [*theirs, found["mid"], *(found[f"up{i}"] for i in range(3))]):
        assert (ours - expected).abs().max() < 2e-5 * expected.abs().max()


def test_the_copy_has_every_weight_of_the_base_but_the_last_layers(unet):
    copy = Branch(SD, branch_config(unet, "full")).copy
    assert {name.split(".")[0] for name in unet.state_dict().keys() - copy.state_dict()} == {"conv_norm_out", "conv_out"}


@pytest.mark.parametrize(
    ("family", "heads", "linear", "vector", "copied", "joined"),
    [("sd15", 8, False, 0, 348.7, 11.5), ("sdxl", 10, True, 2816, 1243.4, 6.6)],
)
def test_sizes_of_control_are_those_of_a_published_controlnet(family, heads, linear, vector, copied, joined):
    """diffusers' ControlNets have 361.3 M and 1251.0 M weights, with 1.09 M for their picture of hints."""
    shape = FAMILIES[family]
    config = BranchConfig("control", (heads,) * len(shape.channels), linear, vector_width=vector)
    with torch.device("meta"):
        branch = Branch(shape, config)
    millions = lambda module: sum(p.numel() for p in module.parameters()) / 1e6  # noqa: E731
    assert millions(branch.copy) == pytest.approx(copied, abs=0.06)
    assert millions(branch.joins) == pytest.approx(joined, abs=0.06)


@pytest.mark.parametrize(("family", "control", "full"), [("sd15", 7, 16), ("sdxl", 34, 70)])
def test_sites_of_the_copy(family, control, full):
    shape, counts = FAMILIES[family], {"control": control, "full": full}
    for size, count in counts.items():
        config = BranchConfig(size, (8,) * len(shape.channels), False)
        names = site_names(shape, config)
        assert len(names) == count and all(name.startswith(PREFIX) for name in names)
        assert len(site_names(shape, replace(config, light_too=True))) == count + full


@pytest.mark.parametrize("light_too", [False, True])
@pytest.mark.parametrize("size", COPIED)
@pytest.mark.parametrize(("shape", "linear"), [(SD, False), (XL, True)])
def test_an_untrained_branch_is_bit_equal_to_the_base(shape, linear, size, light_too):
    unet = make_unet(shape, linear)
    meaf = branched(unet, shape, size, light_too)
    assert torch.equal(run(unet, meaf, linear, tokens=tokens(meaf)), run(unet, linear=linear))


@pytest.mark.parametrize("size", COPIED)
@torch.no_grad()
def test_every_join_and_every_site_of_the_copy_fires(unet, size):
    meaf = opened(branched(unet, SD, size))
    code = {"identity": tokens(meaf)["identity"]}
    whole = run(unet, meaf, tokens=code)
    for join in meaf.branch.joins:
        kept = join.weight.clone()
        join.weight.zero_()
        assert (run(unet, meaf, tokens=code) - whole).abs().max() > 1e-6
        join.weight.copy_(kept)
    for site in meaf.sites:
        gate = meaf.streams["identity"].sites.get_submodule(site).gate
        gate.zero_()
        assert (run(unet, meaf, tokens=code) - whole).abs().max() > 1e-6, site
        gate.fill_(0.8)


@pytest.mark.parametrize("size", COPIED)
def test_strengths_and_masks_reach_the_whole_branch(unet, size):
    meaf = opened(branched(unet, SD, size))
    code, off = tokens(meaf), run(unet)
    far = lambda **condition: (run(unet, meaf, tokens=code, **condition) - off).abs().max().item()  # noqa: E731
    strengths = lambda value: dict.fromkeys(code, value)  # noqa: E731
    masks = lambda mask: dict.fromkeys(code, mask)  # noqa: E731
    assert torch.equal(run(unet, meaf, tokens=code, strengths=strengths(0.0)), off)
    assert torch.equal(run(unet, meaf, tokens=code, masks=masks(torch.zeros(1, 128, 96))), off)
    white = run(unet, meaf, tokens=code, masks=masks(torch.ones(1, 128, 96)))
    assert torch.allclose(white, run(unet, meaf, tokens=code), atol=1e-6)
    assert 0 < far(strengths=strengths(0.01)) < 0.03 * far(strengths=strengths(1.0))
    one = {**strengths(0.0), "pose": 1.0}
    assert far(strengths=one) > 0.01


def test_masked_residuals_are_zero_outside_the_mask_and_take_the_strongest_stream():
    left = torch.zeros(1, 16, 16)
    left[..., :8] = 1
    ones = Residuals([torch.ones(2, 3, 8, 8)], torch.ones(2, 3, 4, 4), [])
    found = ones.scaled([0.5, 2.0], [None, left])
    assert torch.equal(found.skips[0][..., :4], torch.ones(2, 3, 8, 4))
    assert torch.equal(found.skips[0][..., 4:], torch.full((2, 3, 8, 4), 0.5))
    assert found.mid[0, 0, 0].tolist() == [1, 1, 0.5, 0.5] and found.ups == []


@pytest.mark.parametrize("size", COPIED)
def test_detaching_leaves_the_unet_as_it_was(unet, size):
    before = run(unet)
    run(unet, opened(branched(unet, SD, size)), tokens=tokens(branched(unet, SD, size)))
    assert torch.equal(run(unet), before)


@torch.no_grad()
def test_residuals_of_a_controlnet_are_kept(unet):
    meaf = opened(branched(unet, SD, "control"))
    latents, times, text, _ = inputs()
    shapes = [(32, 16, 12)] * 3 + [(32, 8, 6)] + [(64, 8, 6)] * 2 + [(64, 4, 3)] * 3
    others = {
        "down_block_additional_residuals": [torch.full((2, *shape), 0.1) for shape in shapes],
        "mid_block_additional_residual": torch.full((2, 64, 4, 3), 0.1),
    }
    with AttachedMEAF(unet, meaf) as attached:
        both = {}
        for strength in (0.0, 1.0):
            attached.condition(tokens(meaf), dict.fromkeys(meaf.config.streams, strength))
            both[strength] = unet(latents, times, text, **others).sample
    alone = unet(latents, times, text, **others).sample
    assert torch.equal(both[0.0], alone) and not torch.equal(alone, run(unet))
    assert (both[1.0] - alone).abs().max() > 1e-3


@pytest.mark.parametrize("size", COPIED)
def test_gradients_reach_joins_at_once_and_then_everything(unet, size):
    meaf = branched(unet, SD, size).requires_grad_(True)
    latents, times, text, _ = inputs()

    def gradients(checkpointing: bool) -> dict[str, torch.Tensor]:
        meaf.branch.copy.checkpointing = checkpointing
        meaf.zero_grad()
        with AttachedMEAF(unet, meaf) as attached:
            attached.condition(tokens(meaf))
            unet(latents, times, text).sample.square().mean().backward()
        return {name: p.grad.clone() for name, p in meaf.named_parameters() if p.grad is not None and p.grad.any()}

    assert all(name.startswith("branch.joins") for name in gradients(False))
    opened(meaf)
    plain, again = gradients(False), gradients(True)
    assert {name for name, _ in meaf.named_parameters() if "null_tokens" not in name} <= plain.keys() == again.keys()
    assert all(torch.allclose(plain[name], again[name], atol=1e-7) for name in plain)


@pytest.mark.parametrize("size", COPIED)
def test_files_of_a_branch(unet, tmp_path, size):
    meaf = opened(branched(unet, SD, size, light_too=True))
    save_meaf(tmp_path / "m.safetensors", meaf)
    back = load_meaf(tmp_path / "m.safetensors")
    assert back.config == meaf.config and back.config.size == size
    assert torch.equal(run(unet, back, tokens=tokens(meaf)), run(unet, meaf, tokens=tokens(meaf)))


def test_an_unknown_size_is_refused():
    with pytest.raises(ValueError, match="unknown size 'huge' of a branch; known: control, full"):
        BranchConfig("huge", (8, 8, 8), False)

"""A compiled U-Net of diffusers is one graph with MEAF, whatever strength, code, mask or window changes; and laid-out layers
are the formula that is trained."""

import os

import pytest
import torch
from diffusers import UNet2DConditionModel
from torch._dynamo.utils import counters

from deepexpo_models.dsid import CONFIGS, EncoderId
from deepexpo_models.meaf import MEAF, UNetShape, default_config
from deepexpo_models.meaf.diffusers_host import AttachedMEAF
from deepexpo_models.meaf.sampled_layers import Latents

BACKEND = os.environ.get("DEEPEXPO_COMPILE_BACKEND", "aot_eager")
SHAPE = UNetShape(channels=(16, 32), layers=1, depth=(1, 1), mid_depth=1, context_width=24)
ROWS, SIDE = 2, 8


@pytest.fixture
def unet() -> UNet2DConditionModel:
    torch.manual_seed(0)
    return UNet2DConditionModel(
        block_out_channels=SHAPE.channels,
        layers_per_block=SHAPE.layers,
        down_block_types=("CrossAttnDownBlock2D",) * 2,
        up_block_types=("CrossAttnUpBlock2D",) * 2,
        cross_attention_dim=SHAPE.context_width,
        attention_head_dim=4,
        norm_num_groups=8,
    ).eval()


@pytest.fixture
def meaf() -> MEAF:
    torch.manual_seed(1)
    meaf = MEAF(default_config("tiny-meaf", "tiny", CONFIGS["photo"], EncoderId("tiny-dsid", "0" * 64), SHAPE)).eval()
    for name, parameter in meaf.named_parameters():
        if name.endswith(".gate"):
            torch.nn.init.constant_(parameter, 0.7)
    return meaf


def tokens(meaf: MEAF, seed: int) -> dict[str, torch.Tensor]:
    """The negative half has null tokens, as in the sampler."""
    torch.manual_seed(seed)
    found = {}
    for name, stream in meaf.config.streams.items():
        own = meaf.tokens(name, torch.randn(1, stream.input_width))
        found[name] = torch.cat([meaf.null_tokens(name).expand_as(own), own])
    return found


def inputs():
    generator = torch.Generator().manual_seed(5)
    latents, text = (torch.randn(shape, generator=generator) for shape in ((ROWS, 4, SIDE, SIDE), (ROWS, 7, 24)))
    return latents, torch.tensor(500), text


def settings(meaf: MEAF) -> list[dict]:
    """Ten calls, each with something changed: strengths, codes, masks, and streams whose window ends."""
    same, half = tokens(meaf, 0), torch.ones(1, SIDE, SIDE)
    half[..., SIDE // 2 :] = 0
    return [
        {"tokens": same},
        *({"tokens": same, "strengths": {"identity": share}} for share in (0.3, 0.9, 1.7)),
        *({"tokens": tokens(meaf, seed)} for seed in (1, 2)),
        {"tokens": same, "masks": {"identity": half}},
        {"tokens": same, "masks": {"identity": 1 - half, "pose": half}},
        {"tokens": same, "strengths": {"pose": 0.0}},
        {"tokens": same, "strengths": {"pose": 0.0, "expression": 0.0}},
    ]


@torch.no_grad()
def test_one_graph_for_ten_changes(unet, meaf):
    compiled, wanted = [], []
    for number, condition in enumerate(settings(meaf)):
        with AttachedMEAF(unet, meaf) as attached:
            attached.condition(**condition)
            wanted.append(unet(*inputs()).sample)
        if number:
            assert (wanted[-1] - wanted[-2]).abs().max() > 1e-5, "a change that changes nothing proves nothing"
    torch._dynamo.reset()
    counters.clear()
    unet.compile(backend=BACKEND)
    with AttachedMEAF(unet, meaf) as attached:
        for condition in settings(meaf):
            attached.condition(**condition, latents=Latents(ROWS, SIDE, SIDE))
            compiled.append(unet(*inputs()).sample)
    assert counters["stats"]["unique_graphs"] == 1 and not counters["graph_break"]
    for found, formula in zip(compiled, wanted, strict=True):
        assert (found - formula).abs().max() < 1e-5


@torch.no_grad()
@pytest.mark.parametrize("size", [(8, 8), (6, 10), (5, 7)])
def test_layers_laid_out_for_a_call_are_the_formula(unet, meaf, size):
    """Sizes that halve and that do not; one code for all rows, and one for each."""
    latents = torch.randn(ROWS, 4, *size, generator=torch.Generator().manual_seed(5))
    _, timestep, text = inputs()
    mask = torch.rand(1, *size, generator=torch.Generator().manual_seed(6))
    one = {name: each[1:] for name, each in tokens(meaf, 3).items()}
    for codes in (tokens(meaf, 3), one):
        condition = {"tokens": codes, "strengths": {"pose": 0.0}}
        if size != (5, 7):  # the formula's masks ask for proportions that halve
            condition["masks"] = {"identity": mask}
        found = []
        for call in (None, Latents(ROWS, *size)):
            with AttachedMEAF(unet, meaf) as attached:
                attached.condition(**condition, latents=call)
                found.append(unet(latents, timestep, text).sample)
        assert (found[0] - found[1]).abs().max() < 1e-5


def test_training_takes_the_formula(unet, meaf):
    """Gradients reach the tokens, whatever was laid out before."""
    codes = tokens(meaf, 0)
    codes = {name: each.detach().requires_grad_() for name, each in codes.items()}
    with AttachedMEAF(unet, meaf) as attached:
        attached.condition(codes, latents=Latents(ROWS, SIDE, SIDE))
        unet(*inputs()).sample.square().mean().backward()
    assert all(each.grad.abs().max() > 0 for each in codes.values())

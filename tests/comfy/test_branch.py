"""The dual branch in ComfyUI: laws, memory management, and beside ControlNets. Its arithmetic: test_parity; half-precision
models: test_memory."""

import pytest
import torch

from rig.families import TINY, describe, randomise
from rig.models import conditioning, latents, predict_noise
from studio import OFF, Studio, same

SIZES = ("control", "full")
HALF = torch.zeros(1, 64, 64)
HALF[..., :32] = 1


@pytest.fixture(scope="module", params=[("sd15", "control"), ("sd15", "full"), ("sdxl", "control"), ("sdxl", "full")])
def studio(request) -> Studio:
    return Studio(*request.param)


@pytest.fixture(scope="module", params=SIZES)
def sd15(request) -> Studio:
    return Studio("sd15", request.param)


def test_an_untrained_branch_is_bit_equal_to_the_base(studio):
    joins = [parameter for join in studio.meaf.model.branch.joins for parameter in join.parameters()]
    streams = studio.meaf.model.streams
    gates = [streams[name].sites.get_submodule(site).gate for name in streams for site in studio.meaf.model.sites]
    kept = [parameter.clone() for parameter in [*joins, *gates]]
    for parameter in [*joins, *gates]:
        parameter.zero_()
    assert torch.equal(studio.sample(studio.apply()), studio.sample(studio.model))
    for parameter, value in zip([*joins, *gates], kept):
        parameter.copy_(value)
    assert (studio.sample(studio.apply()) - studio.sample(studio.model)).abs().max() > 1e-3


def test_strength_zero_and_a_black_mask_are_off_and_a_white_mask_is_none(studio):
    off = studio.sample(studio.model)
    assert torch.equal(studio.sample(studio.apply(**OFF)), off)
    assert torch.equal(studio.sample(studio.apply(mask=torch.zeros(1, 64, 64))), off)
    assert same(studio.sample(studio.apply(mask=torch.ones(1, 64, 64))), studio.sample(studio.apply()))


def test_windows_open_and_close_the_branch(sd15):
    ends = {f"{stream}_end_percent": 0.5 for stream in ("identity", "expression", "pose")}
    patched = sd15.apply(**ends)
    assert not torch.equal(sd15.noise(patched, 900), sd15.noise(sd15.model, 900))
    assert torch.equal(sd15.noise(patched, 100), sd15.noise(sd15.model, 100))


def test_strengths_act_through_the_branch(studio):
    off, on = studio.noise(studio.model), studio.noise(studio.apply())
    weak = studio.noise(studio.apply(**dict.fromkeys(OFF, 0.02)))
    assert 0 < (weak - off).abs().max() < 0.1 * (on - off).abs().max()
    assert (studio.noise(studio.apply(pose_strength=0.0)) - on).abs().max() > 1e-4


def test_applied_twice_equals_once_and_two_people_add_up(sd15):
    once = sd15.sample(sd15.apply())
    assert torch.equal(sd15.sample(sd15.apply(sd15.apply(identity_strength=0.3))), once)
    other, semantics = sd15.codes(7)
    two = sd15.sample(sd15.apply(sd15.apply(mask=HALF), mask=1 - HALF, identity=other, semantics=semantics))
    assert not same(two, once) and not same(two, sd15.sample(sd15.apply(mask=HALF)))


def test_two_branches_on_one_model(sd15):
    """Another MEAF for another place: each runs its own copy, both join."""
    other = sd15.pack.meaf("sd15", "control" if sd15.size == "full" else "full")
    left, right = sd15.apply(mask=HALF), sd15.apply(meaf=other, mask=1 - HALF)
    both = sd15.noise(sd15.apply(left, meaf=other, mask=1 - HALF))
    off = sd15.noise(sd15.model)
    alone = [sd15.noise(model) - off for model in (left, right)]
    assert all(((both - off) - part).abs().max() > 1e-3 for part in alone)


def test_codes_follow_their_latents(sd15):
    identity, semantics = sd15.codes(3, batch=2)
    noise = latents(batch=2)
    both = sd15.sample(sd15.apply(identity=identity, semantics=semantics), noise=noise)
    for row in range(2):
        single = [type(code)(**{f: v[row : row + 1] if torch.is_tensor(v) else v for f, v in vars(code).items()})
                  for code in (identity, semantics)]  # fmt: skip
        alone = sd15.sample(sd15.apply(identity=single[0], semantics=single[1]), noise=noise[row : row + 1])
        assert same(both[row : row + 1], alone)


def controlnet(studio):
    import comfy.cldm.cldm
    import comfy.controlnet
    import comfy.ops

    config = dict(describe(studio.family).model_config(TINY).unet_config)
    config = {**config, "hint_channels": 3, "dtype": torch.float32, "operations": comfy.ops.disable_weight_init}
    config.pop("out_channels")
    network = comfy.cldm.cldm.ControlNet(**config)
    randomise(network, 9)
    return comfy.controlnet.ControlNet(network.eval(), load_device=torch.device("cpu"))


def test_beside_a_controlnet(sd15):
    control = controlnet(sd15).set_cond_hint(torch.rand(1, 3, 64, 64, generator=torch.Generator().manual_seed(4)), 0.7)
    plain = conditioning("sd15", 1)
    hinted = [[plain[0][0], {**plain[0][1], "control": control, "control_apply_to_uncond": True}]]
    off, alone, hint, both = (
        predict_noise(model, latents(), 500, positive) for positive in (plain, hinted) for model in (sd15.model, sd15.apply())
    )
    assert torch.equal(predict_noise(sd15.apply(**OFF), latents(), 500, hinted), hint)
    for one in (off, alone, hint):
        assert (both - one).abs().max() > 1e-3
    again = predict_noise(sd15.apply(), latents(), 500, hinted)
    assert torch.equal(again, both)  # the ControlNet's own residuals were not changed


def test_nothing_stays_on_the_unet_even_after_an_error(sd15):
    unet = sd15.model.model.diffusion_model
    before = sd15.noise(sd15.model)

    def fails(model, *args):
        raise RuntimeError("stopped by the test")

    broken = sd15.apply()
    broken.set_model_unet_function_wrapper(fails)
    with pytest.raises(RuntimeError, match="stopped by the test"):
        sd15.noise(broken)
    assert not unet.out._forward_pre_hooks
    broken = sd15.apply()
    broken.set_model_attn1_patch(fails)
    with pytest.raises((RuntimeError, TypeError)):
        sd15.noise(broken)
    assert not unet.out._forward_pre_hooks
    assert torch.equal(sd15.noise(sd15.model), before)


def test_the_copy_is_loaded_and_unloaded_by_comfyui(sd15):
    import comfy.model_management

    comfy.model_management.unload_all_models()
    sd15.sample(sd15.apply())
    weights = sum(p.numel() * p.element_size() for p in sd15.meaf.model.branch.parameters())
    assert sd15.meaf.patcher.loaded_size() > weights > 0
    comfy.model_management.unload_all_models()
    assert sd15.meaf.patcher.loaded_size() == 0


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float8_e4m3fn])
@pytest.mark.parametrize("size", SIZES)
def test_weights_of_the_copy_in_any_dtype(size, dtype):
    studio = Studio("sd15", size)
    reference = studio.noise(studio.apply())
    for module in studio.meaf.model.branch.modules():
        if isinstance(module, torch.nn.Linear | torch.nn.Conv2d):
            module.to(dtype)
    result = studio.noise(studio.apply())
    assert studio.meaf.model.branch.joins[0].weight.dtype == dtype
    assert result.dtype == torch.float32 and result.isfinite().all()
    bound = {torch.float16: 1e-6, torch.bfloat16: 0.05}.get(dtype, 0.5)
    assert (result - reference).abs().max() < bound * reference.abs().max()


def test_a_copy_that_is_partly_loaded_is_cast_on_use(sd15):
    """lowvram: ComfyUI leaves weights on the offload device and casts them layer by layer."""
    reference = sd15.noise(sd15.apply())
    sd15.meaf.patcher.patch_model(torch.device("cpu"), lowvram_model_memory=1)
    try:
        layer = sd15.meaf.model.branch.copy.conv_in
        assert hasattr(layer, "prev_comfy_cast_weights"), "ComfyUI did not leave this layer to be cast on use"
        assert torch.equal(sd15.noise(sd15.apply()), reference)
    finally:
        sd15.meaf.patcher.unpatch_model(torch.device("cpu"))


@torch.no_grad()
def test_bare_tensors_of_a_branch_may_stay_on_another_device(sd15):
    """The meta device stands in for a GPU: mixing it with the CPU is an error, as mixing a GPU with the CPU is."""
    branch = sd15.pack.module("deepexpo_models.meaf").load_meaf(
        sd15.pack_weights() / f"deepexpo_meaf_tiny-sd15_{sd15.size}.safetensors"
    ).branch  # fmt: skip
    branch.copy.to("meta"), branch.joins.to("meta")
    empty = torch.empty(1, 4, 8, 8, device="meta", dtype=torch.float16)
    found = branch(empty, torch.empty(1, device="meta"), None, lambda name, query, text, heads, size: text)
    assert found.mid.device.type == "meta"

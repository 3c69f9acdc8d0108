"""Beside other nodes: attn2 patches, LoRA, ControlNet, guiders, areas, context windows. ComfyUI's own classes throughout."""

import pytest
import torch

from rig.host import extra_nodes
from rig.models import conditioning, latents, predict_noise, tiny_controlnet
from rig.pack import widget_defaults
from studio import OFF, Studio, same


@pytest.fixture(scope="module", params=["sd15", "sdxl"])
def studio(request) -> Studio:
    return Studio(request.param)


@pytest.fixture(scope="module")
def sd15() -> Studio:
    return Studio("sd15")


@pytest.fixture
def silent_negative(sd15):
    """Null tokens of zero have no effect, so the negative side must be exactly the base model's."""
    streams = sd15.meaf.model.streams.values()
    kept = [stream.null_tokens.clone() for stream in streams]
    for stream in streams:
        stream.null_tokens.zero_()
    yield sd15
    for stream, tokens in zip(streams, kept):
        stream.null_tokens.copy_(tokens)


def attention_pack(model):
    """What an IP-Adapter-like pack does: it takes the exclusive attn2 slot of one layer, here with a brighter attention."""
    from comfy.ldm.modules.attention import optimized_attention

    def replaced(q, k, v, extra):
        return 1.5 * optimized_attention(q, k, v, extra["n_heads"], attn_precision=extra["attn_precision"])

    model = model.clone()
    for block, number in (("input", 4), ("middle", 0), ("output", 4)):
        model.set_model_attn2_replace(replaced, block, number)
    return model


def lora(model, weight: float = 1.0):
    import comfy.lora
    import comfy.lora_convert

    draw = torch.Generator().manual_seed(11)
    keys = [key for key in model.model_state_dict() if key.endswith("attn2.to_v.weight") or key.endswith("attn2.to_q.weight")]
    file = {}
    for key in keys:
        out, width = model.model_state_dict()[key].shape
        name = key.removesuffix(".weight")
        file[f"{name}.lora_up.weight"] = torch.randn(out, 4, generator=draw) * 0.3
        file[f"{name}.lora_down.weight"] = torch.randn(4, width, generator=draw) * 0.3
    model = model.clone()
    patches = comfy.lora.load_lora(file, {key.removesuffix(".weight"): key for key in keys})
    assert len(model.add_patches(patches, weight)) == len(keys)
    return model


@pytest.mark.parametrize("other", [attention_pack, lora])
def test_before_and_after_another_patch(studio, other):
    before, after = studio.apply(other(studio.model)), other(studio.apply())
    with_both = studio.sample(before)
    assert same(studio.sample(after), with_both)
    assert (with_both - studio.sample(studio.apply())).abs().max() > 1e-3
    assert (with_both - studio.sample(other(studio.model))).abs().max() > 1e-3
    assert torch.equal(studio.sample(other(studio.apply(**OFF))), studio.sample(other(studio.model)))


def test_with_a_controlnet(studio):
    hint = torch.rand(1, 3, 64, 64, generator=torch.Generator().manual_seed(2))
    control = tiny_controlnet(studio.family).set_cond_hint(hint, 0.7)
    plain = studio.positive
    controlled = [[plain[0][0], {**plain[0][1], "control": control, "control_apply_to_uncond": True}]]
    noise = {
        (patched, hinted): predict_noise(model, latents(), 500, positive)
        for patched, model in ((False, studio.model), (True, studio.apply()))
        for hinted, positive in ((False, plain), (True, controlled))
    }
    values = list(noise.values())
    assert all((values[a] - values[b]).abs().max() > 1e-3 for a in range(4) for b in range(a))
    off = predict_noise(studio.apply(**OFF), latents(), 500, controlled)
    assert torch.equal(off, noise[False, True])


def one_step(guider, seed: int = 0):
    """The guider's epsilon at the first sigma."""
    import comfy.samplers

    found = []

    def call(model_k, x, sigmas, extra_args, callback, disable):
        denoised = model_k(x, sigmas[:1].expand(len(x)), **extra_args)
        found.append((x - denoised) / sigmas[0])
        return denoised

    sigma = guider.model_patcher.get_model_object("model_sampling").sigma(torch.tensor([500.0]))
    noise = latents(seed)
    guider.sample(
        noise, torch.zeros_like(noise), comfy.samplers.KSAMPLER(call), torch.cat([sigma, sigma * 0]), disable_pbar=True
    )
    return found[0]


def plain_epsilon(model, cond, seed: int = 0):
    import comfy.samplers

    guider = comfy.samplers.CFGGuider(model)
    guider.inner_set_conds({"positive": cond})
    guider.set_cfg(1.0)
    return one_step(guider, seed)


@pytest.mark.parametrize("nested", [False, True])
def test_dual_cfg(silent_negative, nested):
    """It calls the model with [negative, middle, positive]: the positions would give the codes to the negative side."""
    sd15, middle = silent_negative, conditioning("sd15", 9)
    guider = extra_nodes("nodes_custom_sampler").Guider_DualCFG(sd15.apply())
    guider.set_conds(sd15.positive, middle, sd15.negative)
    guider.set_cfg(3.0, 2.0, nested=nested)
    pos, mid = (plain_epsilon(sd15.apply(), cond) for cond in (sd15.positive, middle))
    neg = plain_epsilon(sd15.model, sd15.negative)
    if nested:
        expected = neg + 2.0 * (mid + 3.0 * (pos - mid) - neg)
    else:
        expected = neg + 2.0 * (mid - neg) + 3.0 * (pos - mid)
    assert same(one_step(guider), expected)


def test_perp_neg(silent_negative):
    perpneg = extra_nodes("nodes_perpneg")
    sd15, empty = silent_negative, conditioning("sd15", 9)
    guider = perpneg.Guider_PerpNeg(sd15.apply())
    guider.set_conds(sd15.positive, sd15.negative, empty)
    guider.set_cfg(4.0, 1.5)
    pos = plain_epsilon(sd15.apply(), sd15.positive)
    neg, nothing = (plain_epsilon(sd15.model, cond) for cond in (sd15.negative, empty))
    expected = perpneg.perp_neg(None, pos, neg, nothing, 1.5, 4.0)
    assert same(one_step(guider), expected)


def test_areas_keep_their_side(silent_negative):
    """For an area on one side ComfyUI appends a copy to the other, which carries the wrong uuid."""
    import comfy.samplers

    sd15 = silent_negative
    area = {"area": (4, 8, 0, 0), "strength": 1.0, "set_area_to_bounds": False}
    half = [[sd15.positive[0][0], {**sd15.positive[0][1], **area}]]
    whole = conditioning("sd15", 9)
    seen = []

    def record(args):
        seen.append(args["uncond_denoised"].clone())
        return args["denoised"]

    for model in (sd15.model, sd15.apply()):
        model = model.clone()
        model.set_model_sampler_post_cfg_function(record)
        guider = comfy.samplers.CFGGuider(model)
        guider.set_conds(whole + half, sd15.negative)
        guider.set_cfg(3.0)
        one_step(guider)
    assert same(seen[1], seen[0])


@pytest.mark.parametrize("anchors", [True, False])
@pytest.mark.parametrize("freenoise", [True, False])
def test_context_windows_keep_each_frames_code(sd15, anchors, freenoise):
    """Current hosts put the frame before a window in front of it; their FreeNoise gives frames equal noise."""
    identity, semantics = sd15.codes(6, batch=6)
    mask = torch.rand(6, 8, 8, generator=torch.Generator().manual_seed(0))
    model = sd15.apply(identity=identity, semantics=semantics, mask=mask)
    windows = extra_nodes("nodes_context_windows").ContextWindowsManualNode
    settings = {"context_length": 3, "context_overlap": 1, "context_schedule": "standard_static", "fuse_method": "flat"}
    settings |= {"causal_window_fix": anchors}
    takes = {widget.id for widget in windows.GET_SCHEMA().inputs}
    if "causal_window_fix" not in takes and not anchors:
        pytest.skip("this ComfyUI has no anchors")
    settings = {name: value for name, value in settings.items() if name in takes}
    windowed = windows.execute(**{**widget_defaults(windows), **settings, "model": model, "dim": 0})[0]
    # ComfyUI 0.3.64 compares the list of sigmas with the batch of timesteps: it needs as many of one as of the other.
    noise, steps = latents(batch=6), 5
    if freenoise:
        noise = noise[[0, 1, 2, 1, 0, 2]]
    separate = sd15.sample(model, noise=noise, steps=steps)
    assert same(sd15.sample(windowed, noise=noise, steps=steps), separate)
    assert (separate - sd15.sample(sd15.apply(mask=mask), noise=noise, steps=steps)).abs().max() > 1e-2


@pytest.mark.parametrize("sampler", ["euler", "dpmpp_2m", "heun", "uni_pc", "dpmpp_sde"])
def test_samplers(sd15, sampler):
    """The streams act, all of them off is the base bit by bit, and a run again is the same run."""
    base, changed = (sd15.sample(model, sampler=sampler, steps=3) for model in (sd15.model, sd15.apply()))
    assert changed.isfinite().all() and (changed - base).abs().max() > 1e-2
    assert torch.equal(sd15.sample(sd15.apply(**OFF), sampler=sampler, steps=3), base)
    assert torch.equal(sd15.sample(sd15.apply(), sampler=sampler, steps=3), changed)


def test_attention_guidance(sd15):
    """Perturbed attention calls the model once more, for the positive side alone."""
    guidance = extra_nodes("nodes_pag").PerturbedAttentionGuidance
    guided = [
        guidance.execute(sd15.apply(), 3.0)[0],
        sd15.apply(guidance.execute(sd15.model, 3.0)[0]),
    ]
    results = [sd15.sample(model) for model in guided]
    assert same(*results)
    assert not torch.equal(results[0], sd15.sample(sd15.apply()))


def test_an_attention_that_another_pack_puts_in_core_is_used(sd15, monkeypatch):
    """Nodes that bring SageAttention and the like replace core's function while it runs, after packs were loaded."""
    from comfy.ldm.modules import attention

    patched, calls, chosen = sd15.apply(), [], attention.optimized_attention
    monkeypatch.setattr(attention, "optimized_attention", lambda *args, **kwargs: calls.append(1) or chosen(*args, **kwargs))
    counts = []
    for model in (sd15.model, patched):
        calls.clear()
        sd15.noise(model)
        counts.append(len(calls))
    assert counts[0] == counts[1] > 0, "every layer's text attention, patched or not"

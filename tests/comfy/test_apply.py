"""Laws of Apply MEAF on ComfyUI's own U-Nets at tiny widths, through its own samplers."""

import copy
import gc
import weakref

import comfy.supported_models_base
import pytest
import torch

from rig.models import latents
from rig.pack import DSID_CONFIG
from studio import OFF, STREAMS, Studio, same

FAMILIES = ("sd15", "sd2", "sdxl")


@pytest.fixture(scope="module", params=FAMILIES)
def studio(request) -> Studio:
    return Studio(request.param)


@pytest.fixture(scope="module")
def sd15() -> Studio:
    return Studio("sd15")


@torch.no_grad()
def test_every_site_fires(studio):
    """Open one gate at a time. The count is the published one: 16 of SD1.5 and SD2, 70 of SDXL."""
    gates = {
        (stream, site): studio.meaf.model.streams[stream].sites.get_submodule(site).gate
        for stream in STREAMS
        for site in studio.meaf.model.sites
    }
    assert len(gates) == 3 * {"sd15": 16, "sd2": 16, "sdxl": 70}[studio.family]
    patched, reference = studio.apply(), studio.noise(studio.model)
    opened = {key: gate.clone() for key, gate in gates.items()}
    try:
        for gate in gates.values():
            gate.zero_()
        assert torch.equal(studio.noise(patched), reference)  # gate 0 is bit-equal to the base
        for (stream, site), gate in gates.items():
            if stream == "identity":
                gate.fill_(1)
                assert (studio.noise(patched) - reference).abs().max() > 1e-6, site
                gate.zero_()
    finally:
        for key, gate in gates.items():
            gate.copy_(opened[key])


def test_strength_zero_is_bit_equal_and_each_stream_acts(studio):
    base = studio.sample(studio.model)
    assert torch.equal(studio.sample(studio.apply(**OFF)), base)
    for stream in STREAMS:
        alone = studio.apply(**OFF | {f"{stream}_strength": 1.0})
        assert (studio.sample(alone) - base).abs().max() > 1e-3, stream


def test_a_model_config_that_answers_none_for_all_is_no_starter(sd15, monkeypatch):
    """As in ComfyUI from 0.4 on, whose configs log a warning, too, for what they are asked and do not have."""
    asked = []
    base = comfy.supported_models_base.BASE
    monkeypatch.setattr(base, "__getattr__", lambda self, name: asked.append(name), raising=False)
    assert not same(sd15.noise(sd15.apply()), sd15.noise(sd15.model)) and "deepexpo_starter" not in asked


def test_masks(studio):
    base, whole = studio.sample(studio.model), studio.sample(studio.apply())
    assert torch.equal(studio.sample(studio.apply(mask=torch.zeros(1, 50, 70))), base)
    assert torch.equal(studio.sample(studio.apply(mask=torch.ones(1, 50, 70))), whole)
    left = torch.zeros(1, 64, 64)
    left[..., :32] = 1
    halves = [studio.sample(studio.apply(mask=mask)) for mask in (left, 1 - left)]
    assert not torch.equal(*halves)


def test_windows_open_and_close_per_stream(studio):
    early, late = 900, 100
    for stream in STREAMS:
        only = OFF | {f"{stream}_strength": 1.0, f"{stream}_end_percent": 0.5}
        model = studio.apply(**only)
        assert not torch.equal(studio.noise(model, early), studio.noise(studio.model, early)), stream
        assert torch.equal(studio.noise(model, late), studio.noise(studio.model, late)), stream
        model = studio.apply(**OFF | {f"{stream}_strength": 1.0, f"{stream}_start_percent": 0.5})
        assert torch.equal(studio.noise(model, early), studio.noise(studio.model, early)), stream
        assert not torch.equal(studio.noise(model, late), studio.noise(studio.model, late)), stream


def test_batch_of_codes_is_aligned_with_the_latents(studio):
    identity, semantics = studio.codes(3, batch=3)
    noise = latents(batch=3)
    together = studio.sample(studio.apply(identity=identity, semantics=semantics), noise=noise)
    for row in range(3):
        one = [
            type(code)(**{k: v[row : row + 1] if torch.is_tensor(v) else v for k, v in vars(code).items()})
            for code in (identity, semantics)
        ]
        alone = studio.sample(studio.apply(identity=one[0], semantics=one[1]), noise=noise[row : row + 1])
        assert same(together[row : row + 1], alone)


def test_codes_that_fit_no_batch_are_refused_in_one_sentence(sd15):
    identity, _ = sd15.codes(3, batch=3)
    with pytest.raises(ValueError, match="3 codes for 2 latents"):
        sd15.sample(sd15.apply(identity=identity, semantics=None), noise=latents(batch=2))
    with pytest.raises(ValueError, match="3 identities cannot be aligned with 2 semantics"):
        sd15.apply(identity=identity, semantics=sd15.codes(4, batch=2)[1])
    masks = torch.ones(3, 8, 8)
    with pytest.raises(ValueError, match="3 masks for 2 latents"):
        sd15.sample(sd15.apply(mask=masks), noise=latents(batch=2))


def test_a_mask_per_latent(sd15):
    noise, mask = latents(batch=2), torch.zeros(2, 8, 8)
    mask[1] = 1
    both = sd15.sample(sd15.apply(mask=mask), noise=noise)
    assert same(both[:1], sd15.sample(sd15.model, noise=noise[:1]))
    assert same(both[1:], sd15.sample(sd15.apply(), noise=noise[1:]))


def test_applied_twice_equals_once_and_another_strength_a_fresh_run(studio):
    once = studio.apply()
    assert torch.equal(studio.sample(studio.apply(once)), studio.sample(once))
    weaker = {"identity_strength": 0.3}
    assert torch.equal(studio.sample(studio.apply(once, **weaker)), studio.sample(studio.apply(**weaker)))
    assert len(studio.apply(once).get_additional_models()) == 1


def test_streams_and_regions_of_several_applications_add_up(sd15):
    chained = sd15.apply(sd15.apply(semantics=None), identity=None)
    assert same(sd15.sample(chained), sd15.sample(sd15.apply()))
    left = torch.zeros(1, 8, 8)
    left[..., :4] = 1
    other, _ = sd15.codes(7)
    two = sd15.apply(sd15.apply(mask=left, semantics=None), mask=1 - left, semantics=None, identity=other)
    alone = sd15.apply(sd15.apply(mask=left, semantics=None), mask=1 - left, semantics=None)
    assert not torch.equal(sd15.sample(two), sd15.sample(alone))
    assert same(sd15.sample(alone), sd15.sample(sd15.apply(semantics=None)))


def test_inputs_are_untouched(studio):
    before = studio.sample(studio.model)
    options, wrappers = copy.deepcopy(studio.model.model_options), copy.deepcopy(studio.model.wrappers)
    tensors = [studio.identity.embedding, *(v for v in vars(studio.semantics).values() if torch.is_tensor(v))]
    copies = [tensor.clone() for tensor in tensors]
    mask = torch.ones(1, 8, 8)
    studio.sample(studio.apply(mask=mask))
    assert all(torch.equal(a, b) for a, b in zip(tensors, copies)) and torch.equal(mask, torch.ones(1, 8, 8))
    assert (studio.model.model_options, studio.model.wrappers) == (options, wrappers)
    assert studio.model.attachments == {} and studio.model.additional_models == {}
    assert torch.equal(studio.sample(studio.model), before)


def test_patches_are_shared_by_clones(sd15):
    patched = sd15.apply()
    key = sd15.pack.module("nodes.comfy_host.patch").KEY
    patch = patched.get_attachment(key)
    assert patched.clone().get_attachment(key) is patch and copy.deepcopy(patch) is patch
    assert torch.equal(sd15.sample(patched.clone().clone()), sd15.sample(patched))


def test_nothing_of_a_run_stays(sd15, monkeypatch):
    runs = []
    sampling = sd15.pack.module("nodes.comfy_host.sampling")
    made = sampling.SamplingRun.__init__
    monkeypatch.setattr(sampling.SamplingRun, "__init__", lambda run, *a: (made(run, *a), runs.append(weakref.ref(run)))[0])
    patched = sd15.apply()
    sd15.sample(patched)
    gc.collect()
    assert len(runs) == 1 and runs[0]() is None
    assert "deepexpo" not in repr(patched.model_options)
    with pytest.raises(RuntimeError, match="interrupted"):
        sd15.sample(patched, callback=lambda *_: (_ for _ in ()).throw(RuntimeError("interrupted")))
    gc.collect()
    assert len(runs) == 2 and runs[1]() is None


def test_tokens_are_projected_once_and_streams_decided_once_per_step(sd15, monkeypatch):
    sampling = sd15.pack.module("nodes.comfy_host.sampling")
    model_class = type(sd15.meaf.model)
    counts = {"project": 0, "at_sigma": 0}

    def counted(name, original):
        def call(*args):
            counts[name] += 1
            return original(*args)

        return call

    monkeypatch.setattr(model_class, "project", counted("project", model_class.project))
    monkeypatch.setattr(sampling.SamplingRun, "at_sigma", counted("at_sigma", sampling.SamplingRun.at_sigma))
    sd15.sample(sd15.apply(), steps=5)
    assert counts == {"project": 16 * len(STREAMS) * 2, "at_sigma": 5}  # cond and uncond


def test_effect_does_not_depend_on_resolution(studio, monkeypatch):
    """What the streams add at the sites, on the model's own queries, at twice the size: within 5%. The printed formula,
    on the same queries and its one token, keeps a quarter."""
    fusion, formulations = (studio.pack.module(f"deepexpo_models.meaf.{name}") for name in ("fusion", "formulations"))
    add, model = formulations.LayerStreams.add, studio.apply()

    def effects(scale: int) -> tuple[float, float]:
        ours, printed = [], []

        def spied(layer, text, query):
            before, one = text.clone(), torch.randn(1, 1, query.shape[-1], generator=torch.Generator().manual_seed(0))
            token = fusion.FusedStream(fusion.SiteTokens(one, one, torch.zeros(())), 1.0, None)
            paper = fusion.fuse(torch.zeros_like(text), query, layer.heads, [token], "paper") / query.shape[1]
            out = add(layer, text, query)
            ours.append((out - before).square().mean().sqrt())
            printed.append(paper.square().mean().sqrt())
            return out

        monkeypatch.setattr(formulations.LayerStreams, "add", spied)
        noisy = torch.nn.functional.interpolate(latents(height=16, width=16), scale_factor=scale, mode="nearest")
        studio.noise(model, noisy=noisy)
        return torch.stack(ours).mean().item(), torch.stack(printed).mean().item()

    (small, small_printed), (large, large_printed) = effects(1), effects(2)
    assert large == pytest.approx(small, rel=0.05)
    assert large_printed < small_printed / 2


def test_another_base_family_is_refused(studio):
    other = {"sd15": "sdxl", "sd2": "sdxl", "sdxl": "sd15"}[studio.family]
    with pytest.raises(ValueError, match=f"'random-tiny-{other}' is for tiny-{other} models"):
        studio.apply(meaf=studio.pack.meaf(other))


def test_a_transformer_is_refused(sd15):
    class Flux(torch.nn.Module):
        pass

    model = sd15.model.clone()
    model.add_object_patch("diffusion_model", Flux())
    with pytest.raises(ValueError, match=r"works on SD1\.5, SD2\.x and SDXL U-Nets, the connected model is a Flux"):
        sd15.apply(model)


def test_code_of_another_encoder_is_refused_with_both_names(sd15):
    dsid = sd15.pack.module("deepexpo_models.dsid")
    foreign = dsid.Identity(sd15.identity.embedding, dsid.EncoderId("somebody-elses", "f" * 64))
    with pytest.raises(ValueError, match=rf"'somebody-elses'.*'{DSID_CONFIG}'"):
        sd15.apply(identity=foreign)

"""DSID and MEAF under ComfyUI's memory management: loaded, offloaded and cast by it, gone after unload."""

import pytest
import torch

from rig.models import latents
from studio import Studio


@pytest.fixture(scope="module")
def sd15() -> Studio:
    return Studio("sd15")


def loaded_models() -> list:
    import comfy.model_management

    return [entry.model.model for entry in comfy.model_management.current_loaded_models if entry.model is not None]


def test_meaf_is_loaded_with_the_model_and_unloaded_by_comfyui(sd15):
    import comfy.model_management

    seen = []
    comfy.model_management.unload_all_models()
    sd15.sample(sd15.apply(), callback=lambda *_: seen.append(loaded_models()))
    assert all(sd15.meaf.model in now and sd15.model.model in now for now in seen) and seen
    comfy.model_management.unload_all_models()
    assert loaded_models() == []
    assert sd15.meaf.patcher.loaded_size() == 0


def test_an_unpatched_run_does_not_load_meaf(sd15):
    import comfy.model_management

    comfy.model_management.unload_all_models()
    seen = []
    sd15.sample(sd15.model, callback=lambda *_: seen.append(loaded_models()))
    assert all(sd15.meaf.model not in now for now in seen) and seen


def test_dsid_is_loaded_for_encoding(sd15):
    import comfy.model_management

    comfy.model_management.unload_all_models()
    pictures = torch.rand(2, 40, 60, 3)
    sd15.pack.run("DeepExPoEncodeSemantics", dsid=sd15.dsid, image=pictures)
    assert sd15.dsid.model in loaded_models()
    comfy.model_management.unload_all_models()
    assert sd15.dsid.model not in loaded_models()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float8_e4m3fn])
def test_weights_in_any_dtype_serve_a_float32_model(sd15, dtype):
    """MEAF's weights keep their dtype in memory; the computation follows the model's."""
    meaf = sd15.pack.meaf("sd15")
    reference = sd15.sample(sd15.apply(meaf=meaf))
    for module in meaf.model.modules():
        if isinstance(module, torch.nn.Linear):
            module.to(dtype)
    result = sd15.sample(sd15.apply(meaf=meaf))
    assert meaf.model.streams["identity"].projection.proj[0].weight.dtype == dtype
    assert result.dtype == torch.float32 and result.isfinite().all()
    scale = reference.abs().max()
    assert (result - reference).abs().max() / scale < {torch.float16: 1e-6, torch.bfloat16: 0.05}.get(dtype, 0.5)


@pytest.mark.parametrize("size", ["light", "control", "full"])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_models(dtype, size):
    """Queries, and a branch's latents, in the model's dtype; ComfyUI casts MEAF to it."""
    studio = Studio("sd15", size)
    reference = studio.noise(studio.apply())
    inner = studio.model.model
    inner.diffusion_model.to(dtype)
    inner.diffusion_model.dtype = dtype
    result = studio.noise(studio.apply())
    assert result.isfinite().all()
    assert (result - reference).abs().max() < 0.1 * reference.abs().max()
    assert not torch.equal(result, studio.noise(studio.model))


def test_partly_loaded_weights_are_cast_on_use(sd15):
    """lowvram: ComfyUI leaves weights on the offload device and casts them layer by layer."""
    meaf = sd15.pack.meaf("sd15")
    reference = sd15.sample(sd15.apply(meaf=meaf))
    meaf.patcher.patch_model(torch.device("cpu"), lowvram_model_memory=1)
    try:
        linear = meaf.model.streams["identity"].projection.proj[0]
        assert hasattr(linear, "prev_comfy_cast_weights"), "ComfyUI did not leave this layer to be cast on use"
        assert torch.equal(sd15.sample(sd15.apply(meaf=meaf)), reference)
    finally:
        meaf.patcher.unpatch_model(torch.device("cpu"))


@torch.no_grad()
def test_nothing_asks_for_the_weights_device(sd15):
    """Weights may stay on another device than the model: every bare parameter is moved on use. The meta device stands in
    for a GPU here: mixing it with the CPU is an error, as mixing a GPU with the CPU is."""
    meaf = sd15.pack.module("deepexpo_models.meaf").load_meaf(sd15.pack_weights() / "deepexpo_meaf_tiny-sd15_light.safetensors")
    stream = meaf.streams["identity"]
    site = stream.sites.get_submodule(next(iter(meaf.sites)))
    tokens = torch.empty(1, 4, 24, device="meta")
    site.to_k.to("meta"), site.to_v.to("meta")
    projected = site(tokens)
    assert {projected.key.device.type, projected.value.device.type, projected.null_logit.device.type} == {"meta"}


def test_codes_do_not_depend_on_the_file_dtype(sd15, tmp_path):
    """fp16 files hold what they hold; computing in float32 makes the same codes everywhere from the same file."""
    first = sd15.pack.run("DeepExPoEncodeIdentity", dsid=sd15.dsid, image=torch.rand(1, 64, 64, 3))
    assert first.embedding.dtype == torch.float32 and first.embedding.device.type == "cpu"
    assert next(sd15.dsid.model.parameters()).dtype == torch.float16


def test_cached_tokens_are_gone_between_runs(sd15):
    import gc

    patched = sd15.apply()
    sd15.sample(patched, noise=latents(batch=2))
    gc.collect()
    sampling = sd15.pack.module("nodes.comfy_host.sampling")
    assert not [found for found in gc.get_objects() if isinstance(found, sampling.SamplingRun)]

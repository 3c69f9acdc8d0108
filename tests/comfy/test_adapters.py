"""Public adapters read where they lie by Load MEAF, and the LoRA inside FaceID files by Apply MEAF."""

import os
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

import public_adapters as published
from deepexpo_models.importers import lora_tensors
from rig.families import TINY
from rig.host import base_directory
from rig.models import diffusers_twin, latents, predict_noise, twin_noise
from rig.pack import the_pack, weights_folder
from studio import Studio, same
from test_imported import Imported


@pytest.fixture
def models():
    """models/ of the in-process ComfyUI, emptied of adapters afterwards."""
    folder = base_directory() / "models"
    weights_folder()
    before = set(folder.rglob("*"))
    the_pack().module("nodes.comfy_host.adapters").register_adapter_folders()
    yield folder
    for path in set(folder.rglob("*")) - before:
        if not path.is_dir():
            path.unlink()


def listed() -> list[str]:
    schema = the_pack().loaded.nodes["DeepExPoLoadMEAF"].define_schema()
    return next(x for x in schema.inputs if x.id == "meaf_name").options


def put(models: Path, name: str, kind: str = "binary", shapes=None) -> dict:
    numbers, context = published.PUBLISHED["sd15"]
    file = published.random_file(
        shapes or published.adapter_shapes(numbers, context, published.mlp(context), lora=True), dtype=torch.float16
    )
    path = models / name
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file(file, path) if kind == "safetensors" else torch.save(published.nested(file), path)
    return file


# Listing


def test_adapters_are_listed_by_name_and_never_opened(models):
    for name in ("ipadapter/sub/a.safetensors", "ipadapter/b.bin", "instantid/ip-adapter.bin", "ipadapter/notes.txt"):
        (models / name).parent.mkdir(parents=True, exist_ok=True)
        (models / name).write_bytes(b"junk")
    os.mkfifo(models / "ipadapter" / "pipe.bin")
    names = listed()
    assert set(names) >= {"ipadapter/sub/a.safetensors", "ipadapter/b.bin", "instantid/ip-adapter.bin", "ipadapter/pipe.bin"}
    assert "ipadapter/notes.txt" not in names
    ours = [name for name in names if not name.startswith(("ipadapter/", "instantid/"))]
    assert names[: len(ours)] == ours and len(ours) > 3, "our own come first"


@pytest.mark.parametrize(
    ("content", "says"), [(b"junk of no kind", "x.bin is not a safetensors file"), (b"PK\x03\x04junk", "x.bin is truncated")]
)
def test_what_is_none_is_refused_in_one_sentence(models, content, says):
    (models / "ipadapter").mkdir(parents=True, exist_ok=True)
    (models / "ipadapter" / "x.bin").write_bytes(content)
    with pytest.raises(ValueError, match=says) as refused:
        the_pack().run("DeepExPoLoadMEAF", meaf_name="ipadapter/x.bin")
    assert "\n" not in str(refused.value) and str(models) not in str(refused.value)


def test_one_that_is_gone_is_named(models):
    with pytest.raises(ValueError, match=r"gone\.bin' is not in the instantid model folders"):
        the_pack().run("DeepExPoLoadMEAF", meaf_name="instantid/gone.bin")


# Loading


@pytest.mark.parametrize("name", ["ipadapter/ip-adapter-faceid_sd15.bin", "deepexpo/faceid.safetensors"])
def test_an_adapter_is_converted_in_memory_with_its_lora(models, name):
    file = put(models, name, name.rsplit(".")[-1])
    meaf = the_pack().run("DeepExPoLoadMEAF", meaf_name=name.removeprefix("deepexpo/"))
    site = meaf.model.streams["identity"].sites.get_submodule("mid_block.attentions.0.transformer_blocks.0.attn2")
    assert torch.equal(site.to_v.weight, file["ip_adapter.31.to_v_ip.weight"]) and meaf.config.base == "sd15"
    up = meaf.lora["lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn1_to_q.lora_up.weight"]
    assert torch.equal(up, file["ip_adapter.0.to_q_lora.up.weight"]) and len(meaf.lora) == 3 * 4 * 32


def test_two_kinds_of_equal_tensors_are_chosen_by_the_user(models):
    numbers, context = published.PUBLISHED["sd15"]
    shapes = published.adapter_shapes(numbers, context, published.plus(context), lora=True)
    put(models, "ipadapter/ip-adapter-faceid-plusv2_sd15.bin", shapes=shapes)
    pack, name = the_pack(), "ipadapter/ip-adapter-faceid-plusv2_sd15.bin"
    with pytest.raises(ValueError, match="choose the kind faceid-plus or faceid-plusv2"):
        pack.run("DeepExPoLoadMEAF", meaf_name=name)
    meaf = pack.run("DeepExPoLoadMEAF", meaf_name=name, kind="faceid-plusv2")
    assert meaf.config.streams["identity"].projector == "plusv2"


# The LoRA inside


class WithLora(Imported):
    """A FaceID of the tiny base as Load MEAF gives it of a file of its full size: with its LoRA."""

    def __init__(self, base: str = "sd15"):
        super().__init__("faceid", base)
        loaded = the_pack().module("nodes.comfy_host.memory").LoadedMEAF
        self.meaf = loaded(self.meaf.patcher, lora_tensors(self.file, self.unet))

    def published(self, model, positive, noisy):
        """By the published processors, LoRA in all of them."""
        import comfy.model_management

        comfy.model_management.unload_all_models()  # which takes the LoRA off the weights that the twin copies
        twin = diffusers_twin(model)
        published.attach_reference(twin, self.file, self.codes(1)[1], lora=True)
        return twin_noise(twin, noisy, 500, positive)


def noise(model, studio, **settings):
    return predict_noise(model, latents(), 500, studio.positive, **settings)


@pytest.mark.parametrize("base", ["sd15", "sdxl"])
@torch.no_grad()
def test_at_strength_1_it_is_the_published_model(base):
    studio, imported = Studio(base), WithLora(base)
    codes, _ = imported.codes(1)
    ours = noise(imported.apply(studio.model, **codes, lora_strength=1.0), studio)
    theirs = imported.published(studio.model, studio.positive, latents())
    without = noise(imported.apply(studio.model, **codes, lora_strength=0.0), studio)
    print(f"{base}: max difference {(ours - theirs).abs().max():.2g}, effect {(theirs - without).abs().max():.2g}")
    assert (ours - theirs).abs().max() < 1e-5 and not same(theirs, without)


@torch.no_grad()
def test_it_equals_load_lora_at_any_strength():
    import comfy.sd

    studio, imported = Studio("sd15"), WithLora()
    codes, _ = imported.codes(1)
    lora = dict(imported.meaf.lora)
    loaded, _ = comfy.sd.load_lora_for_models(studio.model, None, lora, 0.6, 0.0)
    expected = noise(imported.apply(loaded, **codes, lora_strength=0.0), studio)
    assert same(noise(imported.apply(studio.model, **codes), studio), expected), "0.6 is the default"


@torch.no_grad()
def test_off_is_off():
    studio, imported = Studio("sd15"), WithLora()
    codes, _ = imported.codes(1)
    plain = noise(studio.model, studio)
    for off in ({"identity_strength": 0.0}, {"lora_strength": 0.0, "identity_strength": 0.0}):
        model = imported.apply(studio.model, **codes, **off)
        assert not model.patches and torch.equal(noise(model, studio), plain)
    assert not studio.model.patches


@torch.no_grad()
def test_applied_twice_it_is_there_once():
    studio, imported = Studio("sd15"), WithLora()
    codes, _ = imported.codes(1)
    once = imported.apply(studio.model, **codes)
    first = imported.apply(studio.model, **codes, lora_strength=1.5)
    twice = imported.apply(first, **codes)
    assert all(len(patches) == 1 for patches in twice.patches.values())
    assert torch.equal(noise(twice, studio), noise(once, studio))
    assert not same(noise(first, studio), noise(once, studio)), "the model that was patched again keeps its own"


@torch.no_grad()
def test_a_replaced_identity_takes_its_lora_along():
    studio, imported = Studio("sd15"), WithLora()
    codes, _ = imported.codes(1)
    replaced = studio.apply(imported.apply(studio.model, **codes))
    assert not replaced.patches
    assert torch.equal(noise(replaced, studio), noise(studio.apply(), studio))


@torch.no_grad()
def test_two_people_share_it():
    studio, imported = Studio("sd15"), WithLora()
    codes, _ = imported.codes(1)
    left = torch.zeros(1, 8, 8)
    left[..., :4] = 1
    both = imported.apply(imported.apply(studio.model, **codes, mask=left), **codes, mask=1 - left)
    assert all(len(patches) == 1 for patches in both.patches.values())
    assert same(noise(both, studio), noise(imported.apply(studio.model, **codes), studio))


@torch.no_grad()
def test_other_loras_stay():
    import comfy.sd

    studio, imported = Studio("sd15"), WithLora()
    codes, _ = imported.codes(1)
    draw = torch.Generator().manual_seed(8)
    name = "lora_unet_mid_block_attentions_0_transformer_blocks_0_attn2_to_v"
    other = {
        f"{name}.lora_down.weight": torch.randn(4, TINY.context, generator=draw),
        f"{name}.lora_up.weight": torch.randn(TINY.channels * 4, 4, generator=draw),
        f"{name}.alpha": torch.tensor(4.0),
    }
    before, _ = comfy.sd.load_lora_for_models(studio.model, None, other, 1.0, 0.0)
    between, _ = comfy.sd.load_lora_for_models(imported.apply(studio.model, **codes), None, other, 1.0, 0.0)
    expected = noise(imported.apply(before, **codes), studio)
    for model in (between, imported.apply(between, **codes)):
        assert same(noise(model, studio), expected)
    assert not same(expected, noise(imported.apply(studio.model, **codes), studio))

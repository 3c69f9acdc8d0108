"""Public adapters in ComfyUI: the published formula, the recogniser on Encode Identity, and CLIP Vision beside it."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch

import public_adapters as published
import random_weights
from deepexpo_models.importers import KINDS, lora_tensors
from deepexpo_models.meaf import MEAF, load_meaf
from imported import PATCHES, Imported, written_and_loaded
from insightface_pack import embed, installed_packs
from rig.models import diffusers_twin, latents, predict_noise, tiny_model, twin_noise
from rig.pack import the_pack, weights_folder
from studio import Studio, same

CLIP = {
    "hidden_size": PATCHES[1], "image_size": 28, "patch_size": 14, "num_hidden_layers": 3, "num_attention_heads": 2,
    "intermediate_size": 64, "hidden_act": "gelu", "num_channels": 3, "projection_dim": 16, "layer_norm_eps": 1e-5,
    "model_type": "clip_vision_model",
}  # fmt: skip
CASES = [(kind.name, base) for kind in KINDS.values() for base in kind.bases]


@pytest.mark.parametrize(("kind", "base"), CASES)
@torch.no_grad()
def test_equals_the_published_formula(kind, base):
    studio, imported = Studio(base), Imported(kind, base)
    codes, tokens = imported.codes(batch=2)
    noisy, twin = latents(batch=2), diffusers_twin(studio.model)
    plain = twin_noise(twin, noisy, 500, studio.positive)
    ours = predict_noise(imported.apply(studio.model, **codes), noisy, 500, studio.positive)
    published.attach_reference(twin, imported.file, tokens)
    theirs = twin_noise(twin, noisy, 500, studio.positive)
    difference, effect = ((ours - x).abs().max().item() for x in (theirs, plain))
    print(f"{kind} {base}: max difference {difference:.2g}, effect {effect:.2g}")
    assert difference < 1e-5 and effect > 0.05


@pytest.mark.parametrize("base", ["sd15", "sdxl"])
@torch.no_grad()
def test_with_the_lora_of_its_file(base):
    """ComfyUI's own LoRA loader takes every tensor, and both together are the published model."""
    import comfy.lora
    import comfy.sd

    model, imported = tiny_model(base), Imported("faceid", base)
    lora = lora_tensors(imported.file, imported.unet)
    keys = comfy.lora.model_lora_keys_unet(model.model, {})
    assert len(comfy.lora.load_lora(lora, keys)) == 4 * 2 * len(imported.meaf.model.sites)
    patched, _ = comfy.sd.load_lora_for_models(model, None, lora, 1.0, 0.0)
    codes, tokens = imported.codes(batch=1)
    noisy, positive, twin = latents(), Studio(base).positive, diffusers_twin(model)
    ours = predict_noise(imported.apply(patched, **codes), noisy, 500, positive)
    without = twin_noise(twin, noisy, 500, positive)
    published.attach_reference(twin, imported.file, tokens, lora=True)
    theirs = twin_noise(twin, noisy, 500, positive)
    print(f"{base} with LoRA: max difference {(ours - theirs).abs().max():.2g}, effect {(theirs - without).abs().max():.2g}")
    assert (ours - theirs).abs().max() < 1e-5


@torch.no_grad()
def test_the_negative_side_is_the_zero_face_before_a_blank_picture():
    imported = Imported("faceid-plusv2", "sd15")
    codes, _ = imported.codes(batch=1)
    blank = codes["identity"].blank.unflatten(1, PATCHES)
    expected = imported.tokens(torch.zeros(1, 512), blank)
    studio = Studio("sd15")
    model = imported.apply(studio.model, **codes)
    noisy, twin = latents(), diffusers_twin(studio.model)
    both = predict_noise(model, noisy, 500, studio.positive, studio.negative, cfg=3.0)
    published.attach_reference(twin, imported.file, expected)
    negative = twin_noise(twin, noisy, 500, studio.negative)
    published.attach_reference(twin, imported.file, imported.codes(1)[1])
    positive = twin_noise(twin, noisy, 500, studio.positive)
    assert (both - (negative + 3 * (positive - negative))).abs().max() < 3e-5


@pytest.mark.parametrize("base", ["sd15", "sdxl"])
@torch.no_grad()
def test_portrait_sees_several_photos_side_by_side(base):
    """As published: 16 tokens of each photo, and those of as many faces of zeros on the negative side."""
    studio, imported = Studio(base), Imported("faceid-portrait", base)
    dsid = the_pack().module("deepexpo_models.dsid")
    photos = imported.codes(batch=5)[0]["identity"]
    person = dsid.average_identities(dsid.Identity(photos.embedding, photos.encoder))
    noisy, twin = latents(), diffusers_twin(studio.model)
    both = predict_noise(imported.apply(studio.model, identity=person), noisy, 500, studio.positive, studio.negative, cfg=3.0)
    alone = predict_noise(imported.apply(studio.model, identity=person), noisy, 500, studio.positive)
    expected = []
    for face, text in ((photos.embedding[None], studio.positive), (torch.zeros(1, 5, 512), studio.negative)):
        tokens = imported.tokens(face)
        assert tokens.shape == (1, 5 * 16, 24)
        published.attach_reference(twin, imported.file, tokens)
        expected.append(twin_noise(twin, noisy, 500, text))
    assert (alone - expected[0]).abs().max() < 1e-5
    assert (both - (expected[1] + 3 * (expected[0] - expected[1]))).abs().max() < 3e-5
    mean = dsid.Identity(person.embedding, person.encoder)
    assert not same(alone, predict_noise(imported.apply(studio.model, identity=mean), noisy, 500, studio.positive))


@torch.no_grad()
def test_chained_to_a_meaf_of_ours_it_equals_one_meaf_with_both():
    """As train_meaf makes it of an imported identity: each stream reads its own encoder's codes."""
    studio, imported = Studio("sd15"), Imported("faceid", "sd15")
    given = imported.converted
    own = load_meaf(weights_folder() / random_weights.MEAF_FILE.format("tiny-sd15", "light"))
    both = MEAF(replace(own.config, streams={**own.config.streams, **given.config.streams}))
    both.streams.update({**own.streams, **given.streams})
    meaf = written_and_loaded(both)
    codes, _ = imported.codes(batch=1)
    chained = studio.apply(imported.apply(studio.model, **codes), identity=None)
    assert same(studio.noise(chained), studio.noise(studio.apply(meaf=meaf, **codes)))
    assert not same(studio.noise(chained), studio.noise(studio.apply(identity=None)))
    assert not same(studio.noise(chained), studio.noise(imported.apply(studio.model, **codes)))


# Encode Identity


@pytest.fixture
def red_pack():
    import folder_paths

    with installed_packs(Path(folder_paths.models_dir, "insightface"), ["buffalo_l"]):
        yield


def red_picture(seed: int) -> torch.Tensor:
    noise = torch.rand(128, 128, generator=torch.Generator().manual_seed(seed))
    return torch.stack([0.8 + 0.2 * noise, noise, noise.flip(0)], dim=-1)


@pytest.fixture(scope="module")
def clip_vision(tmp_path_factory):
    """ComfyUI's own CLIP Vision at a tiny size."""
    import comfy.clip_vision

    path = tmp_path_factory.mktemp("clip") / "config.json"
    path.write_text(json.dumps(CLIP))
    clip = comfy.clip_vision.ClipVisionModel(str(path))
    torch.manual_seed(0)
    for parameter in clip.model.parameters():
        parameter.data = torch.randn(parameter.shape, dtype=parameter.dtype) * 0.2
    return clip


def test_a_recogniser_encodes_without_a_dsid(red_pack):
    pack, pictures = the_pack(), torch.stack([red_picture(1), red_picture(2)])
    identity = pack.run("DeepExPoEncodeIdentity", image=pictures, recogniser="buffalo_l")
    vectors = torch.stack([torch.from_numpy(embed(picture.numpy())) for picture in pictures])
    mean = torch.nn.functional.normalize(torch.nn.functional.normalize(vectors, dim=-1).mean(0, keepdim=True), dim=-1)
    torch.testing.assert_close(identity.embedding, mean, atol=1e-4, rtol=0)
    torch.testing.assert_close(identity.norm, vectors.norm(dim=-1).mean().reshape(1, 1), atol=1e-3, rtol=0)
    assert identity.encoder.name == "buffalo_l" and identity.picture is None


def test_mismatches_are_refused_in_one_sentence(red_pack):
    pack, picture = the_pack(), red_picture(1)[None]
    with pytest.raises(ValueError, match="the model pack antelopev2 is not in"):
        pack.run("DeepExPoEncodeIdentity", image=picture, recogniser="antelopev2")
    with pytest.raises(ValueError, match="no DSID is connected"):
        pack.run("DeepExPoEncodeIdentity", image=picture)
    found = pack.run("DeepExPoEncodeIdentity", image=picture, recogniser="buffalo_l")
    own = pack.run("DeepExPoEncodeIdentity", image=picture, dsid=pack.dsid())
    instantid, plus, faceid = Imported("instantid", "sdxl"), Imported("faceid-plusv2", "sd15"), Imported("faceid", "sd15")
    for imported, identity, says in (
        (instantid, found, r"public encoder 'buffalo_l'.*'instantid'.*public encoder 'antelopev2'"),
        (faceid, own, r"DSID .*'faceid'.*public encoder 'buffalo_l'"),
        (plus, found, "connect a CLIP Vision model"),
    ):
        with pytest.raises(ValueError, match=says):
            imported.apply(tiny_model(imported.base), identity=identity)


@torch.no_grad()
def test_faceid_plus_sees_the_face_through_clip_vision(red_pack, clip_vision):
    pack, model, imported = the_pack(), tiny_model("sd15"), Imported("faceid-plusv2", "sd15")
    pictures = [red_picture(seed)[None] for seed in (1, 2)]
    codes = [pack.run("DeepExPoEncodeIdentity", image=p, recogniser="buffalo_l", clip_vision=clip_vision) for p in pictures]
    assert codes[0].picture.shape == codes[0].blank.shape == (1, PATCHES[0] * PATCHES[1])
    assert torch.equal(codes[0].blank, codes[1].blank) and not torch.equal(codes[0].picture, codes[1].picture)
    other_face = replace(codes[0], picture=codes[1].picture)
    noisy, positive = latents(), Studio("sd15").positive
    first, second, seen = (
        predict_noise(imported.apply(model, identity=code), noisy, 500, positive) for code in (codes[0], codes[1], other_face)
    )
    assert not same(first, second) and not same(first, seen), "the picture counts, beside the face's vector"
    tokens = imported.tokens(codes[0].embedding, codes[0].picture.unflatten(1, PATCHES))
    twin = diffusers_twin(model)
    published.attach_reference(twin, imported.file, tokens)
    assert (first - twin_noise(twin, noisy, 500, positive)).abs().max() < 1e-5


def test_pictures_of_another_clip_are_refused(red_pack, clip_vision):
    imported = Imported("faceid-plus", "sd15")
    codes, _ = imported.codes(batch=1)
    narrow = replace(codes["identity"], picture=codes["identity"].picture[:, :-1])
    with pytest.raises(ValueError, match=r"CLIP Vision model of 5 patches of 48 \(ViT-H/14\)"):
        imported.apply(tiny_model("sd15"), identity=narrow)


@pytest.mark.parametrize("kind", ["plus-face", "full-face"])
@torch.no_grad()
def test_a_face_seen_by_clip_vision_alone(clip_vision, kind):
    """Equal to the published pipeline: the picture's hidden states on the positive side, those of zeros on the negative."""
    studio, imported, picture = Studio("sd15"), Imported(kind, "sd15"), torch.randint(256, (1, 40, 28, 3)) / 255
    code = the_pack().run("DeepExPoEncodeIdentity", image=picture, recogniser="clip_vit_h", clip_vision=clip_vision)
    noisy, twin = latents(), diffusers_twin(studio.model)
    model = imported.apply(studio.model, identity=code)
    both = predict_noise(model, noisy, 500, studio.positive, studio.negative, cfg=3.0)
    square = picture[:, 6:34]  # CLIP's own crop of the middle
    mean, std = (torch.tensor(x) for x in (clip_vision.image_mean, clip_vision.image_std))
    sides = []
    for pixels, text in (((square - mean) / std, studio.positive), (torch.zeros(1, 28, 28, 3), studio.negative)):
        hidden = clip_vision.model(pixel_values=pixels.movedim(-1, 1), intermediate_output=-2)[1]
        published.attach_reference(twin, imported.file, imported.tokens(None, hidden))
        sides.append(twin_noise(twin, noisy, 500, text))
    positive, negative = sides
    assert (both - (negative + 3 * (positive - negative))).abs().max() < 3e-5
    assert not same(both, predict_noise(studio.model, noisy, 500, studio.positive, studio.negative, cfg=3.0))


def test_clip_as_recogniser_needs_a_clip_vision():
    with pytest.raises(ValueError, match="connect one from Load CLIP Vision"):
        the_pack().run("DeepExPoEncodeIdentity", image=red_picture(1)[None], recogniser="clip_vit_h")

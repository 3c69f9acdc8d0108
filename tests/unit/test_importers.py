"""Public adapters as MEAF streams: layouts, formulas against a plain reference, files, refusals."""

import copy
import json
import math
import os
import pickle
import struct
import zipfile
from dataclasses import replace

import pytest
import torch
from diffusers import UNet2DConditionModel
from safetensors.torch import load_file, save_file

import public_adapters as published
from deepexpo_models.dsid import CONFIGS, EncoderId, Identity, Semantics, load_identity, public_encoder, save_identity
from deepexpo_models.importers import KINDS, PublicFile, convert, lora_tensors, recognise
from deepexpo_models.importers.__main__ import main
from deepexpo_models.importers.sites import numbered_sites
from deepexpo_models.meaf import FAMILIES, MEAF, MEAFConfig, UNetShape, default_config, load_meaf, save_meaf, stream_codes
from deepexpo_models.meaf.diffusers_host import AttachedMEAF
from deepexpo_models.weights import read_header

CONTEXT, PICTURE = 128, (5, 48)
TINY = UNetShape(channels=(32, 64), layers=1, depth=(1, 2), mid_depth=2, context_width=CONTEXT)
TINY_FAMILIES = {"tiny": TINY}
# The kinds at sizes for a CPU: a narrow resampler, five patches instead of 257.
TINY_KINDS = {
    name: replace(
        kind,
        bases=("tiny",),
        tokens=PICTURE[0] if name == "full-face" else kind.tokens,
        hidden=64 if name == "instantid" else kind.hidden,
        picture=PICTURE if kind.picture[0] else (0, 0),
    )
    for name, kind in KINDS.items()
}
# kind -> its projector's tensors, for any text width, and whether it has a LoRA: as published
PROJECTORS = {
    "faceid": (published.mlp, True),
    "faceid-plus": (published.plus, True),
    "faceid-plusv2": (published.plus, True),
    "faceid-portrait": (lambda context: published.mlp(context, tokens=16), False),
    "instantid": (published.resampler, False),
    "plus-face": (lambda context: published.plus_face(context, width=768 if context == 768 else 1280), False),
    "full-face": (published.full_face, False),
    "arc2face-expression": (lambda context: published.mlp(context, tokens=4, face=55, hidden=110), False),
}
# kind, base -> millions of parameters of the published file
FILES = {
    ("faceid", "sd15"): 48.4, ("faceid", "sdxl"): 535.5, ("faceid-plus", "sd15"): 78.3, ("faceid-plusv2", "sd15"): 78.3,
    ("faceid-plusv2", "sdxl"): 743.7, ("faceid-portrait", "sd15"): 32.3, ("faceid-portrait", "sdxl"): 374.9,
    ("instantid", "sdxl"): 422.8, ("plus-face", "sd15"): 49.1, ("plus-face", "sdxl"): 423.7, ("full-face", "sd15"): 21.8,
    ("arc2face-expression", "sd15"): 19.5,
}  # fmt: skip


def shapes_of(kind: str, base: str) -> dict:
    numbers, context = published.PUBLISHED[base]
    projector, lora = PROJECTORS[kind]
    return published.adapter_shapes(numbers, context, projector(context), lora)


def tiny_numbers() -> dict:
    """The tiny U-Net's attn2 in the published order: down, up, mid."""
    blocks = (
        ("down_blocks.0.attentions.0", 1, 32), ("down_blocks.1.attentions.0", 2, 64), ("up_blocks.0.attentions.0", 2, 64),
        ("up_blocks.0.attentions.1", 2, 64), ("up_blocks.1.attentions.0", 1, 32), ("up_blocks.1.attentions.1", 1, 32),
        ("mid_block.attentions.0", 2, 64),
    )  # fmt: skip
    layers = [(f"{block}.transformer_blocks.{i}", width) for block, depth, width in blocks for i in range(depth)]
    return {2 * i + 1: layer for i, layer in enumerate(layers)}


def tiny_file(kind: str, seed: int = 0) -> dict[str, torch.Tensor]:
    projector, lora = PROJECTORS[kind]
    small = {
        "instantid": published.resampler(CONTEXT, width=64),
        "plus-face": published.plus_face(CONTEXT, clip=PICTURE[1], width=64),
        "full-face": published.full_face(CONTEXT, clip=PICTURE[1]),
        **dict.fromkeys(("faceid-plus", "faceid-plusv2"), published.plus(CONTEXT, clip=PICTURE[1])),
    }
    shapes = small.get(kind) or projector(CONTEXT)
    return published.random_file(published.adapter_shapes(tiny_numbers(), CONTEXT, shapes, lora), seed)


def imported(kind: str, file: dict[str, torch.Tensor]) -> MEAF:
    found = PublicFile(None, {name: tuple(x.shape) for name, x in file.items()})
    return convert(recognise(found, kind, TINY_KINDS, TINY_FAMILIES), file, kind)


def face(kind: str, batch: int = 1, seed: int = 7) -> tuple:
    """A code for the kind, and what the published formula gets: face vector and picture, then blank picture."""
    torch.manual_seed(seed)
    if kind == "arc2face-expression":
        numbers = torch.randn(batch, 55)
        still = torch.eye(3)[:2].flatten().expand(batch, -1), torch.zeros(batch, 2), torch.zeros(batch, 1)
        return Semantics(numbers, *still, public_encoder("smirk")), (numbers, None, None)
    raw = torch.randn(batch, 512) * 0.9
    picture, blank = torch.randn(batch, *PICTURE), torch.randn(1, *PICTURE).expand(batch, -1, -1)
    norm = raw.norm(dim=-1, keepdim=True)
    code = Identity(raw / norm, public_encoder(KINDS[kind].face_model), norm, picture.flatten(1), blank.flatten(1))
    seen = (picture, blank) if KINDS[kind].picture[0] else (None, None)
    return code, (raw if kind == "instantid" else raw / norm, *seen)


def codes_of(meaf: MEAF, code) -> dict[str, torch.Tensor]:
    return stream_codes(meaf.config, *((code, None) if isinstance(code, Identity) else (None, code)))


@pytest.fixture(scope="module")
def unet() -> UNet2DConditionModel:
    torch.manual_seed(0)
    unet = UNet2DConditionModel(
        block_out_channels=TINY.channels,
        layers_per_block=TINY.layers,
        down_block_types=("CrossAttnDownBlock2D",) * 2,
        up_block_types=("CrossAttnUpBlock2D",) * 2,
        transformer_layers_per_block=TINY.depth,
        cross_attention_dim=CONTEXT,
        attention_head_dim=4,
        norm_num_groups=8,
    )
    return unet.eval().requires_grad_(False)


@torch.no_grad()
def noise(unet, batch: int = 1) -> torch.Tensor:
    draw = torch.Generator().manual_seed(5)
    latents = torch.randn(batch, 4, 16, 16, generator=draw)
    return unet(latents, 500, torch.randn(1, 7, CONTEXT, generator=draw).expand(batch, -1, -1)).sample


# Layouts


@pytest.mark.parametrize(("kind", "base"), FILES)
def test_published_files_are_recognised_by_names_and_shapes(kind, base):
    shapes = shapes_of(kind, base)
    assert sum(map(math.prod, shapes.values())) / 1e6 == pytest.approx(FILES[kind, base], abs=0.1)
    layout = recognise(PublicFile(None, shapes), kind)
    assert (layout.kind.name, layout.base) == (kind, base)
    alike = (kind, base) in {("faceid-plus", "sd15"), ("faceid-plusv2", "sd15")}
    if not alike:
        assert recognise(PublicFile(None, shapes)) == layout


def test_plus_and_plusv2_have_the_same_tensors_on_sd15(tmp_path):
    file = PublicFile(tmp_path / "a.bin", shapes_of("faceid-plus", "sd15"))
    with pytest.raises(
        ValueError, match=r"FaceID-Plus for sd15 or .*FaceID-PlusV2 for sd15.* choose the kind faceid-plus or faceid-plusv2"
    ):
        recognise(file)


@pytest.mark.parametrize("base", ["sd15", "sdxl"])
def test_numbers_go_down_up_mid(base):
    numbered = numbered_sites(FAMILIES[base])
    numbers, _ = published.PUBLISHED[base]
    assert {n: path for n, path in numbered.items() if n % 2} == {n: f"{path}.attn2" for n, (path, _) in numbers.items()}
    assert all(numbered[n - 1] == f"{path}.attn1" for n, (path, _) in numbers.items())


def test_numbers_are_those_of_diffusers(unet):
    assert [f"{path}.processor" for path in numbered_sites(TINY).values()] == list(unet.attn_processors)


@pytest.mark.parametrize(
    "projector", [published.linear(768, 3, 55), published.mlp(768, 8, 55, 200), published.resampler(768, 6, 55, 256)]
)
def test_the_expression_adapter_has_the_sizes_of_its_file(projector):
    numbers, context = published.PUBLISHED["sd15"]
    shapes = published.adapter_shapes(numbers, context, projector, lora=False)
    stream = recognise(PublicFile(None, shapes)).stream
    assert (stream.face_model, stream.inputs, stream.input_width) == ("smirk", ("expression",), 55)
    assert stream.tokens in (3, 6, 8)


# Formulas, in diffusers


@pytest.mark.parametrize("kind", KINDS)
@torch.no_grad()
def test_equals_the_published_formula(unet, kind):
    file = tiny_file(kind)
    meaf, (code, (vector, picture, _)) = imported(kind, file), face(kind, batch=2)
    expected = published.tokens(file, CONTEXT, vector, picture, shortcut=kind == "faceid-plusv2")
    ((name, given),) = codes_of(meaf, code).items()
    found = meaf.tokens(name, given)
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=0)

    reference = copy.deepcopy(unet)
    published.attach_reference(reference, file, expected)
    theirs, plain = noise(reference, 2), noise(unet, 2)
    with AttachedMEAF(unet, meaf) as attached:
        attached.condition({name: found})
        ours = noise(unet, 2)
    print(f"{kind}: max difference {(ours - theirs).abs().max():.2g}, effect {(theirs - plain).abs().max():.2g}")
    assert (ours - theirs).abs().max() < 1e-5
    assert (theirs - plain).abs().max() > 0.02 and (theirs[0] - theirs[1]).abs().max() > 0.02


@pytest.mark.parametrize("kind", ["faceid", "faceid-portrait"])
@torch.no_grad()
def test_equals_diffusers_own_ip_adapter(unet, kind):
    file = tiny_file(kind)
    meaf, (code, (vector, *_)) = imported(kind, file), face(kind)
    theirs = copy.deepcopy(unet)
    theirs._load_ip_adapter_weights([published.nested(file)])
    draw = torch.Generator().manual_seed(5)
    latents, text = torch.randn(1, 4, 16, 16, generator=draw), torch.randn(1, 7, CONTEXT, generator=draw)
    expected = theirs(latents, 500, text, added_cond_kwargs={"image_embeds": [vector[:, None]]}).sample
    with AttachedMEAF(unet, meaf) as attached:
        attached.condition({name: meaf.tokens(name, given) for name, given in codes_of(meaf, code).items()})
        assert (noise(unet) - expected).abs().max() < 1e-5


@pytest.mark.parametrize("kind", KINDS)
@torch.no_grad()
def test_the_unconditional_is_the_projection_of_zeros(kind):
    file = tiny_file(kind)
    meaf, (code, (vector, _, blank)) = imported(kind, file), face(kind, batch=2)
    ((name, given),) = codes_of(meaf, code).items()
    zero = torch.zeros_like(vector[:1])
    expected = published.tokens(file, CONTEXT, zero, None if blank is None else blank[:1], shortcut=kind == "faceid-plusv2")
    torch.testing.assert_close(meaf.null_tokens(name, given), expected, atol=1e-5, rtol=0)


@torch.no_grad()
def test_the_lora_inside_becomes_an_ordinary_one(unet):
    file = tiny_file("faceid")
    meaf, (code, (vector, *_)) = imported("faceid", file), face("faceid")
    lora, merged = lora_tensors(file, TINY), copy.deepcopy(unet)
    modules = {f"lora_unet_{path}".replace(".", "_"): module for path, module in merged.named_modules()}
    targets = {name.split(".")[0] for name in lora}
    assert len(targets) == 4 * len(unet.attn_processors) and targets <= set(modules)
    for target in targets:
        down, up = (lora[f"{target}.lora_{side}.weight"] for side in ("down", "up"))
        modules[target].weight += lora[f"{target}.alpha"] / len(down) * up @ down

    reference = copy.deepcopy(unet)
    published.attach_reference(reference, file, published.tokens(file, CONTEXT, vector), lora=True)
    theirs = noise(reference)
    with AttachedMEAF(merged, meaf) as attached:
        attached.condition({name: meaf.tokens(name, given) for name, given in codes_of(meaf, code).items()})
        ours = noise(merged)
    assert (ours - theirs).abs().max() < 1e-5
    assert (noise(merged) - noise(unet)).abs().max() > 0.01


# Files


@pytest.fixture(scope="module")
def faceid(tmp_path_factory) -> dict:
    """The published FaceID for SD1.5 at its size, in fp16."""
    return published.random_file(shapes_of("faceid", "sd15"), dtype=torch.float16)


@pytest.mark.parametrize("kind_of_file", ["safetensors", "bin", "dump"])
def test_a_published_file_through_the_command(tmp_path, faceid, capsys, kind_of_file):
    path = tmp_path / f"given.{kind_of_file}"
    if kind_of_file == "safetensors":
        save_file(faceid, path)
    elif kind_of_file == "bin":
        torch.save(published.nested(faceid), path)
    else:
        torch.save(
            {
                x.replace("image_proj.", "image_proj_model.").replace("ip_adapter.", "adapter_modules."): faceid[x]
                for x in faceid
            },
            path,
        )
    out, lora = tmp_path / "meaf.safetensors", tmp_path / "lora.safetensors"
    assert main([str(path), "--out", str(out), "--lora-out", str(lora)]) == 0
    assert "IP-Adapter FaceID for sd15" in capsys.readouterr().out
    header = read_header(out)
    facts = {name: header.metadata[name] for name in ("face_model", "normalise", "num_tokens", "base", "encoder_name")}
    assert facts == {
        "face_model": "buffalo_l",
        "normalise": "true",
        "num_tokens": "4",
        "base": "sd15",
        "encoder_name": "buffalo_l",
    }
    meaf = load_meaf(out)
    site = meaf.streams["identity"].sites.get_submodule("mid_block.attentions.0.transformer_blocks.0.attn2")
    assert torch.equal(site.to_k.weight, faceid["ip_adapter.31.to_k_ip.weight"]) and site.gate == 1
    assert {p.dtype for p in meaf.parameters()} == {torch.float16}
    written = load_file(lora)
    name = "lora_unet_up_blocks_3_attentions_2_transformer_blocks_0_attn2_to_out_0"
    assert torch.equal(written[f"{name}.lora_up.weight"], faceid["ip_adapter.29.to_out_lora.up.weight"])
    assert len(written) == 3 * 4 * 32


def test_the_null_key_is_off_in_every_precision():
    for dtype in (torch.float16, torch.bfloat16, torch.float32):
        file = {name: x.to(dtype) for name, x in tiny_file("faceid").items()}
        meaf = imported("faceid", file)
        logits = [p for name, p in meaf.named_parameters() if name.endswith("null_logit")]
        assert all(p.isfinite() for p in logits)
        scores = torch.tensor([-40.0, 0.0, 40.0])
        assert all(torch.equal(torch.logaddexp(scores, p.float()), scores) for p in logits)


def test_meaf_files_of_before_load_bit_equal(tmp_path):
    """A config without the fields that came with the importers is the same MEAF."""
    meaf = MEAF(default_config("old", "tiny", CONFIGS["photo"], EncoderId("tiny", "0" * 64), TINY))
    values = meaf.config.to_dict()
    for stream in values["streams"].values():
        for field in ("projector", "depth", "head_width", "picture", "face_model"):
            del stream[field]
    assert MEAFConfig.from_dict(json.loads(json.dumps(values))) == meaf.config
    save_meaf(tmp_path / "m.safetensors", meaf)
    assert all(
        torch.equal(x, meaf.state_dict()[name]) for name, x in load_meaf(tmp_path / "m.safetensors").state_dict().items()
    )


# Codes


def test_codes_of_another_recogniser_are_refused_with_both_names():
    meaf, (code, _) = imported("faceid", tiny_file("faceid")), face("instantid")
    with pytest.raises(ValueError, match=r"public encoder 'antelopev2'.*public encoder 'buffalo_l'"):
        stream_codes(meaf.config, code, None)
    own = Identity(code.embedding, EncoderId("my-dsid", "1" * 64))
    with pytest.raises(ValueError, match=r"DSID 'my-dsid'.*public encoder 'buffalo_l'"):
        stream_codes(meaf.config, own, None)


@pytest.mark.parametrize(
    ("kind", "says"), [("instantid", "its raw_identity"), ("faceid-plusv2", "its picture: connect a CLIP Vision")]
)
def test_codes_without_what_a_stream_reads_are_refused(kind, says):
    meaf, (code, _) = imported(kind, tiny_file(kind)), face(kind)
    with pytest.raises(ValueError, match=says):
        stream_codes(meaf.config, Identity(code.embedding, code.encoder), None)


def test_semantics_alone_do_not_fit_an_identity_stream():
    semantics, _ = face("arc2face-expression")
    identity, _ = face("faceid")
    config = imported("faceid", tiny_file("faceid")).config
    for given in (None, identity):
        with pytest.raises(ValueError, match="has the streams identity, none of which reads the connected semantics"):
            stream_codes(config, given, semantics)


def test_public_identities_are_kept_whole(tmp_path):
    code, _ = face("faceid-plusv2", batch=2)
    save_identity(tmp_path / "i.safetensors", code)
    loaded = load_identity(tmp_path / "i.safetensors")
    assert loaded.encoder == code.encoder
    assert all(torch.equal(x, code.extras()[name]) for name, x in loaded.extras().items()) and len(loaded.extras()) == 3


# Refusals


def sentence(path, *more: str, capsys) -> str:
    out = path.with_name("never.safetensors")
    assert main([str(path), "--out", str(out), *more]) == 1
    assert not out.exists()
    said = capsys.readouterr().err
    assert said.startswith("error: ") and said.count("\n") == 1 and path.name in said and len(said) < 600
    return said


def written(tmp_path, file: dict, name: str = "given.safetensors"):
    save_file(file, tmp_path / name)
    return tmp_path / name


SMALL = {"model.weight": torch.zeros(3, 3)}


def test_other_kinds_are_refused(tmp_path, faceid, capsys):
    assert "none of the known adapters" in sentence(written(tmp_path, SMALL), capsys=capsys)
    path = written(tmp_path, faceid, "id.safetensors")
    assert "IP-Adapter FaceID for sd15, not faceid-plus" in sentence(path, "--kind", "faceid-plus", capsys=capsys)
    portrait = published.random_file(shapes_of("faceid-portrait", "sd15"), dtype=torch.float16)
    path = written(tmp_path, portrait, "p.safetensors")
    assert "no LoRA inside" in sentence(path, "--lora-out", str(tmp_path / "l.safetensors"), capsys=capsys)


def test_another_base_is_refused(tmp_path, faceid, capsys):
    wide = {n: x.repeat(1, 2)[:, :1024].clone() if "_ip." in n else x for n, x in faceid.items()}
    said = sentence(written(tmp_path, wide), capsys=capsys)
    assert "FaceID for sd15 is nearest" in said and "32 of another shape (first: 'ip_adapter.1.to_k_ip.weight')" in said


def test_missing_and_extra_tensors_are_refused(tmp_path, faceid, capsys):
    less = {name: x for name, x in faceid.items() if name != "ip_adapter.31.to_v_ip.weight"}
    assert "1 missing (first: 'ip_adapter.31.to_v_ip.weight')" in sentence(written(tmp_path, less), capsys=capsys)
    assert "1 unexpected (first: 'model.weight')" in sentence(written(tmp_path, {**faceid, **SMALL}), capsys=capsys)


@pytest.mark.parametrize("name", ["two\nlines", "two\u2028lines", "\x1b[2J", "a" * 500])
def test_names_of_a_file_keep_the_sentence_whole(tmp_path, faceid, capsys, name):
    """`sentence` asserts one line of a screen's length; a flipped bit may make a name of anything."""
    for file in ({name: torch.zeros(3, 3)}, {**faceid, name: torch.zeros(3, 3)}):
        said = sentence(written(tmp_path, file), capsys=capsys)
        assert said.strip().isprintable()
    torch.save({"image_proj": faceid, name: {"x": torch.zeros(1)}}, tmp_path / "given.bin")
    assert sentence(tmp_path / "given.bin", capsys=capsys).strip().isprintable()


def test_whole_numbers_are_no_weights(tmp_path, faceid, capsys):
    assert "holds tensors of torch.int64" in sentence(
        written(tmp_path, {"model.weight": torch.zeros(3, dtype=torch.long)}), capsys=capsys
    )


def test_truncated_and_oversized_files_are_refused(tmp_path, faceid, capsys):
    path = written(tmp_path, SMALL)
    os.truncate(path, path.stat().st_size - 5)
    assert "truncated" in sentence(path, capsys=capsys)
    path.write_bytes(struct.pack("<Q", 50_000_000_000) + b"{" * 100)
    assert "claims 50000000000 bytes" in sentence(path, capsys=capsys)
    torch.save(published.nested(faceid), path)
    os.truncate(path, path.stat().st_size // 2)
    assert "truncated or corrupt" in sentence(path, capsys=capsys)
    path.write_bytes(b"")
    sentence(path, capsys=capsys)
    path.unlink()
    assert "cannot be opened" in sentence(path, capsys=capsys)


class Harm:
    def __reduce__(self):
        return os.mkdir, ("harm",)


class Huge:
    """Harmless code, but 50 GB."""

    def __reduce__(self):
        return bytearray, (50_000_000_000,)


@pytest.mark.parametrize("thing", [Harm(), Huge(), {"a": Harm()}, torch.nn.Linear(2, 2)])
def test_a_pickle_of_more_than_weights_is_never_run(tmp_path, capsys, monkeypatch, thing):
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "given.bin"
    torch.save(thing, path)
    assert "is a pickle of more than weights" in sentence(path, capsys=capsys)
    path.write_bytes(pickle.dumps(thing))
    sentence(path, capsys=capsys)
    assert not (tmp_path / "harm").exists()


@pytest.mark.parametrize("thing", [[torch.zeros(2)], {"a": {"b": {"c": torch.zeros(2)}}}, {"step": 3}, {}, torch.zeros(2)])
def test_archives_of_something_else_are_refused(tmp_path, capsys, thing):
    path = tmp_path / "given.bin"
    torch.save(thing, path)
    assert "choose the adapter's own file" in sentence(path, capsys=capsys)


def test_archives_that_would_grow_are_refused(tmp_path, capsys):
    path = tmp_path / "given.bin"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a/data.pkl", b"\x00" * 50_000_000)
    assert "not one of torch's weights" in sentence(path, capsys=capsys)
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("a/data.pkl", b"\x00" * 5_000_000)
    assert "table of contents of 5000000 bytes" in sentence(path, capsys=capsys)
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("a/data.pkl", b"garbage")
    assert "its pickle cannot be parsed" in sentence(path, capsys=capsys)

"""The nodes as ComfyUI shows them and as it calls them."""

import json
from pathlib import Path

import pytest
import torch

import random_weights
from rig.pack import DSID_CONFIG, node_definitions, the_pack, weights_folder, widget_defaults

ROOT = Path(__file__).parents[2]
IDS = {
    "DeepExPoLoadDSID", "DeepExPoLoadMEAF", "DeepExPoCropFace", "DeepExPoEncodeIdentity", "DeepExPoEncodeSemantics",
    "DeepExPoApplyMEAF", "DeepExPoCombineSemantics", "DeepExPoBlendSemantics", "DeepExPoBlendIdentities", "DeepExPoReenact",
    "DeepExPoSaveIdentity", "DeepExPoLoadIdentity", "DeepExPoSaveSemantics", "DeepExPoLoadSemantics",
    "DeepExPoLoadStarter", "DeepExPoSampleFace", "DeepExPoFindLandmarks", "DeepExPoDrawFaceControl",
    "DeepExPoIdentityToControlNet", "DeepExPoEditSemantics", "DeepExPoExpressionPresets",
    "DeepExPoSmoothSemantics", "DeepExPoPairSheet", "DeepExPoDrawSheet", "DeepExPoMeasure",
}  # fmt: skip


@pytest.fixture(scope="module")
def pack():
    return the_pack()


@pytest.fixture(scope="module")
def dsid(pack):
    return pack.dsid()


def picture(seed: int, batch: int = 1):
    return torch.rand(batch, 48, 64, 3, generator=torch.Generator().manual_seed(seed))


def test_ids_are_permanent(pack):
    assert set(pack.loaded.nodes) == IDS


def test_everything_has_a_tooltip_and_a_help_page(pack):
    for node_id, node in pack.loaded.nodes.items():
        schema = node.GET_SCHEMA()
        assert schema.category == "DeepExPo" and schema.description and schema.display_name
        for socket in (*schema.inputs, *schema.outputs):
            assert socket.tooltip and len(socket.tooltip) > 10, (node_id, socket.id)
        page = (ROOT / "web" / "docs" / f"{node_id}.md").read_text()
        named = [i.id for i in schema.inputs if not i.id.endswith(("_strength", "_percent"))]
        assert not [name for name in named if name not in page], node_id


def test_every_node_is_found_by_what_artists_type(pack):
    """Node search matches names and, where the host has them, aliases."""
    words = pack.module("nodes.words")
    assert set(words.ALIASES) == set(pack.loaded.nodes)
    found = {word for text in words.ALIASES.values() for word in text.split(", ")}
    found |= {part for word in found for part in word.split()}
    wanted = "pose expression ipadapter faceid instantid liveportrait head emotion smile portrait likeness person photo"
    assert set(wanted.split()) <= found


def test_schemas_pass_newer_fields_where_the_host_has_them(pack):
    from comfy_api.latest import io

    schema = pack.loaded.nodes["DeepExPoApplyMEAF"].GET_SCHEMA()
    if "search_aliases" in io.Schema.__dataclass_fields__:
        assert schema.search_aliases == pack.module("nodes.words").aliases("DeepExPoApplyMEAF")
    else:
        assert not hasattr(schema, "search_aliases")
    words = pack.module("nodes.words")
    assert set(pack.loaded.nodes) > set(words.ESSENTIAL)
    if "essentials_category" in io.Schema.__dataclass_fields__:
        assert schema.essentials_category == "Image Tools"
        assert pack.loaded.nodes["DeepExPoMeasure"].GET_SCHEMA().essentials_category is None
    with pytest.raises(TypeError, match="serach_aliases"):  # a slip of the pen is not taken for a newer field
        pack.module("nodes.sockets").schema("DeepExPoNone", serach_aliases=[])


def test_percents_are_folded(pack):
    inputs = pack.loaded.nodes["DeepExPoApplyMEAF"].INPUT_TYPES()["required"]
    folded = {name for name, (_, options) in inputs.items() if options.get("advanced")}
    assert folded == {name for name in inputs if name.endswith("_percent")} and len(folded) == 6


@pytest.mark.parametrize(
    "which, count", [("person_1", 1), ("photograph", 1), ("dozing", 1), ("all people", 4), ("all references", 5), ("clip", 16)]
)
def test_sample_faces_come_with_the_pack(pack, which, count):
    faces = pack.run("DeepExPoSampleFace", which=which)
    assert faces.shape == (count, 256, 256, 3) and faces.dtype == torch.float32
    assert 0 <= faces.min() and faces.max() <= 1 and faces.std() > 0.1


def test_a_missing_sample_is_one_sentence(pack, monkeypatch, tmp_path):
    monkeypatch.setattr(pack.module("nodes.comfy_host.samples"), "FOLDER", tmp_path)
    with pytest.raises(
        ValueError, match=r"^person_1\.png is missing from the pack or damaged; install ComfyUI-DeepExPo again$"
    ):
        pack.run("DeepExPoSampleFace", which="person_1")


def test_folder_lists_files_of_the_kind_and_last_what_cannot_be_read(pack, dsid):
    folders = pack.module("nodes.comfy_host.folders")
    (weights_folder() / "not_ours.safetensors").write_bytes(b"nothing")
    import folder_paths

    getattr(folder_paths, "filename_list_cache", {}).clear()  # 0.3.64 looks at most every 250 ms
    kinds = {kind: folders.weight_names(kind) for kind in ("dsid", "meaf")}
    (weights_folder() / "not_ours.safetensors").unlink()
    assert all(names[-1] == "not_ours.safetensors" for names in kinds.values())
    shipped = {"dsid": ("photo",), "meaf": ("heads",)}
    assert all(f"{name}-{kind}.safetensors" in kinds[kind] for kind, names in shipped.items() for name in names)
    assert set(kinds["dsid"]) & set(kinds["meaf"]) == {"not_ours.safetensors"}
    others = ("judge-heads", "head", "heads-base", "heads-factors")
    assert not {f"{name}.safetensors" for name in others} & {*kinds["dsid"], *kinds["meaf"]}


def test_wrong_files_are_refused_in_one_sentence(pack, dsid):
    with pytest.raises(ValueError, match="holds meaf data, expected dsid: it belongs into Load MEAF"):
        pack.run("DeepExPoLoadDSID", dsid_name=random_weights.MEAF_FILE.format("tiny-sd15", "light"))
    with pytest.raises(ValueError, match="holds dsid data, expected meaf: it belongs into Load DSID"):
        pack.run("DeepExPoLoadMEAF", meaf_name=random_weights.DSID_FILE.format(DSID_CONFIG))
    with pytest.raises(ValueError, match="is in none of the deepexpo model folders"):
        pack.run("DeepExPoLoadDSID", dsid_name="gone.safetensors")


def test_identity_averages_photos_and_semantics_does_not(pack, dsid):
    photos = picture(0, batch=3)
    identity = pack.run("DeepExPoEncodeIdentity", dsid=dsid, image=photos)
    assert identity.embedding.shape == (1, dsid.config.identity_width)
    assert identity.embedding.norm().item() == pytest.approx(1, abs=1e-5)
    singles = [pack.run("DeepExPoEncodeIdentity", dsid=dsid, image=photo[None]).embedding for photo in photos]
    mean = torch.nn.functional.normalize(torch.cat(singles).mean(0, keepdim=True), dim=-1)
    torch.testing.assert_close(identity.embedding, mean, atol=1e-5, rtol=1e-4)
    semantics = pack.run("DeepExPoEncodeSemantics", dsid=dsid, image=photos)
    assert (semantics.expression.shape, semantics.rotation.shape) == ((3, dsid.config.expression_width), (3, 6))
    assert (semantics.translation.shape, semantics.log_scale.shape) == ((3, 2), (3, 1))


def test_long_batches_are_encoded_in_parts(pack, dsid):
    pictures = picture(1, batch=35)
    whole = pack.run("DeepExPoEncodeSemantics", dsid=dsid, image=pictures)
    one = pack.run("DeepExPoEncodeSemantics", dsid=dsid, image=pictures[34:])
    torch.testing.assert_close(whole.expression[34:], one.expression, atol=1e-4, rtol=1e-4)


def test_combine_blend_and_reenact(pack, dsid):
    a, b = (pack.run("DeepExPoEncodeSemantics", dsid=dsid, image=picture(seed)) for seed in (1, 2))
    both = pack.run("DeepExPoCombineSemantics", expression_from=a, pose_from=b)
    assert torch.equal(both.expression, a.expression) and torch.equal(both.rotation, b.rotation)
    half = pack.run("DeepExPoBlendSemantics", a=a, b=b)
    torch.testing.assert_close(half.expression, (a.expression + b.expression) / 2)
    relative = pack.run("DeepExPoBlendSemantics", a=a, b=b, factor=1.0, neutral=a)
    torch.testing.assert_close(relative.expression, b.expression)
    people = [pack.run("DeepExPoEncodeIdentity", dsid=dsid, image=picture(seed)) for seed in (3, 4)]
    between = pack.run("DeepExPoBlendIdentities", a=people[0], b=people[1], factor=0.0)
    torch.testing.assert_close(between.embedding, people[0].embedding)
    clip = pack.run("DeepExPoEncodeSemantics", dsid=dsid, image=picture(5, batch=3))
    images = pack.run("DeepExPoReenact", dsid=dsid, identity=people[0], semantics=clip)
    size = dsid.config.image_size
    assert images.shape == (3, size, size, 3) and 0 <= images.min() and images.max() <= 1


def test_reenact_refuses_what_it_cannot_align(pack, dsid):
    module = pack.module("deepexpo_models.dsid")
    identity = pack.run("DeepExPoEncodeIdentity", dsid=dsid, image=picture(3))
    two = module.Identity(identity.embedding.repeat(2, 1), identity.encoder)
    clip = pack.run("DeepExPoEncodeSemantics", dsid=dsid, image=picture(5, batch=3))
    with pytest.raises(ValueError, match="2 identities cannot be aligned with 3 semantics"):
        pack.run("DeepExPoReenact", dsid=dsid, identity=two, semantics=clip)
    foreign = module.Identity(identity.embedding, module.EncoderId("somebody-elses", "f" * 64))
    with pytest.raises(ValueError, match=rf"'{DSID_CONFIG}'.*'somebody-elses'"):
        pack.run("DeepExPoReenact", dsid=dsid, identity=foreign, semantics=clip)


def test_a_dsid_of_encoders_alone_encodes_and_draws_nothing(pack):
    random_weights.write_dsid(weights_folder(), "photo")
    encoders = pack.run("DeepExPoLoadDSID", dsid_name=random_weights.DSID_FILE.format("photo"))
    kinds = ("Identity", "Semantics")
    identity, semantics = (pack.run(f"DeepExPoEncode{kind}", dsid=encoders, image=picture(3)) for kind in kinds)
    assert semantics.expression.shape == (1, encoders.config.expression_width)
    with pytest.raises(ValueError, match="'photo' holds encoders alone and draws no pictures"):
        pack.run("DeepExPoReenact", dsid=encoders, identity=identity, semantics=semantics)


@pytest.mark.parametrize("kind", ["Identity", "Semantics"])
def test_save_and_load(pack, dsid, kind):
    code = pack.run(f"DeepExPoEncode{kind}", dsid=dsid, image=picture(6, batch=2))
    name = pack.run(f"DeepExPoSave{kind}", **{kind.lower(): code})
    again = pack.run(f"DeepExPoSave{kind}", **{kind.lower(): code})
    assert name != again and name.startswith(f"deepexpo/{kind.lower()}_00001_.safetensors")
    node = pack.loaded.nodes[f"DeepExPoLoad{kind}"]
    listed = node.GET_SCHEMA().inputs[0].options
    assert name in pack.module("nodes.comfy_host.folders").code_names(kind.lower()) and isinstance(listed, list)
    assert node.validate_inputs(name) is True
    loaded = pack.run(f"DeepExPoLoad{kind}", name=name)
    for field, value in vars(code).items():
        assert torch.equal(getattr(loaded, field), value) if torch.is_tensor(value) else getattr(loaded, field) == value
    other = {"Identity": "Semantics", "Semantics": "Identity"}[kind]
    with pytest.raises(ValueError, match=f"belongs into Load {kind}"):
        pack.run(f"DeepExPoLoad{other}", name=name)


@pytest.mark.parametrize("name", ["gone.safetensors", "../../secret.safetensors", "deepexpo/none.safetensors [output]"])
def test_unknown_codes_are_refused_before_running(pack, name):
    answer = pack.loaded.nodes["DeepExPoLoadIdentity"].validate_inputs(name)
    assert isinstance(answer, str) and name.split(" ")[0] in answer


def test_crop_face(pack):
    crop, mask, found, boxes = pack.run("DeepExPoCropFace", image=picture(7, batch=2), detector="none", order="largest")
    assert crop.shape == (2, 512, 512, 3) and mask.shape == (2, 48, 64) and found == 0
    assert boxes == [[{"x": 0.0, "y": 0.0, "width": 64.0, "height": 48.0, "label": "face"}]] * 2
    region = torch.zeros(1, 48, 64)
    region[:, 10:20, 30:40] = 1
    cropped, mask, *_ = pack.run("DeepExPoCropFace", image=picture(7), detector="none", order="largest", mask=region)
    assert 0 < mask.sum() <= region.sum() and (mask * (1 - region)).sum() == 0
    assert not torch.equal(cropped, crop[:1])


@pytest.mark.parametrize("thing", [None, {"samples": torch.zeros(1, 4, 8, 8)}, [torch.zeros(8, 8, 3)], torch.zeros(8, 8)])
@pytest.mark.parametrize(
    "node", ["DeepExPoCropFace", "DeepExPoEncodeIdentity", "DeepExPoEncodeSemantics", "DeepExPoFindLandmarks"]
)
def test_what_is_no_picture_is_refused_in_one_sentence(pack, dsid, node, thing):
    """Sockets of any type (reroutes, switches of other packs) let everything through."""
    more = {"dsid": dsid} if "Encode" in node else {"detector": "none", "order": "largest"} if "Crop" in node else {}
    with pytest.raises(ValueError, match=r"expected a batch of pictures|nothing to encode") as refused:
        pack.run(node, image=thing, **more)
    assert "\n" not in str(refused.value)


def test_crop_face_names_the_picture_without_a_face(pack):
    pytest.importorskip("skimage", reason="no face detector is installed")
    with pytest.raises(ValueError, match="image 1 of 2"):
        pack.run("DeepExPoCropFace", image=torch.zeros(2, 64, 64, 3), detector="auto", order="largest")


def test_workflows_use_core_nodes_and_ours(pack):
    import nodes

    core = set(nodes.NODE_CLASS_MAPPINGS) | set(node_definitions())
    for path in (ROOT / "workflows" / "api").glob("*.json"):
        used = {node["class_type"] for node in json.loads(path.read_text()).values()}
        assert used <= core | IDS, path.name


def test_nodes_show_what_they_made(pack, dsid):
    """Crops as pictures, and lines that web/js/nodes.js puts at the node's foot."""
    crop = shown(pack, "DeepExPoCropFace", image=picture(7, batch=2), detector="none", order="largest")
    assert len(crop["images"]) == 2 and crop["text"] == ["the picture is used as it is, without a detector (2 pictures)"]
    (who,) = shown(pack, "DeepExPoEncodeIdentity", dsid=dsid, image=picture(7, batch=2))["text"]
    assert who.startswith("1 identity from 2 pictures, by DSID")
    (how,) = shown(pack, "DeepExPoEncodeSemantics", dsid=dsid, image=picture(7, batch=2))["text"]
    assert how.startswith("2 codes by DSID") and "the first: yaw" in how
    (dsid_line,) = shown(pack, "DeepExPoLoadDSID", dsid_name="photo-dsid.safetensors")["text"]
    assert dsid_line
    code = pack.run("DeepExPoEncodeIdentity", dsid=dsid, image=picture(7))
    saved = shown(pack, "DeepExPoSaveIdentity", identity=code, picture=picture(7))
    assert saved["text"][0].startswith("deepexpo/identity") and len(saved["images"]) == 1


def shown(pack, node_id: str, **inputs) -> dict:
    node = pack.loaded.nodes[node_id]
    ui = node.execute(**{**widget_defaults(node), **inputs}).ui
    return ui if isinstance(ui, dict) else ui.as_dict()

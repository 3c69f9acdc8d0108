"""Edit Semantics in a real ComfyUI: without codes, on codes of landmarks, and on a DSID's."""

import json

import pytest
import torch

from landmark_sets import face, landmarks, scores
from rig.pack import DSID_CONFIG, the_pack

NODE = "DeepExPoEditSemantics"


@pytest.fixture(scope="module")
def pack():
    return the_pack()


@pytest.fixture(scope="module")
def clip(pack):
    frames = [[face(scores(jawOpen=0.5))], [face(scores(mouthSmile=0.4), angles=(25.0, 0.0, 0.0))]]
    return pack.run("DeepExPoEncodeSemantics", landmarks=landmarks(*frames))


def angles(pack, code) -> list[float]:
    dsid = pack.module("deepexpo_models.dsid")
    return dsid.matrix_to_euler(dsid.rotation_to_matrix(code.rotation))[0].tolist()


def units(pack, code, name: str) -> float:
    return code.expression[0, pack.module("deepexpo_models.head").ARKIT52.index(name)].item()


def test_an_expression_is_made_from_nothing(pack):
    code, image = pack.run(NODE, yaw=20.0, preset="happy", mouth_open=0.4, jawLeft=0.2)
    assert code.encoder.name == "arkit52" and angles(pack, code) == pytest.approx([20, 0, 0], abs=1e-3)
    wanted = {"mouthSmileLeft": 0.8, "jawOpen": 0.4, "jawLeft": 0.2}
    assert {name: units(pack, code, name) for name in wanted} == pytest.approx(wanted)
    assert image.shape == (1, 512, 512, 3) and 0 <= image.min() and image.max() <= 1
    resting = pack.run(NODE)[1]
    assert (image - resting).abs().mean() > 0.01


def test_nothing_moved_changes_nothing(pack, clip):
    same, images = pack.run(NODE, semantics=clip)
    assert all(torch.equal(value, getattr(same, name)) for name, value in vars(clip).items() if torch.is_tensor(value))
    assert len(images) == 2 and not torch.equal(images[0], images[1])


def test_parts_are_taken_onto_another_code(pack, clip):
    onto = pack.run(NODE, preset="surprised", yaw=-30.0)[0]
    code, _ = pack.run(NODE, semantics=clip, take="mouth", onto=onto)
    assert units(pack, code, "jawOpen") == pytest.approx(units(pack, clip, "jawOpen"))
    assert units(pack, code, "browInnerUp") == pytest.approx(0.8) and angles(pack, code)[0] == pytest.approx(-30, abs=1e-3)


def test_what_the_browser_gets_is_json_of_the_first_code(pack, clip):
    node = pack.loaded.nodes[NODE]
    shape = pack.module("deepexpo_models.head").load_basis().points * 1.1
    dsid = pack.module("deepexpo_models.dsid")
    person = dsid.Identity(torch.eye(1, 8), clip.encoder, face_shape=shape.flatten()[None])
    answer = node.execute(preset="none", preset_strength=1.0, take="everything", exaggerate=1.0, yaw=0.0, pitch=0.0, roll=0.0,
                          semantics=clip, identity=person)  # fmt: skip
    (head,) = json.loads(json.dumps(answer.ui))["deepexpo_head"]
    assert len(head["rest"]) == 1434 and head["onto"] is None and answer.ui["text"] == []
    assert head["source"]["numbers"] == pytest.approx(clip.expression[0].tolist(), abs=1e-4)
    assert head["source"]["angles"] == pytest.approx(angles(pack, clip), abs=1e-3) and len(head["source"]["openings"]) == 7


def test_a_dsids_code_moves_along_its_read_outs(pack):
    photo = pack.run("DeepExPoLoadDSID", dsid_name="photo-dsid.safetensors")
    picture = torch.rand(1, 96, 96, 3, generator=torch.Generator().manual_seed(0))
    code = pack.run("DeepExPoEncodeSemantics", dsid=photo, image=picture)
    smiling, image = pack.run(NODE, semantics=code, dsid=photo, preset="happy", mouth_open=0.3)
    names, read = pack.module("deepexpo_models.head").ARKIT52, photo.model.readout.arkit52(smiling.expression)[0]
    wanted = {"mouthSmileLeft": 0.8, "mouthSmileRight": 0.8, "jawOpen": 0.3, "browInnerUp": 0.0}
    assert {name: read[names.index(name)].item() for name in wanted} == pytest.approx(wanted, abs=1e-3)
    assert smiling.encoder == code.encoder and len(image) == 1


def test_codes_without_named_numbers_can_be_turned_and_say_so(pack):
    dsid = pack.dsid()
    picture = torch.rand(1, 96, 96, 3, generator=torch.Generator().manual_seed(0))
    code = pack.run("DeepExPoEncodeSemantics", dsid=dsid, image=picture)
    turned, image = pack.run(NODE, semantics=code, dsid=dsid, yaw=15.0)
    assert torch.equal(turned.expression, code.expression) and not torch.equal(turned.rotation, code.rotation)
    assert image.std() > 0.05
    note = pack.module("deepexpo_models.dsid.preview").expression_note(code, None)
    assert "has no named numbers: this head shows the turn alone" in note
    with pytest.raises(ValueError, match=rf"^the expression of DSID '{DSID_CONFIG}' .* has no named parts; connect the DSID"):
        pack.run(NODE, semantics=code, dsid=dsid, preset="happy")


@pytest.mark.parametrize(
    "node, socket, more",
    [
        (NODE, "semantics", {}),
        (NODE, "onto", {"take": "mouth"}),
        ("DeepExPoPairSheet", "semantics", {"columns": "presets"}),
        ("DeepExPoPairSheet", "semantics_2", {"columns": "slider"}),
        ("DeepExPoDrawFaceControl", "semantics", {"style": "mediapipe face"}),
    ],
)
def test_read_outs_are_of_the_dsid_that_made_the_codes(pack, node, socket, more):
    """Wherever codes come in; those of landmarks need none, whatever is connected."""
    photo = pack.run("DeepExPoLoadDSID", dsid_name="photo-dsid.safetensors")
    code = pack.run("DeepExPoEncodeSemantics", dsid=pack.dsid(), image=torch.rand(1, 96, 96, 3))
    dsid = pack.module("deepexpo_models.dsid")
    shape = pack.module("deepexpo_models.head").load_basis().points.flatten()[None]
    who = {"identity": dsid.Identity(torch.eye(1, 8), code.encoder, face_shape=shape)}
    with pytest.raises(
        ValueError, match=r"^these codes come from different encoders, DSID .* and DSID .*; encode both"
    ) as told:
        pack.run(node, **who, **more, **{socket: code}, dsid=photo)
    assert "\n" not in str(told.value)
    pack.run(node, **who, **more, **{socket: dsid.arkit_semantics(torch.zeros(1, 52))}, dsid=photo)


def test_single_numbers_are_folded(pack):
    node = pack.loaded.nodes[NODE]
    inputs = {name: spec for part in node.INPUT_TYPES().values() for name, spec in part.items() if isinstance(spec, tuple)}
    folded = {name for name, spec in inputs.items() if len(spec) > 1 and spec[1].get("advanced")}
    expressions = pack.module("deepexpo_models.head.expressions")
    assert folded == set(expressions.SINGLE_UNITS) and set(expressions.SLIDERS) <= inputs.keys() - folded

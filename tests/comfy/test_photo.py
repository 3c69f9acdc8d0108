"""Photographs in a real ComfyUI: landmarks as core gives them, to codes, to control maps."""

from importlib.util import find_spec

import numpy as np
import pytest
import torch

from landmark_sets import SIZE, face, landmarks, scores
from rig.host import base_directory
from rig.landmarker import FILE, write_core_landmarker
from rig.pack import the_pack

CORE = find_spec("comfy_extras.nodes_mediapipe")  # in ComfyUI from 0.23 on


@pytest.fixture(scope="module")
def pack():
    return the_pack()


@pytest.fixture(scope="module")
def semantics(pack):
    clip = landmarks([face(scores(jawOpen=0.5))], [], [face(scores(mouthSmile=0.7), angles=(25.0, 0.0, 0.0))])
    return pack.run("DeepExPoEncodeSemantics", landmarks=clip, gaps="interpolate")


def draw(pack, **inputs):
    given = {"style": "mediapipe face", "width": 256, "height": 192, "face_height": 0.6, "x": 0.5, "y": 0.5}
    return pack.run("DeepExPoDrawFaceControl", **{**given, **inputs})


def test_a_clip_of_landmarks_becomes_a_batch_of_maps(pack, semantics):
    assert len(semantics.expression) == 3 and semantics.encoder.name == "arkit52"
    image, mask, keypoints = draw(pack, semantics=semantics)
    assert image.shape == (3, 192, 256, 3) and mask.shape == (3, 192, 256) and len(keypoints) == 3
    assert 0 <= image.min() and image.max() <= 1 and (image > 0).any() and 0 < mask.mean() < 0.5
    assert keypoints[0]["canvas_width"] == 256 and len(keypoints[0]["people"][0]["face_keypoints_2d"]) == 70 * 3
    assert not torch.equal(image[0], image[2])


def test_frames_without_a_face_are_refused_by_number(pack):
    clip = landmarks([face()], [], [face()])
    with pytest.raises(ValueError, match="no face in frame 2 of 3"):
        pack.run("DeepExPoEncodeSemantics", landmarks=clip)
    with pytest.raises(ValueError, match="nothing to encode: connect landmarks, or a DSID and an image"):
        pack.run("DeepExPoEncodeSemantics")


def test_the_identitys_face_shape_is_drawn(pack, semantics):
    dsid, wide = pack.dsid(), landmarks([face(shape=torch.tensor([1.2, 1.0, 1.0]) * _canonical(pack))])
    crops = torch.rand(1, 256, 256, 3, generator=torch.Generator().manual_seed(0))
    person = pack.run("DeepExPoEncodeIdentity", dsid=dsid, image=crops, landmarks=wide)
    assert person.face_shape.shape == (1, 478 * 3)
    plain = pack.run("DeepExPoEncodeIdentity", dsid=dsid, image=crops)
    assert torch.equal(plain.embedding, person.embedding) and plain.face_shape is None
    own, average = (draw(pack, semantics=semantics, identity=who)[1].sum((1, 2)) for who in (person, None))
    assert (own > 1.08 * average).all(), "a wider face"
    with pytest.raises(ValueError, match="this identity has no face shape"):
        draw(pack, semantics=semantics, identity=plain)


def test_every_style_is_drawn(pack, semantics):
    styles = pack.module("deepexpo_models.head.control").STYLES
    drawn = {style: draw(pack, semantics=semantics, style=style)[0] for style in styles}
    assert all(image.std() > 0.01 for image in drawn.values())
    assert len({tuple(np.round(image.mean((0, 1, 2)).tolist(), 5)) for image in drawn.values()}) == len(styles)


def test_a_landmarker_that_is_not_there_is_one_sentence(pack):
    missing = {
        True: r"mediapipe_face_fp32\.safetensors \(ComfyUI's own face landmarker\) is missing; put .* into models/detection",
        False: r"face_landmarker\.task \(3\.7 MB\) is missing; put .* into models/mediapipe",
    }
    with pytest.raises(Exception, match=missing[bool(CORE)]):
        find(pack, torch.zeros(1, 64, 64, 3))


@pytest.mark.skipif(not CORE, reason="this ComfyUI has no face landmarker of its own")
def test_cores_landmarker_is_used_where_its_file_is(pack):
    """On made-up weights of the published layout: one known face, through core's own nodes, to our codes."""
    known = face(scores(jawOpen=0.5, mouthSmile=0.3), angles=(20.0, -8.0, 5.0))
    file = write_core_landmarker(base_directory() / "models" / "detection" / FILE, known, SIZE)
    try:
        found = find(pack, torch.rand(2, *SIZE, 3, generator=torch.Generator().manual_seed(0)))
        semantics, expected = (pack.run("DeepExPoEncodeSemantics", landmarks=given) for given in (found, landmarks([known])))
        file.write_bytes(b"not a landmarker")
        with pytest.raises(Exception, match=r"mediapipe_face_fp32\.safetensors cannot be used .*download it again"):
            find(pack, torch.zeros(1, 64, 64, 3))
    finally:
        file.unlink()
    assert [len(faces) for faces in found["frames"]] == [1, 1] and found["frames"][0][0]["transformation_matrix"].shape == (
        4,
        4,
    )
    assert torch.allclose(semantics.expression, expected.expression.expand(2, -1), atol=1e-4)
    assert torch.allclose(semantics.rotation, expected.rotation.expand(2, -1), atol=2e-3)
    assert torch.allclose(semantics.log_scale, expected.log_scale.expand(2, -1), atol=2e-3)


def find(pack, image):
    return pack.run("DeepExPoFindLandmarks", image=image, faces=1, confidence=0.5)


def test_presets_become_a_batch_of_maps_and_its_count(pack):
    codes, count = pack.run("DeepExPoExpressionPresets", expressions="happy, angry, none")
    maps, _, _ = draw(pack, semantics=codes)
    assert count == len(maps) == 3 and not torch.equal(maps[0], maps[1])


def _canonical(pack) -> torch.Tensor:
    return pack.module("deepexpo_models.head").load_basis().points


def test_codes_of_landmarks_are_combined_blended_saved_and_loaded(pack, semantics):
    turned = pack.run("DeepExPoEncodeSemantics", landmarks=landmarks([face(angles=(-30.0, 0.0, 0.0))]))
    both = pack.run("DeepExPoCombineSemantics", expression_from=semantics, pose_from=turned)
    assert torch.equal(both.expression, semantics.expression) and torch.equal(both.openings, semantics.openings)
    assert torch.equal(both.rotation, turned.rotation.expand(3, -1))
    middle = pack.run("DeepExPoBlendSemantics", a=turned, b=both, factor=0.5)
    assert torch.allclose(middle.expression, (turned.expression + both.expression) / 2)
    assert torch.allclose(middle.openings, (turned.openings + both.openings) / 2)
    loaded = pack.run("DeepExPoLoadSemantics", name=pack.run("DeepExPoSaveSemantics", semantics=middle))
    assert loaded.encoder == middle.encoder and torch.equal(loaded.openings, middle.openings)
    assert torch.equal(draw(pack, semantics=loaded)[0], draw(pack, semantics=middle)[0])


@pytest.mark.parametrize("connected", [True, False])
def test_a_saved_code_shows_its_picture(pack, semantics, connected):
    picture = torch.full((1, 200, 200, 3), 0.5)
    save, load = (pack.loaded.nodes[f"DeepExPo{verb}Semantics"] for verb in ("Save", "Load"))
    saved = save.execute(filename_prefix="deepexpo/shown", semantics=semantics, **({"picture": picture} if connected else {}))
    shown = load.execute(name=saved.args[0]).ui["images"]
    assert len(shown) == len(saved.ui["images"]) == 1 and saved.ui["text"] == [saved.args[0]]
    assert (_read(shown[0]).std() == 0) == connected and abs(_read(shown[0]) - _read(saved.ui["images"][0])).max() == 0


def _read(saved) -> np.ndarray:
    import folder_paths
    from PIL import Image

    return np.asarray(Image.open(f"{folder_paths.get_temp_directory()}/{saved['filename']}")).astype(int)


def test_poor_landmarks_are_told_on_the_node(pack):
    """Several faces, a head that is turned too far, half a face: taken, and said."""
    poor = landmarks(
        [face(angles=(75.0, 0.0, 0.0)), face(scale=5.0, place=(10.0, 60.0, 0.0))], [face(place=(10.0, 256.0, 0.0))]
    )
    said = pack.loaded.nodes["DeepExPoEncodeSemantics"].execute(landmarks=poor).ui["text"][-1]
    assert "2 faces found, face 0 of them is taken" in said
    assert "frame 1 of 2: the head is turned by more than 60 degrees" in said and "frame 2 of 2: a part of the face" in said
    crops = torch.rand(2, 256, 256, 3, generator=torch.Generator().manual_seed(0))
    node = pack.loaded.nodes["DeepExPoEncodeIdentity"]
    assert "its far side is guessed" in node.execute(image=crops, dsid=pack.dsid(), landmarks=poor).ui["text"][-1]


def test_a_drawing_in_which_no_face_is_found(pack):
    nobody = landmarks([], [])
    for inputs in ({"landmarks": nobody}, {"landmarks": nobody, "gaps": "interpolate"}):
        with pytest.raises(ValueError, match=r"no face in (any frame|frames 1, 2 of 2)"):
            pack.run("DeepExPoEncodeSemantics", **inputs)
    crops = torch.rand(1, 256, 256, 3, generator=torch.Generator().manual_seed(0))
    with pytest.raises(ValueError, match="no face in any frame"):
        pack.run("DeepExPoEncodeIdentity", dsid=pack.dsid(), image=crops, landmarks=nobody)
    with pytest.raises(ValueError, match="no face found in image 1 of 2"):
        pack.run(
            "DeepExPoCropFace",
            image=torch.rand(2, *nobody["image_size"], 3),
            detector="landmarks",
            order="largest",
            landmarks=nobody,
        )


@pytest.mark.parametrize("wrong", [None, {"a": 1}, torch.zeros(1, 64, 64, 3), [{"people": []}]])
def test_another_type_at_the_socket_is_one_sentence(pack, wrong):
    """Nodes of other packs may call their own thing FACE_LANDMARKS."""
    with pytest.raises(ValueError, match=r"no set of face landmarks|nothing to encode"):
        pack.run("DeepExPoEncodeSemantics", landmarks=wrong)


def test_semantics_of_another_dsid_are_refused_by_the_map(pack):
    dsid = pack.module("deepexpo_models.dsid")
    other = dsid.Semantics(torch.zeros(1, 32), torch.tensor([[1.0, 0, 0, 0, 1, 0]]), torch.zeros(1, 2), torch.zeros(1, 1),
                           dsid.EncoderId("other", "ab" * 32))  # fmt: skip
    with pytest.raises(ValueError, match="different encoders"):
        draw(pack, semantics=other, dsid=pack.dsid())
    with pytest.raises(ValueError, match="connect the DSID that made it"):
        draw(pack, semantics=other)

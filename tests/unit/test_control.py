"""Control maps: equal to the published annotators' pixel for pixel, and right against known geometry."""

import importlib
import importlib.util
import os
import sys
import types
from pathlib import Path

import numpy as np
import pytest
import torch

from deepexpo_models.evaluation.real_frames import frames_of
from deepexpo_models.faces.landmarks import open_landmarker
from deepexpo_models.head import load_basis
from deepexpo_models.head.control import STYLES, draw_control, draw_mask, pose_keypoints
from deepexpo_models.head.landmarks import FIVE, IBUG68
from landmark_sets import points, scores

BASIS = load_basis()
FRAMES, TASK = (os.environ.get(name, "") for name in ("FACE_FRAMES", "FACE_LANDMARKER_TASK"))
POSES = [
    ((0, 0, 0), 14.0, (256.0, 256.0, 0.0)),
    ((35, -10, 20), 11.0, (200.0, 300.0, 0.0)),
    ((-50, 15, -8), 16.0, (420.0, 90.0, 0.0)),
]
EXPRESSIONS = [scores(), scores(jawOpen=0.6, mouthSmile=0.7), scores(eyeBlinkLeft=0.9, mouthPucker=0.8, browInnerUp=0.9)]


@pytest.fixture(scope="module")
def annotators():
    """Parts of controlnet-aux, by name; its package as a whole wants half a dozen others."""
    found = importlib.util.find_spec("controlnet_aux")
    if found is None:
        pytest.skip("controlnet-aux is not installed (pip install --no-deps controlnet-aux)")
    package = types.ModuleType("controlnet_aux")
    package.__path__ = list(found.submodule_search_locations)
    before = sys.modules.get("controlnet_aux")
    sys.modules["controlnet_aux"] = package
    for name in ("mediapipe_face", "open_pose"):
        part = types.ModuleType(f"controlnet_aux.{name}")
        part.__path__ = [f"{package.__path__[0]}/{name}"]
        sys.modules[part.__name__] = part
    yield lambda name: importlib.import_module(f"controlnet_aux.{name}")
    for name in [name for name in sys.modules if name.split(".")[0] == "controlnet_aux"]:
        del sys.modules[name]
    if before is not None:
        sys.modules["controlnet_aux"] = before


def seen(angles=(0, 0, 0), scale=14.0, place=(256.0, 256.0, 0.0), units=None):
    return points(scores() if units is None else units, angles, scale, place)


def levels(face, style, size=(512, 512)):
    return (draw_control(face[None], size, style, BASIS)[0] * 255).round().to(torch.uint8).numpy()


def as_mediapipe(face, width=512, height=512):
    from mediapipe.framework.formats import landmark_pb2

    rows = [landmark_pb2.NormalizedLandmark(x=x / width, y=y / height, z=0.0) for x, y, _ in face.double().tolist()]
    return landmark_pb2.NormalizedLandmarkList(landmark=rows)


def mediapipe_annotated(face, annotators, size=(512, 512)):
    """By controlnet-aux 0.0.x on mediapipe 0.10.21, of the same landmarks."""
    common = annotators("mediapipe_face.mediapipe_face_common")
    if common.mp is None:
        pytest.skip("mediapipe is not installed")
    theirs = np.zeros((*size, 3), np.uint8)
    listed = as_mediapipe(face, size[1], size[0])
    common.mp_drawing.draw_landmarks(
        theirs,
        listed,
        connections=common.face_connection_spec.keys(),
        landmark_drawing_spec=None,
        connection_drawing_spec=common.face_connection_spec,
    )
    common.draw_pupils(theirs, listed, common.iris_landmark_spec, 2)
    return theirs[..., ::-1]


def openpose_annotated(face, annotators, size=(512, 512)):
    util = annotators("open_pose.util")
    Keypoint = annotators("open_pose.body").Keypoint
    height, width = size
    dots = [Keypoint(x / width, y / height) for x, y in face[[*IBUG68, 468, 473], :2].double().tolist()]
    return util.draw_facepose(np.zeros((*size, 3), np.uint8), dots)


@pytest.mark.parametrize("pose", POSES)
@pytest.mark.parametrize("units", EXPRESSIONS)
def test_mediapipe_faces_equal_the_published_annotator(pose, units, annotators):
    """A face that leaves the picture too."""
    face = seen(*pose, units)
    ours = levels(face, "mediapipe face")
    assert (ours > 0).any(-1).sum() > 300
    assert np.array_equal(ours, mediapipe_annotated(face, annotators))


@pytest.mark.parametrize("pose", POSES)
def test_openpose_faces_equal_the_published_annotator(pose, annotators):
    face = seen(*pose)
    assert np.array_equal(levels(face, "openpose face"), openpose_annotated(face, annotators))


@pytest.mark.skipif(not (FRAMES and TASK), reason="set FACE_FRAMES (a folder of clips) and FACE_LANDMARKER_TASK for real faces")
def test_faces_of_real_clips_equal_the_published_annotators(annotators):
    """What MediaPipe's landmarker finds in up to 20 frames of each clip."""
    detect, faces = open_landmarker(Path(TASK)), 0
    for path in sorted(Path(FRAMES).iterdir()):
        for frame in frames_of(path, 20):
            size = frame.shape[:2]
            for mesh in detect(torch.from_numpy(frame).float() / 255):
                faces += 1
                ours = [levels(mesh.points, style, size) for style in ("mediapipe face", "openpose face")]
                theirs = [annotated(mesh.points, annotators, size) for annotated in (mediapipe_annotated, openpose_annotated)]
                assert all(map(np.array_equal, ours, theirs)), path.name
    print(f"{faces} faces")
    assert faces > 20


@pytest.mark.parametrize("pose", POSES)
def test_openpose_heads_equal_the_published_annotator(pose, annotators):
    util = annotators("open_pose.util")
    Keypoint = annotators("open_pose.body").Keypoint

    face = seen(*pose)
    frame = pose_keypoints(face[None], (512, 512))[0]
    body = np.array(frame["people"][0]["pose_keypoints_2d"]).reshape(18, 3)
    keypoints = [Keypoint(x / 512, y / 512) if score else None for x, y, score in body]
    dots = [Keypoint(x / 512, y / 512) for x, y, _ in np.array(frame["people"][0]["face_keypoints_2d"]).reshape(70, 3)]
    theirs = util.draw_facepose(util.draw_bodypose(np.zeros((512, 512, 3), np.uint8), keypoints), dots)
    assert np.array_equal(levels(face, "openpose head"), theirs)


def test_a_far_ear_is_left_out():
    def ears(yaw):
        body = np.array(pose_keypoints(seen((yaw, 0, 0))[None], (512, 512))[0]["people"][0]["pose_keypoints_2d"]).reshape(18, 3)
        return tuple(body[[16, 17], 2])  # the right one, the left one

    assert ears(0) == (1, 1)
    assert ears(45) == (1, 0)  # turned to the picture's right, which hides the person's left
    assert ears(-45) == (0, 1)


def test_instantid_points_are_in_insightfaces_order():
    face = seen()
    picture = levels(face, "instantid points")
    colours = [(255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 0), (255, 0, 255)]
    for (x, y), colour in zip(face[list(FIVE), :2].int().tolist(), colours):
        assert tuple(picture[y, x]) == colour
    assert face[FIVE[0], 0] < face[FIVE[1], 0]  # the picture's left eye first


def test_normals_point_where_their_convention_says():
    face = seen()
    scannet, opengl = levels(face, "normal"), levels(face, "normal (opengl)")
    cheeks = [tuple(face[i, :2].int().tolist()) for i in (50, 280)]  # the picture's left and right one
    (left_x, left_y), (right_x, right_y) = cheeks
    assert scannet[left_y, left_x, 0] > 140 > 115 > scannet[right_y, right_x, 0]
    assert opengl[left_y, left_x, 0] < 115 < 140 < opengl[right_y, right_x, 0]
    chin_x, chin_y = face[175, :2].int().tolist()
    brow_x, brow_y = face[10, :2].int().tolist()
    assert opengl[chin_y, chin_x, 1] < 128 < opengl[brow_y + 2, brow_x, 1]  # up is green
    drawn = (opengl > 0).any(-1)
    assert (opengl[drawn][:, 2] > 120).all()  # all to the viewer
    lengths = np.linalg.norm(opengl[drawn] / 127.5 - 1, axis=1)
    assert np.abs(lengths - 1).max() < 0.02


def test_depth_is_near_white_and_of_the_faces_own_range():
    face = seen()
    depth = levels(face, "depth")[..., 0]
    nose_x, nose_y = face[4, :2].int().tolist()
    assert depth.argmax() == pytest.approx(nose_y * 512 + nose_x, abs=512 * 6)
    assert depth.max() >= 253
    assert depth[depth > 0].min() > 100
    assert depth[0, 0] == 0


@pytest.mark.parametrize("style", STYLES)
def test_every_style_at_every_size(style):
    """Any size, odd ones too, a face half outside, and one turned to profile: a map of that size with a face in it."""
    for size, placed in (((64, 96), ((0, 0, 0), 2.5, (48.0, 32.0, 0.0))), ((301, 203), ((85, 0, 0), 9.0, (0.0, 150.0, 0.0)))):
        drawn = draw_control(seen(*placed)[None], size, style, BASIS)
        assert drawn.shape == (1, *size, 3)
        assert 0 <= drawn.min() <= drawn.max() <= 1
        assert drawn.std() > 0


def test_lines_grow_with_the_picture():
    small, large = (
        levels(seen(scale=s, place=(c, c, 0.0)), "mediapipe face", (c * 2,) * 2) for s, c in ((14.0, 256), (28.0, 512))
    )
    ratio = (large > 0).any(-1).sum() / (small > 0).any(-1).sum()
    assert 3.3 < ratio < 4.5


def test_the_mask_is_the_outline():
    face = seen()
    mask = draw_mask(face[None], (512, 512))[0]
    surface = draw_control(face[None], (512, 512), "depth", BASIS)[0, ..., 0] > 0
    assert ((mask > 0) == surface).float().mean() > 0.99


def test_the_shaded_head_shows_the_expression():
    """A smile opens a dark mouth between red lips; a blink hides the white of the eye."""

    def eye(units):
        face = seen(units=units)
        x, y = ((face[386, :2] + face[374, :2]) / 2).int().tolist()
        return levels(face, "shaded")[y - 3 : y + 3, x - 20 : x + 20].astype(int)

    assert (eye(scores()).min(-1) > 200).mean() > 0.05
    assert (eye(scores(eyeBlink=1.0)).min(-1) > 200).mean() < 0.5 * (eye(scores()).min(-1) > 200).mean()


def test_unknown_styles_are_named():
    with pytest.raises(ValueError, match="unknown style 'etching'; known: mediapipe face, openpose face"):
        draw_control(seen()[None], (64, 64), "etching", BASIS)


def test_a_batch_is_drawn_in_order():
    pair = torch.stack([seen(), seen((30, 0, 0))])
    both = draw_control(pair, (256, 256), "lines", BASIS)
    assert torch.equal(both[1:], draw_control(pair[1:], (256, 256), "lines", BASIS))
    assert not torch.equal(both[0], both[1])

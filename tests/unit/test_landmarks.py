"""FACE_LANDMARKS of ComfyUI's core: what is read from it, and what is refused."""

from pathlib import Path

import numpy as np
import pytest
import torch

from deepexpo_models.dsid.mesh import cautions
from deepexpo_models.faces import DetectorUnavailable
from deepexpo_models.faces.landmarks import landmarks_line, open_landmarker, read_landmarks, track_face
from deepexpo_models.head import load_basis
from landmark_sets import face, landmarks, points, scores


def test_points_come_back_with_depth_in_pixels():
    """landmarks_3d lies in a frame of its own; its depth is scaled as its x is."""
    placed = {"angles": (20.0, 5.0, 10.0)}
    frames, size = read_landmarks(landmarks([face(**placed)]))
    true = points(scores(), **placed)
    found = frames[0][0].points
    assert size == (512, 512)
    assert torch.allclose(found[:, :2], true[:, :2], atol=1e-3)
    assert torch.allclose(found[:, 2] - found[:, 2].mean(), true[:, 2] - true[:, 2].mean(), atol=1e-2)


@pytest.mark.parametrize("wrong", [None, [], {}, {"frames": []}, {"frames": [], "image_size": (8, 8)}, torch.zeros(3)])
def test_another_type_is_one_sentence(wrong):
    with pytest.raises(ValueError, match="no set of face landmarks") as error:
        read_landmarks(wrong)
    assert "\n" not in str(error.value)


def test_another_number_of_points_is_refused():
    other = face()
    other["landmarks_xy"] = other["landmarks_xy"][:68]
    with pytest.raises(ValueError, match=r"frame 2 of 2 has shape \(68, 2\)"):
        read_landmarks(landmarks([face()], [other]))


def test_points_that_are_not_finite_are_refused():
    broken = face()
    broken["landmarks_xy"][5, 1] = np.nan
    with pytest.raises(ValueError, match="not finite"):
        read_landmarks(landmarks([broken]))


def test_the_chosen_face_is_followed_by_order():
    small, large = face(scale=8.0, place=(100.0, 256.0, 0.0)), face(scale=14.0, place=(350.0, 256.0, 0.0))
    left = track_face(landmarks([small, large]), 0, "left to right").points[0, :, 0].mean()
    largest = track_face(landmarks([small, large]), 0, "largest").points[0, :, 0].mean()
    assert abs(left - 100) < 15
    assert abs(largest - 350) < 25
    with pytest.raises(ValueError, match="no face 2 in frame 1 of 1"):
        track_face(landmarks([small, large]), 2)


def test_no_face_anywhere():
    with pytest.raises(ValueError, match="no face in any frame"):
        track_face(landmarks([], []), gaps="interpolate")


def test_gaps_are_refused_or_filled_and_told():
    def at(x):
        return [face(scores(jawOpen=x / 100), place=(x, 256.0, 0.0))]

    clip = landmarks([], at(100.0), [], at(200.0), [])
    with pytest.raises(ValueError, match="no face in frames 1, 3, 5 of 5"):
        track_face(clip)
    filled = track_face(clip, gaps="interpolate")
    middle = points(scores(), place=(150.0, 256.0, 0.0))[:, 0].mean()
    assert filled.points.shape == (5, 478, 3)
    assert filled.points[2, :, 0].mean() == pytest.approx(middle.item(), abs=0.1)
    assert [round(s["jawOpen"], 3) for s in filled.scores] == [1.0, 1.0, 1.5, 2.0, 2.0]
    assert filled.note == "no face in frames 1, 3, 5 of 5: filled from the frames around them"
    held = track_face(clip, gaps="hold")
    assert torch.equal(held.points[2], held.points[1])
    assert track_face(clip, gaps="skip").points.shape[0] == 2
    assert track_face(landmarks(at(100.0))).note == ""


def test_a_landmarker_without_its_file_is_one_sentence(tmp_path):
    with pytest.raises(DetectorUnavailable, match=r"face_landmarker.task \(3.7 MB\) is missing"):
        open_landmarker(tmp_path / "face_landmarker.task")
    pytest.importorskip("mediapipe")
    broken = tmp_path / "broken.task"
    broken.write_bytes(b"no model")
    with pytest.raises(DetectorUnavailable, match=r"broken.task cannot be used") as error:
        open_landmarker(Path(broken))
    assert "\n" not in str(error.value)


SAID = {(1,): "1 face in 1 picture", (2, 0, 1): "3 faces in 3 pictures, none in 1 of them"}


@pytest.mark.parametrize("counts", SAID)
def test_what_was_found_is_said(counts):
    assert landmarks_line(landmarks(*([face()] * count for count in counts))) == SAID[counts]


# Input that is none, or poor


@pytest.mark.parametrize(
    "spoil",
    [
        lambda face: face | {"landmarks_xy": [[1, 2], [3]]},
        lambda face: face | {"landmarks_xy": "points"},
        lambda face: face | {"blendshapes": {"jawOpen": "wide"}},
        lambda face: [1, 2, 3],
        lambda face: None,
    ],
)
def test_a_face_that_is_none_is_one_sentence(spoil):
    with pytest.raises(ValueError, match="frame 1 of 1 holds a face that is none: this is no set of face landmarks") as error:
        read_landmarks(landmarks([spoil(face())]))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("wrong", [{"frames": [3], "image_size": (8, 8)}, {"frames": [[face()]], "image_size": "large"}])
def test_frames_and_sizes_that_are_none_are_one_sentence(wrong):
    with pytest.raises(ValueError, match="this is no set of face landmarks"):
        read_landmarks(wrong)


def test_a_face_without_extent_is_refused():
    flat = face()
    flat["landmarks_xy"][:] = 7
    with pytest.raises(ValueError, match="all points of a face in frame 1 of 1 lie in one place"):
        read_landmarks(landmarks([flat]))


def test_a_turned_head_and_half_a_face_are_marked():
    turned, half = face(angles=(70.0, 0.0, 0.0)), face(place=(20.0, 256.0, 0.0))
    track = track_face(landmarks([face()], [turned], [half]))
    assert cautions(track, load_basis()) == [
        "frame 2 of 3: the head is turned by more than 60 degrees, and its far side is guessed",
        "frame 3 of 3: a part of the face lies outside the picture, and is guessed",
    ]
    assert cautions(track_face(landmarks([face(angles=(40.0, 10.0, 0.0))])), load_basis()) == []

"""Landmarks as the detector of crops, and frames without a face."""

from functools import partial

import pytest
import torch

from deepexpo_models.faces import crop_faces
from deepexpo_models.faces.landmarks import track_face
from landmark_sets import face, landmarks


def known(*faces, size=(60, 80)):
    return landmarks(*faces, size=size)


def at(x: float, y: float = 30.0):
    return face(place=(x, y, 0.0), scale=1.2)


def test_landmarks_come_first_and_the_crop_is_around_them():
    images = torch.rand(2, 60, 80, 3)
    clip = known([at(20.0), at(60.0)], [at(40.0)])
    for detector in ("auto", "landmarks"):
        result = crop_faces(images, detector, order="left to right", size=32, landmarks=clip)
        assert result.counts == (2, 1) and [each.detector for each in result.faces] == ["landmarks"] * 2
        centres = [each.centre[0] for each in result.faces]
        assert centres == pytest.approx([20, 40], abs=1.5)
        assert all(mask[30, round(x)] == 1 and mask[0, 0] == 0 for mask, x in zip(result.masks, centres))
        assert "2 faces found by landmarks" in result.notes[0]
    assert crop_faces(images, "none", size=32, landmarks=clip).counts == (0, 0), "the user chose another"


def test_frames_without_a_face_are_refused_or_filled_and_told():
    images = torch.rand(4, 60, 80, 3)
    clip = known([at(20.0)], [], [at(60.0)], [])
    crop = partial(crop_faces, images, "landmarks", size=32, landmarks=clip)
    with pytest.raises(ValueError, match=r"no face found in image 2 of 4.*or choose gaps 'interpolate', 'hold' or 'skip'"):
        crop()
    filled, held, skipped = (crop(gaps=gaps) for gaps in ("interpolate", "hold", "skip"))
    for result, places in ((filled, (20, 40, 60, 60)), (held, (20, 20, 60, 60)), (skipped, (20, 60))):
        assert [each.centre[0] for each in result.faces] == pytest.approx(places, abs=1.5)
        assert len(result.crops) == len(result.masks) == len(places)
        assert result.notes[-1].startswith("no face in frames 2, 4 of 4: ")
    assert filled.counts == (1, 0, 1, 0) and skipped.counts == (1, 1)
    assert torch.equal(skipped.crops, filled.crops[[0, 2]])
    with pytest.raises(ValueError, match="no face in any frame"):
        crop_faces(images[:2], "landmarks", landmarks=known([], []), gaps="hold")


def test_a_person_who_is_gone_for_a_frame_is_a_gap_too():
    images, clip = torch.rand(3, 60, 80, 3), known([at(20.0), at(60.0)], [at(20.0)], [at(20.0), at(60.0)])
    with pytest.raises(ValueError, match="there is no face 1 in image 2 of 3"):
        crop_faces(images, "landmarks", 1, "left to right", size=32, landmarks=clip)
    filled = crop_faces(images, "landmarks", 1, "left to right", size=32, landmarks=clip, gaps="interpolate")
    assert [each.centre[0] for each in filled.faces] == pytest.approx([60] * 3, abs=1.5)
    assert [len(scores) for scores in track_face(clip, 1, "left to right", "hold").scores] == [52] * 3


def test_landmarks_of_other_pictures_are_refused():
    clip = known([at(20.0)])
    with pytest.raises(ValueError, match="of 1 pictures of 80 x 60 pixels, the image is 2 of 80 x 60"):
        crop_faces(torch.rand(2, 60, 80, 3), landmarks=clip)
    with pytest.raises(ValueError, match="the image is 1 of 64 x 60; connect landmarks that were found in this image"):
        crop_faces(torch.rand(1, 60, 64, 3), "landmarks", landmarks=clip)
    with pytest.raises(ValueError, match="the detector 'landmarks' needs landmarks; connect those of this image"):
        crop_faces(torch.rand(1, 60, 80, 3), "landmarks")

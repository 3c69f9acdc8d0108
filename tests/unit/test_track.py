"""Laws of following a face through a clip: found where it is, one search of the whole picture as long as it is not lost."""

import numpy as np
import pytest
import torch

from deepexpo_models.faces import DETECTORS, DetectorUnavailable, Face, crop_faces
from deepexpo_models.faces.detectors import REACH, Detector
from deepexpo_models.faces.find import OpenedDetector, open_detector
from deepexpo_models.faces.track import Tracker

SIDE = 20


def squares(*places: tuple[int, int], size: tuple[int, int] = (120, 160)) -> torch.Tensor:
    """A dark picture (H, W, 3) with a white square of SIDE at each left, top."""
    picture = torch.full((*size, 3), 0.2)
    for left, top in places:
        picture[top : top + SIDE, left : left + SIDE] = 1
    return picture


def find_white(image: torch.Tensor) -> list[Face]:
    """Every column of white that stands alone, as a face."""
    columns = (image[..., 0] > 0.6).any(0).nonzero().flatten().tolist()
    runs = np.split(np.array(columns), np.flatnonzero(np.diff(columns) > 1) + 1) if columns else []
    faces = []
    for run in runs:
        rows = (image[:, run[0], 0] > 0.6).nonzero().flatten()
        box = (float(run[0]), float(rows[0]), float(run[-1]) + 1, float(rows[-1]) + 1)
        faces.append(Face(box, np.array([[run[0], rows[0].item()]] * 5, float), 1.0, "white"))
    return faces


@pytest.fixture
def opened() -> OpenedDetector:
    return OpenedDetector("auto", Detector(find_white, find_white, near_face=SIDE), {})


def test_a_moving_face_is_followed_with_one_search(opened):
    tracker = Tracker(opened)
    for step in range(30):
        found = tracker.find(squares((10 + 4 * step, 40 + step)))
        assert np.abs(np.array(found.face.box[:2]) - (10 + 4 * step, 40 + step)).max() <= 1
        assert np.abs(found.face.points - (10 + 4 * step, 40 + step)).max() <= 1
        assert found.detected == 1
    assert tracker.searches == 1 and "followed" in found.note


def test_of_several_faces_the_chosen_one_is_followed(opened):
    """Also where a larger one comes in on the other side: the clip is about the first."""
    tracker = Tracker(opened, 1, "left to right")
    for step in range(10):
        found = tracker.find(squares((10, 20), (100 - 3 * step, 60)))
        assert abs(found.face.box[0] - (100 - 3 * step)) <= 1 and found.detected == 2
    assert tracker.searches == 1


def test_a_lost_face_a_cut_and_another_size_are_searched_whole(opened):
    jump, light, large = squares((130, 90)), squares((30, 30)) + 0.3, squares((30, 30), size=(240, 320))
    for other in (jump, light.clamp(0, 1), large):
        tracker = Tracker(opened)
        tracker.find(squares((10, 10)))
        assert REACH * SIDE < 100
        found = tracker.find(other)
        assert tracker.searches == 2 and abs(found.face.box[0] - opened.detect(other)[0].box[0]) <= 1


def test_a_face_outside_the_mask_is_not_followed(opened):
    right = torch.zeros(120, 160)
    right[:, 80:] = 1
    tracker = Tracker(opened)
    tracker.find(squares((70, 10), (120, 10)))
    found = tracker.find(squares((68, 10), (120, 10)), right)
    assert found.face.box[0] == 120 and tracker.searches == 2


def test_without_a_face_look_gives_none_and_find_names_the_picture(opened):
    tracker = Tracker(opened)
    assert tracker.look(squares()) is None and tracker.look(squares((10, 10))).box[:2] == (10, 10)
    with pytest.raises(ValueError, match="no face found in frame 3"):
        tracker.find(squares(), name="frame 3")
    assert tracker.find(squares((50, 50))).face.box[0] == 50


def test_a_detector_that_cannot_follow_searches_every_picture(opened):
    tracker = Tracker(OpenedDetector("auto", Detector(find_white), {}))
    for step in range(3):
        tracker.find(squares((10 + step, 10)))
    assert tracker.searches == 3


def test_crops_of_a_clip_are_those_of_its_frames(opened):
    frames = torch.stack([squares((20 + 3 * step, 40)) for step in range(6)])
    together = crop_faces(frames, size=32, open_choice=lambda _: opened)
    alone = [crop_faces(frame[None], size=32, open_choice=lambda _: opened) for frame in frames]
    assert together.counts == (1,) * 6
    for number, one in enumerate(alone):
        a, b = together.transforms[number], one.transforms[0]
        assert max(abs(a.left - b.left), abs(a.top - b.top), abs(a.side - b.side)) <= 1


def test_the_installed_cascade_follows_a_photograph_that_moves():
    data = pytest.importorskip("skimage.data", reason="scikit-image, which holds the photograph, is not installed")
    try:
        DETECTORS["opencv"](None)
    except DetectorUnavailable as reason:
        pytest.skip(f"no face detector is installed: {reason}")
    astronaut = torch.from_numpy(data.astronaut()).float() / 255
    tracker = Tracker(open_detector("opencv"))
    for step in range(6):
        found = tracker.find(astronaut[2 * step : 300 + 2 * step, 60 + 5 * step : 400 + 5 * step])
        centre = np.add(found.face.centre, (60 + 5 * step, 2 * step))
        assert np.abs(centre - (225, 115)).max() < 20 and 70 < found.face.side < 130
    assert tracker.searches == 1

"""The benchmark of clips: its clip shows a face that is looked for once, and every part is measured."""

import pytest

import clip_speed
from deepexpo_models.pipeline.photos import each_photo


def test_the_benchmarks_clip_is_searched_once(tmp_path):
    pytest.importorskip("av")
    pytest.importorskip("skimage.data")
    path = tmp_path / "clip.mp4"
    clip_speed.write_astronaut(path)
    frames = list(each_photo(path))
    assert len(frames) == clip_speed.FRAMES and frames[0].shape == (clip_speed.PIXELS, clip_speed.PIXELS, 3)
    assert (frames[0] - frames[-1]).abs().mean() > 0.01, "the camera moves"
    parts, searches = clip_speed.milliseconds(path, clip_speed.encoders(False)["photo-dsid"])
    assert searches == 1 and set(parts) == set(clip_speed.PARTS) and min(parts.values()) > 0

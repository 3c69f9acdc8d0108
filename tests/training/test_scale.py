"""Many workers: with one killed nothing is lost and nothing done twice; what fails is named; a second run does the rest."""

import json
import os
import signal

import numpy as np
import pytest
from PIL import Image

from deepexpo_models.data import prepare as prepare_module
from deepexpo_models.data.clips.index import LABELS, index_clips
from deepexpo_models.data.prepare_many import ClipJob, files_of, list_clips
from deepexpo_models.data.scale import FAILED, Report, Store, dask_workers, fetch, filesystem, run_jobs

distributed = pytest.importorskip("distributed", reason="Dask is not installed")


def write_clips(folder, count: int) -> None:
    """Frame folders of two people, and one that no clip can be made of."""
    for number in range(count):
        place = folder / f"person{number % 2}" / f"clip{number}"
        place.mkdir(parents=True)
        for frame in range(2):
            Image.fromarray(np.full((24, 24, 3), 20 * number + frame, np.uint8)).save(place / f"{frame}.png")
    (folder / "person0" / "broken.mp4").write_bytes(b"no video")


def test_a_killed_worker_costs_nothing(tmp_path):
    """Every clip is made once: the folder's time stays what it was when it was first seen whole."""
    write_clips(tmp_path / "in", 8)
    store, (names, odd) = Store(str(tmp_path / "out"), LABELS), list_clips(str(tmp_path / "in"))
    assert len(names) == 9 and not odd
    job, seen, killed = ClipJob(str(tmp_path / "in"), 16, "none"), {}, []
    with dask_workers(2) as client:

        def told(name: str) -> None:
            marker = tmp_path / "out" / name / LABELS
            seen[name] = marker.stat().st_ino if marker.exists() else None
            if not killed:
                killed.append(next(iter(client.run(os.getpid).values())))
                os.kill(killed[0], signal.SIGKILL)

        report = run_jobs(client, job, names, store, told)
    made = {name for name in names if name != "person0/broken"}
    assert killed and set(report.done) == made == store.names() and not report.kept
    assert list(report.failed) == ["person0/broken"] and "broken.mp4" in report.failed["person0/broken"]
    assert json.loads((tmp_path / "out" / FAILED).read_text())["job"] == "person0/broken"
    assert {name: (tmp_path / "out" / name / LABELS).stat().st_ino for name in made} == {n: seen[n] for n in made}
    assert not list((tmp_path / "out").rglob(".deepexpo-*"))
    clips = index_clips(tmp_path / "out").clips
    assert len(clips) == 8 and {clip.person for clip in clips} == {"person0", "person1"}

    prepare_module.prepare(tmp_path / "in", tmp_path / "single", 16, "none")
    for name in made:  # as one process makes them
        ours, one = ((tmp_path / where / name / "000001.jpg").read_bytes() for where in ("out", "single"))
        assert ours == one


class InProcess:
    """A stand-in for a Dask client whose futures are done at once: the laws of the store need no cluster."""

    def __init__(self, monkeypatch):
        self.calls = []
        monkeypatch.setattr(distributed, "as_completed", Finished)

    def submit(self, function, *arguments, key):
        self.calls.append(arguments[1])
        return Done(function(*arguments))


class Done:
    def __init__(self, found):
        self.found = found

    def result(self):
        return self.found


class Finished(list):
    add = list.append


def write_name(name, folder):
    if name == "bad":
        raise ValueError("nothing in it")
    folder.mkdir()
    (folder / "data.txt").write_text(name)
    (folder / "whole").touch()


@pytest.mark.parametrize("place", ["local", "memory://deepexpo-test"])
def test_a_store_of_any_kind_is_resumed(tmp_path, monkeypatch, place):
    url = str(tmp_path / "out") if place == "local" else f"{place}-{tmp_path.name}"
    store, client = Store(url, "whole"), InProcess(monkeypatch)
    assert run_jobs(client, write_name, ["a", "bad"], store) == Report(("a",), (), {"bad": "ValueError: nothing in it"})
    again = run_jobs(client, write_name, ["a", "bad", "b"], store)
    assert client.calls == ["a", "bad", "bad", "b"], "what is there is not asked for again, what failed is"
    assert again == Report(("b",), ("a",), {"bad": "ValueError: nothing in it"})
    assert "1 done, 1 were there, 1 failed" in again.summary() and "failed bad: ValueError: nothing in it" in again.summary()
    fetch(f"{url}/b", tmp_path / "fetched")
    assert (tmp_path / "fetched" / "data.txt").read_text() == "b"
    store.require_same({"size": 16})
    with pytest.raises(ValueError, match=r"was made with {'size': 16}, not with {'size': 32}"):
        store.require_same({"size": 32})


def test_a_job_whose_answer_was_lost_is_done_and_not_found(tmp_path, monkeypatch):
    """Dask runs it again where the worker that had the answer is gone; what it made is there."""
    client = InProcess(monkeypatch)
    client.submit = lambda function, *arguments, key: [Done(function(*arguments)) for _ in range(2)][1]
    assert run_jobs(client, write_name, ["a", "b"], Store(str(tmp_path / "out"), "whole")) == Report(("a", "b"), (), {})


def test_a_folder_that_is_not_whole_counts_as_none(tmp_path):
    store = Store(str(tmp_path), "whole")
    (tmp_path / "half").mkdir()
    (tmp_path / "half" / "data.txt").write_text("x")
    assert store.names() == set() and not store.has("half")


def test_of_two_workers_with_one_job_the_first_wins(tmp_path):
    store = Store(str(tmp_path / "out"), "whole")
    for number in range(2):
        made = tmp_path / f"made{number}"
        made.mkdir()
        (made / "data.txt").write_text(str(number))
        (made / "whole").touch()
    (tmp_path / "out").mkdir()
    assert store.put(tmp_path / "made0", "job") and not store.put(tmp_path / "made1", "job")
    monkey = Store.has
    try:
        Store.has = lambda self, name: False  # both looked before either wrote
        with pytest.raises(OSError):
            Store(str(tmp_path / "out"), "other").put(tmp_path / "made1", "job")
        assert not store.put(tmp_path / "made1", "job")
    finally:
        Store.has = monkey
    assert (tmp_path / "out" / "job" / "data.txt").read_text() == "0" and not list((tmp_path / "out").glob(".deepexpo-*"))


def test_clips_of_one_name_are_told(tmp_path):
    (tmp_path / "ann").mkdir()
    for ending in ("mp4", "mov", "txt"):
        (tmp_path / "ann" / f"clip.{ending}").touch()
    (tmp_path / "ann" / "other.webm").touch()
    assert list_clips(str(tmp_path)) == (["ann/other"], {"ann/clip": "another clip beside it has the same name; rename one"})
    with pytest.raises(ValueError, match="nothing to prepare"):
        list_clips(str(tmp_path / "nowhere"))


@pytest.mark.parametrize("place", ["local", "memory://deepexpo-names"])
def test_a_clip_takes_its_own_files_alone(tmp_path, place):
    fs, root = filesystem(str(tmp_path) if place == "local" else f"{place}-{tmp_path.name}")
    names = [f"ann/clip.{ending}" for ending in ("MP4", "json", "txt", "take2.mp4", "take2.txt", "bak")]
    names += [f"ann/clip/{name}" for name in ("other.mp4", "0.png")]  # a folder of the video's name
    names += [f"ann/frames.2/{name}" for name in ("0.png", "labels.json", "more/0.png")]
    names += ["ann/frames.2.json", "ann/frames.json", "ann/[x]*.mov", "ann/x.mov"]
    for name in names:
        fs.makedirs(f"{root}/{name.rpartition('/')[0]}", exist_ok=True)
        fs.touch(f"{root}/{name}")
    for clip, files in {
        "ann/clip": ["clip.MP4", "clip.json", "clip.txt"],
        "ann/clip.take2": ["clip.take2.mp4", "clip.take2.txt"],
        "ann/frames.2": ["frames.2/0.png", "frames.2/labels.json", "frames.2.json"],
        "ann/[x]*": ["[x]*.mov"],
    }.items():
        assert files_of(fs, f"{root}/{clip}") == [f"{root}/ann/{file}" for file in files]

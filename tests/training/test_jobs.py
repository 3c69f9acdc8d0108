"""A table of pictures: rows are checked before anything is drawn, drawn once each by whichever process they belong to, and
what is there stays."""

import argparse
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from deepexpo_models.pipeline import jobs as jobs_module
from deepexpo_models.pipeline.__main__ import add_model_options
from deepexpo_models.pipeline.jobs import Job, batches, read_jobs, run, share_of

ROOT = Path(__file__).parents[2]
SAMPLES = ROOT / "workflows" / "samples"


class Recorded:
    """A pipeline that draws the seed as a grey level, and counts what it is asked."""

    batch = 3

    def __init__(self):
        self.drawn, self.read = [], []

    def identity(self, photos):
        self.read.append([photo.name for photo in photos])
        if not photos[0].is_file():
            raise ValueError(f"there is no picture at {photos[0]}; check its path")
        return torch.ones(1, 2)

    def semantics(self, photos):
        return self.identity(photos)

    def codes(self, identity, semantics):
        given = {"identity": identity, "expression": semantics}
        return {name: code for name, code in given.items() if code is not None}

    def noise(self, seed, width, height):
        return torch.full((1, 4, 2, 2), float(seed))

    def maps(self, identity, semantics, noise):
        return None

    def draw(self, prompts, codes, noise, settings, negative, maps):
        assert maps is None
        self.drawn += [(prompt, negative) for prompt in prompts]
        return (noise[:, :3] / 50 - 1).repeat_interleave(4, -1)


@pytest.fixture
def pipeline(monkeypatch) -> Recorded:
    found = Recorded()
    monkeypatch.setattr(jobs_module, "load_pipeline", lambda options: found)
    return found


def options(tmp_path, table: str, *more: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    add_model_options(parser)
    found = parser.parse_args(more)
    found.jobs, found.out = str(tmp_path / table), str(tmp_path / "out")
    return found


def write(tmp_path, rows: list[dict], name: str = "table.jsonl") -> str:
    (tmp_path / name).write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return name


def rows(count: int) -> list[dict]:
    person = str(SAMPLES / "person_1.png")
    return [{"prompt": f"p{n}", "out": f"a/{n}.png", "seed": n, "identity": person} for n in range(count)]


def test_every_row_is_drawn_once_and_again_only_where_it_is_missing(tmp_path, pipeline):
    table = write(tmp_path, rows(7))
    assert run(options(tmp_path, table)) == {}
    assert [prompt for prompt, _ in pipeline.drawn] == [f"p{n}" for n in range(7)]
    assert pipeline.read == [["person_1.png"]], "one person is read once"
    assert np.array(Image.open(tmp_path / "out" / "a" / "5.png"))[0, 0, 0] == round(5 / 50 * 127.5)
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "out" / "a").iterdir()}
    (tmp_path / "out" / "a" / "3.png").unlink()
    assert run(options(tmp_path, table)) == {}
    assert [prompt for prompt, _ in pipeline.drawn[7:]] == ["p3"]
    assert all(path.stat().st_mtime_ns == time for path, time in before.items() if path.name != "3.png")


def test_shares_of_processes_are_the_table_whatever_is_there_already(tmp_path, pipeline):
    """One process is killed: the other's part is there, a second run of both draws the rest, and nothing twice."""
    table = write(tmp_path, rows(7))
    run(options(tmp_path, table), process=1, processes=2)
    assert [prompt for prompt, _ in pipeline.drawn] == ["p1", "p3", "p5"]
    for process in (1, 0):
        run(options(tmp_path, table), process, 2)
    assert sorted(prompt for prompt, _ in pipeline.drawn) == [f"p{n}" for n in range(7)]
    parts = [share_of(range(7), process, 3) for process in range(3)]
    assert sorted(row for part in parts for row in part) == list(range(7))


def test_a_failed_row_is_named_and_the_others_go_on(tmp_path, pipeline):
    given = rows(4)
    given[1]["identity"] = str(tmp_path / "nobody.png")
    failed = run(options(tmp_path, write(tmp_path, given)))
    assert list(failed) == ["a/1.png"] and "there is no picture at" in failed["a/1.png"]
    assert sorted(path.name for path in (tmp_path / "out" / "a").iterdir()) == ["0.png", "2.png", "3.png"]
    assert json.loads((tmp_path / "out" / "failed-0.jsonl").read_text())["job"] == "a/1.png"


def test_batches_hold_what_can_be_drawn_at_once():
    table = [Job(f"p{n}", f"{n}.png", identity="x" * (n > 2), negative="n" * (n == 5)) for n in range(7)]
    assert [[job.prompt for job in batch] for batch in batches(table, 2)] == [
        ["p0", "p1"],
        ["p2"],
        ["p3", "p4"],
        ["p5"],
        ["p6"],
    ]


def test_csv_and_json_lines_are_one_table(tmp_path):
    (tmp_path / "table.csv").write_text('prompt,out,seed,identity\n"a, b",0.png,,\nc,1.jpg,4,me.png;you.png\n')
    lines = [{"prompt": "a, b", "out": "0.png"}, {"prompt": "c", "out": "1.jpg", "seed": 4, "identity": "me.png;you.png"}]
    write(tmp_path, lines)
    assert read_jobs(str(tmp_path / "table.csv")) == read_jobs(str(tmp_path / "table.jsonl"))


@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        ([], "holds no jobs"),
        ([{"out": "a.png"}], "row 1 of .* has no prompt"),
        ([{"prompt": "a", "out": "a.png"}, {"prompt": "b"}], "row 2 of .* has no out"),
        ([{"prompt": "a", "out": "a.png", "colour": "red"}], "has 'colour'; known columns: identity, negative, out"),
        ([{"prompt": "a", "out": "a.mp4"}], "a table draws pictures"),
        ([{"prompt": "a", "out": "a.png", "seed": "x"}], "the seed in row 1"),
        ([{"prompt": "a", "out": "a.png"}] * 2, "rows 1 and 2 of .* are both to be a.png"),
    ],
)
def test_a_table_that_cannot_be_meant_is_one_sentence(tmp_path, given, sentence):
    write(tmp_path, given)
    with pytest.raises(ValueError, match=sentence):
        read_jobs(str(tmp_path / "table.jsonl"))


def test_the_command_draws_on_the_starter(tmp_path):
    write(tmp_path, rows(1))
    command = [sys.executable, "-m", "deepexpo_models.pipeline.jobs", "--jobs", str(tmp_path / "table.jsonl"), "--steps", "1"]
    options, environment = ["--out", str(tmp_path / "out"), "--device", "cpu"], {"PYTHONPATH": str(ROOT / "tests" / "site")}
    done = subprocess.run(
        [*command, *options], cwd=ROOT, env={**os.environ, **environment}, capture_output=True, text=True, timeout=240
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert "process 0: 1 drawn, 0 were there, 0 failed" in done.stdout
    assert Image.open(tmp_path / "out" / "a" / "0.png").size == (128, 128)

"""Files are there whole or not at all: kills, full disks, refused modes, long names, two writers."""

import errno
import os
import signal
import stat
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from deepexpo_models.weights import load_tensors, save_tensors
from deepexpo_models.whole_files import PREFIX, SUFFIX, WriteError, remove_leftovers, write_file, write_folder

ROOT = Path(__file__).parents[2]
KILLED = """
import sys, torch
sys.path.insert(0, {root!r})
from pathlib import Path
from deepexpo_models.whole_files import write_file
with write_file(Path({path!r})) as beside:
    beside.write_bytes(b"half")
    print("writing", flush=True)
    sys.stdin.read()
"""
posix = pytest.mark.skipif(os.name != "posix", reason="modes and locks of POSIX")


def partials(folder: Path) -> list[Path]:
    return list(folder.glob(f"{PREFIX}*{SUFFIX}"))


@posix
@pytest.mark.parametrize("mask", [0o077, 0o027, 0o002, 0o022])
def test_a_file_has_the_mode_of_any_new_file(tmp_path, mask):
    before = os.umask(mask)
    try:
        save_tensors(tmp_path / "x.safetensors", "dsid", {"a": torch.zeros(2)}, name="n", config={})
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "x.safetensors").stat().st_mode) == 0o666 & ~mask


def test_a_drive_that_refuses_chmod_can_be_written_to(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "chmod", lambda *_, **__: (_ for _ in ()).throw(PermissionError(1, "not permitted")))
    save_tensors(tmp_path / "x.safetensors", "dsid", {"a": torch.ones(2)}, name="n", config={})
    assert load_tensors(tmp_path / "x.safetensors", "dsid")[1]["a"].tolist() == [1, 1]


@posix
def test_a_kill_leaves_the_old_file_and_its_leftover_goes_with_the_next_write(tmp_path):
    path = tmp_path / "code.bin"
    path.write_bytes(b"old")
    code = KILLED.format(root=str(ROOT), path=str(path))
    child = subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert child.stdout.readline() == b"writing\n"
    remove_leftovers(tmp_path)
    assert len(partials(tmp_path)) == 1, "a living writer's file stays"
    child.send_signal(signal.SIGKILL)
    child.wait()
    assert path.read_bytes() == b"old" and len(partials(tmp_path)) == 1
    with write_file(tmp_path / "other.bin") as beside:
        beside.write_bytes(b"new")
    assert not partials(tmp_path) and (tmp_path / "other.bin").read_bytes() == b"new"


@pytest.mark.parametrize("error", [OSError(errno.ENOSPC, "No space left on device"), KeyboardInterrupt(), ValueError("x")])
def test_whatever_happens_the_old_file_stands_and_nothing_is_left(tmp_path, error):
    path = tmp_path / "code.bin"
    path.write_bytes(b"old")
    with pytest.raises((WriteError, KeyboardInterrupt, ValueError)) as caught, write_file(path) as beside:
        beside.write_bytes(b"new")
        raise error
    assert path.read_bytes() == b"old" and os.listdir(tmp_path) == ["code.bin"]
    if isinstance(error, OSError):
        sentence = str(caught.value)
        assert sentence.startswith("code.bin could not be written (No space left on device)") and str(tmp_path) not in sentence


def test_a_name_of_255_bytes_can_be_written(tmp_path):
    path = tmp_path / ("ä" * 121 + "12.safetensors"[:13])
    assert len(os.fsencode(path.name)) == 255
    with write_file(path) as beside:
        beside.write_bytes(b"x")
    assert path.read_bytes() == b"x"


def test_a_folder_takes_the_place_of_the_old_one_whole(tmp_path):
    for content in ("one", "two"):
        with write_folder(tmp_path / "state") as beside:
            (beside / "deep").mkdir()
            (beside / "deep" / "a.txt").write_text(content)
    assert (tmp_path / "state" / "deep" / "a.txt").read_text() == "two"
    with pytest.raises(ValueError), write_folder(tmp_path / "state") as beside:
        (beside / "b.txt").write_text("half")
        raise ValueError
    assert os.listdir(tmp_path) == ["state"] and os.listdir(tmp_path / "state") == ["deep"]


def test_old_leftovers_go_where_there_are_no_locks(tmp_path, monkeypatch):
    monkeypatch.setattr("deepexpo_models.whole_files.fcntl", None)
    old, new = (tmp_path / f"{PREFIX}{name}{SUFFIX}" for name in ("old", "new"))
    for path in (old, new):
        path.write_bytes(b"x")
    os.utime(old, (time.time() - 2 * 24 * 3600,) * 2)
    remove_leftovers(tmp_path)
    assert partials(tmp_path) == [new]

"""One writer to a folder."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from deepexpo_models import claims
from deepexpo_models.claims import InUse, claim, claimed, release

ROOT = Path(__file__).parents[2]
HOLDER = (
    "import sys, time; from deepexpo_models.claims import claim; claim(sys.argv[1]); print('held', flush=True); time.sleep(60)"
)


@pytest.fixture
def holder(tmp_path):
    """Another process that holds the folder."""
    process = subprocess.Popen([sys.executable, "-c", HOLDER, str(tmp_path)], cwd=ROOT, stdout=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "held\n"
    yield process
    process.kill()
    process.wait()


def test_another_process_is_refused_and_told_who_writes_there(tmp_path, holder):
    with pytest.raises(InUse, match=rf"is being written by process {holder.pid} on .* since .*choose another --out"):
        claim(tmp_path)


def test_a_killed_process_holds_nothing(tmp_path, holder):
    os.kill(holder.pid, getattr(signal, "SIGKILL", signal.SIGTERM))
    holder.wait()
    time.sleep(0.1)
    release(claim(tmp_path))


def test_a_process_may_claim_its_own_folder_again_and_holds_it_to_the_last_release(tmp_path):
    first, second = claim(tmp_path), claim(tmp_path / ".." / tmp_path.name)
    release(first)
    ask = "import sys; from deepexpo_models.claims import claim; claim(sys.argv[1])"

    def other() -> str:
        done = subprocess.run([sys.executable, "-c", ask, str(tmp_path)], cwd=ROOT, capture_output=True, text=True)
        return done.stderr.strip().splitlines()[-1] if done.returncode else ""

    assert f"process {os.getpid()}" in other()
    release(second)
    assert other() == ""


def test_a_drive_without_locks_refuses_nobody(tmp_path, monkeypatch):
    def no_locks(handle):
        raise OSError(37, "No locks available")

    monkeypatch.setattr(claims, "_lock", no_locks)
    with claimed(tmp_path), claimed(tmp_path):
        pass

"""A short part of tests/robustness/soak.py, of a fixed seed: every mishap once, on one server."""

import sys
from pathlib import Path

sys.path.append(str(Path(__file__).parents[1] / "robustness"))

from soak import EACH, FAULTS, soak


def test_prompts_and_mishaps_leave_a_server_as_a_fresh_one(tmp_path):
    said = []
    assert soak(tmp_path / "soak", EACH * len(FAULTS), 0, said.append) == [], said
    assert all(kind in said[-1] for kind in FAULTS)

"""A short part of tests/robustness/fuzz_files.py, of a fixed seed."""

import sys
from pathlib import Path
from random import Random

import pytest

sys.path.append(str(Path(__file__).parents[1] / "robustness"))

from fuzz_files import LOADERS, judge, write_seeds
from mutate import variant

EACH = 40


@pytest.fixture(scope="module")
def seeds(tmp_path_factory):
    folder = tmp_path_factory.mktemp("seeds")
    return folder, write_seeds(folder)


NAMES = [*(f"{name}.safetensors" for name in LOADERS), "adapter.bin"]


@pytest.mark.parametrize("name", NAMES)
def test_a_whole_file_is_accepted_and_every_damaged_one_is_one_sentence_or_whole(seeds, tmp_path, name):
    folder, contents = seeds
    loader = LOADERS[name.split(".")[0]]
    assert judge(loader, folder / name) == ("accepted", "")
    verdicts = set()
    for number in range(EACH):
        what, data = variant(contents[name], name.endswith(".bin"), Random(number))
        path = tmp_path / f"in{Path(name).suffix}"
        path.write_bytes(data)
        verdict, said = judge(loader, path)
        assert verdict in ("accepted", "refused"), (number, what, said)
        verdicts.add(verdict)
    assert "refused" in verdicts

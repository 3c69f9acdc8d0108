"""TorchCompileModel before Apply MEAF: the compiled U-Net is one graph, whatever strength, code, mask or window changes."""

from itertools import pairwise

import pytest

from rig.compiled import changes, count_graphs, sampled
from studio import Studio


@pytest.mark.parametrize("size", ["light", "control"])
def test_one_graph_for_ten_changes(size):
    studio = Studio("sd15", size)
    wanted = [sampled(studio, studio.apply(**change)) for change in changes(studio)]
    for before, after in pairwise(wanted):
        assert (before - after).abs().max() > 1e-5, "a change that changes nothing proves nothing"
    found, pictures = count_graphs(studio, patched=True)
    assert found == {"graphs": 1, "breaks": {}}
    for picture, right in zip(pictures, wanted, strict=True):
        assert (picture - right).abs().max() < 1e-4 * right.abs().max()

"""What Apply MEAF adds to a sampling step of a full-size SD1.5, counted by torch (see rig/cost.py)."""

import pytest

from rig.cost import TOKENS, Bench, step_flops


@pytest.fixture(scope="module")
def bench():
    return Bench()  # float32: CPUs without bfloat16 units take minutes for a step in it; the arithmetic is the same


@pytest.fixture(scope="module")
def unpatched(bench) -> int:
    return step_flops(bench, bench.model, steps=1)[0]


@pytest.mark.parametrize(("tokens", "bound"), [("2 x 4", 0.001), ("2 x 16", 0.003)])
def test_streams_add_next_to_no_arithmetic(bench, unpatched, tokens, bound):
    first, later = step_flops(bench, bench.ours(bench.meaf(TOKENS[tokens])))
    print(f"{tokens}: {later / unpatched - 1:+.4%} per step, {first / unpatched - 1:+.4%} in the first")
    assert unpatched < later < first  # keys and values are projected once
    assert later / unpatched - 1 <= bound

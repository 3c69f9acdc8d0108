"""Cost by count: flat where it can be, linear where it must."""

import pytest

from growth import AXES, Call, counts


def of(axis: str) -> dict[int, tuple[int, float]]:
    _, calls = AXES[axis]
    return {number: counts(call) for number, call in calls.items()}


@pytest.mark.parametrize("axis", ["streams", "people", "latents", "tokens", "pixels"])
def test_kernels_are_flat(axis):
    """One set of kernels for any number of streams: they are columns of one product."""
    kernels = [count for count, _ in of(axis).values()]
    assert max(kernels) <= 8 and max(kernels) == min(kernels)


def test_codes_of_many_latents_cost_kernels_for_streams_only():
    kernels = {number: count for number, (count, _) in of("codes").items()}
    assert kernels[4] == kernels[16] <= 6 and max(kernels.values()) <= 9


@pytest.mark.parametrize("axis", ["latents", "pixels"])
def test_bytes_grow_with_the_picture_alone(axis):
    """Over what no patch can do without: the same for one latent and 16, for 256 pixels and 1024."""
    over = [share for _, share in of(axis).values()]
    assert max(over) < 1.05 * min(over)


@pytest.mark.parametrize("axis", ["streams", "people", "tokens"])
def test_bytes_grow_no_faster_than_what_is_added(axis):
    """Each further stream or token costs what the one before it did, and less than a call of its own would."""
    found = of(axis)
    numbers, over = list(found), [share for _, share in found.values()]
    steps = [(b - a) / (m - n) for a, b, n, m in zip(over, over[1:], numbers, numbers[1:])]
    assert max(steps[1:]) < 1.3 * min(steps[1:]) and max(steps) < over[0]


def test_a_mask_costs_one_product_for_each_group():
    assert counts(Call(masked=True))[0] - counts(Call())[0] == 2

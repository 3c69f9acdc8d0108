"""How the cost of Apply MEAF grows: a layer of SD1.5 over streams, people, latents, tokens and pixels; a clip over its frames.

`python tests/comfy/benchmark.py --write` puts the tables and their graph into docs; tests/unit/test_growth.py holds the counts.
"""

import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch

from deepexpo_models.meaf.formulations import choose, lay_out
from deepexpo_models.meaf.fusion import SiteTokens
from kernels import Kernels

HEADS, WIDTH = 8, 320  # of SD1.5's largest layers
LIGHT = (4, 8, 4)
REPEATS = 9


@dataclass(frozen=True)
class Call:
    """A U-Net call as its largest layers see it. streams: tokens of each; latents: pictures of the batch, for each a positive
    and a negative row; own: each latent has a code of its own; masked: every stream has a mask; pixels: of a side."""

    streams: tuple[int, ...] = LIGHT
    latents: int = 1
    own: bool = False
    masked: bool = False
    pixels: int = 512


AXES: dict[str, tuple[str, dict[int, Call]]] = {
    "streams": ("of 4 tokens", {n: Call((4,) * n) for n in range(1, 7)}),
    "people": ("each with a light MEAF and a mask", {n: Call(LIGHT * n, masked=True) for n in (1, 2, 3, 4, 6, 8)}),
    "latents": ("of one code, light", {n: Call(latents=n) for n in (1, 2, 4, 8, 16)}),
    "codes": ("one for each latent, light", {n: Call(latents=n, own=True) for n in (1, 2, 4, 8, 16)}),
    "tokens": ("of one stream", {n: Call((n,)) for n in (1, 4, 8, 16, 32, 64)}),
    "pixels": ("of a side, light", {n: Call(pixels=n) for n in (256, 384, 512, 768, 1024)}),
}


def made(call: Call, device: str = "cpu") -> tuple[Callable[[], object], int]:
    """The layer's addition as it is chosen on the device, and the bytes of reading its queries and text and writing the result:
    no patch needs fewer."""
    length, rows = (call.pixels // 8) ** 2, 2 * call.latents
    variants = 1 + (call.latents if call.own else 1)
    query, text = (torch.randn(rows, length, WIDTH) for _ in range(2))
    tokens = [SiteTokens(*torch.randn(2, variants, count, WIDTH), torch.zeros(())) for count in call.streams]
    positive = [(1, number + 1) for number in range(call.latents)] if call.own else [(call.latents, 1)]
    groups = ((call.latents, 0), *positive)
    gate = torch.rand(rows, length, len(call.streams)) if call.masked else None
    layer = lay_out(tokens, groups, HEADS, gate, choose(torch.device(device), query.dtype, call.streams, len(groups)))
    return lambda: layer.add(text, query), 3 * query.nbytes


def counts(call: Call) -> tuple[int, float]:
    """Kernels on a GPU, and the bytes read and written over what no patch can do without."""
    add, least = made(call, "cuda")
    with Kernels() as seen:
        add()
    return seen.count, seen.bytes / least


def milliseconds(calls: Sequence[Call]) -> list[float]:
    """The median of each, in turn, so that what else the machine does falls on all alike."""
    adds = [made(call)[0] for call in calls]
    found: list[list[float]] = [[] for _ in calls]
    for _ in range(REPEATS):
        for add, times in zip(adds, found):
            began = time.perf_counter()
            add()
            times.append(1e3 * (time.perf_counter() - began))
    return [statistics.median(times) for times in found]


def grown() -> dict[str, dict[int, tuple[int, float, float]]]:
    """Axis -> number -> kernels, bytes over the least, milliseconds."""
    found = {}
    for axis, (_, calls) in AXES.items():
        times = milliseconds(list(calls.values()))
        found[axis] = {number: (*counts(call), took) for (number, call), took in zip(calls.items(), times)}
    return found

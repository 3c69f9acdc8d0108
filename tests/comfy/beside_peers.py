"""The section "Beside peers" of docs/benchmarks.md: other packs' attention patches and ours in one run, in turn."""

import gc
import statistics
import subprocess
from collections.abc import Callable, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from unittest.mock import patch

import torch
from torch import Tensor

from rig.cost import BASE, LIGHT, STEPS, TOKENS, Bench, steps_in_turn
from rig.layers import Call, calls, seconds
from rig.pack import the_pack
from rig.peers import PEERS, comfy_as_on_a_gpu, load_all
from rig.tables import spread, table

REPEATS, ROUNDS = 9, 3  # of layers, of whole runs
MB = 2**20
WHOLE, LEFT, RIGHT = None, 0, 1  # of the picture: no mask, or the half that it shows


@dataclass(frozen=True)
class Case:
    """streams: tokens of each, the peer being applied once for each; people: the part of the picture of each; aim: our time in
    the layers over the peer's."""

    name: str
    streams: dict[str, int]
    people: Sequence[int | None] = (WHOLE,)
    aim: float | None = None

    def ours(self, bench: Bench, pixels: int):
        meaf, model = bench.meaf(self.streams), bench.model
        for part in self.people:
            model = bench.ours(meaf, model, half(part, pixels))
        return model

    def theirs(self, apply: Callable, bench: Bench, pixels: int):
        model = bench.model
        for part in self.people:
            for tokens in self.streams.values():
                model = apply(model, tokens, half(part, pixels))
        return model


THREE = TOKENS["light (4 + 8 + 4)"]
CASES = (
    Case("one stream of 4", {"identity": 4}, aim=0.5),
    Case("three, 4 + 8 + 4", THREE, aim=0.3),
    Case("three, a mask", THREE, (LEFT,), aim=0.25),
    Case("three for each of 2 people, masks", THREE, (LEFT, RIGHT)),
)
OF_SDXL = {  # a face's tokens as each pack has them
    "InstantID": Case("one stream of 16", {"identity": 16}),
    "PuLID": Case("one stream of 5", {"identity": 5}),
}
COUNTED = {"sd15": 512, "sdxl": 1024}  # pixels of a side
SIZES = {"sd15": (256, 512), "sdxl": (512,)}  # timed


def half(part: int | None, pixels: int) -> Tensor | None:
    if part is None:
        return None
    mask = torch.zeros(1, pixels, pixels)
    mask[..., part * pixels // 2 : (part + 1) * pixels // 2] = 1
    return mask


def text(bench: Bench, folder: Path) -> str:
    with one_thread(), comfy_as_on_a_gpu(torch.float32):
        loaded, missing = load_all(folder)
        parts = [introduction(folder, loaded), *missing]
        for peer in (peer for peer in PEERS if peer.name in loaded):
            apply, cases = loaded[peer.name], CASES if peer.family == "sd15" else (OF_SDXL[peer.name],)
            parts.append(f"### {peer.name}, {peer.family}")
            parts.append(count_table(peer.family, peer.name, apply, cases, COUNTED[peer.family]))
            measured = bench if peer.family == bench.family else Bench(family=peer.family, weights=False)
            parts += [time_table(measured, peer.name, apply, cases, pixels) for pixels in SIZES[peer.family]]
            if peer.family == bench.family:
                parts.append(step_table(bench, peer.name, apply))
    return "\n\n".join(parts)


@contextmanager
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def introduction(folder: Path, loaded: dict) -> str:
    import comfyui_version

    versions = [f"{peer.name} {version(peer.inside(folder))}" for peer in PEERS if peer.name in loaded]
    return (
        "Made by `python tests/comfy/benchmark.py --only peers --peers FOLDER --write`, which runs other packs' attention "
        f"patches from the clones in FOLDER, here {', '.join(versions) or 'none'}: random weights, applied once for "
        "each face and stream, PyTorch's attention, which ComfyUI takes on a GPU, one thread; ComfyUI "
        f"{comfyui_version.__version__}, torch {torch.__version__.split('+')[0]}.\n\n"
        "Counts are of aten calls that do work and of the bytes that they read and write, less those of the text attention, "
        "in bfloat16 and in the formulation that we choose on a GPU; the least is to read queries and text and to write their "
        "sum. Times are what a patch adds to the text attention in all layers, CPU time in float32 with guidance (batch 2), "
        f"{REPEATS} repeats in turn; a ratio is ours over theirs in the same repeat: median (smallest to largest), and an aim "
        "is for that median; other work on the machine shows in the spread. Layers are those where a patch acts: a pack that "
        "names the middle block as ComfyUI does not leaves it out, and is measured so."
    )


def version(clone: Path) -> str:
    asked = subprocess.run(["git", "-C", str(clone), "log", "-1", "--format=%h of %cs"], capture_output=True, text=True)
    return asked.stdout.strip() or "of no git clone"


def count_table(family: str, peer: str, apply: Callable, cases: Sequence[Case], pixels: int) -> str:
    bench, rows = Bench(torch.bfloat16, family, weights=False), []
    with comfy_as_on_a_gpu(torch.bfloat16), formulation_of("cuda"):
        for case in cases:
            found = layer_calls(bench, case, apply, pixels)
            (plain, plain_bytes), least = found[BASE].counts(), 3 * sum(layer.query.nbytes for layer in found[BASE].layers)
            for name, who in (("ours", "ours"), ("theirs", peer)):
                kernels, moved = found[name].counts()
                each, moved = (kernels - plain) / found[name].acting, moved - plain_bytes
                figures = [str(found[name].acting), f"{each:.0f}", f"{moved / MB:.0f}", f"{moved / least:.1f}"]
                rows.append([f"{case.name}: {who}", *figures])
            gc.collect()
    return table([f"{pixels} pixels", "layers", "kernels a layer", "MiB a step", "over the least"], rows)


@contextmanager
def formulation_of(device: str):
    """Layers are laid out as they would be there."""
    formulations = the_pack().module("deepexpo_models.meaf.formulations")
    choose = formulations.choose
    with patch.object(formulations, "choose", lambda _, *rest: choose(torch.device(device), *rest)):
        yield


def layer_calls(bench: Bench, case: Case, apply: Callable, pixels: int) -> dict[str, Call]:
    models = {BASE: bench.model, "ours": case.ours(bench, pixels), "theirs": case.theirs(apply, bench, pixels)}
    return calls(models, bench.conditions, pixels // 8)


def time_table(bench: Bench, peer: str, apply: Callable, cases: Sequence[Case], pixels: int) -> str:
    rows = [time_row(case, seconds(layer_calls(bench, case, apply, pixels), REPEATS)) for case in cases]
    names = [
        f"{pixels} pixels",
        "text alone, ms",
        "ours adds, ms: fastest, median",
        f"{peer}",
        "ratio",
        "of the fastest",
        "aim",
    ]
    return table(names, rows)


def time_row(case: Case, found: dict[str, list[float]]) -> list[str]:
    added = {name: [1e3 * (a - b) for a, b in zip(found[name], found[BASE])] for name in ("ours", "theirs")}
    fastest = {name: 1e3 * (min(found[name]) - min(found[BASE])) for name in added}
    ratios = [ours / theirs for ours, theirs in zip(added["ours"], added["theirs"])]
    reached = "" if case.aim is None else f"{case.aim}: {'reached' if statistics.median(ratios) <= case.aim else 'missed'}"
    figures = [f"{fastest[name]:.1f}, {statistics.median(added[name]):.1f}" for name in added]
    of_fastest = f"{fastest['ours'] / fastest['theirs']:.2f}"
    return [case.name, f"{1e3 * min(found[BASE]):.0f}", *figures, spread(ratios, 2), of_fastest, reached]


def step_table(bench: Bench, peer: str, apply: Callable) -> str:
    case = CASES[1]
    models = {BASE: bench.model, LIGHT: case.ours(bench, 256), f"{peer} x 3": case.theirs(apply, bench, 256)}
    found = {name: [step for step, _ in steps] for name, steps in steps_in_turn(bench, models, ROUNDS).items()}
    base, rows = found[BASE], []
    for name, steps in found.items():
        over = [f"{of(steps) / of(base) - 1:+.1%}" for of in (min, statistics.median)]
        rows.append([name, f"{min(steps):.3f}", spread(steps, 3), *over])
    text = f"Whole sampling steps at 256 pixels after the first, {ROUNDS * (STEPS - 1)} of each, in turn."
    names = ["", "fastest, s", "median (fastest to slowest), s", "over unpatched, fastest", "median"]
    return f"{text}\n\n{table(names, rows)}"

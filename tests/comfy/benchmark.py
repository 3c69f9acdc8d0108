"""What the pack costs on a full-size SD1.5 U-Net: arithmetic, time, memory. `python tests/comfy/benchmark.py --write`

Needs a ComfyUI (COMFYUI_PATH or ~/ComfyUI), no GPU and no weights: all models are at random weights, which cost the same.
Prints the report; --write puts it in docs/benchmarks.md. --peers FOLDER adds other packs' attention patches, run from the
clones there beside ours; --only SECTION makes one section and leaves the others as they are.
"""

import argparse
import gc
import json
import os
import platform
import re
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import torch

ROOT = Path(__file__).resolve().parents[2]
sys.path += [str(ROOT), str(ROOT / "tests")]

import beside_peers
import clip_speed
import growth
import random_weights
from demo import SHEET
from rig import host
from rig.compiled import count_graphs
from rig.cost import (
    BASE,
    LATENT,
    LIGHT,
    OURS,
    PLAIN,
    ROUNDS,
    STEPS,
    TOKENS,
    Bench,
    default_config,
    in_windows,
    projected_bytes,
    step_flops,
    steps_in_turn,
)
from rig.graphs import read_workflow, with_inputs
from rig.models import latents
from rig.pack import the_pack, weights_folder
from rig.peers import require_folder
from rig.server import running_server
from rig.tables import spread, table
from studio import Studio

TIMED = (BASE, OURS.format("2 x 4"), LIGHT, PLAIN.format("light (4 + 8 + 4)"))
REPEATS = 3
PAGE = ROOT / "docs" / "benchmarks.md"
WINDOW = 16  # frames
MB = 2**20

# What a user's ComfyUI does at start. Not in this process, and not importing this module: it has loaded the library already.
IMPORT_SCRIPT = """
import asyncio, json, sys, time
from rig import host
if reason := host.start(): raise SystemExit(reason)
import nodes
asyncio.run(nodes.init_builtin_extra_nodes())
began = time.perf_counter()
if not asyncio.run(nodes.load_custom_node(sys.argv[1])): raise SystemExit("the pack does not load")
print(json.dumps(time.perf_counter() - began))
"""


def encoder_milliseconds(config: str) -> list[list]:
    """Rows of (what, one picture, per picture of eight), through the nodes."""
    pack = the_pack()
    random_weights.write_dsid(weights_folder(), config)
    dsid = pack.run("DeepExPoLoadDSID", dsid_name=random_weights.DSID_FILE.format(config))
    photos = torch.rand(8, dsid.config.image_size, dsid.config.image_size, 3)
    person = pack.run("DeepExPoEncodeIdentity", dsid=dsid, image=photos)

    def semantics(images):
        return pack.run("DeepExPoEncodeSemantics", dsid=dsid, image=images)

    codes = {1: semantics(photos[:1]), 8: semantics(photos)}
    calls = {
        "Encode Identity": lambda n: pack.run("DeepExPoEncodeIdentity", dsid=dsid, image=photos[:n]),
        "Encode Semantics": lambda n: semantics(photos[:n]),
        "Reenact": lambda n: pack.run("DeepExPoReenact", dsid=dsid, identity=person, semantics=codes[n]),
    }
    return [[f"{name}, {config}", *(spread(milliseconds(call, n), 0) for n in (1, 8))] for name, call in calls.items()]


def milliseconds(call: Callable, pictures: int) -> list[float]:
    call(pictures)
    found = []
    for _ in range(9):
        began = time.perf_counter()
        call(pictures)
        found.append(1e3 * (time.perf_counter() - began) / pictures)
    return found


def import_seconds() -> list[float]:
    return [child("-c", IMPORT_SCRIPT, str(ROOT)) for _ in range(REPEATS)]


def peak_bytes(variant: str) -> list[int]:
    """Largest resident set of a process that builds the model and samples two steps."""
    return [child(str(Path(__file__)), "--peak", variant) for _ in range(REPEATS)]


def child(*arguments: str):
    """The JSON on the last line that a fresh Python prints."""
    here = {**os.environ, "PYTHONPATH": str(Path(__file__).parent)}
    done = subprocess.run([sys.executable, *arguments], capture_output=True, text=True, env=here)
    if done.returncode:
        raise RuntimeError(f"a measuring process failed: {done.stderr[-2000:]}")
    return json.loads(done.stdout.splitlines()[-1])


def print_peak(variant: str) -> None:
    bench = Bench()
    model = bench.model if variant == BASE else bench.ours(bench.meaf(TOKENS["light (4 + 8 + 4)"], torch.float16))
    bench.sample(model, 2, lambda: None)
    # getrusage's ru_maxrss would be no less than that of the parent at the fork
    peak = re.search(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text())
    print(json.dumps(1024 * int(peak[1])))


@dataclass
class Machine:
    """What sections share: the full-size U-Net, made when it is first wanted, and the folder of other packs' clones."""

    peers: Path | None = None

    @cached_property
    def bench(self) -> Bench:
        return Bench()

    @cached_property
    def variants(self) -> dict:
        return self.bench.variants()

    def forget(self) -> None:
        for name in ("bench", "variants"):
            self.__dict__.pop(name, None)
        gc.collect()


def dsid_text(machine: Machine) -> str:
    rows = [row for config in ("base", "photo-generator") for row in encoder_milliseconds(config)]
    text = "Milliseconds per picture through the nodes: median (smallest to largest of 9 calls)."
    return f"{text}\n\n{table(['', 'one picture', 'of eight at once'], rows)}"


def clips_text(machine: Machine) -> str:
    speeds = ["frames/s, file to codes", "without identity", "semantics alone", "whole pictures searched"]
    names = ["", "", *(f"{part}, ms" for part in clip_speed.PARTS), *speeds]
    text = (
        f"A clip of {clip_speed.FRAMES} frames ({clip_speed.PIXELS} pixels, H.264) from the file to codes, one frame at a "
        "time: CPU time on one thread, the median of its frames. The face is found by what is installed here, and followed; "
        "base has random weights. bfloat16 where the processor has units for it."
    )
    return f"{text}\n\n{table(names, clip_speed.rows())}"


def growth_text(machine: Machine) -> str:
    """Tables of tests/growth.py and of clips, and their graph in docs/pictures."""
    layers, clips = growth.grown(), clip_growth()
    draw_growth(layers, clips, ROOT / "docs" / "pictures" / "growth.png")
    parts = [
        "One of SD1.5's largest layers (320 wide, 8 heads; 512 pixels, one positive and one negative row where nothing else is "
        "said) in float32: kernels, bytes read and written over those of reading queries and text and writing the result, and "
        "the median time. `tests/unit/test_growth.py` holds the counts.\n\n![growth](pictures/growth.png)"
    ]
    for axis, found in layers.items():
        rows = [[str(n), str(kernels), f"{over:.2f}", f"{ms:.1f}"] for n, (kernels, over, ms) in found.items()]
        parts.append(f"{table([f'{axis}, {growth.AXES[axis][0]}', 'kernels', 'bytes over the least', 'ms'], rows)}")
    rows = [[str(n), f"{kept / 1024:.0f}", f"{1e3 * took:.1f}"] for n, (kept, took) in clips.items()]
    names = ["frames of a clip, each with its own codes", "kept for the run, KiB", "ms a frame"]
    parts.append(
        f"A tiny SD1.5 (32 channels, 4 x 4 latents) with context windows of {WINDOW} frames, one step of a whole sampler run:"
        f"\n\n{table(names, rows)}"
    )
    return "\n\n".join(parts)


def clip_growth() -> dict[int, tuple[int, float]]:
    """Frames -> bytes kept at most, seconds a frame."""
    studio, found = Studio("sd15"), {}
    for frames in (1, 4, 16, 64, 256, 1024):
        model, kept = in_windows(studio, frames, WINDOW)
        began = time.perf_counter()
        studio.sample(model, noise=latents(batch=frames, height=4, width=4), steps=1)
        found[frames] = max(kept), (time.perf_counter() - began) / frames
    return found


def draw_growth(layers: dict, clips: dict, path: Path) -> None:
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(2, 4, figsize=(13, 5.6), layout="constrained")
    panels = {f"{axis} {growth.AXES[axis][0]}": {n: row[2] for n, row in found.items()} for axis, found in layers.items()}
    for panel, (title, values) in zip(axes.flat, panels.items()):
        _plot(panel, title, "ms a layer", values)
    _plot(axes.flat[-2], "frames of a clip, in windows", "ms a frame", {n: 1e3 * took for n, (_, took) in clips.items()})
    _plot(axes.flat[-1], "frames of a clip, in windows", "kept, KiB", {n: kept / 1024 for n, (kept, _) in clips.items()})
    for panel in axes.flat[-2:]:
        panel.set_xscale("log", base=4)
    figure.savefig(path, dpi=80)
    pyplot.close(figure)


def _plot(panel, title: str, unit: str, values: dict) -> None:
    panel.plot(list(values), list(values.values()), marker="o", markersize=4)
    panel.set_ylim(0, 1.15 * max(values.values()))
    panel.set_title(title, fontsize=10)
    panel.set_ylabel(unit, fontsize=9)


def compile_text(machine: Machine) -> str:
    rows = []
    for size in ("light", "control"):
        studio = Studio("sd15", size)
        found = [count_graphs(studio, patched)[0] for patched in (False, True)]
        rows.append([size, *(f"{one['graphs']}, {sum(one['breaks'].values())}" for one in found)])
    names = [
        "ComfyUI's TorchCompileModel, tiny SD1.5",
        "unpatched: graphs, breaks",
        "ten changes of Apply MEAF: graphs, breaks",
    ]
    return (
        f"{table(names, rows)}\n\nTen changes of strength, code, mask and window give the pictures of the uncompiled model "
        "(`tests/comfy/test_compiled.py`; `tests/unit/test_compiled.py` for diffusers' `unet.compile()`, which counts the "
        "same). Traced and made functional by `aot_eager`; with `DEEPEXPO_COMPILE_BACKEND=inductor` these tests compile: they "
        "passed on ComfyUI 0.3.64, 0.33.0 and diffusers in November 2026. With PyTorch's attention, which ComfyUI takes on a "
        "GPU: its own choice for CPUs asks for the free memory in each layer, which breaks the graph there."
    )


def head() -> str:
    import comfyui_version

    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return (
        "# Benchmarks\n\nMade by `python tests/comfy/benchmark.py --write`, which runs on any machine with a ComfyUI. "
        f"Here: {cores} CPU cores, {torch.get_num_threads()} threads, ComfyUI {comfyui_version.__version__}, "
        f"torch {torch.__version__.split('+')[0]}, Python {platform.python_version()}.\n\n"
        f"A full-size SD1.5 U-Net in float32, {LATENT} x {LATENT} latents, classifier-free guidance (batch 2). "
        'A x B is A streams of B tokens; light is the default MEAF. "Projecting each step" is the simplest patch with the '
        "same streams: it makes keys and values from the tokens in every call, where Apply MEAF makes them once per run."
    )


def flops_table(machine: Machine) -> str:
    counts = {name: step_flops(machine.bench, model) for name, model in machine.variants.items()}
    base = counts[BASE][-1]
    rows = [
        [name, f"{later / 1e9:.3f}", f"{later / base - 1:+.4%}", f"{first / base - 1:+.4%}"]
        for name, (first, later) in counts.items()
    ]
    return table(["", "GFLOP per step", "over unpatched", "first step"], rows)


def time_table(machine: Machine) -> str:
    found = steps_in_turn(machine.bench, {name: machine.variants[name] for name in TIMED})
    fastest = {name: min(seconds for seconds, _ in steps) for name, steps in found.items()}
    rows = []
    for name, steps in found.items():
        seconds, own = ([step[i] for step in steps] for i in (0, 1))
        inside = [f"{1e3 * value:.0f}" for value in (min(own), statistics.median(own))] if any(own) else ["", ""]
        rows.append([name, f"{fastest[name]:.2f}", f"{fastest[name] / fastest[BASE] - 1:+.1%}", spread(seconds, 2), *inside])
    text = (
        f"Per sampling step after the first, {ROUNDS * (STEPS - 1)} of each, the variants in turn. A machine with other work "
        "shows in the spread; the fastest steps are the nearest to the cost itself. The streams are timed inside the patch."
    )
    names = ["", "fastest, s", "over unpatched", "median (fastest to slowest), s", "streams, fastest, ms", "median, ms"]
    return f"{text}\n\n{table(names, rows)}"


def memory_table(machine: Machine) -> str:
    kept = projected_bytes(machine.bench, machine.variants[LIGHT])
    machine.forget()  # the processes below hold a U-Net each
    library = the_pack().module("deepexpo_models.meaf")
    rows = []
    for family in library.FAMILIES:
        with torch.device("meta"):
            count = sum(parameter.numel() for parameter in library.MEAF(default_config(family)).parameters())
        rows.append([family, f"{count / 1e6:.1f} M", f"{2 * count / MB:.0f} MiB", f"{4 * count / MB:.0f} MiB"])
    weights = table(["light MEAF for", "numbers", "in fp16", "in float32"], rows)
    text = f"Keys and values kept for a run (light, SD1.5, one code, float32): {kept / MB:.2f} MiB."
    if sys.platform != "linux":
        return f"{weights}\n\n{text}"
    peaks = {name: [peak / MB for peak in peak_bytes(name)] for name in (BASE, LIGHT)}
    added = statistics.median(peaks[LIGHT]) - statistics.median(peaks[BASE])
    return (
        f"{weights}\n\n{text}\n\nPeak resident memory of a whole process, MiB, {REPEATS} each: unpatched "
        f"{spread(peaks[BASE], 0)}, with a light MEAF in fp16 {spread(peaks[LIGHT], 0)}; added {added:.0f} MiB."
    )


def start_text(machine: Machine) -> str:
    first, second = press_seconds()
    return (
        f"Import of the pack into a ComfyUI that has loaded its own nodes: {spread(import_seconds(), 2)} s. Template "
        f"01_starter with one step, from press to saved pictures: {first:.1f} s on a fresh server, {second:.1f} s at the next "
        f"press with another seed. `python demo.py`, once installed, six pictures of 25 steps: {demo_seconds():.0f} s."
    )


def press_seconds() -> list[float]:
    """Of the first press on a fresh server, and of the next."""
    graph, found = with_inputs(read_workflow("01_starter"), "KSampler", steps=1), []
    with tempfile.TemporaryDirectory() as base, running_server(Path(base)) as server:
        for seed in (1, 2):
            began = time.perf_counter()
            server.post_prompt(with_inputs(graph, "KSampler", seed=seed))
            found.append(time.perf_counter() - began)
    return found


def demo_seconds() -> float:
    with tempfile.TemporaryDirectory() as folder:
        out = ["--out", str(Path(folder, "sheet.png"))]
        options = [*SHEET[: SHEET.index("--out")], *SHEET[SHEET.index("--out") + 2 :], *out]
        began = time.perf_counter()
        subprocess.run([sys.executable, "-m", "deepexpo_models.pipeline", *options], cwd=ROOT, check=True, capture_output=True)
        return time.perf_counter() - began


def peers_text(machine: Machine) -> str:
    return beside_peers.text(machine.bench, machine.peers)


SECTIONS: dict[str, tuple[str, Callable[[Machine], str]]] = {  # option -> heading, in the order of the page
    "arithmetic": ("Arithmetic", flops_table),
    "time": ("Time", time_table),
    "peers": ("Beside peers", peers_text),
    "memory": ("Memory", memory_table),
    "dsid": ("DSID", dsid_text),
    "clips": ("Clips", clips_text),
    "growth": ("Growth", growth_text),
    "compile": ("torch.compile", compile_text),
    "start": ("Start", start_text),
}


def page(text: str) -> tuple[str, dict[str, str]]:
    """Its head, and heading -> section."""
    first, *parts = re.split(r"^## ", text, flags=re.MULTILINE)
    return first.strip(), {name: body.strip() for name, _, body in (part.partition("\n") for part in parts)}


def joined(first: str, sections: dict[str, str]) -> str:
    """In the order of SECTIONS."""
    parts = [f"## {heading}\n\n{sections[heading]}" for heading, _ in SECTIONS.values() if heading in sections]
    return "\n\n".join([first, *parts]) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--write", action="store_true", help="write docs/benchmarks.md; sections that are not made stay")
    parser.add_argument("--only", choices=SECTIONS, help="this section alone")
    parser.add_argument("--peers", type=Path, metavar="FOLDER", help="with clones of other packs, to measure beside ours")
    parser.add_argument("--peak", metavar="VARIANT", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.only == "peers" and not arguments.peers:
        parser.error("--only peers needs --peers FOLDER, the folder with the clones of the other packs")
    if arguments.peers:
        try:
            require_folder(arguments.peers)
        except ValueError as error:
            parser.error(str(error))
    if reason := host.start():
        sys.exit(reason)
    if arguments.peak:
        return print_peak(arguments.peak)
    torch.set_grad_enabled(False)
    machine = Machine(arguments.peers)
    names = [arguments.only] if arguments.only else [name for name in SECTIONS if name != "peers" or arguments.peers]
    made = {SECTIONS[name][0]: SECTIONS[name][1](machine) for name in names}
    first, sections = page(PAGE.read_text(encoding="utf-8")) if PAGE.is_file() else ("", {})
    print(joined("" if arguments.only else head(), made))
    if arguments.write:
        PAGE.write_text(joined(first if arguments.only else head(), sections | made), encoding="utf-8")


if __name__ == "__main__":
    main()

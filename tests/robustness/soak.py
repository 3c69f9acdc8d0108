"""Hundreds of different prompts on one ComfyUI server:  python tests/robustness/soak.py FOLDER [--prompts 500] [--seed 0]

People, references, strengths, windows, masks, regions, saved and loaded codes, MEAF files (light, control, full), samplers and
batches change from prompt to prompt; between them files are replaced, damaged and deleted, prompts are refused, interrupted and
run out of memory. Findings: a prompt that ends otherwise than it should, an error that is not one sentence, memory, open files
or threads that grow, a picture of the end that is not bit-equal to a fresh server's. COMFYUI_PATH tells which ComfyUI.
"""

import argparse
import contextlib
import shutil
import sys
import threading
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from random import Random

ROOT = Path(__file__).parents[2]
sys.path += [str(ROOT), str(ROOT / "tests"), str(ROOT / "tests" / "comfy")]  # at the end: `nodes` is ComfyUI's name as well

import numpy as np  # noqa: E402

import random_weights  # noqa: E402
from deepexpo_models import meaf as meafs  # noqa: E402
from rig.graphs import decode, png, read_workflow, with_inputs  # noqa: E402
from rig.server import Server, running_server  # noqa: E402

PROBE = Path(__file__).with_name("soak_probe.py")
PEOPLE, REFERENCES = ("person_1", "person_2", "person_3"), ("surprised", "laughing", "dozing", "turned", "resting")
SAMPLERS = ("euler", "heun", "dpmpp_2m", "uni_pc", "lcm", "euler_ancestral")
STRENGTHS = ("identity_strength", "expression_strength", "pose_strength")
SHIPPED = ROOT / "weights" / "heads-meaf.safetensors"  # of the starter that 01_starter draws with
SIZES = ("light", "control", "full")
WARM = 50  # prompts, before which memory may grow: caches fill
GROWTH = {"rss": 64 << 20, "files": 4, "threads": 4, "tensors": 8 << 20}  # from then on, over the whole rest
READINGS = 5  # of a state, a second apart
EACH = 3  # prompts, of which the last is a mishap
FAULTS = ("damaged", "deleted", "replaced", "refused", "error", "memory", "interrupt")
Graph = dict[str, dict]


@dataclass(frozen=True)
class Case:
    """One prompt; fails: words that its error must hold, None where it must succeed."""

    what: str
    graph: Graph
    fails: str | None = None
    interrupted: bool = False


def write_files(base: Path) -> None:
    """A MEAF of each size for the starter, and masks."""
    folder = base / "models" / "deepexpo"
    folder.mkdir(parents=True, exist_ok=True)
    (base / "input").mkdir(exist_ok=True)
    shutil.copy(SHIPPED, folder / "light.safetensors")
    config = meafs.load_meaf(SHIPPED).config
    for size in SIZES[1:]:
        branch = meafs.BranchConfig(size, (4, 4, 4), False, 16, 0, light_too=size == "full")
        random = random_weights.random_meaf("heads", "photo", config.encoder, config.unet, branch)
        meafs.save_meaf(folder / f"{size}.safetensors", random.half())
    for number in range(3):
        mask = np.zeros((64 << number, 64, 3), np.uint8)
        mask[:, : 24 + 8 * number] = 255
        (base / "input" / f"mask{number}.png").write_bytes(png(mask))


def plain(seed: int = 1, steps: int = 4) -> Graph:
    """The starter's workflow on the files of `write_files`: two pictures of two steps more than most."""
    graph = with_inputs(read_workflow("01_starter"), "EmptyLatentImage", batch_size=2)
    graph = with_inputs(graph, "DeepExPoLoadMEAF", meaf_name="light.safetensors")
    return with_inputs(graph, "KSampler", steps=steps, seed=seed)


def changed(random: Random) -> Graph:
    """Another prompt that must succeed."""
    graph = plain(random.randrange(2**32), random.choice((1, 2, 3)))
    graph = with_inputs(graph, "EmptyLatentImage", batch_size=random.choice((1, 1, 2)))
    strengths = {name: round(random.uniform(0, 3), 2) for name in STRENGTHS}
    graph = with_inputs(graph, "DeepExPoApplyMEAF", pose_end_percent=round(random.random(), 2), **strengths)
    graph = with_inputs(graph, "DeepExPoLoadMEAF", meaf_name=f"{random.choice(SIZES)}.safetensors")
    graph = with_inputs(graph, "KSampler", sampler_name=random.choice(SAMPLERS))
    person, reference = sorted(name for name, node in graph.items() if node["class_type"] == "DeepExPoSampleFace")
    graph[person]["inputs"]["which"], graph[reference]["inputs"]["which"] = random.choice(PEOPLE), random.choice(REFERENCES)
    for change, share in ((_masked, 0.3), (_two_people, 0.2), (_saved, 0.15)):
        if random.random() < share:
            change(graph, random)
    return graph


def _one(graph: Graph, kind: str) -> str:
    return next(name for name, node in graph.items() if node["class_type"] == kind)


def _masked(graph: Graph, random: Random) -> None:
    graph["mask"] = {"class_type": "LoadImageMask", "inputs": {"image": f"mask{random.randrange(3)}.png", "channel": "red"}}
    graph[_one(graph, "DeepExPoApplyMEAF")]["inputs"]["mask"] = ["mask", 0]


def _two_people(graph: Graph, random: Random) -> None:
    """A second person where the first is not, through a MEAF of any size."""
    _masked(graph, random)
    first, encode, sampler = (_one(graph, kind) for kind in ("DeepExPoApplyMEAF", "DeepExPoEncodeIdentity", "KSampler"))
    graph["rest"] = {"class_type": "InvertMask", "inputs": {"mask": ["mask", 0]}}
    graph["face"] = {"class_type": "DeepExPoSampleFace", "inputs": {"which": random.choice(PEOPLE)}}
    graph["code"] = {**graph[encode], "inputs": {**graph[encode]["inputs"], "image": ["face", 0]}}
    loader = {"meaf_name": f"{random.choice(SIZES)}.safetensors", "kind": "auto"}
    graph["meaf"] = {"class_type": "DeepExPoLoadMEAF", "inputs": loader}
    given = {"model": [first, 0], "meaf": ["meaf", 0], "identity": ["code", 0], "mask": ["rest", 0]}
    graph["second"] = {**graph[first], "inputs": {**graph[first]["inputs"], **given}}
    graph[sampler]["inputs"]["model"] = ["second", 0]


def _saved(graph: Graph, random: Random) -> None:
    """The identity goes through a file."""
    apply, encode = _one(graph, "DeepExPoApplyMEAF"), _one(graph, "DeepExPoEncodeIdentity")
    saved = {"identity": [encode, 0], "filename_prefix": f"deepexpo/soak{random.randrange(3)}"}
    graph["save"] = {"class_type": "DeepExPoSaveIdentity", "inputs": saved}
    graph["load"] = {"class_type": "DeepExPoLoadIdentity", "inputs": {"name": ["save", 0]}}
    graph[apply]["inputs"]["identity"] = ["load", 0]


def fault(kind: str, base: Path, random: Random) -> Case:
    """A mishap, made on disk now or in the prompt."""
    graph, folder = changed(random), base / "models" / "deepexpo"
    while "save" in graph:  # of two outputs ComfyUI runs the one that it does not refuse
        graph = changed(random)
    name = f"spoilt{random.randrange(10**9)}.safetensors"
    whole = (folder / f"{random.choice(SIZES)}.safetensors").read_bytes()
    if kind == "damaged":
        at = random.randrange(8, len(whole))
        spoilt = (whole[:at], whole[: at - 8] + random.randbytes(8) + whole[at:], random.randbytes(99))
        (folder / name).write_bytes(random.choice(spoilt))
        return Case(kind, with_inputs(graph, "DeepExPoLoadMEAF", meaf_name=name), "spoilt")
    if kind == "deleted":
        return Case(kind, with_inputs(graph, "DeepExPoLoadMEAF", meaf_name=name), "spoilt")
    if kind == "replaced":  # under the name that is in use, by a rename
        shutil.copy(SHIPPED, folder / "other.partial")
        (folder / "other.partial").replace(folder / "light.safetensors")
        return Case(kind, graph)
    if kind == "refused":
        return Case(kind, with_inputs(graph, "DeepExPoApplyMEAF", identity_strength=float("nan")), "strength")
    if kind == "interrupt":
        return Case(kind, with_inputs(graph, "KSampler", steps=400), "", interrupted=True)
    sampler = graph[_one(graph, "KSampler")]
    numbers = {"call": random.randrange(1, 6), "nonce": random.randrange(2**31)}
    graph["fault"] = {"class_type": "SoakFault", "inputs": {"model": sampler["inputs"]["model"], "kind": kind, **numbers}}
    sampler["inputs"]["model"] = ["fault", 0]
    return Case(kind, with_inputs(graph, "KSampler", steps=8, sampler_name="euler"), "of the soak")


def cases(base: Path, prompts: int, random: Random):
    for number in range(prompts):
        mishap = number % EACH == EACH - 1
        yield fault(FAULTS[number // EACH % len(FAULTS)], base, random) if mishap else Case("changed", changed(random))


@contextlib.contextmanager
def interrupting(server: Server, wanted: bool):
    """Interrupts every half second inside: one that comes before the prompt has begun is lost."""
    over = threading.Event()

    def interrupt():
        while not over.wait(0.5):
            server._post("interrupt", b"{}", "application/json")

    thread = threading.Thread(target=interrupt if wanted else over.set)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


def post(server: Server, case: Case) -> str:
    """What is wrong with how the prompt ended; "" for nothing."""
    try:
        with interrupting(server, case.interrupted):
            server.post_prompt(case.graph, 600)
    except RuntimeError as error:
        said = str(error)
        if server.process.poll() is not None:
            return f"the server died: {said[-300:]}"
        return "" if case.fails is not None and case.fails in said else f"failed: {said[:400]}"
    return "" if case.fails is None else "succeeded"


def state(server: Server) -> dict[str, int]:
    """Of the server's process, after what can be freed was freed: memory, open files, threads, bytes of tensors, what is left
    on models (see soak_probe.py). The worker frees when it wakes, which on a busy machine takes seconds: the least of some
    readings counts."""
    server.free_memory()
    readings = []
    for _ in range(READINGS):
        readings.append(server.get_json("soak/state"))
        time.sleep(1)
    return min(readings, key=lambda found: (found["tensors"], found["rss"]))


def pictures(server: Server) -> list[np.ndarray]:
    """Of the plain prompt, computed from its first node."""
    server.free_memory()
    return [decode(picture) for picture in server.pictures(server.post_prompt(plain()))]


def start(base: Path):
    """A server with the probe beside the pack."""
    target = base / "custom_nodes" / "soak_probe"
    target.mkdir(parents=True, exist_ok=True)
    shutil.copy(PROBE, target / "__init__.py")
    return running_server(base)


def soak(folder: Path, prompts: int, seed: int, say=print) -> list[str]:
    """The findings."""
    shutil.rmtree(folder, ignore_errors=True)
    first, fresh = folder / "first", folder / "fresh"
    for base in (first, fresh):
        write_files(base)
    random, findings, states, counts, began = Random(seed), [], [], Counter(), time.monotonic()
    with start(first) as server:
        before = pictures(server)
        for number, case in enumerate(cases(first, prompts, random)):
            counts[case.what] += 1
            if wrong := post(server, case):
                findings.append(f"prompt {number} ({case.what}) {wrong}")
                say(findings[-1])
            if server.process.poll() is not None:
                return findings
            if number % max(1, prompts // 10) == 0 or number == prompts - 1:
                states.append((number, state(server)))
                say(f"{number + 1} prompts, {time.monotonic() - began:.0f} s, {states[-1][1]}")
        after = pictures(server)
    with start(fresh) as server:
        expected = pictures(server)
    findings += _compared(before, after, expected) + _grown(states)
    say(f"{prompts} prompts, seed {seed}: {dict(sorted(counts.items()))}, {len(findings)} findings")
    return findings


def _compared(before: list, after: list, expected: list) -> list[str]:
    same = {name: all(map(np.array_equal, found, expected)) for name, found in (("first", before), ("last", after))}
    return [f"the {name} picture is not a fresh process's" for name, equal in same.items() if not equal]


def _grown(states: list) -> list[str]:
    warm = [found for number, found in states if number >= WARM] or [states[-1][1]]
    grown = {name: warm[-1][name] - warm[0][name] for name in GROWTH}
    left = {name: warm[-1][name] for name in ("hooks", "runs") if warm[-1][name]}
    return [f"{name} grew by {by}" for name, by in grown.items() if by > GROWTH[name]] + [f"left behind: {left}"] * bool(left)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path, help="is made anew")
    parser.add_argument("--prompts", type=int, default=500)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    return bool(soak(options.folder, options.prompts, options.seed, lambda line: print(line, flush=True)))


if __name__ == "__main__":
    sys.exit(main())

#!/usr/bin/env python
"""The main job on real input: `python tests/comfy/main_job.py [--out FOLDER]`.

ComfyUI (COMFYUI_PATH or ~/ComfyUI) runs as a server with the pack in custom_nodes, a full-size SD1.5 checkpoint, DSID and
MEAF of the `base` size (all randomly initialised), the astronaut as identity and another photograph as reference. The graph
tests/comfy/graphs/sd15_portrait.json is posted over HTTP. Needs 8 GB of memory and 3 GB of disk, and a few minutes on a CPU.
Without trained weights the pictures are noise: what this proves is the way from two photographs and a prompt to a picture,
and what changes it.
"""

import argparse
import copy
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from PIL import Image

HERE = Path(__file__).resolve().parent
sys.path += [str(HERE), str(HERE.parent), str(HERE.parents[1])]  # last: `nodes` is ComfyUI's module first

from rig import host
from rig.graphs import decode, read_graph, small, upload_photos, with_inputs, write_models
from rig.server import Server, running_server

SIZE, STEPS = 128, 2
STRENGTHS = ("identity_strength", "expression_strength", "pose_strength")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, help="keep the pictures in this folder")
    out = parser.parse_args().out
    reason = host.start()
    if reason:
        sys.exit(reason)
    graph = small(read_graph("sd15_portrait"), SIZE, STEPS)
    with tempfile.TemporaryDirectory() as base:
        write_models(Path(base), [graph])
        with running_server(Path(base)) as server:
            upload_photos(server, graph)
            pictures = {case: timed(server, case, changed) for case, changed in cases(graph).items()}
    if out:
        save(pictures, out)
    sys.exit(0 if report(check(pictures)) else 1)


def cases(graph: dict) -> dict[str, dict]:
    return {
        "as it comes": graph,
        "again": graph,
        "another identity": with_photo(graph, "identity.png", "reference.png"),
        "another reference": with_photo(graph, "reference.png", "identity.png"),
        "strengths 0": with_inputs(graph, "DeepExPoApplyMEAF", **dict.fromkeys(STRENGTHS, 0.0)),
        "without the pack": unpatched(graph),
    }


def with_photo(graph: dict, old: str, new: str) -> dict:
    graph = copy.deepcopy(graph)
    for node in graph.values():
        if node["inputs"].get("image") == old:
            node["inputs"]["image"] = new
    return graph


def unpatched(graph: dict) -> dict:
    """Without the pack: the sampler takes the checkpoint's model, our nodes and the photographs are gone."""
    (apply,) = (node for node in graph.values() if node["class_type"] == "DeepExPoApplyMEAF")
    graph = with_inputs(graph, "KSampler", model=apply["inputs"]["model"])
    return {key: n for key, n in graph.items() if not n["class_type"].startswith(("DeepExPo", "LoadImage"))}


def timed(server: Server, case: str, graph: dict) -> np.ndarray:
    server.free_memory()  # and ComfyUI's cache of results: every case is computed
    started = time.monotonic()
    saved = [key for key, node in graph.items() if node["class_type"] == "SaveImage"]  # crops are shown, too
    (picture,) = server.pictures(server.post_prompt(graph, timeout=900), saved)
    print(f"{case}: {time.monotonic() - started:.1f} s", flush=True)
    return decode(picture)


def check(pictures: dict[str, np.ndarray]) -> dict[str, bool]:
    picture, plain = pictures["as it comes"].astype(int), pictures["without the pack"].astype(int)

    def difference(case: str) -> float:
        return np.abs(picture - pictures[case]).mean()

    for case in pictures:
        print(f"mean difference to {case!r}: {difference(case):.2f} of 255 levels")
    return {
        "the picture has its size and is not flat": picture.shape == (SIZE, SIZE, 3) and picture.std() > 1,
        "the same graph gives the same picture": difference("again") == 0,
        "it differs from the unpatched model's": difference("without the pack") > 0,
        "another identity changes it": difference("another identity") > 0,
        "another reference changes it": difference("another reference") > 0,
        "with all strengths 0 it is the unpatched picture, bit for bit": np.array_equal(pictures["strengths 0"], plain),
    }


def report(checks: dict[str, bool]) -> bool:
    for what, passed in checks.items():
        print(f"{'ok    ' if passed else 'FAILED'} {what}")
    return all(checks.values())


def save(pictures: dict[str, np.ndarray], out: Path) -> None:
    out.mkdir(parents=True, exist_ok=True)
    for case, picture in pictures.items():
        Image.fromarray(picture).save(out / f"{case.replace(' ', '_')}.png")


if __name__ == "__main__":
    main()

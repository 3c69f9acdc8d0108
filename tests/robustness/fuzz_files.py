"""Damaged and hostile files into every loader:  python tests/robustness/fuzz_files.py FOLDER [--inputs 100000] [--seed 0]

Findings: a process that dies, over 5 s of processor time, memory over 4 times the file + 64 MiB, and any exception that is
not one ValueError of one clear sentence which names the file. A parent starts children, so that a death is one input's; the
same seed gives the same files. Linux (memory is read from /proc).
"""

import argparse
import dataclasses
import json
import resource
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from random import Random

ROOT = Path(__file__).parents[2]
sys.path += [str(ROOT), str(ROOT / "tests"), str(Path(__file__).parent)]

import torch  # noqa: E402
import torch.nn.functional as F  # noqa: E402
from mutate import variant  # noqa: E402
from safetensors.torch import save_file  # noqa: E402

import public_adapters  # noqa: E402
from deepexpo_models import dsid, meaf, starter  # noqa: E402
from deepexpo_models.dsid import DSIDConfig, EncoderId, Identity, Semantics  # noqa: E402
from deepexpo_models.importers import convert, layouts, open_public, recognise  # noqa: E402

SECONDS, FACTOR, ROOM = 5, 4, 64 << 20
ADDRESS_SPACE = 3 << 30  # bytes beyond what a child starts with
LONGEST_SENTENCE = 500
CONFIG = DSIDConfig("t", 16, 16, 1, 8, 8, (8,), 1, (8,), 1, (8,), 1, (8, 8, 8), 8, (8, 8, 8))
ENCODER = EncoderId("t", "ab" * 32)
SHAPES = {"light": meaf.UNetShape((8, 16), 1, (1, 0), 1, 8), "control": meaf.UNetShape((32, 32), 1, (1, 0), 1, 8)}
BASES = {"tiny": meaf.UNetShape((8, 16, 32, 32), 2, (1, 1, 1, 0), 1, 8)}
KINDS = {name: dataclasses.replace(kind, bases=("tiny",)) for name, kind in layouts.KINDS.items()}


class TooSlow(BaseException):
    """Past every `except Exception`."""


def import_public(path: Path) -> None:
    file = open_public(path)
    convert(recognise(file, None, KINDS, BASES), file.tensors(), "n")


LOADERS = {
    "dsid": dsid.load_dsid, "light": meaf.load_meaf, "control": meaf.load_meaf, "starter": starter.load_starter_tensors,
    "identity": dsid.load_identity, "semantics": dsid.load_semantics, "adapter": import_public,
}  # fmt: skip


def write_seeds(folder: Path) -> dict[str, bytes]:
    """One whole file per loader, as small as can be; name -> content."""
    folder.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(0)
    dsid.save_dsid(folder / "dsid.safetensors", dsid.DSID(CONFIG).half())
    for size, branch in (("light", None), ("control", meaf.BranchConfig("control", (2, 2), True))):
        config = meaf.default_config("t", "t", CONFIG, ENCODER, SHAPES[size], expression_width=8, pose_width=8, branch=branch)
        meaf.save_meaf(folder / f"{size}.safetensors", meaf.MEAF(config).half())
    parts = {part: {"w": torch.randn(2, 3)} for part in ("unet", "vae", "text_encoder")}
    small = dataclasses.replace(starter.STARTER, merges=("a b", "ab c</w>"))
    starter.save_starter_tensors(folder / "starter.safetensors", small, parts)
    embedding = F.normalize(torch.randn(2, 8), dim=-1)
    dsid.save_identity(folder / "identity.safetensors", Identity(embedding, ENCODER, torch.ones(2, 1), torch.randn(2, 6)))
    semantics = Semantics(torch.randn(2, 8), torch.randn(2, 6), torch.randn(2, 2), torch.randn(2, 1), ENCODER)
    dsid.save_semantics(folder / "semantics.safetensors", semantics)
    numbers = public_adapters.scaled_numbers("sd15", 8)
    adapter = public_adapters.random_file(public_adapters.adapter_shapes(numbers, 8, public_adapters.linear(8, 3, 55), False))
    save_file(adapter, folder / "adapter.safetensors")
    torch.save(public_adapters.nested(adapter), folder / "adapter.bin")
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


def judge(loader, path: Path) -> tuple[str, str]:
    """(verdict, what was said): accepted, refused, or one of the findings."""
    try:
        loader(path)
        return "accepted", ""
    except TooSlow:
        return "OVER 5 S", ""
    except ValueError as error:
        said = str(error)
        clear = "\n" not in said and path.name in said and len(said) <= LONGEST_SENTENCE and str(path.parent) not in said
        return ("refused" if clear else "NO CLEAR SENTENCE"), said
    except Exception as error:
        return "ANOTHER EXCEPTION", f"{type(error).__name__}: {error}"


def memory(key: str) -> int:
    """Bytes, of this process's /proc status."""
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(key))
    return int(line.split()[1]) * 1024


def measured(loader, path: Path, size: int) -> tuple[str, str]:
    """`judge`, within the limits of time and memory."""
    Path("/proc/self/clear_refs").write_text("5")  # the peak begins anew
    before, started = memory("VmRSS"), time.process_time()
    signal.setitimer(signal.ITIMER_PROF, SECONDS)
    try:
        verdict, said = judge(loader, path)
    except TooSlow:
        verdict, said = "OVER 5 S", ""
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
    grown = memory("VmHWM") - before
    if grown > FACTOR * size + ROOM:
        return "MEMORY", f"{grown >> 20} MiB for {size} bytes"
    return ("OVER 5 S", "") if time.process_time() - started > SECONDS else (verdict, said)


def run_child(folder: Path, seed: int, first: int, end: int) -> None:
    def alarm(*_):
        raise TooSlow

    signal.signal(signal.SIGPROF, alarm)
    torch.set_num_threads(1)
    seeds = write_seeds(folder / "seeds")
    for name in seeds:  # what is imported late is not an input's
        LOADERS[name.split(".")[0]](folder / "seeds" / name)
    resource.setrlimit(resource.RLIMIT_AS, (memory("VmSize") + ADDRESS_SPACE,) * 2)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    with (folder / "results.jsonl").open("a", buffering=1) as results:
        for number in range(first, end):
            random = Random(seed * 10**9 + number)
            name = list(seeds)[number % len(seeds)]
            what, data = variant(seeds[name], name.endswith(".bin"), random)
            path = folder / f"in{Path(name).suffix}"
            path.write_bytes(data)
            (folder / "at").write_text(str(number))
            verdict, said = measured(LOADERS[name.split(".")[0]], path, len(data))
            found = {"said": said[:300], "number": number} if verdict.isupper() else {}
            results.write(json.dumps({"file": name, "what": what, "verdict": verdict, **found}) + "\n")


def run(folder: Path, inputs: int, seed: int) -> list[dict]:
    """All inputs in children; the findings."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "results.jsonl").write_text("")
    at = 0
    while at < inputs:
        command = [sys.executable, __file__, str(folder), "--seed", str(seed), "--inputs", str(inputs), "--from", str(at)]
        child = subprocess.run(command, capture_output=True, text=True)
        if child.returncode == 0:
            break
        at = int((folder / "at").read_text()) + 1 if (folder / "at").exists() else inputs
        with (folder / "results.jsonl").open("a") as results:
            row = {"file": "", "what": "", "verdict": "DEATH", "number": at - 1, "said": child.stderr[-300:]}
            results.write(json.dumps(row) + "\n")
    rows = [json.loads(line) for line in (folder / "results.jsonl").read_text().splitlines()]
    counts = Counter((row["file"], row["verdict"]) for row in rows)
    print(f"{len(rows)} inputs, seed {seed}")
    for (name, verdict), count in sorted(counts.items()):
        print(f"  {name:24} {verdict:18} {count}")
    return [row for row in rows if row["verdict"].isupper()]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--inputs", type=int, default=100_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--from", dest="first", type=int, default=-1, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.first >= 0:
        run_child(options.folder, options.seed, options.first, options.inputs)
        return 0
    findings = run(options.folder, options.inputs, options.seed)
    for finding in findings[:40]:
        print("FOUND", finding)
    print(f"{len(findings)} findings")
    return bool(findings)


if __name__ == "__main__":
    sys.exit(main())

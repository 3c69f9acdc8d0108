"""Measure DSID and MEAF on held-out drawn people, or on rendered heads of held-out people:

    python -m deepexpo_models.evaluation.run --out runs/evaluation
    python -m deepexpo_models.evaluation.run --out runs/evaluation --heads runs/heads/test --base BASE --meaf MEAF --dsid DSID

Writes results.json, results.md and pictures. Without options it measures the starter in weights/.
"""

import argparse
import sys
import time
from pathlib import Path
from typing import Any

import torch

from ..data.heads.shards import HeadStore
from ..dsid import load_dsid
from ..pipeline.generate import STARTER, Pipeline
from ..weights import PACK_WEIGHTS
from ..whole_files import write_text
from .dsid_report import measure_dsid
from .judges.judge import Judge, load_judge
from .judges.kinds import DRAWN, RENDERED
from .meaf_report import SWEEP, measure_meaf
from .plots import bars_picture, leak_picture, lines_picture, sheet_picture
from .rendered_heads import report
from .requests import drawn_requests, head_requests
from .tables import as_json, figure_table, markdown

JUDGES = {DRAWN: PACK_WEIGHTS / "judge.safetensors", RENDERED: PACK_WEIGHTS / "judge-heads.safetensors"}


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, required=True, help="folder for tables and pictures")
    add_files(parser)
    parser.add_argument("--heads", type=Path, help="folder of rendered heads of held-out people, in place of drawn ones")
    parser.add_argument("--only", choices=("dsid", "meaf"), help="measure one of them")
    parser.add_argument("--people", type=int, default=200, help="DSID: drawn people among whom each is found again")
    parser.add_argument("--count", type=int, default=50, help="MEAF: pictures per row of the table")
    parser.add_argument("--steps", type=int, default=25)
    parser.add_argument("--cfg", type=float, default=3.0)
    parser.add_argument("--threads", type=int, default=0)
    options = parser.parse_args(argv)
    try:
        run(options)
    except ValueError as error:
        parser.exit(2, f"{error}\n")


def add_files(parser: argparse.ArgumentParser) -> None:
    for name, path in STARTER.items():
        parser.add_argument(f"--{name}", type=Path, default=path, help=f"default: weights/{path.name}")
    parser.add_argument("--judge", type=Path, help="default: the one in weights/ of the pictures that are measured")


def open_judge(options: argparse.Namespace, pictures: str) -> Judge:
    """The judge of `add_files`, of DRAWN or RENDERED pictures."""
    return load_judge(options.judge or JUDGES[pictures], pictures)


def open_pipeline(options: argparse.Namespace, **settings) -> Pipeline:
    """From the files of `add_files`, on the CPU, so that numbers are comparable; settings: steps and cfg."""
    return Pipeline.load(options.base, options.meaf, options.dsid, device="cpu", **settings)


def run(options: argparse.Namespace) -> dict:
    """Measure what is asked for, write everything into options.out, and return the results."""
    if options.threads:
        torch.set_num_threads(options.threads)
    results: dict[str, Any] = {}
    start = time.monotonic()

    def say(sentence: str) -> None:
        print(f"{time.monotonic() - start:6.0f} s  {sentence}", file=sys.stderr, flush=True)

    store = HeadStore(options.heads) if options.heads else None
    results["pictures"] = RENDERED if store else DRAWN
    judge = None if options.only == "dsid" else open_judge(options, results["pictures"])
    if options.only != "meaf":
        say("measuring the DSID")
        dsid = load_dsid(options.dsid).float().eval()
        results["dsid"] = report(dsid, store, options.dsid.stem) if store else measure_dsid(dsid, options.people)
        if not store:
            _draw_dsid(options.out, results["dsid"])
    if judge:
        pipeline = open_pipeline(options, steps=options.steps, cfg=options.cfg)
        requests = head_requests(store, options.count) if store else drawn_requests(options.count)
        results["meaf"] = measure_meaf(pipeline, judge, requests, say)
        results["judge"] = judge.errors
        _draw_meaf(options.out, results["meaf"])
    results["seconds"] = time.monotonic() - start
    options.out.mkdir(parents=True, exist_ok=True)
    write_text(options.out / "results.json", as_json(results))
    write_text(options.out / "results.md", _text(results))
    print(_text(results))
    return results


def _draw_dsid(out: Path, found: dict) -> None:
    rows = {**found["leak"], **{f"{name}, untrained": row for name, row in found["leak, untrained"].items()}}
    leak_picture(out / "leak.png", rows, "What a code holds of which factors (R2, small network, people held out)")
    bars_picture(out / "expression.png", found["expression R2"], "Expression factors read linearly from `expression`", "R2")


def _draw_meaf(out: Path, found: dict) -> None:
    for name, pictures in found.pop("pictures").items():
        sheet_picture(out / f"{name.replace(' ', '-')}.png", pictures, columns=8)
    for stream, sweep in found["strengths"].items():
        title = f"Strength of the {stream} stream"
        lines_picture(out / f"strength-{stream}.png", SWEEP, sweep["closeness"], title, ("strength", "closeness"))


def _text(results: dict) -> str:
    parts = [f"# Measured on {results['pictures']} of people, none of whom was seen in training\n"]
    if "dsid" in results:
        parts += ["## DSID\n", figure_table(results["dsid"])]
    if "meaf" in results:
        rows = [{"row": name, **figures} for name, figures in results["meaf"]["rows"].items()]
        settings = ", ".join(f"{name} {value}" for name, value in results["meaf"]["settings"].items())
        parts += ["## MEAF\n", settings + "\n", markdown(rows)]
        sweeps = [
            {"stream": name, **{k: v for k, v in sweep.items() if k != "closeness"}}
            for name, sweep in results["meaf"]["strengths"].items()
        ]
        parts += ["## Strengths\n", markdown(sweeps)]
        parts += ["## The judge's own errors\n", markdown(_judge_rows(results["judge"]))]
    return "\n".join(parts) + "\n"


def _judge_rows(errors: dict) -> list[dict]:
    """One row per error, a column for clean and one for degraded pictures."""
    kinds = {name: figures for name, figures in errors.items() if isinstance(figures, dict)}
    names = dict.fromkeys(name for figures in kinds.values() for name in figures)
    return [{"error": name, **{kind: figures[name] for kind, figures in kinds.items()}} for name in names]


if __name__ == "__main__":
    main()

"""Measure DSID and MEAF on rendered heads of held-out people:

    python -m deepexpo_models.evaluation.run --out runs/evaluation --heads runs/heads/test

Writes results.json, results.md and pictures. Without further options it measures the files in weights/.
"""

import argparse
import sys
import time
from pathlib import Path
from typing import Any

import torch

from ..data.heads.shards import HeadStore
from ..dsid import load_dsid
from ..pipeline.generate import CFG, STARTER, Pipeline
from ..weights import PACK_WEIGHTS
from ..whole_files import write_text
from .judges.judge import load_judge
from .judges.kinds import RENDERED
from .meaf_report import SWEEP, measure_meaf
from .plots import lines_picture, sheet_picture
from .rendered_heads import report
from .requests import make_requests
from .tables import as_json, figure_table, markdown

FILES = {**STARTER, "judge": PACK_WEIGHTS / "judge-heads.safetensors"}  # option -> what is measured, and by which judge


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, required=True, help="folder for tables and pictures")
    parser.add_argument("--heads", type=Path, required=True, help="folder of rendered heads of held-out people")
    add_files(parser)
    parser.add_argument("--only", choices=("dsid", "meaf"), help="measure one of them")
    parser.add_argument("--count", type=int, default=50, help="MEAF: pictures per row of the table")
    parser.add_argument("--seed", type=int, default=5, help="MEAF: who is asked for what, and the noise")
    parser.add_argument("--steps", type=int, default=25)
    parser.add_argument("--cfg", type=float, default=CFG, help="guidance")
    parser.add_argument("--threads", type=int, default=0)
    options = parser.parse_args(argv)
    try:
        run(options)
    except ValueError as error:
        parser.exit(2, f"{error}\n")


def add_files(parser: argparse.ArgumentParser) -> None:
    for name, path in FILES.items():
        parser.add_argument(f"--{name}", type=Path, default=path, help=f"default: weights/{path.name}")


def run(options: argparse.Namespace) -> dict:
    """Measure what is asked for, write everything into options.out, and return the results. All of it on the CPU, so that
    numbers are comparable."""
    if options.threads:
        torch.set_num_threads(options.threads)
    results: dict[str, Any] = {"pictures": RENDERED}
    start = time.monotonic()

    def say(sentence: str) -> None:
        print(f"{time.monotonic() - start:6.0f} s  {sentence}", file=sys.stderr, flush=True)

    store = HeadStore(options.heads)
    judge = None if options.only == "dsid" else load_judge(options.judge)
    if options.only != "meaf":
        say("measuring the DSID")
        results["dsid"] = report(load_dsid(options.dsid).float().eval(), store, options.dsid.stem)
    if judge:
        pipeline = Pipeline.load(options.base, options.meaf, options.dsid, device="cpu", steps=options.steps, cfg=options.cfg)
        results["meaf"] = measure_meaf(pipeline, judge, make_requests(store, options.count, options.seed), say)
        results["judge"] = judge.errors
        _draw_meaf(options.out, results["meaf"])
    results["seconds"] = time.monotonic() - start
    options.out.mkdir(parents=True, exist_ok=True)
    write_text(options.out / "results.json", as_json(results))
    write_text(options.out / "results.md", _text(results))
    print(_text(results))
    return results


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

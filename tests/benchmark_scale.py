"""What large amounts of data and training take, from measured rates: `python tests/benchmark_scale.py --write`

Arithmetic alone: nothing is run. Every rate says where it is from. Prints the report; --write puts it in docs/scale.md.
"""

import argparse
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.append(str(ROOT))

from deepexpo_models.data.heads.shards import CONTEXT, LABELS
from deepexpo_models.evaluation.tables import markdown

CLIPS, CLIP_FRAMES = 1_000_000, 250  # ten seconds at 25 frames a second
RENDERS, RENDER_SIDE = 100_000_000, 128
PREPARE_MS, FRAME_BYTES = 61.1, 16_432  # of CPU a frame, and of its JPEG at 256 pixels; see DATA for where
RENDER_MS = 25.0  # of CPU a picture of 128 pixels on Mesa's llvmpipe (docs/heads.md)
H100 = 989e12  # FLOP/s in bfloat16, dense, NVIDIA's data sheet
SHARES = (0.4, 0.15)  # of it that a training reaches: a good one, a poor one
LOADED = {256: 418, 512: 136, 1024: 34}  # pairs of JPEG frames read a second and core; the last from the second by pixels
TRAININGS = {  # name -> (TFLOP a row and step, rows, pixels); rows are docs/training.md's steps x batch
    "DSID `base`, 250,000 x 16": (0.3, 250_000 * 16, 256),
    "MEAF `light` for SDXL, 100,000 x 64": (20.3, 100_000 * 64, 1024),
}
GPUS, WORKERS = (8, 64), 8
GRADIENTS = {"DSID `base`, 250,000 x 16": 65.5e6, "MEAF `light` for SDXL, 100,000 x 64": 480e6}  # weights that learn
LINK = {8: 450e9, 64: 50e9}  # bytes/s a GPU: NVLink within a machine, one 400 Gb/s port a GPU between machines
TERA = 1e12


def data_rows() -> list[dict]:
    frames = CLIPS * CLIP_FRAMES
    picture = RENDER_SIDE**2 * 3 + 4 * (sum(_numbers(shape) for shape in LABELS.values()) + len(CONTEXT))
    rows = [("1 M clips of 10 s, cropped to 256", frames, PREPARE_MS, FRAME_BYTES)]
    rows.append(("100 M heads of 128", RENDERS, RENDER_MS, picture))
    return [
        {
            "": name,
            "pictures, M": count / 1e6,
            "core-hours": count * ms / 3.6e6,
            "hours on 1000 cores": count * ms / 3.6e9,
            "stored, TB": count * size / TERA,
        }
        for name, count, ms, size in rows
    ]


def training_rows() -> list[dict]:
    rows = []
    for name, (work, count, pixels) in TRAININGS.items():
        for share in SHARES:
            rate = share * H100 / (work * TERA)
            row = {"": name, "of its peak": f"{share:.0%}", "rows/s a GPU": rate, "GPU-hours": count / rate / 3600}
            row |= {f"hours on {gpus}": count / rate / 3600 / gpus for gpus in GPUS}
            row |= {"cores a GPU that loading takes": rate / LOADED[pixels]}
            row |= {f"waits for data with {WORKERS} workers": f"{max(0.0, 1 - WORKERS * LOADED[pixels] / rate):.0%}"}
            row |= {"waits with none": f"{1 / (1 + LOADED[pixels] / rate):.0%}"}
            rows.append(row)
    return rows


def exchange_rows() -> list[dict]:
    """A ring all-reduce moves the gradients twice; float32."""
    rows = []
    for name, (work, _, _) in TRAININGS.items():
        batch = int(name.split(" x ")[-1])
        for gpus in GPUS:
            step = max(1, batch // gpus) * work * TERA / (SHARES[0] * H100)
            moved = 2 * 4 * GRADIENTS[name] / LINK[gpus]
            row = {"": name, "GPUs": gpus, "rows a GPU and step": max(1, batch // gpus), "step, ms": 1e3 * step}
            rows.append({**row, "gradients, ms": 1e3 * moved, "of the step, not overlapped": f"{moved / (step + moved):.0%}"})
    return rows


def _numbers(shape: tuple[int, ...]) -> int:
    return shape[0] * _numbers(shape[1:]) if shape else 1


def report() -> str:
    return "\n".join([
        TEXT, "## Data\n", markdown(data_rows()), DATA, "## Training on H100s\n", markdown(training_rows()), TRAINING,
        "### Gradients between GPUs\n", markdown(exchange_rows()), EXCHANGE,
    ])  # fmt: skip


TEXT = """# Scale

Calculated by `python tests/benchmark_scale.py --write` from rates measured by hand in November 2026 (constants there; no
command repeats them). No cluster and no GPU was at hand: **nothing of this was run at scale**.

```bash
pip install ".[scale,training,heads]"  # for object stores s3fs, gcsfs or adlfs too
dask scheduler          # on one machine
dask worker tcp://HOST:8786 --nthreads 1 --nworkers auto  # on each
python -m deepexpo_models.data.prepare --clips s3://BUCKET/clips --out s3://BUCKET/crops --scheduler tcp://HOST:8786
python -m deepexpo_models.data.heads.generate --model heads.npz --out s3://BUCKET/heads --shards 400000 \\
    --scheduler tcp://HOST:8786
accelerate launch -m deepexpo_models.pipeline.jobs --jobs table.csv --out s3://BUCKET/pictures \\
    --base CHECKPOINT --meaf MEAF --dsid DSID
```

In `data.prepare`, `--workers 4` instead of `--scheduler` starts four processes of Dask here. Every clip, shard and picture
is there as a whole or not at all, so **the same command goes on** after anything; a worker that dies costs the job that it
was at, which Dask gives to another; what fails is counted and named (`failed.jsonl`, of a table `failed-<process>.jsonl`)
and tried again by the next run. The table of pictures is CSV or JSON lines with the columns `prompt`, `out`, and optionally
`identity`, `reference`, `negative`, `seed`; each process draws the rows of its own number.
"""
DATA = """
Preparing: CPU time a frame of one core (AVX2, on a machine with much other work) for a clip of 183 frames of 512 x 512, with
the cascade that scikit-image ships, each frame decoded twice; its JPEGs were that large. Rendering: Mesa's llvmpipe; a GPU is
faster, not measured. A shard is 256 heads.
"""
TRAINING = """
TFLOP a row: three forward passes (forward and backward), counted on PyTorch's meta device ([sizes](sizes.md)) for MEAF,
estimated from the counted forward passes for DSID, without VGG and critic. Loading: measured with one process on one core
(AVX-512), JPEG frames of 256 and 512 pixels; that of 1024 by pixels. "Waits with none": loading and computing take turns.
With workers the log of a run says what it really was.
"""
EXCHANGE = """
The hours above leave this out. Small steps on many GPUs wait for the network, and on 64 GPUs the DSID's batch is 64, not
16: `--accumulate` or a larger batch makes the step longer, and DDP overlaps most of the exchange with the backward pass.
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--write", action="store_true", help="write docs/scale.md")
    arguments = parser.parse_args()
    text = report()
    print(text)
    if arguments.write:
        (ROOT / "docs" / "scale.md").write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()

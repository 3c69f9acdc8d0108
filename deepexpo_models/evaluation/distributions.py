"""How real and rendered faces are spread, beside each other: what the landmarker reads in both, and how far heads are turned.

    python -m deepexpo_models.evaluation.distributions --frames runs/real/frames-FOLDER-30.npz --heads runs/heads/train

--frames: what `evaluation.real_faces` keeps in its --out. Of the rendered heads those count that `data.heads.judged` has asked
the landmarker about; their turn is the true one. Writes two tables and histograms.
"""

import argparse
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from ..data.heads.shards import HeadStore
from ..dsid.rotation import matrix_to_euler
from ..head import ARKIT52
from .factors import FACTORS, factors_of
from .plots import histograms_picture
from .real_frames import RealFrames, load_frames
from .tables import write_table

ANGLES = ("yaw", "pitch", "roll")
QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95)
REST = 0.1  # of ARKit's units, below which one is at rest
LARGE_TURN = 20.0  # degrees
GRID = torch.linspace(0, 1, 101)  # quantiles that a distance is taken over


@dataclass(frozen=True)
class Faces:
    """name; units (N, 52) as the landmarker reads them, angles (N, 3): yaw, pitch, roll in degrees."""

    name: str
    units: Tensor
    angles: Tensor


def real_faces(name: str, frames: RealFrames) -> Faces:
    return Faces(name, frames.units, matrix_to_euler(frames.rotation))


def rendered_heads(store: HeadStore) -> Faces:
    """Raises ValueError when the landmarker was not asked about any."""
    rows = store.judged_rows()
    return Faces("rendered heads", store.judged(rows).nan_to_num(0.0), matrix_to_euler(store.read("rotation", rows)))


def factor_rows(sets: list[Faces]) -> list[dict]:
    """Per factor and set: quantiles, share at rest, mean difference of left and right where a factor has both, distance to the
    first set."""
    values = {faces.name: factors_of(faces.units) for faces in sets}
    first = values[sets[0].name]
    return [
        {
            "factor": factor,
            "faces": faces.name,
            **_quantiles(values[faces.name][:, column]),
            "at rest": at_rest(faces.units, factor),
            "left less right": asymmetry(faces.units, factor),
            "distance": distance(values[faces.name][:, column], first[:, column]),
        }
        for column, factor in enumerate(FACTORS)
        for faces in sets
    ]


def angle_rows(sets: list[Faces]) -> list[dict]:
    return [
        {
            "angle": angle,
            "faces": faces.name,
            **_quantiles(faces.angles[:, axis]),
            "standard deviation": faces.angles[:, axis].std().item(),
            f"over {LARGE_TURN:g}": (faces.angles[:, axis].abs() > LARGE_TURN).float().mean().item(),
            "distance": distance(faces.angles[:, axis], sets[0].angles[:, axis]),
        }
        for axis, angle in enumerate(ANGLES)
        for faces in sets
    ]


def at_rest(units: Tensor, factor: str) -> float:
    """Share of faces with none of the factor's units above REST."""
    return (units[:, [ARKIT52.index(name) for name in FACTORS[factor]]] < REST).all(1).float().mean().item()


def asymmetry(units: Tensor, factor: str) -> float:
    """Mean absolute difference of left and right, over the units of a factor that come in pairs and mean the same; NaN without
    one."""
    signs = FACTORS[factor]
    pairs = [(name, name.replace("Left", "Right")) for name in signs if name.endswith("Left")]
    pairs = [(left, right) for left, right in pairs if signs[left] == signs.get(right)]
    if not pairs:
        return float("nan")
    left, right = ([ARKIT52.index(pair[side]) for pair in pairs] for side in (0, 1))
    return (units[:, left] - units[:, right]).abs().mean().item()


def distance(values: Tensor, others: Tensor) -> float:
    """Between two distributions on a line: mean difference of their quantiles (the 1-Wasserstein distance)."""
    return (values.quantile(GRID) - others.quantile(GRID)).abs().mean().item()


def _quantiles(values: Tensor) -> dict[str, float]:
    found = values.quantile(torch.tensor(QUANTILES))
    return {f"{share:.0%}": value for share, value in zip(QUANTILES, found.tolist())}


def panels(sets: list[Faces]) -> dict[str, dict[str, Tensor]]:
    """Title of a panel -> name of a set -> its values (N,)."""
    values = {faces.name: torch.cat([factors_of(faces.units), faces.angles], 1) for faces in sets}
    titles = (*FACTORS, *(f"{angle}, degrees" for angle in ANGLES))
    return {title: {name: rows[:, column] for name, rows in values.items()} for column, title in enumerate(titles)}


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description="How real and rendered faces are spread, beside each other.")
    parser.add_argument("--frames", type=Path, nargs="+", required=True, help="frames that evaluation.real_faces has kept")
    parser.add_argument("--names", nargs="+", default=[], help="what to call each of them; default: its file's name")
    parser.add_argument("--heads", type=Path, required=True, help="folder of rendered heads that the landmarker has read")
    parser.add_argument("--out", type=Path, default=Path("runs/distributions"), help="folder for tables and picture")
    options = parser.parse_args(argv)
    names = options.names or [path.stem for path in options.frames]
    if len(names) != len(options.frames):
        parser.error(f"{len(names)} names for {len(options.frames)} files of frames; give one for each")
    try:
        sets = [real_faces(name, load_frames(path)) for name, path in zip(names, options.frames)]
        sets.append(rendered_heads(HeadStore(options.heads)))
    except (OSError, ValueError) as error:
        parser.exit(2, f"{error}\n")
    write_table(options.out, "factors", factor_rows(sets))
    write_table(options.out, "angles", angle_rows(sets))
    title = ", ".join(f"{len(faces.units)} {faces.name}" for faces in sets)
    histograms_picture(options.out / "distributions.png", panels(sets), title)


if __name__ == "__main__":
    main()

"""How well a DSID reads photographs and clips that nobody has labelled, against MediaPipe's face landmarker as the judge:

    python -m deepexpo_models.evaluation.real_faces --clips FOLDER --landmarker face_landmarker.task \\
        --dsid weights/photo-dsid.safetensors --out runs/real

Beside each DSID stand a constant (the mean pose) and the landmarker itself on the same crop moved by two pixels: no DSID can
agree better with it than it does with itself. A DSID's expression is read by the read-outs in its file; one without any is
read by a ridge regression fitted on the other clips, which favours it. The frames are kept in --out and used again. Stills
count as clips of one frame: figures of what moves inside clips are left out where there are none. --files draws a sample of a
large folder, evenly from the folders in it.

--heads FOLDER measures the landmarker instead, on rendered heads whose truth is known: its error, and what its frontal is.
"""

import argparse
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from tqdm import tqdm

from ..dsid import DSID, load_dsid
from ..dsid.codes import Semantics
from ..dsid.edit import ARKIT
from ..dsid.mesh import Framing, face_points
from ..dsid.rotation import geodesic_angle, matrix_to_euler, matrix_to_rotation, rotation_to_matrix
from ..head import load_basis
from ..head.openings import LIDS, LIPS, measure
from ..head.retarget import face_height, to_canonical
from ..image import bytes_to_model, model_to_bytes
from .factors import FACTORS, factors_of
from .probes import ridge_fit
from .real_frames import Landmarker, RealFrames, collect, load_frames, save_frames
from .tables import row_names, write_table

YAW_BINS = ((0, 10), (10, 20), (20, 30), (30, 90))  # degrees
MOVING = 20, 0.5  # frames of a clip, and share of the whole spread, from which on a factor counts as moving in it
RIDGE = 0.05  # share of the codes' variance
CHUNK = 64
MAP_SIDE = 512  # pixels


@torch.no_grad()
def read_codes(model: DSID, crops: Tensor) -> tuple[Tensor, Tensor]:
    """crops (N, 3, S, S) uint8 -> rotation (N, 3, 3), expression (N, width)."""
    side, rotation, expression = model.config.image_size, [], []
    for part in crops.split(CHUNK):
        codes = model.encode_semantics(F.interpolate(bytes_to_model(part), side, mode="bilinear", antialias=True))
        rotation.append(rotation_to_matrix(codes["rotation"].float()))
        expression.append(codes["expression"].float())
    return torch.cat(rotation), torch.cat(expression)


def rotation_row(found: Tensor, true: Tensor, clip: Tensor) -> dict[str, float]:
    """Degrees between rotations (N, 3, 3): as they are; after the one constant turn that is best; after the best one per clip,
    which leaves how well motion is followed; and in bins of the judge's yaw."""
    degrees = _degrees(found, true)
    yaw = matrix_to_euler(true)[:, 0].abs()
    own, angles = matrix_to_euler(found), matrix_to_euler(true)
    best = _degrees(found @ best_turn(found, true), true)
    inside = [_degrees(found[m] @ best_turn(found[m], true[m]), true[m]).mean() for m in _clips(clip)]
    bins = {f"yaw {low}-{high}": degrees[(yaw >= low) & (yaw < high)] for low, high in YAW_BINS}
    return {
        "degrees": degrees.mean().item(),
        "median": degrees.median().item(),
        "best turn": best.mean().item(),
        "turn per clip": torch.stack(inside).mean().item() if inside else float("nan"),
        **{name: part.mean().item() if len(part) else float("nan") for name, part in bins.items()},
        **{f"r {name}": correlation(own[:, i], angles[:, i]) for i, name in enumerate(("yaw", "pitch", "roll"))},
    }


def best_turn(found: Tensor, true: Tensor) -> Tensor:
    """The constant rotation C (3, 3) for which found @ C is nearest to true (Kabsch 1976)."""
    u, _, v = torch.linalg.svd(torch.einsum("nji,njk->ik", found, true))
    return u @ torch.diag(torch.tensor([1.0, 1.0, torch.sign(torch.linalg.det(u @ v)).item()])) @ v


def factor_row(found: Tensor, true: Tensor, clip: Tensor) -> dict[str, dict[str, float]]:
    """found, true (N, len(FACTORS)): per factor the correlation over all frames, and its mean in the clips where it moves."""
    rows = {}
    for i, name in enumerate(FACTORS):
        spread = MOVING[1] * true[:, i].std()
        inside = [correlation(found[m, i], true[m, i]) for m in _clips(clip) if true[m, i].std() > spread]
        rows[name] = {"r": correlation(found[:, i], true[:, i]), "in clips": float(np.mean(inside)) if inside else float("nan")}
    return rows


def correlation(a: Tensor, b: Tensor) -> float:
    """Pearson's; 0 for a constant."""
    a, b = a - a.mean(), b - b.mean()
    size = (a.square().sum() * b.square().sum()).sqrt()
    return (a * b).sum().item() / size.item() if size > 1e-9 else 0.0


def ridge(codes: Tensor, targets: Tensor, clip: Tensor) -> Tensor:
    """targets (N, F) read linearly from codes (N, D), each clip by a fit on the others; stills in five groups."""
    counts = torch.bincount(clip)[clip]
    fold = torch.where(counts >= MOVING[0], clip, -1 - clip % 5)
    found = torch.zeros_like(targets)
    for group in fold.unique():
        test = fold == group
        weight, bias = ridge_fit(codes[~test], targets[~test], RIDGE)
        found[test] = (codes[test].double() @ weight.T + bias).to(found)
    return found


def linear_row(model: DSID, frames: RealFrames) -> dict[str, float]:
    """What a DSID's codes hold of real faces, whatever its read-outs say: degrees of rotation after the best constant turn, and
    read by `ridge`; each factor's correlation, read by `ridge`, and their mean."""
    turns, codes = read_codes(model, frames.crops)
    true = factors_of(frames.units)
    found = ridge(codes, true, frames.clip)
    read = rotation_to_matrix(ridge(matrix_to_rotation(turns), matrix_to_rotation(frames.rotation), frames.clip))
    values = {name: correlation(found[:, i], true[:, i]) for i, name in enumerate(FACTORS)}
    return {
        "degrees, best turn": _degrees(turns @ best_turn(turns, frames.rotation), frames.rotation).mean().item(),
        "degrees, by ridge": _degrees(read, frames.rotation).mean().item(),
        **values,
        "mean r": float(np.mean(list(values.values()))),
    }


def map_points(rotation: Tensor, units: Tensor) -> Tensor:
    """rotation (N, 3, 3), units (N, 52) -> the points that Draw Face Control draws for them on the average face, (N, 478, 3) in
    face heights."""
    count, basis = len(units), load_basis()
    nothing = units.new_zeros(count, 1)
    semantics = Semantics(units, matrix_to_rotation(rotation), nothing.expand(-1, 2), nothing, ARKIT)
    points = face_points(None, semantics, basis, (MAP_SIDE, MAP_SIDE))
    return points / (MAP_SIDE * Framing().height)


def map_row(found: Tensor, true: Tensor) -> dict[str, float]:
    """Two maps' points (N, 478, 3) in face heights -> mean distance of the points in the picture, and mean differences of the
    gaps of lips and lids in the face's own frame."""
    basis = load_basis()
    gaps = [measure(to_canonical(points, basis).shape) / face_height(basis.points) for points in (found, true)]
    off = (gaps[0] - gaps[1]).abs()
    return {
        "points": (found - true)[..., :2].norm(dim=-1).mean().item(),
        "lips' gap": off[:, LIPS].mean().item(),
        "lids' gap": off[:, LIDS].mean().item(),
    }


def tables(frames: RealFrames, models: dict[str, DSID]) -> dict[str, list[dict]]:
    """Name of a table -> its rows: `rotation`, `expression` and `map` over all frames, `clips` file by file. `map`: how far the
    control map that a DSID alone draws is from the one that the landmarker's numbers draw."""
    true = factors_of(frames.units)
    constant = best_turn(torch.eye(3).expand(len(true), 3, 3), frames.rotation).expand(len(true), 3, 3)
    rotation = [{"reader": "constant, the mean pose", **rotation_row(constant, frames.rotation, frames.clip)}]
    expression, clips = [], []
    drawn = map_points(frames.rotation, frames.units)
    mean = frames.units.mean(0, keepdim=True).expand_as(frames.units)
    maps = [{"reader": "constant, the mean face", **map_row(map_points(constant, mean), drawn)}]
    for name, model in models.items():
        turns, codes = read_codes(model, frames.crops)
        readout = model.readout
        told = readout is not None
        found = factors_of(readout.arkit52(codes)) if readout is not None else ridge(codes, true, frames.clip)
        label = name if told else f"{name}, by ridge"
        rotation.append({"reader": name, **rotation_row(turns, frames.rotation, frames.clip)})
        expression.append({"reader": label, **_flat(factor_row(found, true, frames.clip))})
        if told:
            expression.append(
                {"reader": f"{name}, by ridge", **_flat(factor_row(ridge(codes, true, frames.clip), true, frames.clip))}
            )
        if readout is not None:
            maps.append({"reader": name, **map_row(map_points(turns, readout.arkit52(codes)), drawn)})
        clips += [_clip_row(name, file, m, turns, found, frames, true) for file, m in _by_file(frames)]
    again = frames.again_rotation, frames.again_units
    jitter = [rotation_row(again[0][:, i], frames.rotation, frames.clip) for i in range(again[0].shape[1])]
    rotation.append({"reader": "landmarker, moved", **{key: float(np.mean([row[key] for row in jitter])) for key in jitter[0]}})
    same = [_flat(factor_row(factors_of(again[1][:, i]), true, frames.clip)) for i in range(again[1].shape[1])]
    expression.append({"reader": "landmarker, moved", **{key: float(np.mean([row[key] for row in same])) for key in same[0]}})
    moved = [map_row(map_points(again[0][:, i], again[1][:, i]), drawn) for i in range(again[0].shape[1])]
    maps.append({"reader": "landmarker, moved", **{key: float(np.mean([row[key] for row in moved])) for key in moved[0]}})
    return {"rotation": measured(rotation), "expression": measured(expression), "map": maps, "clips": clips}


def measured(rows: list[dict]) -> list[dict]:
    """Rows without the figures that are NaN in all of them: stills have no motion inside clips."""
    empty = {name for name in rows[0] if all(row[name] != row[name] for row in rows)}
    return [{name: value for name, value in row.items() if name not in empty} for row in rows]


def _clip_row(name: str, file: str, rows: Tensor, turns: Tensor, found: Tensor, frames: RealFrames, true: Tensor) -> dict:
    moving = {
        factor: correlation(found[rows, i], true[rows, i])
        for i, factor in enumerate(FACTORS)
        if true[rows, i].std() > MOVING[1] * true[:, i].std()
    }
    degrees = _degrees(turns[rows], frames.rotation[rows]).mean().item()
    return {"reader": name, "file": file, "frames": int(rows.sum()), "degrees": degrees, **moving}


def _by_file(frames: RealFrames):
    for number, file in enumerate(frames.names):
        rows = frames.clip == number
        if rows.sum() >= MOVING[0]:
            yield file, rows


def _clips(clip: Tensor) -> list[Tensor]:
    return [rows for number in clip.unique() if (rows := clip == number).sum() >= MOVING[0]]


def _degrees(a: Tensor, b: Tensor) -> Tensor:
    return torch.rad2deg(geodesic_angle(a, b))


def _flat(rows: dict[str, dict[str, float]]) -> dict[str, float]:
    """One column a factor's correlation, then the means inside clips."""
    return {name: row["r"] for name, row in rows.items()} | {f"{name}, in clips": row["in clips"] for name, row in rows.items()}


def landmarker_row(folder: Path, task: Path, count: int) -> dict:
    """The landmarker on rendered heads: what it misses, its error in degrees, and the turn between both zeros."""
    from ..data.heads.judged import shown
    from ..data.heads.shards import HeadStore

    store, landmarker, kept = HeadStore(folder), Landmarker(task), []
    rows = torch.linspace(0, len(store) - 1, count).long()
    heads = store.heads(rows)
    for image, rotation in tqdm(zip(model_to_bytes(shown(heads.images)), heads.rotation), total=count, unit="picture"):
        if (seen := landmarker(image.movedim(0, -1).numpy())) is not None:
            kept.append((seen.rotation, rotation))
    found, true = (torch.stack(side) for side in zip(*kept))
    turn = best_turn(true, found)
    angles = matrix_to_euler(turn)
    return {
        "pictures": count,
        "found": len(found),
        "degrees": _degrees(found, true).mean().item(),
        "after the turn": _degrees(true @ turn, found).mean().item(),
        **{f"turn {name}": angles[i].item() for i, name in enumerate(("yaw", "pitch", "roll"))},
    }


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description="How well a DSID reads real faces, against MediaPipe's landmarker.")
    parser.add_argument("--clips", type=Path, help="folder of clips and stills, one face in each")
    parser.add_argument("--landmarker", type=Path, required=True, help="MediaPipe's file face_landmarker.task")
    parser.add_argument("--dsid", type=Path, nargs="+", default=[], help="DSID files to compare")
    parser.add_argument("--out", type=Path, default=Path("runs/real"), help="folder for tables and found frames")
    parser.add_argument("--per-clip", type=int, default=30, help="frames of each clip, at most")
    parser.add_argument("--files", type=int, default=0, help="so many clips and stills at most, by lot; 0: all")
    parser.add_argument("--heads", type=Path, help="measure the landmarker on this folder of rendered heads instead")
    parser.add_argument("--count", type=int, default=200, help="how many rendered heads")
    options = parser.parse_args(argv)
    try:
        if options.heads:
            return write_table(options.out, "landmarker", [landmarker_row(options.heads, options.landmarker, options.count)])
        if not options.clips or not options.dsid:
            parser.error("give --clips and --dsid, or --heads")
        files = row_names(options.dsid)
        frames = _frames(options)
        models = {name: load_dsid(path).float() for name, path in files.items()}
    except ValueError as error:
        parser.exit(2, f"{error}\n")
    for name, rows in tables(frames, models).items():
        if rows:
            write_table(options.out, name, rows)


def _frames(options: argparse.Namespace) -> RealFrames:
    lot = f"-{options.files}" if options.files else ""
    kept = options.out / f"frames-{options.clips.name}-{options.per_clip}{lot}.npz"
    if kept.is_file():
        return load_frames(kept)
    frames, counts = collect(options.clips, options.landmarker, options.per_clip, options.files)
    print(
        f"{len(frames.clip)} faces in {len(frames.clip.unique())} files; "
        + ", ".join(f"{n} {what}" for what, n in counts.items())
    )
    options.out.mkdir(parents=True, exist_ok=True)
    save_frames(kept, frames)
    return frames


if __name__ == "__main__":
    main()

"""How well a DSID reads rendered heads of held-out people, whose truth is known; for gaze and brows no landmarker is that:

    python -m deepexpo_models.evaluation.rendered_heads --heads runs/heads/test --dsid weights/photo-dsid.safetensors

Places are found by the DSID itself. A DSID without read-outs is read by a ridge regression fitted on the other people. One with
a generator draws too: a person from its own codes and from three people's, against the true picture.
"""

import argparse
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from ..data.heads.regions import face_of
from ..data.heads.shards import FRAMES, PEOPLE, HeadStore
from ..dsid import DSID, load_dsid
from ..dsid.rotation import geodesic_angle, matrix_to_euler, rotation_to_matrix
from .factors import FACTORS, factors_of
from .metrics import psnr, ssim
from .real_faces import correlation, ridge
from .tables import write_table

YAW_BINS = ((0, 30), (30, 60), (60, 75), (75, 90))  # degrees; training ends at 75
CHUNK = 64
TRIPLES = 64


@torch.no_grad()
def codes_of(model: DSID, store: HeadStore, rows: Tensor) -> dict[str, Tensor]:
    """rows (N,) -> codes of their pictures, identity among them, float32."""
    found = []
    for part in rows.split(CHUNK):
        images = F.interpolate(store.images(part), model.config.image_size, mode="bilinear", antialias=True)
        found.append({"identity": model.encode_identity(images), **model.encode_semantics(images)})
    return {name: torch.cat([part[name] for part in found]).float() for name in found[0]}


def report(model: DSID, store: HeadStore, name: str) -> dict[str, dict]:
    """Name of a table -> its row for this DSID: `rotation`, `expression`, `leak`, and with a generator `pictures`."""
    rows = torch.arange(len(store))
    labels = [store.heads(part) for part in rows.split(1024)]
    rotation, units = torch.cat([part.rotation for part in labels]), torch.cat([part.units for part in labels])
    codes, true = codes_of(model, store, rows), factors_of(units)
    readout = model.readout
    told = readout is not None
    group = rows // (FRAMES * PEOPLE)  # it plays the same expressions, so a fit sees none of it
    found = factors_of(readout.arkit52(codes["expression"])) if readout is not None else ridge(codes["expression"], true, group)
    return {
        "rotation": {"reader": name, **_rotation(rotation_to_matrix(codes["rotation"]), rotation)},
        "expression": {
            "reader": name if told else f"{name}, by ridge",
            **{factor: correlation(found[:, i], true[:, i]) for i, factor in enumerate(FACTORS)},
        },
        "leak": {"reader": name, **nearest(codes["expression"], store.person(rows))},
        **({"pictures": {"reader": name, **drawn(model, store)}} if model.generator is not None else {}),
    }


def _rotation(found: Tensor, true: Tensor) -> dict[str, float]:
    degrees, yaw = torch.rad2deg(geodesic_angle(found, true)), matrix_to_euler(true)[:, 0].abs()
    bins = {f"yaw {low}-{high}": degrees[(yaw >= low) & (yaw < high)].mean().item() for low, high in YAW_BINS}
    return {"degrees": degrees.mean().item(), "median": degrees.median().item(), **bins}


def drawn(model: DSID, store: HeadStore, count: int = TRIPLES) -> dict[str, dict[str, float]]:
    """Where the person was seen (in the clip that the true picture is from, so in its light, or in the other one) ->
    `picture_figures` of `count` triples; beside them the person's other picture as it is."""
    figures = {}
    for place, share in (("same clip", 1.0), ("other clip", 0.0)):
        roles = store.sample_roles(count, torch.Generator().manual_seed(11), share)
        size = model.config.image_size
        source, true, expression, pose = (
            F.interpolate(store.images(rows), size, mode="bilinear", antialias=True)
            for rows in (roles.source, roles.target, roles.expression, roles.pose)
        )
        face = face_of(store.read("surface", roles.target), size)
        figures[place] = {
            **picture_figures(model, source, true, expression, pose, face),
            "PSNR of the source as it is": psnr(source, true, face),
        }
    return figures


@torch.no_grad()
def picture_figures(
    dsid: DSID, source: Tensor, target: Tensor, expression: Tensor, pose: Tensor, face: Tensor
) -> dict[str, float]:
    """PSNR and SSIM within the face (N, 1, S, S) of the generator's pictures against the true ones `target` (N, 3, S, S): self
    (all codes from the person's own pictures, the identity from `source`) and swap (identity, expression and pose from three
    people).
    """
    identity = dsid.encode_identity(source)
    own, lent, posed = (dsid.encode_semantics(images) for images in (target, expression, pose))
    made = {
        "self": dsid.reenact(identity, **own),
        "swap": dsid.reenact(identity, **{**posed, "expression": lent["expression"]}),
    }
    return {
        f"{metric} {name}": function(picture)
        for name, picture in made.items()
        for metric, function in (
            ("PSNR", lambda x: psnr(x, target, face)),
            ("SSIM", lambda x: ssim(x * face, target * face)),
        )
    }


def nearest(codes: Tensor, person: Tensor) -> dict[str, float]:
    """Whose code is nearest to each, among all others, entries scaled to one variance: shares of the same person and of the
    same expression by another one, and what chance gives. person (N,): a store's numbers, FRAMES rows each, PEOPLE to a group.
    """
    scaled = (codes - codes.mean(0)) / codes.std(0).clamp(min=1e-6)
    distances = torch.cdist(scaled, scaled).fill_diagonal_(float("inf"))
    chosen, rows = distances.argmin(1), torch.arange(len(codes))
    group = FRAMES * PEOPLE
    same = (rows // group == chosen // group) & (rows % FRAMES == chosen % FRAMES) & (person != person[chosen])
    others = len(codes) - 1
    return {
        "the same person": (person == person[chosen]).float().mean().item(),
        "person, by chance": (FRAMES - 1) / others,
        "the same expression by another": same.float().mean().item(),
        "expression, by chance": (PEOPLE - 1) / others,
    }


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description="How well a DSID reads rendered heads of held-out people.")
    parser.add_argument("--heads", type=Path, required=True, help="folder of rendered heads, of the test split")
    parser.add_argument("--dsid", type=Path, nargs="+", required=True, help="DSID files to compare")
    parser.add_argument("--out", type=Path, default=Path("runs/rendered"), help="folder for the tables")
    options = parser.parse_args(argv)
    try:
        store = HeadStore(options.heads)
        reports = [report(load_dsid(path).float(), store, path.stem) for path in options.dsid]
    except ValueError as error:
        parser.exit(2, f"{error}\n")
    for table in dict.fromkeys(name for tables in reports for name in tables):
        write_table(options.out, table, [tables[table] for tables in reports if table in tables])


if __name__ == "__main__":
    main()

"""What a DSID's codes hold of what a MEAF's tables ask for, as far as a line can read it:

    python -m deepexpo_models.evaluation.code_limits --heads runs/heads/test --dsid weights/photo-dsid.safetensors

The rotation that the code of each reference tells, and its expression by a ridge regression fitted on other expressions,
against the truth, on the requests of `evaluation.run`; beside its figures this says whether the codes or the drawing lose more.
"""

import argparse
from pathlib import Path

import torch

from ..data.heads.shards import FRAMES, PEOPLE, HeadStore
from ..dsid import DSID, load_dsid
from ..dsid.rotation import geodesic_angle, rotation_to_matrix
from .factors import FACTORS, MAIN, factors_of
from .real_faces import correlation, ridge
from .rendered_heads import codes_of
from .requests import make_requests
from .tables import write_table


@torch.no_grad()
def limits(model: DSID, store: HeadStore, count: int = 50, seed: int = 5) -> list[dict]:
    """A row of the table for each row of the requests: mean degrees between the code's rotation and the true one, and the
    correlation of each of FACTORS with the truth."""
    rows = store.unspoilt()
    codes, heads = codes_of(model, store, rows), store.heads(rows)
    true, found = torch.zeros(2, len(store), len(FACTORS))
    degrees = torch.zeros(len(store))
    true[rows] = factors_of(heads.units)
    found[rows] = ridge(codes["expression"], true[rows], rows // (FRAMES * PEOPLE))
    degrees[rows] = torch.rad2deg(geodesic_angle(rotation_to_matrix(codes["rotation"]), heads.rotation)).flatten()
    table = []
    for name, request in make_requests(store, count, seed).rows.items():
        asked = request.expression.rows
        told = {factor: correlation(found[asked, i], true[asked, i]) for i, factor in enumerate(FACTORS)}
        main = sum(told[factor] for factor in MAIN) / len(MAIN)
        table.append(
            {"row": name, "pictures": count, "degrees": degrees[request.pose.rows].mean().item(), "main": main, **told}
        )
    return table


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description="What a DSID's codes hold of what a MEAF's tables ask for.")
    parser.add_argument("--heads", type=Path, required=True, help="folder of rendered heads, of the test split")
    parser.add_argument("--dsid", type=Path, required=True, help="DSID file")
    parser.add_argument("--count", type=int, default=50, help="pictures of a row")
    parser.add_argument("--seed", type=int, default=5, help="of the requests; evaluation.run's is 5")
    parser.add_argument("--out", type=Path, default=Path("runs/limits"), help="folder for the table")
    options = parser.parse_args(argv)
    try:
        found = limits(load_dsid(options.dsid).float(), HeadStore(options.heads), options.count, options.seed)
    except ValueError as error:
        parser.exit(2, f"{error}\n")
    write_table(options.out, "code limits", found)


if __name__ == "__main__":
    main()

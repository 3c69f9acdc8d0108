"""Fit a DSID's read-outs to what MediaPipe's landmarker reads in rendered heads; its encoders and so its codes stay:

    python -m deepexpo_models.data.heads.judged --heads runs/heads/train --landmarker face_landmarker.task
    python -m deepexpo_models.training.fit_readout --dsid runs/semantics/dsid.safetensors --heads runs/heads/train \
        --out dsid.safetensors

In closed form (ridge regression), in seconds. Units that the landmarker has no number for, and the gaze, keep theirs.
"""

import argparse
from pathlib import Path

import torch
from torch import Tensor

from ..data.heads.shards import HeadStore
from ..dsid import DSID, load_dsid, save_dsid
from ..dsid.readout import ReadOut
from ..evaluation.probes import ridge_fit
from ..head import ARKIT52

RIDGE = 0.01  # share of the codes' variance
CHUNK = 64


def fit_readout(readout: ReadOut, codes: Tensor, judged: Tensor, share: float = RIDGE) -> ReadOut:
    """codes (N, D), judged (N, 52) with NaN where nothing is known -> read-outs whose rows of ARKit's units are least squares
    with a penalty of share times each entry's variance (Hoerl and Kennard 1970), the other rows as they were.

    Raises ValueError when fewer rows are known than a code has entries.
    """
    weight, bias = readout.weight.clone(), readout.bias.clone()
    for column, name in enumerate(ARKIT52):
        known = judged[:, column].isfinite()
        if not known.any():
            continue
        if known.sum() < codes.shape[1]:
            raise ValueError(
                f"{int(known.sum())} pictures with a number for {name} are too few for codes of {codes.shape[1]} entries; "
                f"let the landmarker read more rendered heads (deepexpo_models.data.heads.judged)"
            )
        row = readout.names.index(name)
        fitted, offset = ridge_fit(codes[known], judged[known, column, None], share)
        weight[row], bias[row] = fitted[0], offset[0]
    return ReadOut(readout.factors, weight, bias)


@torch.no_grad()
def codes_and_numbers(model: DSID, store: HeadStore) -> tuple[Tensor, Tensor]:
    """Expression codes (N, D) and the landmarker's numbers (N, 52) of all heads that it was asked about."""
    rows = store.judged_rows()
    codes = [model.semantic_encoder(store.images(part))["expression"].float() for part in rows.split(CHUNK)]
    return torch.cat(codes), store.judged(rows)


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description="Fit a DSID's read-outs to what MediaPipe's landmarker reads in heads.")
    parser.add_argument("--dsid", type=Path, required=True, help="a DSID file with read-outs, as train_heads makes it")
    parser.add_argument("--heads", type=Path, required=True, help="folder of rendered heads that the landmarker has read")
    parser.add_argument("--out", type=Path, required=True, help="file to write")
    options = parser.parse_args(argv)
    try:
        given = load_dsid(options.dsid)
        if given.readout is None:
            raise ValueError(f"{options.dsid.name} has no read-outs; train one with deepexpo_models.training.train_heads")
        codes, numbers = codes_and_numbers(load_dsid(options.dsid).float(), HeadStore(options.heads))
        given.readout = fit_readout(given.readout, codes, numbers)
    except ValueError as error:
        parser.exit(2, f"{error}\n")
    save_dsid(options.out, given, given.encoder)
    print(f"fitted to {len(codes)} heads: {options.out}")


if __name__ == "__main__":
    main()

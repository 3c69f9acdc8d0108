"""Let a DSID read a picture in a mirror and closer too, and use the mean (`dsid.averaging`); its encoders stay:

    python -m deepexpo_models.training.fit_averaging --dsid runs/photo/fitted.safetensors --heads runs/heads/train \
        --out dsid.safetensors

The map from a mirror image's expression code to the picture's is fitted on rendered heads, in closed form (ridge regression).
Training the encoder on makes it void, so fit it last.
"""

import argparse
from pathlib import Path

import torch
from torch import Tensor

from ..data.heads.shards import HeadStore
from ..dsid import DSID, load_dsid, save_dsid
from ..dsid.averaging import Averaging
from ..evaluation.probes import ridge_fit
from ..image import resize

RIDGE = 0.001  # share of the codes' variance
ZOOMS = (0.7,)
PICTURES = 6000
CHUNK = 64


def fit_averaging(codes: Tensor, mirrored: Tensor, zooms: tuple[float, ...] = ZOOMS) -> Averaging:
    """Expression codes (N, E) of pictures and of their mirror images -> the map from these to those: least squares with a
    penalty of RIDGE times each entry's variance (Hoerl and Kennard 1970). zooms: see `Averaging`.

    Raises ValueError when there are fewer pictures than a code has entries.
    """
    if len(codes) < codes.shape[1]:
        raise ValueError(f"{len(codes)} pictures are too few for codes of {codes.shape[1]} entries; render more heads")
    weight, bias = ridge_fit(mirrored, codes, RIDGE)
    return Averaging(weight.float(), bias.float(), torch.tensor(zooms))


@torch.no_grad()
def codes_and_mirrored(model: DSID, store: HeadStore, count: int = PICTURES) -> tuple[Tensor, Tensor]:
    """Expression codes (N, E) of so many heads of a store at most, evenly taken, and of their mirror images."""
    encoder, size = model.semantic_encoder, model.config.image_size
    rows, found = torch.arange(0, len(store), max(1, len(store) // count)), []
    for part in rows.split(CHUNK):
        images = resize(store.images(part), size)
        found.append([encoder(view)["expression"].float() for view in (images, images.flip(-1))])
    return torch.cat([own for own, _ in found]), torch.cat([mirrored for _, mirrored in found])


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description="Let a DSID read a picture in a mirror and closer too, and use the mean.")
    parser.add_argument("--dsid", type=Path, required=True, help="a DSID file")
    parser.add_argument("--heads", type=Path, required=True, help="folder of rendered heads")
    parser.add_argument("--zooms", type=float, nargs="*", default=ZOOMS, help="closer views, shares of the crop")
    parser.add_argument("--out", type=Path, required=True, help="file to write")
    options = parser.parse_args(argv)
    try:
        given = load_dsid(options.dsid)
        codes, mirrored = codes_and_mirrored(load_dsid(options.dsid).float(), HeadStore(options.heads))
        given.averaging = fit_averaging(codes, mirrored, tuple(options.zooms))
    except ValueError as error:
        parser.exit(2, f"{error}\n")
    save_dsid(options.out, given, given.encoder)
    print(f"fitted to {len(codes)} heads: {options.out}")


if __name__ == "__main__":
    main()

"""What a base's VAE loses of a face: what a DSID, and a judge, read in heads before and after they went through it.

    python -m deepexpo_models.evaluation.round_trip --base weights/heads-base.safetensors runs/vae/starter-base.safetensors \\
        --heads runs/heads/test --reader weights/photo-dsid.safetensors --judge weights/judge-heads.safetensors

Beside them what is read before: a VAE that loses nothing has the same figures, agrees with it fully (r 1, 0 degrees) and has a
high PSNR, which alone says little of expressions.
"""

import argparse
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from ..data.heads.shards import Heads, HeadStore
from ..dsid import load_dsid
from ..pipeline.base import Base, load_base
from .base_gate import held_out
from .judges.judge import load_judge
from .reading import Reading, agreement, asked, read, read_by_judge
from .tables import write_table

COUNT, CHUNK = 512, 32


@torch.no_grad()
def rebuilt(base: Base, images: Tensor) -> Tensor:
    """images (N, 3, S, S) in [-1, 1] -> the same through the base's VAE."""
    parts = [part.to(base.unet.device) for part in images.split(CHUNK)]
    return torch.cat([base.decode(base.encode(part)).clamp(-1, 1).cpu() for part in parts])


def losses(again: Tensor, heads: Heads, reader: Callable[[Tensor], Reading]) -> dict[str, dict[str, float]]:
    """again (N, 3, S, S): the heads' pictures after the round trip. Name of a comparison -> `agreement`: what is read before it
    with the truth, after it with the truth, and after with before; of the last the PSNR too, in decibels, mean over the
    pictures."""
    before, after, truth = reader(heads.images), reader(again), asked(heads)
    psnr = -10 * torch.log10((again - heads.images).square().mean((1, 2, 3)) / 4)
    return {
        "before, truth": agreement(before, truth),
        "after, truth": agreement(after, truth),
        "after, before": {"psnr": psnr.mean().item(), **agreement(after, before)},
    }


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description="What the VAE of a base loses of rendered heads, read by a DSID.")
    parser.add_argument("--base", type=Path, nargs="+", required=True, help="starter files or other bases to compare")
    parser.add_argument("--heads", type=Path, required=True, help="folder of rendered heads of held-out people")
    parser.add_argument(
        "--reader", type=Path, required=True, help="DSID file with read-outs, as weights/photo-dsid.safetensors"
    )
    parser.add_argument("--judge", type=Path, help="judge of rendered heads that reads them too")
    parser.add_argument("--out", type=Path, default=Path("runs/round-trip"), help="folder for the table")
    parser.add_argument("--count", type=int, default=COUNT, help="heads to read")
    options = parser.parse_args(argv)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        heads = held_out(HeadStore(options.heads), options.count)
        readers: list[Callable[[Tensor], Reading]] = [partial(read, load_dsid(options.reader).float().to(device))]
        if options.judge:
            readers.append(partial(read_by_judge, load_judge(options.judge).to(device)))
        rows = []
        for path in options.base:
            again = rebuilt(load_base(str(path), device), heads.images)
            for name, reader in zip(("dsid", "judge"), readers):
                found = losses(again, heads, reader).items()
                rows += [
                    {"vae": f"{path.parent.name}/{path.stem}", "reader": name, "compared": what, **row} for what, row in found
                ]
    except ValueError as error:
        parser.exit(2, f"{error}\n")
    write_table(options.out, "round-trip", rows)


if __name__ == "__main__":
    main()

"""What a base draws of a head's true factors, read by a DSID: whether it is worth a MEAF, which steers what a base can draw.

    python -m deepexpo_models.evaluation.base_gate --base runs/base/starter-base.safetensors \\
        --factors runs/base/factors.safetensors --heads runs/heads/test --reader weights/photo-dsid.safetensors

Heads are drawn anew from their factors and captions, and from the captions alone. Beside them stand what the reader
makes of the true pictures, the most that can be reached, and the drawn pictures against other heads, what chance gives.
"""

import argparse
from pathlib import Path

import torch
from torch import Tensor

from ..data.heads.captions import captions
from ..data.heads.shards import Heads, HeadStore
from ..dsid import DSID, load_dsid
from ..pipeline.base import Base, load_base
from ..pipeline.sampling import sample
from ..starter.factors import FactorTokens, beside, load_factors, true_factors
from .plots import sheet_picture
from .reading import agreement, asked, read
from .tables import write_table

COUNT, STEPS, CFG = 64, 25, 2.5
CHUNK = 32  # pictures drawn at once
SHOWN = 12  # heads of the sheet


def held_out(store: HeadStore, count: int = COUNT) -> Heads:
    """Evenly over the store, of the pictures that are not spoilt."""
    rows = store.unspoilt()
    return store.heads(rows[torch.linspace(0, len(rows) - 1, min(count, len(rows))).long()])


def gate(drawn: Tensor, heads: Heads, reader: DSID) -> dict[str, dict[str, float]]:
    """drawn (N, 3, S, S) in [-1, 1], one for each head -> name of a comparison -> `agreement`: what is read in the drawn
    pictures against what is read in the true ones, and against what was asked for; the true ones against that; and the drawn
    pictures against the next head's true ones."""
    found, seen, told = read(reader, drawn), read(reader, heads.images), asked(heads)
    others = torch.arange(len(drawn)).roll(1)
    return {
        "drawn, true pictures": agreement(found, seen),
        "drawn, asked": agreement(found, told),
        "true pictures, asked": agreement(seen, told),
        "drawn, another's": agreement(found, seen[others]),
    }


@torch.no_grad()
def draw(base: Base, tokens: FactorTokens | None, heads: Heads, steps: int = STEPS, cfg: float = CFG, seed: int = 0) -> Tensor:
    """(N, 3, S, S) in [-1, 1] of the heads' captions and, where tokens are given, factors; always from the same noise."""
    generator = torch.Generator().manual_seed(seed)
    sentences, device = captions(heads, generator), base.unet.device
    side = base.unet.config.sample_size
    noise = torch.randn(len(sentences), base.unet.config.in_channels, side, side, generator=generator).to(device)
    drawn = []
    for rows in torch.arange(len(sentences)).split(CHUNK):
        words = [sentences[row] for row in rows.tolist()]
        text, negative = base.text(words), base.text([""] * len(words))
        if tokens is not None:
            made = tokens(true_factors(heads)[rows].to(device))
            told = torch.ones(len(rows), dtype=torch.bool, device=device)
            text, negative = (
                beside(part["encoder_hidden_states"], made, there) for part, there in ((text, told), (negative, ~told))
            )
        drawn.append(base.decode(sample(base, text, negative, noise[rows], steps, cfg)).clamp(-1, 1).cpu())
    return torch.cat(drawn)


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description="What a base draws of rendered heads' true factors, read by a DSID.")
    parser.add_argument("--base", type=Path, required=True, help="starter file")
    parser.add_argument("--factors", type=Path, required=True, help="factors file of its training, beside it")
    parser.add_argument("--heads", type=Path, required=True, help="folder of rendered heads of held-out people")
    parser.add_argument(
        "--reader", type=Path, required=True, help="DSID file with read-outs, as weights/photo-dsid.safetensors"
    )
    parser.add_argument("--out", type=Path, default=Path("runs/gate"), help="folder for the table and the pictures")
    parser.add_argument("--count", type=int, default=COUNT, help="heads to draw")
    parser.add_argument("--steps", type=int, default=STEPS)
    parser.add_argument("--cfg", type=float, default=CFG, help="guidance")
    options = parser.parse_args(argv)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        base, tokens = load_base(str(options.base), device), load_factors(options.factors, options.base).to(device)
        heads, reader = held_out(HeadStore(options.heads), options.count), load_dsid(options.reader).float().to(device)
        drawn = {
            name: draw(base, given, heads, options.steps, options.cfg)
            for name, given in (("factors and words", tokens), ("words alone", None))
        }
        tables = {name: gate(pictures, heads, reader) for name, pictures in drawn.items()}
    except ValueError as error:
        parser.exit(2, f"{error}\n")
    rows = [{"drawn from": name, "compared": what, **row} for name, table in tables.items() for what, row in table.items()]
    write_table(options.out, "gate", rows)
    shown = {"true": heads.images, **drawn}
    notes = [note for name in shown for note in (name, *[""] * (len(heads.images[:SHOWN]) - 1))]
    sheet_picture(options.out / "gate.png", torch.cat([images[:SHOWN] for images in shown.values()]), SHOWN, notes)


if __name__ == "__main__":
    main()

"""Mean of the weights of trained files that began from the same one: bases, with their factor tokens, or MEAFs.

    python -m deepexpo_models.training.average --out runs/mean/starter-base.safetensors \
        runs/[ab]/starter-base.safetensors --factors runs/[ab]/factors.safetensors

"Model soups" (Wortsman et al. 2022): runs of other seeds, each with its own pictures and noise, and the file that they began
from. Files that did not begin from one another have no useful mean. Shares of the files: --shares; else equal ones.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from ..starter.factors import FILE_KIND as FACTORS
from ..starter.factors import load_factors
from ..starter.files import FILE_KIND as STARTER
from ..weights import METADATA, TRAINED_ON, Header, check_shapes, load_tensors, read_header, save_tensors

MEAF = "meaf"
ALIKE = {"encoder_sha256": "DSID", "config": "config"}  # what files of one mean share: key of the metadata -> its name


def average(out: Path, files: Sequence[Path], shares: Sequence[float] = (), factors: Sequence[Path] = ()) -> tuple[Path, ...]:
    """Write the mean of bases, or of MEAFs, to out, and that of the bases' factor tokens, one file for each base, to
    factors.safetensors beside it; shares: weight of each file, equal if none are given. Returns the files written.

    Raises ValueError, in one sentence and before anything is written, for files of another kind or layout, that read another
    DSID's codes, or factor tokens of another base.
    """
    kind = read_header(files[0]).kind
    if kind not in (STARTER, MEAF):
        raise ValueError(f"{files[0].name} holds {kind} data; only bases ({STARTER}) and MEAFs ({MEAF}) are averaged")
    if factors and len(factors) != len(files):
        raise ValueError(f"{len(factors)} files of factor tokens for {len(files)} bases; give one for each, in the same order")
    for file, base in zip(factors, files):
        load_factors(file, base)
    mean = _write(out, kind, files, shares)
    if not factors:
        return (mean,)
    belongs = read_header(mean).metadata["sha256"]
    return mean, _write(out.with_name("factors.safetensors"), FACTORS, factors, shares, starter_sha256=belongs)


def _write(out: Path, kind: str, files: Sequence[Path], shares: Sequence[float], **changed: str) -> Path:
    loaded = [load_tensors(file, kind) for file in files]
    headers, tensors = [header for header, _ in loaded], [held for _, held in loaded]
    _check_alike(headers)
    first = headers[0]
    kept = {key: value for key, value in first.metadata.items() if key not in (*METADATA, "deepexpo_format")}
    known = {picture for header in headers for picture in header.trained_on}
    if "trained_on" in kept:
        kept["trained_on"] = ", ".join(picture for picture in TRAINED_ON if picture in known)
    mean = mean_tensors(tensors, _normalised(shares, len(files)))
    out.parent.mkdir(parents=True, exist_ok=True)
    save_tensors(out, kind, mean, name=first.name, config=first.config, base=first.base, **{**kept, **changed})
    return out


def mean_tensors(files: Sequence[dict[str, Tensor]], shares: Sequence[float]) -> dict[str, Tensor]:
    """Tensors of the same names and shapes -> their mean with shares that add up to 1, in the first file's dtypes; whole
    numbers as they are in the first."""
    weights = torch.tensor(shares, dtype=torch.float64)
    mean = {}
    for name, value in files[0].items():
        whole = torch.stack([file[name].double() for file in files], -1) @ weights
        mean[name] = whole.to(value.dtype) if value.is_floating_point() else value
    return mean


def _normalised(shares: Sequence[float], count: int) -> list[float]:
    shares = shares or [1.0] * count
    if len(shares) != count:
        raise ValueError(f"{len(shares)} shares for {count} files; give one for each, in the same order")
    if not all(0 <= share < float("inf") for share in shares) or not sum(shares):
        raise ValueError(f"shares are {', '.join(f'{share:g}' for share in shares)}; they are 0 or more, one of them above 0")
    return [share / sum(shares) for share in shares]


def _check_alike(headers: Sequence[Header]) -> None:
    if len(headers) < 2:
        raise ValueError(f"{headers[0].path.name} alone has no mean; give two files or more")
    first = headers[0]
    for header in headers[1:]:
        other = [name for key, name in ALIKE.items() if header.metadata.get(key) != first.metadata.get(key)]
        if other:
            raise ValueError(
                f"{header.path} has another {other[0]} than {first.path}; a mean is of files that began from the same one"
            )
        check_shapes(header.path.name, header.shapes, first.shapes)


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("files", type=Path, nargs="+", help="bases, or MEAFs")
    parser.add_argument(
        "--factors", type=Path, nargs="+", default=(), help="of bases: the factor tokens of each, in the same order"
    )
    parser.add_argument("--shares", type=float, nargs="+", default=(), help="weight of each file; equal if not given")
    parser.add_argument("--out", type=Path, required=True, help="file to write; factors.safetensors is written beside it")
    options = parser.parse_args(argv)
    try:
        print(*average(options.out, options.files, options.shares, options.factors), sep="\n")
    except ValueError as error:
        parser.exit(2, f"{error}\n")


if __name__ == "__main__":
    main()

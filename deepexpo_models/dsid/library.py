"""A library of saved codes: what a file says of itself, and the expressions that come with the pack.

    python -m deepexpo_models.dsid.library --out expressions

writes one file for each preset of `head.expressions`, as codes of face landmarks, each with a small picture of its head.
"""

import argparse
from dataclasses import dataclass
from pathlib import Path

from ..head.expressions import PRESETS, REST, preset_units
from ..weights import read_header
from .archive import LOADERS
from .edit import arkit_semantics
from .files import TAGS, THUMBNAIL, THUMBNAIL_SHAPE, save_semantics, split_tags
from .thumbnails import thumbnail

RESTING = "resting"  # the file's name of the preset "none"


@dataclass(frozen=True)
class Entry:
    """A saved code, without its numbers. count: codes in the file."""

    kind: str
    encoder: str
    encoder_sha256: str
    count: int
    tags: tuple[str, ...]
    has_picture: bool


def describe(path: Path) -> Entry:
    """Reads the header alone. Raises ValueError, in one sentence, for what is no saved code."""
    header = read_header(path)
    if header.kind not in LOADERS:
        raise ValueError(f"{header.path.name} holds {header.kind} data, no saved code")
    numbers = header.shapes.get("identity" if header.kind == "identity" else "expression", (0,))
    return Entry(
        kind=header.kind,
        encoder=header.name,
        encoder_sha256=header.metadata.get("encoder_sha256", ""),
        count=numbers[0],
        tags=split_tags(header.metadata.get(TAGS, "")),
        has_picture=header.shapes.get(THUMBNAIL) == THUMBNAIL_SHAPE,
    )


def write_expressions(folder: Path) -> list[Path]:
    """One file for each preset, and one for a resting face; the tag is where its action units are from."""
    written = []
    for preset in (REST, *PRESETS):
        code = arkit_semantics(preset_units(preset)[None])
        path = folder / f"{RESTING if preset == REST else preset}.safetensors"
        save_semantics(path, code, thumbnail(code), tags=("preset",))
        written.append(path)
    return written


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description="Write the expressions that come with the pack.")
    parser.add_argument("--out", type=Path, required=True, help="folder for <preset>.safetensors")
    out = parser.parse_args(argv).out
    out.mkdir(parents=True, exist_ok=True)
    print(f"{len(write_expressions(out))} expressions in {out}")


if __name__ == "__main__":
    main()

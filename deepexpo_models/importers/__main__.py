"""Make a MEAF of a public face adapter: python -m deepexpo_models.importers FILE --out OUT [--kind KIND] [--lora-out LORA]"""

import argparse
import sys
from pathlib import Path

from ..meaf import save_meaf
from ..meaf.files import face_metadata
from . import KINDS, Layout, convert, lora_tensors, open_public, recognise, save_lora

NEEDS = {  # face model -> what makes its codes
    "buffalo_l": "Encode Identity with recogniser buffalo_l (insightface)",
    "antelopev2": "Encode Identity with recogniser antelopev2 (insightface)",
    "clip_vit_h": "Encode Identity with recogniser clip_vit_h (nothing else to install)",
    "smirk": "SMIRK's 55 numbers (50 expression, 2 eyelids, 3 jaw) as the expression of a semantics file",
}


def main(argv: list[str] | None = None) -> int:
    options = _parser().parse_args(argv)
    try:
        print(run(options))
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


def run(options: argparse.Namespace) -> str:
    """Returns what was done, in words. Nothing is written when anything is refused."""
    file = open_public(options.file)
    layout = recognise(file, options.kind)
    if options.lora_out and not layout.kind.lora:
        raise ValueError(f"{file.path.name} is {layout.title}, which has no LoRA inside; leave out --lora-out")
    tensors = file.tensors()
    save_meaf(options.out, convert(layout, tensors, options.name or f"{layout.kind.name}-{layout.base}"))
    if options.lora_out:
        save_lora(options.lora_out, lora_tensors(tensors, layout.unet))
    return _report(layout, options)


def _report(layout: Layout, options: argparse.Namespace) -> str:
    facts = ", ".join(f"{key} {value}" for key, value in face_metadata(layout.stream).items())
    lines = [
        f"{options.file.name} is {layout.title}: written to {options.out} ({layout.kind.stream} stream; {facts})",
        f"its codes come from: {NEEDS[layout.stream.face_model]}",
    ]
    if layout.kind.picture != (0, 0):
        lines.append("it looks at the face: connect a CLIP Vision model (ViT-H/14) to Encode Identity")
    if options.lora_out:
        lines.append(f"its LoRA was written to {options.lora_out}: load it with strength_model 0.6 to 1")
    elif layout.kind.lora:
        lines.append("it has a LoRA inside, which it needs for full likeness: --lora-out FILE writes it as an ordinary LoRA")
    return "\n".join(lines)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m deepexpo_models.importers", description="Make a MEAF of a public face adapter."
    )
    parser.add_argument("file", type=Path, help="the published .safetensors or .bin file")
    parser.add_argument("--out", type=Path, required=True, help="the MEAF file to write, for Load MEAF")
    parser.add_argument("--lora-out", type=Path, help="write the LoRA inside the file to this ordinary LoRA file")
    parser.add_argument("--kind", choices=KINDS, help="what the file is, where its tensors leave that open")
    parser.add_argument("--name", help="the MEAF's name in messages; <kind>-<base> if not given")
    return parser


if __name__ == "__main__":
    sys.exit(main())

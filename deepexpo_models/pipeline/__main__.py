"""A prompt, a person, a reference -> a picture: python -m deepexpo_models.pipeline --prompt "..." --out picture.png

Without other files it draws with the starter, the small model that comes with the pack:

    python -m deepexpo_models.pipeline --prompt "portrait of a person, forest background" \\
        --identity workflows/samples/person_1.png --reference workflows/samples/laughing.png --out picture.png

Several references, or --identity given again for another person, make a sheet; a clip as the reference makes a clip.
"""

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from ..dsid.precision import PRECISIONS
from ..errors import first_line
from ..faces import CHOICES

if TYPE_CHECKING:
    from .base import Base
    from .face_control import FaceControl
    from .generate import Pipeline

STREAMS = ("identity", "expression", "pose")


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        prog="python -m deepexpo_models.pipeline", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add_options(parser)
    add_model_options(parser)
    options = parser.parse_args(argv)
    try:
        run(options)
    except ValueError as error:
        parser.exit(2, f"{parser.prog}: {error}\n")


def _adder(parser: argparse.ArgumentParser):
    """Every option has its default in its help."""

    def add(name: str, words: str, **how) -> None:
        parser.add_argument(f"--{name}", help=words, **how)

    return add


def add_options(parser: argparse.ArgumentParser) -> None:
    """What one picture, clip or sheet is made of."""
    add = _adder(parser)
    add("prompt", "what the picture shows", required=True)
    add("negative", "what it should not show", default="")
    add("identity", "photos of one person; give it again for another", nargs="+", action="append", type=Path, metavar="PHOTO")
    add("reference", "expression and head pose: photos, or one clip", nargs="+", type=Path, metavar="PHOTO")
    add("out", "default: %(default)s; an .mp4 for a clip", type=Path, default=Path("picture.png"))
    add("seed", "of the noise (default: %(default)s)", type=int, default=0)


def add_model_options(parser: argparse.ArgumentParser) -> None:
    """What pictures are drawn with."""
    add = _adder(parser)
    add("steps", "of the sampler (default: 25)", type=int)
    add("cfg", "guidance (default: 5 for the starter, else 7)", type=float)
    for stream in STREAMS:
        add(f"{stream}-strength", "0 is off, 1 is as trained (default: 1)", type=float)
    add("base", "checkpoint file or diffusers folder of SD1.5, SD2.x or SDXL (default: the starter)", default="")
    add("meaf", "MEAF file made for the base", default="")
    add("dsid", "DSID file whose codes the MEAF reads", default="")
    add("base-config", "diffusers folder of a checkpoint's family, where diffusers' cache has none", default="")
    add("landmarker", "MediaPipe's file face_landmarker.task, which measures faces for --controlnet", type=Path)
    add("controlnet", "face ControlNet made for the base: diffusers folder or file", default="")
    add("control-style", "what it was trained on (default: %(default)s)", default="mediapipe face")
    add("control-strength", "0 is off (default: %(default)s)", type=float, default=0.9)
    add("face-height", "of the face in the map, of the picture's height (default: %(default)s)", type=float, default=0.4)
    add("width", "pixels (default: the base's own)", type=int, default=0)
    add("height", "pixels (default: the base's own)", type=int, default=0)
    add("detector", "how faces are found (default: auto)", choices=CHOICES)
    add("insightface", "folder that holds models/<pack>/*.onnx", type=Path)
    add(
        "precision",
        "of the DSID's encoders; bfloat16 for clips, where the hardware has it",
        default="float32",
        choices=PRECISIONS,
    )
    add("compile", "the U-Net by torch.compile: slower for the first picture, faster for many", action="store_true")
    add("device", "cuda, mps or cpu (default: the best there is)", default="")
    add("batch", "pictures drawn at once (default: 4; 25 for the starter)", type=int)


def open_pipeline() -> "type[Pipeline]":
    """The class Pipeline. Raises ValueError where a package is missing or broken."""
    try:
        from .generate import Pipeline
    except Exception as error:  # broken installations raise anything
        what = f"{error.name} is not installed" if isinstance(error, ImportError) and error.name else first_line(error)
        raise ValueError(f'the pipeline cannot be loaded ({what}); pip install ".[pipeline]" in the pack\'s folder') from error
    return Pipeline


def load_pipeline(options: argparse.Namespace) -> "Pipeline":
    """The Pipeline of `add_model_options`. Raises ValueError, in one sentence, for what cannot be used."""
    if any(count is not None and count < 1 for count in (options.steps, options.batch)):
        raise ValueError("--steps and --batch are at least 1")
    chosen = {name: getattr(options, name) for name in ("steps", "cfg", "detector", "insightface", "batch", "landmarker")}
    pipeline = open_pipeline().load(
        options.base, options.meaf, options.dsid, options.device, options.base_config, options.precision, options.compile,
        **{name: value for name, value in chosen.items() if value is not None},
    )  # fmt: skip
    if options.controlnet:
        pipeline.control = face_control(pipeline.base, options)
    return pipeline


def run(options: argparse.Namespace) -> None:
    """Draw and write options.out. Raises ValueError, in one sentence, for what cannot be done."""
    from .photos import is_clip, read_photos

    people, references = options.identity or [], options.reference or []
    clip = any(map(is_clip, references))
    if clip != is_clip(options.out) or (clip and (len(references), len(people)) > (1, 1)):
        raise ValueError("one clip as the reference makes one clip; give --out the ending .mp4 for it, and .png for photos")
    pipeline = load_pipeline(options)
    photos = [read_photos(person)[0] for person in people]
    frames = references if clip else read_photos(references)
    pictures = draw(pipeline, options, people, frames)
    write(options.out, pictures, photos, frames, references[0] if clip else None)
    print(f"{len(pictures)} picture{'s' * (len(pictures) > 1)}: {options.out}")


def face_control(base: "Base", options: argparse.Namespace) -> "FaceControl":
    from ..dsid.mesh import Framing
    from .face_control import CONTROL_STYLES, FaceControl

    if options.control_style not in CONTROL_STYLES:
        raise ValueError(f"unknown --control-style {options.control_style!r}; known: {', '.join(CONTROL_STYLES)}")
    settings = {"strength": options.control_strength, "framing": Framing(options.face_height)}
    return FaceControl.load(options.controlnet, base, style=options.control_style, **settings)


def draw(pipeline, options: argparse.Namespace, people: list, frames: list) -> list:
    """Person by person, a picture for each reference."""
    from tqdm import tqdm

    strengths = {stream: value for stream in STREAMS if (value := getattr(options, f"{stream}_strength")) is not None}
    semantics = pipeline.semantics(frames) if frames else None
    pictures = []
    for number, person in enumerate(people or [None]):
        with tqdm(total=100, unit="%", desc=f"person {number + 1}" if len(people) > 1 else "drawing", file=sys.stderr) as bar:
            pictures += pipeline(
                options.prompt, person, semantics, negative=options.negative, seed=options.seed, strengths=strengths,
                width=options.width, height=options.height, progress=lambda share: bar.update(round(100 * share) - bar.n),
            )  # fmt: skip
    return pictures


def write(out: Path, pictures: list, people: list, references: list, clip: Path | None) -> None:
    """One picture, the clip, or a sheet with the photos at its borders."""
    from PIL.Image import fromarray

    from .photos import clip_rate, sheet, write_clip

    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        if clip:
            write_clip(out, pictures, clip_rate(clip))
        elif len(pictures) == 1:
            pictures[0].save(out)
        else:
            fromarray(sheet(people, references, pictures).numpy()).save(out)
    except (OSError, ValueError) as error:
        raise ValueError(f"{out} cannot be written ({error}); choose another --out") from error


if __name__ == "__main__":
    main()

"""What a base and its MEAF draw of photographs: does a person take on another's expression and head pose, and stay that person?

    python -m deepexpo_models.evaluation.drawn_photos --frames runs/real/frames-all-30.npz \\
        --base weights/heads-base.safetensors --meaf weights/heads-meaf.safetensors --dsid weights/photo-dsid.safetensors \\
        --landmarker face_landmarker.task

--frames: what `real_faces` keeps of the user's own clips and stills. Two judges read the drawn pictures, against what the
landmarker read in the reference: the DSID, which gave the codes and so is partial, and the landmarker, where it finds a face.
"""

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from ..dsid import DSID
from ..image import bytes_to_model, model_to_bytes, model_to_comfy, resize
from ..pipeline.generate import Pipeline
from .factors import factors_of
from .plots import sheet_picture
from .reading import Reading, agreement, read
from .real_frames import Landmarker, RealFrames, load_frames
from .tables import write_table

PROMPTS = tuple(
    f"a photo of a person, plain {behind} background, {clothes} clothes"
    for behind, clothes in (("teal", "red"), ("grey", "blue"), ("pink", "white"), ("brown", "green"))
)
SHOWN = 12  # columns of the sheet


@dataclass(frozen=True)
class Pairs:
    """Rows of frames (N,): who, and whose expression and pose; never of one file."""

    person: Tensor
    reference: Tensor


def sample_pairs(frames: RealFrames, count: int, seed: int = 0) -> Pairs:
    """Raises ValueError for frames of a single file."""
    if len(frames.clip.unique()) < 2:
        raise ValueError("all frames are of one file; people and references come from different ones, give more files")
    generator = torch.Generator().manual_seed(seed)
    pairs: list[tuple[int, int]] = []
    while len(pairs) < count:
        person, reference = torch.randint(len(frames.clip), (2,), generator=generator).tolist()
        if frames.clip[person] != frames.clip[reference]:
            pairs.append((person, reference))
    return Pairs(*torch.tensor(pairs).T)


@torch.no_grad()
def draw_pairs(pipeline: Pipeline, frames: RealFrames, pairs: Pairs) -> Tensor:
    """(N, 3, S, S) in [-1, 1]; the prompts take turns, each picture has noise of its own."""
    pictures = []
    for row, (person, reference) in enumerate(zip(pairs.person.tolist(), pairs.reference.tolist())):
        photos = (model_to_comfy(bytes_to_model(frames.crops[[place]])) for place in (person, reference))
        (picture,) = pipeline(PROMPTS[row % len(PROMPTS)], *photos, seed=row)
        pictures.append(torch.from_numpy(np.array(picture)).movedim(-1, 0))
    return bytes_to_model(torch.stack(pictures))


def told(frames: RealFrames, rows: Tensor) -> Reading:
    """What the landmarker read in frames."""
    return Reading(frames.rotation[rows], factors_of(frames.units[rows]))


def seen_by(landmarker: Landmarker, images: Tensor) -> tuple[Reading, Tensor]:
    """What it reads in images (N, 3, S, S) in [-1, 1], of those in which it finds a face; and their rows (M,)."""
    found = [(row, landmarker(model_to_bytes(image).movedim(0, -1).numpy())) for row, image in enumerate(images)]
    found = [(row, seen) for row, seen in found if seen is not None]
    if not found:
        raise ValueError("the landmarker finds no face in any drawn picture")
    rotation, units = (torch.stack([getattr(seen, name) for _, seen in found]) for name in ("rotation", "units"))
    return Reading(rotation.float(), factors_of(units.float())), torch.tensor([row for row, _ in found])


def compare(found: Reading, frames: RealFrames, pairs: Pairs, rows: Tensor) -> dict[str, dict[str, float]]:
    """found: read in the drawn pictures of rows (M,). Against the reference, the person's own photo, another's reference."""
    reference = pairs.reference[rows]
    others = {"the reference": reference, "the person's own photo": pairs.person[rows], "another reference": reference.roll(1)}
    return {f"drawn, {name}": agreement(found, told(frames, chosen)) for name, chosen in others.items()}


@torch.no_grad()
def likeness(dsid: DSID, drawn: Tensor, people: Tensor, who: Tensor) -> dict[str, float]:
    """Of drawn pictures and photos of people, in pairs, who (N,): the photo's file. Mean cosine of the identity codes of a
    pair, and of a picture and another's photo; how often the nearest of all photos is of the same file, and by chance."""
    size = dsid.config.image_size
    codes = [F.normalize(dsid.encode_identity(resize(images, size)), dim=-1) for images in (drawn, people)]
    alike, same = codes[0] @ codes[1].T, who[:, None] == who
    return {
        "own": alike.diagonal().mean().item(),
        "another's": alike[~same].mean().item(),
        "nearest": same[torch.arange(len(same)), alike.argmax(1)].float().mean().item(),
        "by chance": same.float().mean().item(),
    }


def measure(frames: RealFrames, pairs: Pairs, drawn: Tensor, dsid: DSID, landmarker: Landmarker | None) -> list[dict]:
    """Rows of the table: judge, what is compared, and `agreement`."""
    everyone = torch.arange(len(drawn))
    judges: dict[str, tuple[Reading, Tensor]] = {"DSID": (read(dsid, drawn), everyone)}
    if landmarker:
        judges["landmarker"] = seen_by(landmarker, drawn)
    rows = [
        {"judge": judge, "compared": what, **row}
        for judge, (found, places) in judges.items()
        for what, row in compare(found, frames, pairs, places).items()
    ]
    photos = read(dsid, bytes_to_model(frames.crops[pairs.reference]))
    floor = agreement(photos, told(frames, pairs.reference))
    return [*rows, {"judge": "DSID", "compared": "the reference's photo, the reference", **floor}]


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description="What a base and its MEAF draw of photographs.")
    parser.add_argument("--frames", type=Path, required=True, help="frames-*.npz that real_faces keeps in its folder")
    for name in ("base", "meaf", "dsid"):
        parser.add_argument(f"--{name}", type=Path, required=True, help=f"the {name} file")
    parser.add_argument("--landmarker", type=Path, help="MediaPipe's file face_landmarker.task, a judge beside the DSID")
    parser.add_argument("--out", type=Path, default=Path("runs/photos"), help="folder for tables and the sheet")
    parser.add_argument("--count", type=int, default=100, help="pictures to draw")
    parser.add_argument("--cfg", type=float, help="guidance (default: the base's own)")
    options = parser.parse_args(argv)
    try:
        frames = load_frames(options.frames)
        pairs = sample_pairs(frames, options.count)
        landmarker = Landmarker(options.landmarker) if options.landmarker else None
        guidance = {} if options.cfg is None else {"cfg": options.cfg}
        pipeline = Pipeline.load(options.base, options.meaf, options.dsid, detector="none", **guidance)
        drawn = draw_pairs(pipeline, frames, pairs)
        dsid = cast(DSID, pipeline.dsid)
        people = bytes_to_model(frames.crops[pairs.person])
        write_table(options.out, "photos", measure(frames, pairs, drawn, dsid, landmarker))
        write_table(options.out, "likeness", [likeness(dsid, drawn, people, frames.clip[pairs.person])])
    except ValueError as error:
        parser.exit(2, f"{error}\n")
    shown = {"who": people, "expression and pose": bytes_to_model(frames.crops[pairs.reference]), "drawn": drawn}
    notes = [note for name in shown for note in (name, *[""] * (min(SHOWN, len(drawn)) - 1))]
    small = [F.interpolate(images[:SHOWN], drawn.shape[-2:], mode="area") for images in shown.values()]
    sheet_picture(options.out / "photos.png", torch.cat(small), SHOWN, notes)


if __name__ == "__main__":
    main()

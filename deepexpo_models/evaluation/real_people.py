"""How well encoders tell real people apart: a DSID's identity encoder beside public recognisers, on a folder for each person.

    python -m deepexpo_models.evaluation.real_people --people FOLDER --landmarker face_landmarker.task \\
        --dsid weights/photo-dsid.safetensors --judges dlib

Every picture is cropped as Crop Face does, by MediaPipe's landmarker. --judges: of `judges.photos` that give an identity:
insightface and antelopev2 (with --insightface-path), dlib. Writes one table; the pixels of the crop stand beside as the least
that a recogniser must beat.
"""

import argparse
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from ..dsid import DSID, load_dsid
from ..image import bytes_to_model, resize
from .judges.photos import JudgeFiles, open_judge
from .metrics import area_under_curve
from .real_frames import RealFrames, collect
from .tables import row_names, write_table

PIXELS = 16  # side of the grey picture that stands for the crop itself
CHUNK = 32  # pictures at once

Reader = Callable[[Tensor], Tensor]  # crops (B, 3, S, S) in [-1, 1] -> vectors (B, D), NaN where it finds no face


def people_of(frames: RealFrames) -> Tensor:
    """(N,): the number of the folder that each picture lies in."""
    folders = [str(Path(name).parent) for name in frames.names]
    order = sorted(set(folders))
    return torch.tensor([order.index(folders[number]) for number in frames.clip.tolist()])


def row(reader: str, vectors: Tensor, people: Tensor) -> dict:
    """vectors (N, D), people (N,) -> one line of the table. Pictures without a vector, and people who are then left with one
    picture, are not counted.

    AUC: chance that two pictures of one person are more alike (by cosine) than two of different people. top-1: share of
    pictures whose most similar other picture shows the same person; chance: what drawing lots would reach.
    Raises ValueError when no two pictures of a person, or no two people, are left.
    """
    read = vectors.isfinite().all(1)
    read &= ((people[:, None] == people) & read[:, None] & read).sum(1) > 1
    codes, people = F.normalize(vectors[read].float(), dim=-1), people[read]
    if len(people.unique()) < 2:
        raise ValueError(
            f"{reader} read two pictures of fewer than two people; give a folder for each, with two pictures or more"
        )
    cosines, same = codes @ codes.T, people[:, None] == people
    pairs = torch.ones_like(same).triu(1)
    others = torch.eye(len(people), dtype=torch.bool)
    nearest = cosines.masked_fill(others, -torch.inf).argmax(1)
    return {
        "reader": reader,
        "pictures": len(people),
        "people": len(people.unique()),
        "AUC": area_under_curve(cosines[same & pairs], cosines[~same & pairs]),
        "top-1": (people[nearest] == people).float().mean().item(),
        "chance": ((same.sum(1) - 1) / (len(people) - 1)).mean().item(),
    }


def pixels(crops: Tensor) -> Tensor:
    """The crop itself, small and grey, its mean taken off: (B, PIXELS ** 2)."""
    grey = resize(crops, PIXELS).mean(1).flatten(1)
    return grey - grey.mean(1, keepdim=True)


def reader_of(model: DSID) -> Reader:
    return lambda crops: model.encode_identity(resize(crops, model.config.image_size))


@torch.no_grad()
def table(frames: RealFrames, readers: dict[str, Reader]) -> list[dict]:
    people = people_of(frames)
    crops = [bytes_to_model(part) for part in frames.crops.split(CHUNK)]
    return [row(name, torch.cat([read(part) for part in crops]), people) for name, read in readers.items()]


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description="How well encoders tell real people apart, beside public recognisers.")
    parser.add_argument("--people", type=Path, required=True, help="folder with a folder of pictures for each person")
    parser.add_argument("--landmarker", type=Path, required=True, help="MediaPipe's file face_landmarker.task")
    parser.add_argument("--dsid", type=Path, nargs="*", default=[], help="DSID files to compare")
    parser.add_argument("--judges", nargs="*", default=[], help="public recognisers: insightface, antelopev2, dlib")
    parser.add_argument("--insightface-path", type=Path, help="folder that holds models/<pack>/*.onnx")
    parser.add_argument("--out", type=Path, default=Path("runs/people"), help="folder for the table")
    options = parser.parse_args(argv)
    try:
        readers: dict[str, Reader] = {"pixels of the crop": pixels}
        readers |= {name: reader_of(load_dsid(path).float()) for name, path in row_names(options.dsid).items()}
        for name in options.judges:
            judge = open_judge(name, JudgeFiles(insightface=options.insightface_path))
            readers[judge.name] = partial(identity_of, judge)
        frames, counts = collect(options.people, options.landmarker, per_clip=1)
        print(", ".join(f"{number} {what}" for what, number in counts.items()))
        write_table(options.out, "people", table(frames, readers))
    except ValueError as error:
        parser.exit(2, f"{error}\n")


def identity_of(judge, crops: Tensor) -> Tensor:
    """Raises ValueError for a judge that gives no identity."""
    found = judge.measure(crops)
    if "identity" not in found:
        raise ValueError(f"the judge {judge.name} gives no identity; take insightface, antelopev2 or dlib")
    return found["identity"]


if __name__ == "__main__":
    main()

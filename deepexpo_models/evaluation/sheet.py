"""The main job on the starter, without ComfyUI: python -m deepexpo_models.evaluation.sheet --out sheet.png

People down, references across, a prompt for each column. Every cell is drawn from its person's identity and its reference's
expression and head pose, and measured by the judge.
"""

import argparse
import math
import time
from pathlib import Path

import torch

from ..data.synthetic import Scene, concatenate, render, sample_scenes
from .judges.judge import Judge, judged
from .judges.kinds import DRAWN
from .meaf_report import draw
from .metrics import turned
from .plots import sheet_picture
from .requests import DrawnPhotos, Request, caption_of
from .run import add_files, open_judge, open_pipeline


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("sheet.png"))
    add_files(parser)
    parser.add_argument("--people", type=int, default=4)
    parser.add_argument("--references", type=int, default=5)
    parser.add_argument("--steps", type=int, default=25)
    parser.add_argument("--seed", type=int, default=1)
    make_sheet(parser.parse_args(argv))


def make_sheet(options: argparse.Namespace) -> None:
    start = time.monotonic()
    pipeline, judge = open_pipeline(options, steps=options.steps), open_judge(options, DRAWN)
    people, references, request = grid_request(options.people, options.references, options.seed)
    pictures = draw(pipeline, request)
    notes = measured(request, pictures, judge)
    size = pictures.shape[-1]
    persons, examples = render(people, size).images, render(references, size).images
    blank = torch.ones(1, 3, size, size)
    cells, texts = [blank, *examples.split(1)], ["", *[f"reference {i + 1}" for i in range(len(references))]]
    for row in range(options.people):
        cells += [persons[row : row + 1], *pictures[row * options.references :][: options.references].split(1)]
        texts += [f"person {row + 1}", *notes[row * options.references :][: options.references]]
    sheet_picture(options.out, torch.cat(cells), options.references + 1, texts)
    for text, caption in zip(notes, request.captions):
        print(text.replace("\n", ", ") + f"  <- {caption}")
    print(f"{len(notes)} pictures in {time.monotonic() - start:.0f} s: {options.out}")


def grid_request(people: int, references: int, seed: int) -> tuple[Scene, Scene, Request]:
    """People, references, and the request of all pairs, person by person."""
    generator = torch.Generator().manual_seed(seed)
    persons, examples = sample_scenes(people, generator, "test"), sample_scenes(references, generator, "test")
    context = sample_scenes(references, generator).context.repeat(people, 1)
    rows = torch.arange(people).repeat_interleave(references)
    reference = DrawnPhotos(concatenate([examples] * people))
    sentences = [caption_of(row) for row in context]
    return persons, examples, Request(DrawnPhotos(persons[rows]), reference, reference, sentences, context, seed)


def measured(request: Request, pictures: torch.Tensor, judge: Judge) -> list[str]:
    """Per picture: cosine to the person, mean error of the main expression factors in shares of their ranges, pose error in
    degrees; or that there is no face.
    """
    seen = judged(judge, pictures)
    person = judged(judge, request.person.images(judge.config.image_size)).identity
    spans = torch.tensor([factor.high - factor.low for factor in judge.kind.expression])
    apart = (seen.expression - request.expression.shown.expression).abs() / spans
    expression = apart[:, judge.kind.main_columns].mean(1)
    angle = turned(seen.pose[:, :3], request.pose.shown.pose[:, :3])
    cosine = (seen.identity * person).sum(1)
    return [
        "no face" if math.isnan(e) else f"identity {c:.2f}\nexpression {e:.2f}\npose {a:.0f} deg"
        for c, e, a in zip(cosine.tolist(), expression.tolist(), angle.tolist())
    ]


if __name__ == "__main__":
    main()

"""What MEAF's streams do to a text-to-image model, measured by a judge that was no training loss."""

import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from ..data.synthetic import COLUMN, CONTEXT, EXPRESSION, Scene, context_caption, render, sample_scenes
from ..data.synthetic.captions import EXPRESSION_WORDS, WORN
from ..dsid import Identity, Semantics
from ..pipeline.generate import Pipeline, settings_of
from .judges.drawn import Judge, Judgement, judged
from .metrics import (
    agreement,
    correlation,
    csim,
    fid,
    id_distance,
    kid,
    missing,
    pose_errors,
    semchg,
    sim,
    sweep_effects,
    top1,
    turned,
)

Say = Callable[[str], None]
MAIN = ("smile", "jaw_open", "brow_raise_left", "brow_raise_right", "blink_left", "blink_right")
CHUNK = 25
SWEEP = (0.0, 0.25, 0.5, 0.75, 1.0)
STREAMS = ("identity", "expression", "pose")
SKINS = {"light": (0.0, 1 / 3), "middle": (1 / 3, 2 / 3), "dark": (2 / 3, 1.01)}  # thirds of skin_melanin


@dataclass(frozen=True)
class Request:
    """What is requested, row by row: person (identity), reference (expression, pose), caption and its context, seed."""

    person: Scene
    expression: Scene
    pose: Scene
    captions: list[str]
    context: Tensor
    seed: int = 0

    def __len__(self) -> int:
        return len(self.person)


def silent(sentence: str) -> None:
    """Nobody is told how far it is."""


def make_request(count: int, seed: int, poses: str = "usual", separate: bool = False, own: bool = False) -> Request:
    """count held-out people, each with another person's expression and pose (from one photo, or from two) and a context of
    its own; own: expression and pose from another photo of the same person.
    """
    generator = torch.Generator().manual_seed(seed)
    person, reference = sample_scenes(count, generator, "test"), sample_scenes(count, generator, "test", poses)
    posing = sample_scenes(count, generator, "test", poses) if separate else reference
    context = sample_scenes(count, generator).context
    if own:
        reference = posing = reference.with_groups(identity=person.identity)
    return Request(person, reference, posing, [caption_of(row) for row in context], context, seed)


def caption_of(context: Tensor) -> str:
    """One row of context factors -> its sentence."""
    names = {f.name: f.choices[int(value)] for f, value in zip(CONTEXT, context)}
    worn = tuple(name for name in WORN if names[name] == "yes")
    return context_caption(names["background"], names["pattern"], names["clothing"], worn)


def requested_codes(pipeline: Pipeline, request: Request) -> dict[str, Tensor]:
    """Stream name -> (N, width), read from drawn photos of the people; none for the base alone."""
    dsid = pipeline.dsid
    if pipeline.meaf is None or dsid is None:
        return {}
    size = dsid.config.image_size
    with torch.no_grad():
        who = _chunked(dsid.encode_identity, render(request.person, size).images)
        expression = _chunked(dsid.encode_semantics, render(request.expression, size).images)["expression"]
        pose = _chunked(dsid.encode_semantics, render(request.pose, size).images)
    fields: dict[str, Any] = {**pose, "expression": expression}
    semantics = Semantics(**fields, encoder=dsid.encoder)
    return pipeline.codes(Identity(who, dsid.encoder), semantics)


def draw(pipeline: Pipeline, request: Request, strengths: dict[str, float] | None = None) -> Tensor:
    """Pictures (N, 3, S, S) in [-1, 1]; strengths of streams, else the user's defaults."""
    codes = requested_codes(pipeline, request)
    return pipeline.draw(request.captions, codes, _noise(pipeline, request), settings_of(codes, strengths or {}))


def _noise(pipeline: Pipeline, request: Request) -> Tensor:
    """(N, C, h, w): a seed for each CHUNK."""
    shape = pipeline.noise(0).shape[1:]
    parts = torch.arange(len(request)).split(CHUNK)
    drawn = [(torch.Generator().manual_seed(request.seed * 1009 + int(rows[0])), len(rows)) for rows in parts]
    return torch.cat([torch.randn(count, *shape, generator=generator) for generator, count in drawn])


def _chunked(encode, images: Tensor):
    parts = [encode(chunk) for chunk in images.split(CHUNK)]
    if isinstance(parts[0], Tensor):
        return torch.cat(parts)
    return {name: torch.cat([part[name] for part in parts]) for name in parts[0]}


def figures(request: Request, made: Judgement, judge: Judge) -> dict:
    """Distances between what was requested and what is seen, in the paper's names."""
    size = judge.config.image_size
    gallery = judged(judge, render(request.person, size).images)
    factors = [COLUMN[name][1] for name in MAIN]
    spans = torch.tensor([f.high - f.low for f in EXPRESSION])
    right = made.context == request.context
    expression = correlation(made.expression, request.expression.expression)
    return {
        "pictures": len(request),
        "no face": missing(made.pose),
        **pose_errors(made.pose[:, :3], request.pose.pose[:, :3]),
        "EXP": agreement(face_class(made.expression), face_class(request.expression.expression)),
        "expression correlation": {name: expression[i].item() for name, i in zip(MAIN, factors)},
        "expression correlation, main": expression[factors].mean().item(),
        "SIM": sim(made.expression, request.expression.expression, spans),
        "SEMCHG": semchg(made.expression / spans, request.person.expression / spans, request.expression.expression / spans),
        "CSIM": csim(made.identity, gallery.identity),
        "ID": id_distance(made.identity, gallery.identity),
        "ID by skin": by_skin(request, made, gallery),
        "identity top-1": top1(made.identity, gallery.identity, torch.arange(len(request))),
        "context": {f.name: right[:, i].float().mean().item() for i, f in enumerate(CONTEXT)},
        "context, mean": right.float().mean().item(),
    }


def face_class(expression: Tensor) -> Tensor:
    """Expression factors (N, 11) -> (N,): the first of the captions' EXPRESSION_WORDS that fits, their number for none, NaN
    without a face.
    """
    found = torch.full((len(expression),), float(len(EXPRESSION_WORDS)))
    for number, (name, bound, _) in reversed(list(enumerate(EXPRESSION_WORDS))):
        value = expression[:, COLUMN[name][1]]
        found[value > bound if bound > 0 else value < bound] = number
    return found.masked_fill(expression.isnan().any(1), torch.nan)


def by_skin(request: Request, made: Judgement, gallery: Judgement) -> dict[str, float]:
    """ID for people of each third of the skin's range that occurs."""
    skin = request.person.identity[:, COLUMN["skin_melanin"][1]]
    groups = {name: (skin >= low) & (skin < high) for name, (low, high) in SKINS.items()}
    return {name: id_distance(made.identity[rows], gallery.identity[rows]) for name, rows in groups.items() if rows.any()}


def distances(judge: Judge, pictures: Tensor, base: Tensor, true: Tensor) -> dict[str, float]:
    """How far the pictures as a whole are from the base's own for the same captions, and from true ones, on the judge's
    features: KID, and FID where there are more pictures than features.
    """
    made, *others = [torch.cat([judge.features(part) for part in images.split(CHUNK)]) for images in (pictures, base, true)]
    found = {}
    for name, other in zip(("the base's", "true"), others):
        if len(made) > made.shape[1]:
            found[f"FID to {name} pictures"] = fid(made, other)
        found[f"KID to {name} pictures"] = kid(made, other)
    return found


def measure_meaf(pipeline: Pipeline, judge: Judge, count: int = 50, seed: int = 5, say: Say = silent) -> dict:
    """Tables of a MEAF: both from one photo, from two, from the person's own other photo, extreme poses, the base alone, the
    judge's own reading of true pictures, and what each strength does. TIME: seconds a picture, in batches of CHUNK.
    """
    request, apart = make_request(count, seed), make_request(count, seed + 1, separate=True)
    extreme, own = make_request(count, seed + 2, poses="extreme"), make_request(count, seed + 4, own=True)
    alone = replace(pipeline, meaf=None)
    truth = render(true_scene(request), judge.config.image_size).images
    rows, seconds = {}, {}
    for name, drawer, requested in (
        ("one photo", pipeline, request),
        ("two photos", pipeline, apart),
        ("own photo", pipeline, own),
        ("extreme poses", pipeline, extreme),
        ("base alone", alone, request),
    ):
        say(f"drawing {len(requested)} pictures: {name}")
        start = time.monotonic()
        rows[name] = (requested, draw(drawer, requested))
        seconds[name] = {"TIME": (time.monotonic() - start) / len(requested)}
    rows["judge on true pictures"] = (request, truth)
    base = rows["base alone"][1]
    return {
        "settings": {"steps": pipeline.steps, "sampler": "euler", "cfg": pipeline.cfg, "seed": seed, "hardware": "CPU"},
        "rows": {
            name: {
                **figures(requested, judged(judge, pictures), judge),
                **distances(judge, pictures, base, truth),
                **seconds.get(name, {}),
            }
            for name, (requested, pictures) in rows.items()
        },
        "strengths": sweeps(pipeline, judge, make_request(min(count, 25), seed + 3), say),
        "pictures": {name: pictures[:16] for name, (_, pictures) in rows.items()},
    }


def true_scene(request: Request) -> Scene:
    """The picture that the request describes, as it would be drawn."""
    pose = request.person.pose.clone()
    pose[:, :3] = request.pose.pose[:, :3]
    return request.person.with_groups(expression=request.expression.expression, pose=pose, context=request.context)


def sweeps(pipeline: Pipeline, judge: Judge, request: Request, say: Say = silent) -> dict:
    """Each stream's strength from 0 to 1, the others at 1: closeness of every factor group to what was requested."""
    person = judged(judge, render(request.person, judge.config.image_size).images).identity
    found = {}
    for stream in STREAMS:
        lines = []
        for strength in SWEEP:
            say(f"drawing {len(request)} pictures: {stream} at {strength}")
            seen = judged(judge, draw(pipeline, request, {stream: strength}))
            lines.append(closeness(request, seen, person))
        table = torch.tensor(lines)
        own = torch.tensor([name == stream for name in STREAMS])
        found[stream] = {"closeness": dict(zip(STREAMS, table.T.tolist())), **sweep_effects(table, own)}
    return found


def closeness(request: Request, seen: Judgement, person: Tensor) -> list[float]:
    """identity, expression, pose in [-1, 1]: mean cosine to the person; mean correlation of the main factors; 1 minus the
    turning error over 45 degrees, at most 90 of which count.
    """
    factors = [COLUMN[name][1] for name in MAIN]
    angle = turned(seen.pose[:, :3], request.pose.pose[:, :3])
    return [
        csim(seen.identity, person),
        correlation(seen.expression, request.expression.expression)[factors].mean().item(),
        1 - angle.clamp(max=90).mean().item() / 45,
    ]

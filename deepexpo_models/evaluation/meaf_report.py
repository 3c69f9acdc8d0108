"""What MEAF's streams do to a text-to-image model, measured by a judge that was no training loss."""

import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from ..dsid import Identity, Semantics
from ..pipeline.generate import Pipeline, settings_of
from .judges.judge import Judge, Judgement, judged
from .judges.kinds import HEADS, UNKNOWN
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
from .requests import Request, Requests

Say = Callable[[str], None]
CHUNK = 25
SWEEP = (0.0, 0.25, 0.5, 0.75, 1.0)
STREAMS = ("identity", "expression", "pose")


def silent(sentence: str) -> None:
    """Nobody is told how far it is."""


def requested_codes(pipeline: Pipeline, request: Request) -> dict[str, Tensor]:
    """Stream name -> (N, width), read from photos of the people; none for the base alone."""
    dsid = pipeline.dsid
    if pipeline.meaf is None or dsid is None:
        return {}
    size = dsid.config.image_size
    with torch.no_grad():
        who = _chunked(dsid.encode_identity, request.person.images(size))
        expression = _chunked(dsid.encode_semantics, request.expression.images(size))["expression"]
        pose = _chunked(dsid.encode_semantics, request.pose.images(size))
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
    gallery = judged(judge, request.person.images(judge.config.image_size))
    person, wanted, pose = request.person.shown, request.expression.shown.expression, request.pose.shown.pose
    spans = torch.tensor([f.high - f.low for f in HEADS.expression])
    expression = correlation(made.expression, wanted)
    known = request.context != UNKNOWN
    right = made.context == request.context
    return {
        "pictures": len(request),
        "no face": missing(made.pose),
        **pose_errors(made.pose[:, :3], pose[:, :3]),
        "EXP": agreement(face_class(made.expression), face_class(wanted)),
        "expression correlation": {f.name: value for f, value in zip(HEADS.expression, expression.tolist(), strict=True)},
        "expression correlation, main": expression[HEADS.main_columns].mean().item(),
        "SIM": sim(made.expression, wanted, spans),
        "SEMCHG": semchg(made.expression / spans, person.expression / spans, wanted / spans),
        "CSIM": csim(made.identity, gallery.identity),
        "ID": id_distance(made.identity, gallery.identity),
        f"ID by {HEADS.groups[0]}": by_group(request, made, gallery),
        "identity top-1": top1(made.identity, gallery.identity, torch.arange(len(request))),
        "context": {f.name: right[known[:, i], i].float().mean().item() for i, f in enumerate(HEADS.context)},
        "context, mean": right[known].float().mean().item(),
    }


def face_class(expression: Tensor) -> Tensor:
    """Expression factors (N, E) -> (N,): the first of the words that fits, their number for none, NaN without a face."""
    names = [factor.name for factor in HEADS.expression]
    found = torch.full((len(expression),), float(len(HEADS.words)))
    for number, (name, bound) in reversed(list(enumerate(HEADS.words))):
        found[expression[:, names.index(name)] > bound] = number
    return found.masked_fill(expression.isnan().any(1), torch.nan)


def by_group(request: Request, made: Judgement, gallery: Judgement) -> dict[str, float]:
    """ID for the people of each group that occurs."""
    _, factor, ranges = HEADS.groups
    value = request.person.shown.looks[:, [f.name for f in HEADS.looks].index(factor)]
    groups = {name: (value >= low) & (value < high) for name, (low, high) in ranges.items()}
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


def measure_meaf(pipeline: Pipeline, judge: Judge, requests: Requests, say: Say = silent) -> dict:
    """Tables of a MEAF: the rows of the requests, the base alone, the judge's own reading of true pictures, and what each
    strength does. TIME: seconds a picture, in batches of CHUNK.
    """
    compared = requests.rows[requests.compared]
    if compared.true is None:
        raise ValueError(f"the row {requests.compared!r} has no true pictures to compare with")
    alone = replace(pipeline, meaf=None)
    truth = compared.true.images(judge.config.image_size)
    rows, seconds = {}, {}
    drawers = {name: (pipeline, request) for name, request in requests.rows.items()} | {"base alone": (alone, compared)}
    for name, (drawer, requested) in drawers.items():
        say(f"drawing {len(requested)} pictures: {name}")
        start = time.monotonic()
        rows[name] = (requested, draw(drawer, requested))
        seconds[name] = {"TIME": (time.monotonic() - start) / len(requested)}
    rows["judge on true pictures"] = (compared, truth)
    base = rows["base alone"][1]
    return {
        "settings": {
            "steps": pipeline.steps, "sampler": "euler", "cfg": pipeline.cfg, "seed": compared.seed, "hardware": "CPU",
        },
        "rows": {
            name: {
                **figures(requested, judged(judge, pictures), judge),
                **distances(judge, pictures, base, truth),
                **seconds.get(name, {}),
            }
            for name, (requested, pictures) in rows.items()
        },
        "strengths": sweeps(pipeline, judge, requests.swept, say),
        "pictures": {name: pictures[:16] for name, (_, pictures) in rows.items()},
    }  # fmt: skip


def sweeps(pipeline: Pipeline, judge: Judge, request: Request, say: Say = silent) -> dict:
    """Each stream's strength from 0 to 1, the others at 1: closeness of every factor group to what was requested."""
    person = judged(judge, request.person.images(judge.config.image_size)).identity
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
    angle = turned(seen.pose[:, :3], request.pose.shown.pose[:, :3])
    return [
        csim(seen.identity, person),
        correlation(seen.expression, request.expression.shown.expression)[HEADS.main_columns].mean().item(),
        1 - angle.clamp(max=90).mean().item() / 45,
    ]

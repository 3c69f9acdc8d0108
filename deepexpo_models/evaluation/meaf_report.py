"""What MEAF's streams do to a text-to-image model, measured by a judge that was no training loss."""

import time
from dataclasses import dataclass

import torch
from torch import Generator, Tensor

from ..data.synthetic import COLUMN, CONTEXT, EXPRESSION, Scene, context_caption, render, sample_scenes
from ..data.synthetic.captions import EXPRESSION_WORDS, WORN
from ..dsid import DSID
from ..meaf import DEFAULT_SETTINGS, MEAF
from ..meaf.diffusers_host import AttachedMEAF
from ..starter.diffusers_host import StarterParts, decode, encode_prompts, sample
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

MAIN = ("smile", "jaw_open", "brow_raise_left", "brow_raise_right", "blink_left", "blink_right")
CHUNK = 25
SWEEP = (0.0, 0.25, 0.5, 0.75, 1.0)
STREAMS = ("identity", "expression", "pose")
SKINS = {"light": (0.0, 1 / 3), "middle": (1 / 3, 2 / 3), "dark": (2 / 3, 1.01)}  # thirds of skin_melanin


@dataclass(frozen=True)
class Order:
    """What is asked for, row by row: person (identity), reference (expression, pose), caption and its context, seed."""

    person: Scene
    expression: Scene
    pose: Scene
    captions: list[str]
    context: Tensor
    seed: int = 0

    def __len__(self) -> int:
        return len(self.person)


def make_order(count: int, seed: int, poses: str = "usual", separate: bool = False, own: bool = False) -> Order:
    """count held-out people, each with another person's expression and pose (from one photo, or from two) and a context of
    its own; own: expression and pose from another photo of the same person.
    """
    generator = torch.Generator().manual_seed(seed)
    person, reference = sample_scenes(count, generator, "test"), sample_scenes(count, generator, "test", poses)
    posing = sample_scenes(count, generator, "test", poses) if separate else reference
    context = sample_scenes(count, generator).context
    if own:
        reference = posing = reference.with_groups(identity=person.identity)
    return Order(person, reference, posing, [caption_of(row) for row in context], context, seed)


def caption_of(context: Tensor) -> str:
    """One row of context factors -> its sentence."""
    names = {f.name: f.choices[int(value)] for f, value in zip(CONTEXT, context)}
    worn = tuple(name for name in WORN if names[name] == "yes")
    return context_caption(names["background"], names["pattern"], names["clothing"], worn)


@dataclass
class Studio:
    """What draws an order: the base, MEAF (None: the base alone), the encoder, steps and guidance."""

    base: StarterParts
    meaf: MEAF | None
    dsid: DSID
    steps: int = 25
    cfg: float = 3.0

    def codes(self, order: Order) -> dict[str, Tensor]:
        """Stream name -> (N, width), read from drawn photos of the people; nothing for the base alone."""
        if self.meaf is None:
            return {}
        size = self.dsid.config.image_size
        with torch.no_grad():
            identity = _chunked(self.dsid.encode_identity, render(order.person, size).images)
            expression = _chunked(self.dsid.encode_semantics, render(order.expression, size).images)["expression"]
            pose = _chunked(self.dsid.encode_semantics, render(order.pose, size).images)
        fields = {**pose, "identity": identity, "expression": expression}
        streams = self.meaf.config.streams.items()
        return {name: torch.cat([fields[field] for field in stream.inputs], dim=1) for name, stream in streams}

    @torch.no_grad()
    def draw(self, order: Order, strengths: dict[str, float] | None = None) -> Tensor:
        """Pictures (N, 3, S, S) in [-1, 1]; strengths of streams, else the user's defaults."""
        codes, parts = self.codes(order), []
        for rows in torch.arange(len(order)).split(CHUNK):
            noise = torch.Generator().manual_seed(order.seed * 1009 + int(rows[0]))
            captions = [order.captions[row] for row in rows.tolist()]
            parts.append(self._draw(captions, {name: code[rows] for name, code in codes.items()}, noise, strengths or {}))
        return torch.cat(parts)

    def _draw(self, captions: list[str], codes: dict[str, Tensor], noise: Generator, strengths: dict[str, float]) -> Tensor:
        text = encode_prompts(self.base, captions)
        empty = encode_prompts(self.base, [""]).expand(len(captions), -1, -1)
        if self.meaf is None:
            return decode(self.base, sample(self.base, text, empty, noise, self.steps, self.cfg))
        wanted = {name: strengths.get(name, DEFAULT_SETTINGS[name].strength) for name in codes}
        tokens = {
            name: torch.cat([self.meaf.null_tokens(name).expand(len(code), -1, -1), self.meaf.tokens(name, code)])
            for name, code in codes.items()
        }
        with AttachedMEAF(self.base.unet, self.meaf) as attached:

            def before_step(share: float) -> None:
                attached.condition(tokens, {name: wanted[name] * acts(name, share, self.steps) for name in wanted})

            return decode(self.base, sample(self.base, text, empty, noise, self.steps, self.cfg, before_step))


def acts(stream: str, share: float, steps: int) -> bool:
    """Whether a stream's default window is open after this share of the steps. Windows are shares of the timesteps, as in
    ComfyUI: the first step is at 0, the last at 1.
    """
    window = DEFAULT_SETTINGS[stream]
    return window.start_percent <= round(share * steps / max(steps - 1, 1), 6) <= window.end_percent


def _chunked(encode, images: Tensor):
    parts = [encode(chunk) for chunk in images.split(CHUNK)]
    if isinstance(parts[0], Tensor):
        return torch.cat(parts)
    return {name: torch.cat([part[name] for part in parts]) for name in parts[0]}


def figures(order: Order, made: Judgement, judge: Judge) -> dict:
    """Distances between what was asked for and what is seen, in the paper's names."""
    size = judge.config.image_size
    gallery = judged(judge, render(order.person, size).images)
    factors = [COLUMN[name][1] for name in MAIN]
    spans = torch.tensor([f.high - f.low for f in EXPRESSION])
    right = made.context == order.context
    expression = correlation(made.expression, order.expression.expression)
    return {
        "pictures": len(order),
        "no face": missing(made.pose),
        **pose_errors(made.pose[:, :3], order.pose.pose[:, :3]),
        "EXP": agreement(face_class(made.expression), face_class(order.expression.expression)),
        "expression correlation": {name: expression[i].item() for name, i in zip(MAIN, factors)},
        "expression correlation, main": expression[factors].mean().item(),
        "SIM": sim(made.expression, order.expression.expression, spans),
        "SEMCHG": semchg(made.expression / spans, order.person.expression / spans, order.expression.expression / spans),
        "CSIM": csim(made.identity, gallery.identity),
        "ID": id_distance(made.identity, gallery.identity),
        "ID by skin": by_skin(order, made, gallery),
        "identity top-1": top1(made.identity, gallery.identity, torch.arange(len(order))),
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


def by_skin(order: Order, made: Judgement, gallery: Judgement) -> dict[str, float]:
    """ID for people of each third of the skin's range that occurs."""
    skin = order.person.identity[:, COLUMN["skin_melanin"][1]]
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


def measure_meaf(studio: Studio, judge: Judge, count: int = 50, seed: int = 5) -> dict:
    """Tables of a MEAF: both from one photo, from two, from the person's own other photo, extreme poses, the base alone, the
    judge's own reading of true pictures, and what each strength does. TIME: seconds a picture, in batches of CHUNK.
    """
    order, apart = make_order(count, seed), make_order(count, seed + 1, separate=True)
    extreme, own = make_order(count, seed + 2, poses="extreme"), make_order(count, seed + 4, own=True)
    alone = Studio(studio.base, None, studio.dsid, studio.steps, studio.cfg)
    truth = render(true_scene(order), judge.config.image_size).images
    rows, seconds = {}, {}
    for name, drawer, asked in (
        ("one photo", studio, order),
        ("two photos", studio, apart),
        ("own photo", studio, own),
        ("extreme poses", studio, extreme),
        ("base alone", alone, order),
    ):
        start = time.monotonic()
        rows[name] = (asked, drawer.draw(asked))
        seconds[name] = {"TIME": (time.monotonic() - start) / len(asked)}
    rows["judge on true pictures"] = (order, truth)
    base = rows["base alone"][1]
    return {
        "settings": {"steps": studio.steps, "sampler": "euler", "cfg": studio.cfg, "seed": seed, "hardware": "CPU"},
        "rows": {
            name: {
                **figures(asked, judged(judge, pictures), judge),
                **distances(judge, pictures, base, truth),
                **seconds.get(name, {}),
            }
            for name, (asked, pictures) in rows.items()
        },
        "strengths": sweeps(studio, judge, make_order(min(count, 25), seed + 3)),
        "pictures": {name: pictures[:16] for name, (_, pictures) in rows.items()},
    }


def true_scene(order: Order) -> Scene:
    """The picture that the order describes, as it would be drawn."""
    pose = order.person.pose.clone()
    pose[:, :3] = order.pose.pose[:, :3]
    return order.person.with_groups(expression=order.expression.expression, pose=pose, context=order.context)


def sweeps(studio: Studio, judge: Judge, order: Order) -> dict:
    """Each stream's strength from 0 to 1, the others at 1: closeness of every factor group to what was asked for."""
    person = judged(judge, render(order.person, judge.config.image_size).images).identity
    found = {}
    for stream in STREAMS:
        lines = []
        for strength in SWEEP:
            seen = judged(judge, studio.draw(order, {stream: strength}))
            lines.append(closeness(order, seen, person))
        table = torch.tensor(lines)
        own = torch.tensor([name == stream for name in STREAMS])
        found[stream] = {"closeness": dict(zip(STREAMS, table.T.tolist())), **sweep_effects(table, own)}
    return found


def closeness(order: Order, seen: Judgement, person: Tensor) -> list[float]:
    """identity, expression, pose in [-1, 1]: mean cosine to the person; mean correlation of the main factors; 1 minus the
    turning error over 45 degrees, at most 90 of which count.
    """
    factors = [COLUMN[name][1] for name in MAIN]
    angle = turned(seen.pose[:, :3], order.pose.pose[:, :3])
    return [
        csim(seen.identity, person),
        correlation(seen.expression, order.expression.expression)[factors].mean().item(),
        1 - angle.clamp(max=90).mean().item() / 45,
    ]

"""What MEAF is asked for in its tables: people, references and captions of held-out drawn faces, or of rendered heads."""

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from ..data.heads.captions import context_caption as head_caption
from ..data.heads.poses import LIMITS
from ..data.heads.shards import HeadStore
from ..data.studio import FRAMES, PEOPLE, row
from ..data.synthetic import CONTEXT, Scene, context_caption, render, sample_scenes
from ..data.synthetic.captions import WORN
from ..dsid.rotation import matrix_to_euler
from ..image import resize
from .judges.kinds import Shown, shown_in_heads, shown_in_scene

SWEPT = 25  # pictures of each strength


class Photos(Protocol):
    """Pictures whose truth is known, one for each row of a request."""

    def __len__(self) -> int: ...

    @property
    def shown(self) -> Shown: ...

    def images(self, size: int) -> Tensor:
        """(N, 3, size, size) in [-1, 1]."""
        ...


@dataclass(frozen=True)
class DrawnPhotos:
    scene: Scene

    def __len__(self) -> int:
        return len(self.scene)

    @property
    def shown(self) -> Shown:
        return shown_in_scene(self.scene)

    def images(self, size: int) -> Tensor:
        return render(self.scene, size).images


@dataclass(frozen=True)
class HeadPhotos:
    store: HeadStore
    rows: Tensor

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def shown(self) -> Shown:
        return shown_in_heads(self.store.heads(self.rows))

    def images(self, size: int) -> Tensor:
        return resize(self.store.images(self.rows), size)


@dataclass(frozen=True)
class Request:
    """What is requested, row by row: person (identity), reference (expression, pose), caption and its context, seed; true: the
    pictures that a request describes, where there are any.
    """

    person: Photos
    expression: Photos
    pose: Photos
    captions: list[str]
    context: Tensor
    seed: int = 0
    true: Photos | None = None

    def __len__(self) -> int:
        return len(self.person)


@dataclass(frozen=True)
class Requests:
    """Of a table: rows by name; which of them has true pictures and is drawn by the base alone too; what strengths are swept
    on.
    """

    rows: dict[str, Request]
    compared: str
    swept: Request


def drawn_requests(count: int = 50, seed: int = 5) -> Requests:
    """People and references drawn at will, so every request has its true picture."""
    rows = {
        "one photo": make_request(count, seed),
        "two photos": make_request(count, seed + 1, separate=True),
        "own photo": make_request(count, seed + 4, own=True),
        "extreme poses": make_request(count, seed + 2, poses="extreme"),
    }
    return Requests(rows, "one photo", make_request(min(count, SWEPT), seed + 3))


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
    true = DrawnPhotos(true_scene(person, reference, posing, context))
    who, face, pose = (DrawnPhotos(scene) for scene in (person, reference, posing))
    return Request(who, face, pose, [caption_of(row) for row in context], context, seed, true)


def true_scene(person: Scene, reference: Scene, posing: Scene, context: Tensor) -> Scene:
    """The picture that a request describes, as it would be drawn: in the person's own place and size."""
    pose = person.pose.clone()
    pose[:, :3] = posing.pose[:, :3]
    return person.with_groups(expression=reference.expression, pose=pose, context=context)


def caption_of(context: Tensor) -> str:
    """One row of context factors -> its sentence."""
    names = {f.name: f.choices[int(value)] for f, value in zip(CONTEXT, context)}
    worn = tuple(name for name in WORN if names[name] == "yes")
    return context_caption(names["background"], names["pattern"], names["clothing"], worn)


def head_requests(store: HeadStore, count: int = 50, seed: int = 5) -> Requests:
    """From the film studio of `data.studio`, unspoilt pictures alone, each person once in a row. The caption is that of
    the person's other clip. With expression and pose from two others there are true pictures: the person's own with both.
    own photo: from the identity photo's clip.

    Raises ValueError where the store has fewer people that fit.
    """
    studio = Studio(store)
    rows = {
        "one photo": studio.request(count, seed, posing="expression"),
        "two photos": studio.request(count, seed + 1, posing="pose"),
        "own photo": studio.request(count, seed + 4, expressing="own", posing="own"),
        "extreme poses": studio.request(count, seed + 2, posing="expression", extreme=True),
    }
    return Requests(rows, "two photos", studio.request(min(count, SWEPT), seed + 3, posing="expression"))


class Studio:
    """Every picture of a store as what could be asked for, and by which others."""

    def __init__(self, store: HeadStore):
        self.store = store
        unspoilt = torch.zeros(len(store), dtype=torch.bool)
        unspoilt[store.unspoilt()] = True
        extreme = matrix_to_euler(store.read("rotation", torch.arange(len(store))))[:, 0].abs() > LIMITS[0]
        self.usual, self.extreme = unspoilt & ~extreme, unspoilt & extreme

    def roles(self, generator: torch.Generator) -> dict[str, Tensor]:
        """Role -> row of the store, for each of its pictures as `true`: `person`, one of the person's other clip, and `own`,
        another of that clip; of two others of the group `expression` and `pose`, with the same one.
        """
        true = torch.arange(len(self.store))
        group, person, frame = true // (PEOPLE * FRAMES), true // FRAMES % PEOPLE, true % FRAMES
        half = FRAMES // 2
        place = torch.randint(half, true.shape, generator=generator)
        clip = true - frame + (1 - frame // half) * half
        actor, poser = (person + 1) % PEOPLE, (person + 2) % PEOPLE
        return {
            "true": true,
            "person": clip + place,
            "own": clip + (place + 1) % half,
            "expression": row(group, actor, frame),
            "pose": row(group, poser, (frame + person - poser) % FRAMES),
        }

    def request(self, count: int, seed: int, posing: str, expressing: str = "expression", extreme: bool = False) -> Request:
        """count people, each once. posing, expressing: roles of the references; extreme: in poses beyond the training's."""
        generator = torch.Generator().manual_seed(seed)
        roles, wanted = self.roles(generator), self.extreme if extreme else self.usual
        fits = self.usual[roles["person"]] & wanted[roles[expressing]] & wanted[roles[posing]]
        if posing == "pose":
            fits &= wanted[roles["true"]]
        order = torch.randperm(len(fits), generator=generator)
        first: dict[int, int] = {}
        for true in order[fits[order]].tolist():
            first.setdefault(true // FRAMES, true)
        if len(first) < count:
            raise ValueError(
                f"{self.store.folder} has {len(first)} people for {count} requests{' in extreme poses' if extreme else ''}; "
                f"render more shards of the test split, or lower --count"
            )
        chosen = {name: HeadPhotos(self.store, rows[list(first.values())[:count]]) for name, rows in roles.items()}
        heads = self.store.heads(chosen["true"].rows)
        return Request(
            chosen["person"], chosen[expressing], chosen[posing], [head_caption(context) for context in heads.context],
            shown_in_heads(heads).context, seed, chosen["true"] if posing == "pose" else None,
        )  # fmt: skip

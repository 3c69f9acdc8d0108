"""What MEAF is asked for in its tables: people, references and captions of held-out rendered heads."""

from dataclasses import dataclass

import torch
from torch import Tensor

from ..data.heads.captions import context_caption
from ..data.heads.poses import LIMITS
from ..data.heads.shards import HeadStore
from ..data.studio import FRAMES, PEOPLE, row
from ..dsid.rotation import matrix_to_euler
from ..image import resize
from .judges.kinds import Shown, shown_in_heads

SWEPT = 25  # pictures of each strength


@dataclass(frozen=True)
class Photos:
    """Pictures whose truth is known, one for each row of a request: rows (N,) of a store."""

    store: HeadStore
    rows: Tensor

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def shown(self) -> Shown:
        return shown_in_heads(self.store.heads(self.rows))

    def images(self, size: int) -> Tensor:
        """(N, 3, size, size) in [-1, 1]."""
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


def make_requests(store: HeadStore, count: int = 50, seed: int = 5) -> Requests:
    """From the film studio of `data.studio`, unspoilt pictures alone, each person once in a row. The caption is that of
    the person's other clip. With expression and pose from two others there are true pictures: the person's own with both.
    own photo: from the identity photo's clip.

    Raises ValueError where the store has fewer people that fit.
    """
    studio = Studio(store)
    rows = {
        "one photo": studio.request(count, seed),
        "two photos": studio.request(count, seed + 1, posing="pose"),
        "own photo": studio.request(count, seed + 4, expressing="own", posing="own"),
        "extreme poses": studio.request(count, seed + 2, extreme=True),
    }
    return Requests(rows, "two photos", studio.request(min(count, SWEPT), seed + 3))


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

    def request(
        self, count: int, seed: int, expressing: str = "expression", posing: str = "expression", extreme: bool = False
    ) -> Request:
        """count people, each once. expressing, posing: roles of the references; extreme: in poses beyond the training's."""
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
                f"render more shards of the test split, or draw fewer pictures"
            )
        chosen = {name: Photos(self.store, rows[list(first.values())[:count]]) for name, rows in roles.items()}
        heads = self.store.heads(chosen["true"].rows)
        return Request(
            chosen["person"], chosen[expressing], chosen[posing], [context_caption(context) for context in heads.context],
            shown_in_heads(heads).context, seed, chosen["true"] if posing == "pose" else None,
        )  # fmt: skip

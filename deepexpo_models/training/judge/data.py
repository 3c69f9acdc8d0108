"""Rendered heads that a judge learns from, and those that its own errors are measured on."""

from dataclasses import replace

import torch
from torch import Generator, Tensor

from ...data.heads.shards import FRAMES, HeadStore
from ...evaluation.judges.kinds import HEADS, Factor, Shown, shown_in_heads

VIEWS = 3


class People:
    """Rendered heads of a folder, shards that come while a run goes on included, and those of held-out people of another."""

    def __init__(self, folder: str, test: str):
        self.store, self.test = HeadStore(folder), HeadStore(test)
        if self.test.settings["split"] != "test":
            raise ValueError(f"{test} holds people of the training; render others with --split test, and give them as --test")

    def sample(self, people: int, generator: Generator, lead: Generator) -> tuple[Tensor, Shown]:
        """Two pictures of each of so many people, in different settings, together, half of them mirrored:
        (2 people, 3, S, S)."""
        self.store.refresh()
        chosen = torch.randperm(len(self.store) // FRAMES, generator=generator)[:people]
        half = FRAMES // 2
        frames = torch.randint(half, (len(chosen), 2), generator=generator) + torch.tensor([0, half])
        heads = self.store.heads((chosen[:, None] * FRAMES + frames).flatten())
        return mirror(heads.images, shown_in_heads(heads), generator)

    def held_out(self, people: int, generator: Generator) -> tuple[Tensor, Shown]:
        """VIEWS pictures of each of so many people whom no training has seen, in two settings, together, not spoilt: (VIEWS
        people, 3, S, S). Fewer people where the store has no more; raises ValueError where it has none."""
        rows = self.test.unspoilt()
        rows = rows[torch.randperm(len(rows), generator=generator)]
        views = [rows[rows // (FRAMES // 2) == clip] for clip in range(2 * len(self.test) // FRAMES)]
        kept = [torch.cat([first[:1], second[: VIEWS - 1]]) for first, second in zip(views[::2], views[1::2])]
        kept = [rows for rows in kept if len(rows) == VIEWS][:people]
        if not kept:
            raise ValueError(f"{self.test.folder} holds nobody with {VIEWS} pictures that are not spoilt; render more shards")
        heads = self.test.heads(torch.cat(kept))
        return heads.images, shown_in_heads(heads)


def mirror(images: Tensor, shown: Shown, generator: Generator) -> tuple[Tensor, Shown]:
    """Half of the pictures and their pose and expression seen in a mirror."""
    here = (torch.rand(len(images), generator=generator) < 0.5)[:, None]
    expression, pose = shown.expression * _signs(HEADS.expression), shown.pose * _signs(HEADS.pose)
    return torch.where(here[..., None, None], images.flip(-1), images), replace(
        shown, expression=torch.where(here, expression, shown.expression), pose=torch.where(here, pose, shown.pose)
    )


def _signs(factors: tuple[Factor, ...]) -> Tensor:
    return torch.tensor([-1.0 if factor.name in HEADS.flipped else 1.0 for factor in factors])

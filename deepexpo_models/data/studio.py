"""The film studio that rendered heads are made in: PEOPLE people play the same FRAMES expressions and, in another
order, the same poses:

    person m, frame f:  expression e[f],  pose p[(f + m) % FRAMES]

so for every frame there are, of other people, one picture with its expression and another with its pose (the rendered
triples). The first half of a person's frames is one clip, one place and light; the rest another.
"""

from dataclasses import dataclass

import torch
from torch import Generator, Tensor

PEOPLE, FRAMES = 4, 8
GROUP = PEOPLE * FRAMES  # pictures


@dataclass(frozen=True)
class Roles:
    """Rows of a store (N,) for one training step: `target` and, of the same person, `source`; of other people `expression` and
    `pose`, pictures with the target's expression and with its pose.
    """

    source: Tensor
    target: Tensor
    expression: Tensor
    pose: Tensor


def sample_roles(rows: Tensor, count: int, generator: Generator, same_clip: float = 0.5) -> Roles:
    """Roles for count targets, all of rows (M,), M > 0, of different groups (as far as there are that many); source from the
    target's own clip with chance same_clip, else from the person's other clip.
    """
    wanted = torch.zeros(int(rows.max()) // GROUP + 1, GROUP, dtype=torch.bool)
    wanted.view(-1)[rows] = True
    groups = wanted.any(1).nonzero()[:, 0]
    group = groups[torch.randperm(len(groups), generator=generator)[:count]]
    group = group.repeat(count // len(group) + 1)[:count]
    chosen = (torch.rand(count, GROUP, generator=generator) + wanted[group]).argmax(1)
    person, frame = chosen // FRAMES, chosen % FRAMES
    half = FRAMES // 2
    same = torch.rand(count, generator=generator) < same_clip
    clip = torch.where(same, frame // half, 1 - frame // half)
    shift = 1 + _draw(half - 1, count, generator)
    source = clip * half + torch.where(same, (frame + shift) % half, _draw(half, count, generator))
    target = row(group, person, frame)
    return Roles(
        source=row(group, person, source),
        target=target,
        expression=same_expression(target, generator),
        pose=same_pose(target, generator),
    )


def same_expression(rows: Tensor, generator: Generator) -> Tensor:
    """rows (N,) -> rows of another person of the group, by lot, with the same expression."""
    member = rows // FRAMES % PEOPLE
    return rows + (_another(member, generator) - member) * FRAMES


def same_pose(rows: Tensor, generator: Generator) -> Tensor:
    """rows (N,) -> rows of another person of the group, by lot, with the same pose."""
    member, frame = rows // FRAMES % PEOPLE, rows % FRAMES
    other = _another(member, generator)
    return rows + (other - member) * FRAMES + (frame + member - other) % FRAMES - frame


def _another(member: Tensor, generator: Generator) -> Tensor:
    return (member + 1 + _draw(PEOPLE - 1, len(member), generator)) % PEOPLE


def row(group: Tensor, person: Tensor, frame: Tensor) -> Tensor:
    """(N,) each -> the row of a store, person by person and frame by frame."""
    return (group * PEOPLE + person) * FRAMES + frame


def _draw(limit: int, count: int, generator: Generator) -> Tensor:
    return torch.randint(limit, (count,), generator=generator)

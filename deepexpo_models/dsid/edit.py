"""Semantic codes changed by hand: parts, presets, sliders, angles. Pure functions: no input is changed."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Protocol

import torch
from torch import Tensor

from ..head.basis import ARKIT52
from ..head.expressions import GROUPS, REST, group_mask, preset_units, slider_units
from .codes import HasEncoder, Semantics, public_encoder, require_same_encoder
from .rotation import FRONTAL, euler_to_matrix, matrix_to_euler, matrix_to_rotation, rotation_to_matrix

ARKIT = public_encoder("arkit52")
ANGLES = ("yaw", "pitch", "roll")
TAKE = {  # what is taken from a code -> parts of the expression, and whether the head's pose
    "everything": (tuple(GROUPS), True),
    "expression": (tuple(GROUPS), False),
    "mouth": (("mouth",), False),
    "eyes": (("eyes",), False),
    "brows": (("brows",), False),
    "cheeks": (("cheeks",), False),
    "rotation": ((), True),
}
STRONGEST = 1.5  # of an ARKit number: 1 is the full movement, a little more still looks like a face
WIDEST_YAW = 90.0  # degrees: beyond it Euler angles mean another head


class ReadOut(Protocol):
    """How the numbers of ARKit lie in the expression code of a DSID."""

    def unlimited(self, expression: Tensor) -> Tensor:
        """expression (B, width) -> (B, 52), also below 0 and above 1."""

    def arkit52(self, expression: Tensor) -> Tensor:
        """expression (B, width) -> (B, 52) in [0, 1]."""

    def direction(self, name: str) -> Tensor:
        """(width,): the change of a code that adds 1 to the named number."""


class HasReadOut(HasEncoder, Protocol):
    @property
    def readout(self) -> ReadOut | None: ...


@dataclass(frozen=True)
class Edit:
    """take: key of TAKE. exaggerate: 0 is a neutral face, 1 as it is, 2 twice the expression. preset_strength: 0 to 1 is
    how far the expression goes to the preset. sliders: -1 to 1 by the names of `head.expressions`. yaw, pitch, roll:
    degrees, added to the head's own."""

    take: str = "everything"
    exaggerate: float = 1.0
    preset: str = REST
    preset_strength: float = 1.0
    sliders: Mapping[str, float] = field(default_factory=dict)
    yaw: float = 0.0
    pitch: float = 0.0
    roll: float = 0.0


def arkit_semantics(numbers: Tensor, angles: Tensor | None = None) -> Semantics:
    """ARKit numbers (B, 52), yaw, pitch, roll in degrees (B, 3) or None for frontal -> codes in the middle of the crop."""
    angles = numbers.new_zeros(len(numbers), 3) if angles is None else angles
    rotation = matrix_to_rotation(euler_to_matrix(angles))
    return Semantics(numbers, rotation, numbers.new_zeros(len(numbers), 2), numbers.new_zeros(len(numbers), 1), ARKIT)


def edit_semantics(
    semantics: Semantics | None, edit: Edit, onto: Semantics | None = None, readout: ReadOut | None = None
) -> Semantics:
    """A code changed as `edit` says, row by row; without a code, a resting face is changed.

    Taken parts come from `semantics`, the others from `onto` or from a resting face; then the expression is exaggerated,
    moved to the preset and to where the sliders are. An edit that changes nothing returns the same values.
    readout: of the DSID that made the codes; codes of arkit52 need none. Raises ValueError when it is missing for an edit
    of the expression, for codes of different encoders, and for an unknown name.
    """
    if edit.take not in TAKE:
        raise ValueError(f"nothing is called {edit.take!r}; take one of {', '.join(TAKE)}")
    groups, with_pose = TAKE[edit.take]
    if semantics is None:
        semantics = onto or arkit_semantics(torch.zeros(1, len(ARKIT52)))
    elif onto is not None:
        require_same_encoder(semantics, onto)
    count = len(semantics.expression)
    rest = _match(onto, count) if onto is not None else _at_rest(semantics)
    pose = semantics if with_pose else rest
    expression = _expression(semantics, rest if onto is not None else None, edit, groups, readout)
    return replace(
        semantics,
        expression=expression,
        rotation=_turned(pose.rotation, edit),
        translation=pose.translation,
        log_scale=pose.log_scale,
        openings=semantics.openings if torch.equal(expression, semantics.expression) else None,  # measured on that face
    )


def readout_for(dsid: HasReadOut | None, *codes: Semantics | None) -> ReadOut | None:
    """The DSID's read-out of these codes; None for those of landmarks, which need none. Raises ValueError for a DSID that did
    not make them."""
    latent = [code for code in codes if code is not None and code.encoder != ARKIT]
    if dsid is None or not latent:
        return None
    require_same_encoder(dsid, *latent)
    return dsid.readout


def arkit_numbers(semantics: Semantics, readout: ReadOut | None = None) -> Tensor:
    """Codes -> (B, 52) float32. Raises ValueError for a DSID's code without a read-out."""
    if semantics.encoder == ARKIT:
        return semantics.expression.float()
    if readout is None:
        raise ValueError(
            f"the expression of {semantics.encoder} has no named parts; connect the DSID that made it (one with read-outs), "
            f"or use codes of face landmarks"
        )
    return readout.arkit52(semantics.expression).float()


def _expression(
    semantics: Semantics, onto: Semantics | None, edit: Edit, groups: tuple[str, ...], readout: ReadOut | None
) -> Tensor:
    source = onto if onto is not None and not groups else semantics
    whole = source is onto or len(groups) == len(GROUPS)
    added = slider_units(edit.sliders)
    if whole and edit.exaggerate == 1 and (edit.preset == REST or edit.preset_strength == 0) and not added.any():
        return source.expression
    numbers = arkit_numbers(source, readout)
    target = numbers * edit.exaggerate
    if not whole:
        others = torch.zeros_like(numbers) if onto is None else arkit_numbers(onto, readout)
        target = torch.where(group_mask(groups), target, others)
    if edit.preset != REST:
        target = torch.lerp(target, preset_units(edit.preset).expand_as(target), edit.preset_strength)
    target = target + added
    target = torch.where(target == numbers, numbers, target.clamp(0, STRONGEST))
    change = target - numbers
    if edit.preset != REST:  # ends at the preset's numbers, also where the code reads beyond the limits
        change += edit.preset_strength * (change != 0) * _beyond(source, numbers, readout)
    return source.expression + change.to(source.expression) @ _directions(source, readout)


def _beyond(semantics: Semantics, numbers: Tensor, readout: ReadOut | None) -> Tensor:
    """(B, 52): what was taken off a DSID's numbers to keep them in [0, 1]."""
    if semantics.encoder == ARKIT or readout is None:
        return torch.zeros_like(numbers)
    return numbers - readout.unlimited(semantics.expression).float()


def _directions(semantics: Semantics, readout: ReadOut | None) -> Tensor:
    """(52, width): how the expression code changes with each number."""
    if semantics.encoder == ARKIT or readout is None:
        return torch.eye(len(ARKIT52)).to(semantics.expression)
    return torch.stack([readout.direction(name) for name in ARKIT52]).to(semantics.expression)


def _turned(rotation: Tensor, edit: Edit) -> Tensor:
    turn = torch.tensor([edit.yaw, edit.pitch, edit.roll])
    if not turn.any():
        return rotation
    angles = matrix_to_euler(rotation_to_matrix(rotation.float())) + turn.to(rotation.device)
    yaw = angles[:, :1].clamp(-WIDEST_YAW, WIDEST_YAW)
    return matrix_to_rotation(euler_to_matrix(torch.cat([yaw, angles[:, 1:]], dim=-1))).to(rotation)


def _at_rest(semantics: Semantics) -> Semantics:
    """The same codes with a frontal head in the middle of the crop; the expression is left."""
    return replace(
        semantics,
        rotation=semantics.rotation.new_tensor(FRONTAL).expand_as(semantics.rotation),
        translation=torch.zeros_like(semantics.translation),
        log_scale=torch.zeros_like(semantics.log_scale),
    )


def _match(onto: Semantics, count: int) -> Semantics:
    """One code for all rows, or as many as there are."""
    if len(onto.expression) not in (1, count):
        raise ValueError(f"{len(onto.expression)} codes cannot take parts of {count}; give one, or as many")
    fields = ("expression", "rotation", "translation", "log_scale", *onto.extras())
    return replace(onto, **{name: getattr(onto, name).expand(count, -1) for name in fields})

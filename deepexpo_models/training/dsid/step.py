"""One DSID step as a module: pictures in, named loss terms out. DistributedDataParallel wraps it whole."""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Generator, Tensor, nn

from ...data.transforms import augment_identity_input, augment_semantic_input, random_similarity, transform_pose
from ...dsid import DSID
from ...dsid.alignment import invert_similarity, similarity_from_pose, warp
from ...dsid.losses import (
    cross_correlation,
    info_nce,
    pose_error,
    reconstruction,
    standardised,
    variance_floor,
    weight_map,
)
from ...dsid.rotation import FRONTAL, geodesic_angle, rotation_to_matrix
from ..engine.processes import gather_with_grad
from .batches import Batch, Labels

MIN_ROWS = 2  # of statistics over a batch
JITTER = {"roll": 4.0, "shift": 0.04, "growth": 0.05}  # of the alignment in training: at use it comes from a found pose


@dataclass(frozen=True)
class Switches:
    """The measures against leakage, each of which an ablation can leave out; augment: strength; generated: rows that are
    drawn per step; contrast: of the expressions of people who play the same face; codes: False where the encoders are
    frozen, so that pictures alone teach.
    """

    augment: float
    align: bool
    region_weight: float
    generated: int
    cycle: bool
    equivariance: bool
    contrast: bool
    codes: bool


class DSIDStep(nn.Module):
    """forward(batch, generator) -> (terms, made, shown): unweighted loss terms, the pictures drawn and what they should be.

    perceptual: made, true pictures -> their distance in a network's features; None: none.
    """

    spans: Tensor

    def __init__(self, model: DSID, switches: Switches, labels: Labels, perceptual: nn.Module | None = None):
        super().__init__()
        self.model, self.switches, self.perceptual = model, switches, perceptual
        config = model.config
        probes = {"label": (config.expression_width, len(labels.spans)), "traits": (config.identity_width, labels.traits)}
        self.probes = nn.ModuleDict({name: nn.Linear(*widths) for name, widths in probes.items()})  # read labels from codes
        self.register_buffer("spans", labels.spans)

    def forward(self, batch: Batch, generator: Generator) -> tuple[dict[str, Tensor], Tensor, Tensor]:
        identity = self.model.encode_identity(self._identity_view(batch.source, generator, batch.source_points))
        own: dict[str, Tensor] = {}
        if self.switches.codes or not batch.triples:
            own = self._semantics(batch.target, generator, batch.target_pose, batch.face)
        donor = self._donor_codes(batch, own, generator)
        rows = slice(0, self.switches.generated)
        terms, made = {}, batch.target[rows]
        if self.switches.codes:
            other = self.model.encode_identity(self._identity_view(batch.target, generator, None))
            terms = self._code_terms(batch, identity, other, own, donor, generator)
        if self.switches.generated:
            semantics = {name: code[rows] for name, code in donor.items()}
            made = self.model.reenact(identity[rows], **semantics)
            terms |= self._picture_terms(made, batch, rows)
            if self.switches.cycle:
                terms |= self._cycle_terms(made, identity[rows], semantics, generator)
        return terms, made, batch.target[rows]

    def _identity_view(self, images: Tensor, generator: Generator, points: Tensor | None) -> Tensor:
        return augment_identity_input(images, generator, points) if self.switches.augment else images

    def _semantic_view(self, images: Tensor, generator: Generator, face: Tensor | None = None) -> Tensor:
        strength = self.switches.augment
        return augment_semantic_input(images, generator, strength, face) if strength else images

    def _semantics(self, images: Tensor, generator: Generator, label=None, face: Tensor | None = None) -> dict[str, Tensor]:
        """label: the true pose, NaN where unknown, to align by; face: the mask beyond which pictures may be exchanged."""
        view = self._semantic_view(images, generator, face)
        pose = self.model.semantic_encoder.encode_pose(view)
        return {"expression": self._expression(view, _known(label, pose), generator), **pose}

    def _expression(self, view: Tensor, pose: dict[str, Tensor], generator: Generator) -> Tensor:
        """Read from the crop that a pose aligns, a little off; unaligned, from the middle of the crop."""
        if self.switches.align:
            jitter = random_similarity(len(view), generator, **JITTER).to(view.device)
            place = transform_pose(_held(pose), jitter)
        else:
            place = {name: torch.zeros_like(code) for name, code in pose.items()}
            place["rotation"] = place["rotation"] + place["rotation"].new_tensor(FRONTAL)
        return self.model.semantic_encoder.expression(
            warp(view, similarity_from_pose(**place), self.model.config.expression_size)
        )

    def _donor_codes(self, batch: Batch, own: dict[str, Tensor], generator: Generator) -> dict[str, Tensor]:
        """The semantics that the target is drawn from: other people's where they play the same scene."""
        if not batch.triples or not (self.switches.generated or self.switches.contrast):
            return own
        pose = self.model.semantic_encoder.encode_pose(self._semantic_view(batch.pose, generator))
        view = self._semantic_view(batch.expression, generator)
        place = batch.expression_pose
        if not place["rotation"].isfinite().all():
            place = _known(place, self.model.semantic_encoder.encode_pose(view))
        return {"expression": self._expression(view, place, generator), **pose}

    def _picture_terms(self, made: Tensor, batch: Batch, rows: slice) -> dict[str, Tensor]:
        target = batch.target[rows]
        weights = weight_map(batch.region[rows], batch.face[rows], self.switches.region_weight)
        terms = {"picture": reconstruction(made, target, weights)}
        if self.perceptual is not None:
            terms["perceptual"] = self.perceptual(made, target)
        return terms

    def _code_terms(self, batch, identity, other, own, donor, generator) -> dict[str, Tensor]:
        moving = self._moving(batch)
        identities = [gather_with_grad(code) for code in (identity, other)]
        faces, expressions = gather_with_grad(own["expression"]), gather_with_grad(donor["expression"])
        poses = torch.cat([gather_with_grad(donor[name]) for name in ("rotation", "translation", "log_scale")], dim=-1)
        terms = {
            "identity": _of_rows(moving, info_nce, *identities),
            "pose": pose_error(own, batch.target_pose),
            "pair": _of_rows(moving, cross_correlation, identities[0], torch.cat([faces, poses], dim=-1)),
            "floor": variance_floor(faces),
            "size": (faces.float().square().mean() - 1).square(),
            "label": self._label(own, batch.label),
            "traits": (self._traits(identity, batch.traits) + self._traits(other, batch.traits)) / 2,
        }
        if self.switches.equivariance:
            terms["equivariance"] = self._equivariance(batch.pose, generator)
        if donor is not own:
            terms["label"] = (terms["label"] + self._label(donor, batch.label)) / 2
            terms["pose"] = (terms["pose"] + pose_error(donor, batch.target_pose)) / 2
            faces_scaled, expressions_scaled = standardised(faces, expressions)
            terms["expression"] = info_nce(faces_scaled, expressions_scaled)
        if not batch.triples:
            others = gather_with_grad(self._semantics(batch.source, generator)["expression"])
            terms["frames"] = _of_rows(moving, cross_correlation, faces, others)  # frames share the identity alone (`L_pair`)
        return terms

    def _label(self, semantics: dict[str, Tensor], label: Tensor) -> Tensor:
        """In units of the labels' ranges: else the jaw and the lids drown the brows."""
        return self._read("label", semantics["expression"], label / self.spans)

    def _traits(self, identity: Tensor, traits: Tensor) -> Tensor:
        return self._read("traits", identity * identity.shape[-1] ** 0.5, traits)  # of unit variance, as expressions are

    def _read(self, name: str, code: Tensor, label: Tensor) -> Tensor:
        """Squared error of the labels that are known, read linearly from a code."""
        known, found = label.isfinite(), self.probes[name](code).float()
        return (found - label)[known].square().mean() if known.any() else found.sum() * 0

    def _moving(self, batch: Batch) -> Tensor:
        """(B,) bool, of all processes: the rows that show a person twice; a single still has no second picture."""
        still = torch.zeros(len(batch.target)) if batch.still is None else batch.still
        return gather_with_grad(still.float().to(batch.target.device)[:, None])[:, 0] < 0.5

    def _equivariance(self, images: Tensor, generator: Generator) -> Tensor:
        """A picture turned, moved and scaled has the pose turned, moved and scaled: needs no labels."""
        few = images[: max(2, len(images) // 4)]
        moved = random_similarity(len(few), generator).to(few.device)
        found = self.model.semantic_encoder.encode_pose(few)
        expected = transform_pose({name: code.detach() for name, code in found.items()}, moved)
        return pose_error(self.model.semantic_encoder.encode_pose(_moved(few, moved)), expected)

    def _cycle_terms(self, made: Tensor, identity: Tensor, donor: dict[str, Tensor], generator: Generator) -> dict[str, Tensor]:
        """What was drawn from three people's codes reads as those codes again, through colours that hide nothing."""
        again = self._semantics(made, generator)
        person = self.model.encode_identity(made)
        turn = geodesic_angle(*[rotation_to_matrix(codes["rotation"].float()) for codes in (again, _held(donor))])
        return {
            "cycle": 1 - F.cosine_similarity(again["expression"].float(), donor["expression"].detach().float()).mean()
            + 1 - F.cosine_similarity(person.float(), identity.detach().float()).mean()
            + turn.mean()
        }  # fmt: skip


def _of_rows(rows: Tensor, loss, first: Tensor, second: Tensor) -> Tensor:
    """The loss of the chosen rows of two batches of codes; 0 of fewer than MIN_ROWS."""
    if rows.sum() < MIN_ROWS:
        return (first.sum() + second.sum()) * 0
    return loss(first[rows], second[rows])


def _known(label: dict[str, Tensor] | None, found: dict[str, Tensor]) -> dict[str, Tensor]:
    """The labels where there are any, else the pose found: early in a run a found pose aligns nothing."""
    if label is None:
        return found
    return {name: torch.where(label[name].isfinite(), label[name], code.detach()) for name, code in found.items()}


def _moved(images: Tensor, similarity: Tensor) -> Tensor:
    """Content moved by similarity: the picture is sampled where the inverse points."""
    return warp(images, invert_similarity(similarity), images.shape[-1])


def _held(codes: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: code.detach() for name, code in codes.items()}

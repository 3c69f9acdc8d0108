"""Batches of real faces for a DSID: clips, stills, and drawn triples that teach the split of the codes."""

import torch
from accelerate import PartialState
from torch import Generator, Tensor

from ...data.clips.frame_store import FrameBatch, FrameStore, split_people
from ...data.clips.index import Clip, index_clips
from ...data.clips.masks import face_ellipse, region_mask
from ...data.clips.stills import index_stills
from ...dsid import CONFIGS
from ...dsid.alignment import TEMPLATE, TIGHT, place_of, similarity_from_points
from ...dsid.rotation import euler_to_matrix, matrix_to_rotation
from .batches import DRAWN_LABELS, TRAITS, Batch, DrawnFaces

HELD_OUT = 64  # pairs that the meters are read on
DEPTHS = (-0.80, -0.80, -1.00, -0.68, -0.68)  # of TEMPLATE's points before the axis the head turns about, in its unit


class RealFaces:
    """Pairs from settings.clips and settings.stills, with a teacher of drawn triples in settings.teacher of the steps.

    Raises ValueError for folders without usable files, fewer than two people, a share outside [0, 1], a teacher without
    drawn faces, and drawn faces of another size than the DSID reads.
    """

    labels = DRAWN_LABELS

    def __init__(self, settings):
        for name in ("stills_share", "teacher"):
            if not 0 <= getattr(settings, name) <= 1:
                raise ValueError(f"{name} is {getattr(settings, name)}; it is a share, from 0 to 1")
        self.size = CONFIGS[settings.config].image_size
        self.stills_share, self.teacher = settings.stills_share, settings.teacher
        self.drawn = self._drawn(settings)
        train, held = split_people(index_faces(settings, _say))
        self.train, self.held = FrameStore(train, self.size), FrameStore(held, self.size)

    def sample(self, count: int, generator: Generator, lead: Generator) -> Batch:
        """lead: a generator that is the same in all processes, for a step's loss terms, and so its gathers, must be the same
        in all of them."""
        if self.teacher and float(torch.rand((), generator=lead)) < self.teacher:
            return self.drawn.sample(count, generator)
        return real_batch(self.train.sample_pairs(count, generator, stills_share=self.stills_share))

    def held_out(self, engine) -> Batch:
        """Pairs of people that no training sees, always the same ones, frames far apart."""
        count = min(HELD_OUT, max(8, self.held.people))
        generator = torch.Generator().manual_seed(7)
        return real_batch(self.held.sample_pairs(count, generator, far=1.0, stills_share=self.stills_share))

    def _drawn(self, settings) -> DrawnFaces | None:
        if not settings.teacher:
            return None
        if not settings.synthetic:
            raise ValueError("teacher is a share of drawn triples; give their folder as --synthetic too")
        drawn = DrawnFaces(settings.synthetic, True, settings.same_clip)
        if drawn.size != self.size:
            raise ValueError(f"{settings.synthetic} has faces of {drawn.size} pixels, the DSID reads {self.size}; draw others")
        return drawn


def real_batch(pairs: FrameBatch) -> Batch:
    """first lends the identity, second all else; what is not known of it is NaN, and its masks those of any face."""
    pose = pose_from_labels(pairs.second_points, pairs.second_euler)
    size = pairs.second.shape[-1]
    return Batch(
        source=pairs.first,
        target=pairs.second,
        expression=pairs.second,
        pose=pairs.second,
        region=region_mask(pairs.second_points, size),
        face=face_ellipse(pairs.second_points, size),
        source_points=pairs.first_points,
        target_pose=pose,
        expression_pose=pose,
        label=pairs.second_expression,
        traits=torch.full((len(pairs.second), TRAITS), torch.nan),
        person=pairs.person,
        triples=False,
        still=pairs.still,
    )


def pose_from_labels(points: Tensor, euler: Tensor) -> dict[str, Tensor]:
    """points (B, 5, 2) in crop coordinates, euler (B, 3) in degrees -> pose codes: rotation from euler, place and scale where
    a face at rest would stand, as `dsid.alignment` measures them.

    The landmarks of a turned face lie beside the head's middle, by up to 0.4 half widths: with euler known the template is
    turned too, in space, and fitted (least squares, without perspective). A row's rotation is NaN too where its points
    are: losses take a row with a rotation for one that is known whole.
    """
    _, translation, log_scale = place_of(similarity_from_points(points))
    matrix = euler_to_matrix(euler)
    depths = points.new_tensor(DEPTHS)[:, None]
    seen = torch.cat([points.new_tensor(TEMPLATE), depths], dim=1) @ matrix[:, :2].transpose(1, 2)  # (B, 5, 2)
    middle, centre = seen.mean(1, keepdim=True), points.mean(1, keepdim=True)
    scale = ((seen - middle) * (points - centre)).sum((1, 2)) / (seen - middle).square().sum((1, 2))
    turned = (centre - scale[:, None, None] * middle)[:, 0]
    known = turned.isfinite().all(dim=-1, keepdim=True) & (scale > 0)[:, None]
    return {
        "rotation": torch.where(known, matrix_to_rotation(matrix), torch.nan),
        "translation": torch.where(known, turned, translation),
        "log_scale": torch.where(known, (scale / TIGHT).log()[:, None], log_scale),
    }


def index_faces(settings, say) -> list[Clip]:
    """Clips of settings.clips and persons of settings.stills; what was skipped is told. Raises ValueError for none."""
    reports = [index(folder) for index, folder in ((index_clips, settings.clips), (index_stills, settings.stills)) if folder]
    for report in reports:
        say(report.summary())
    return [clip for report in reports for clip in report.clips]


def _say(text: str) -> None:
    PartialState().print(text, flush=True)

"""Batches of real faces for a DSID: clips and stills."""

import torch
import torch.nn.functional as F
from accelerate import PartialState
from torch import Generator, Tensor

from ...data.clips.frame_store import FrameBatch, FrameStore, split_people
from ...data.clips.index import Clip, index_clips
from ...data.clips.labels import PARTS
from ...data.clips.masks import face_ellipse, region_mask
from ...data.clips.stills import index_stills
from ...dsid import CONFIGS
from ...dsid.alignment import place_of, similarity_from_points
from ...dsid.readout import GAZE
from ...dsid.rotation import euler_to_matrix, matrix_to_rotation
from ..heads.identity import TRAITS
from .batches import Batch, Labels, spans_of

HELD_OUT = 64  # pairs that the meters are read on


class RealFaces:
    """Pairs from settings.clips and settings.stills. Labels are those of rendered heads, without the gaze and the traits.

    Raises ValueError for folders without usable files, fewer than two people, and a share outside [0, 1].
    """

    def __init__(self, settings):
        if not 0 <= settings.stills_share <= 1:
            raise ValueError(f"stills_share is {settings.stills_share}; it is a share, from 0 to 1")
        self.size, self.stills_share = CONFIGS[settings.config].image_size, settings.stills_share
        train, held = split_people(index_faces(settings, _say))
        self.train, self.held = FrameStore(train, self.size), FrameStore(held, self.size)
        self.labels = Labels(spans_of(expression_label(units_told(train))), len(TRAITS))

    def sample(self, count: int, generator: Generator, lead: Generator | None = None) -> Batch:
        return real_batch(self.train.sample_pairs(count, generator, stills_share=self.stills_share))

    def held_out(self, engine) -> Batch:
        """Pairs of people that no training sees, always the same ones, frames far apart."""
        count = min(HELD_OUT, max(8, self.held.people))
        generator = torch.Generator().manual_seed(7)
        return real_batch(self.held.sample_pairs(count, generator, far=1.0, stills_share=self.stills_share))


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
        label=expression_label(pairs.second_units),
        traits=torch.full((len(pairs.second), len(TRAITS)), torch.nan),
        person=pairs.person,
        triples=False,
        still=pairs.still,
    )


def units_told(clips: list[Clip]) -> Tensor:
    """ARKit's numbers of all labelled frames (N, 52), NaN where unknown."""
    told = [label[-PARTS[-1] :] for clip in clips for label in clip.labels.values()]
    return torch.tensor(told, dtype=torch.float32).reshape(-1, PARTS[-1])


def expression_label(units: Tensor) -> Tensor:
    """ARKit's numbers (B, 52) -> labels as those of rendered heads (B, 54): nobody tells the gaze, in radians, of a frame."""
    return F.pad(units, (0, len(GAZE)), value=torch.nan)


def pose_from_labels(points: Tensor, euler: Tensor) -> dict[str, Tensor]:
    """points (B, 5, 2) in crop coordinates, euler (B, 3) in degrees -> pose codes: rotation from euler, place and scale as the
    alignment measures them. A row's rotation is NaN too where its points are: losses take a row with a rotation for one that
    is known whole.
    """
    _, place, scale = place_of(similarity_from_points(points))
    known = torch.cat([place, scale], dim=-1).isfinite().all(dim=-1, keepdim=True)
    rotation = torch.where(known, matrix_to_rotation(euler_to_matrix(euler)), torch.nan)
    return {"rotation": rotation, "translation": place, "log_scale": scale}


def index_faces(settings, say) -> list[Clip]:
    """Clips of settings.clips and persons of settings.stills; what was skipped is told. Raises ValueError for none."""
    reports = [index(folder) for index, folder in ((index_clips, settings.clips), (index_stills, settings.stills)) if folder]
    for report in reports:
        say(report.summary())
    return [clip for report in reports for clip in report.clips]


def _say(text: str) -> None:
    PartialState().print(text, flush=True)

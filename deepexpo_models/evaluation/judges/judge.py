"""The judge of rendered heads: it measures what a picture shows (`kinds.HEADS`), and knows its own error.

It is never a training loss and shares no weights with DSID. `training.train_judge` makes it.
"""

import json
import math
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ...dsid.alignment import similarity_from_pose, warp
from ...dsid.rotation import FRONTAL, euler_to_matrix, matrix_to_euler, matrix_to_rotation, rotation_to_matrix
from ...image import resize
from ...layers import MLP, SpatialPool, Trunk
from ...weights import build_module, load_tensors, save_tensors
from .kinds import HEADS, RENDERED, Factor, Shown

CHUNK = 32  # pictures judged at once


@dataclass(frozen=True)
class JudgeConfig:
    """Sizes in pixels and channels. Pictures of any size are resized to image_size. pictures: what they show, RENDERED."""

    image_size: int = 128
    scene_size: int = 64
    face_size: int = 64
    scene_channels: tuple[int, ...] = (40, 80, 128, 192)
    face_channels: tuple[int, ...] = (40, 80, 128, 160)
    identity_width: int = 64
    colour_size: int = 16
    colour_width: int = 256
    pictures: str = RENDERED

    @classmethod
    def from_dict(cls, config: dict) -> "JudgeConfig":
        """Raises ValueError for other fields than these, and for other pictures."""
        if config.keys() != {field.name for field in fields(cls)}:
            raise ValueError("its config is not that of a judge of this version; train it again")
        if config["pictures"] != RENDERED:
            raise ValueError(f"it judges {config['pictures']!r}, this version {RENDERED}; train it again")
        values: dict[str, Any] = {name: tuple(value) if isinstance(value, list) else value for name, value in config.items()}
        return cls(**values)


@dataclass(frozen=True)
class Judgement(Shown):
    """What B pictures show to a judge: face (B,), the probability that there is one; identity (B, D) of unit norm."""

    face: Tensor
    identity: Tensor


class Reader(nn.Module):
    """Features (B, C, side, side) -> (B, width): a spatial pool and a linear head of its own."""

    def __init__(self, channels: int, side: int, width: int, operations=nn):
        super().__init__()
        self.pool = SpatialPool(channels, side, operations)
        self.head = operations.Linear(channels, width)

    def forward(self, features: Tensor) -> Tensor:
        return self.head(self.pool(features))


class Judge(nn.Module):
    """Pose, context and the presence of a face from the whole picture; expression from a crop aligned by the pose found;
    identity from both. `errors` is what it knows of its own mistakes (see `own_errors`); empty before it was measured.

    `colours` tells the context from the pixels of a small picture too; what that adds by itself was not measured.
    """

    def __init__(self, config: JudgeConfig, operations=nn):
        super().__init__()
        self.config = config
        self.errors: dict = {}
        contexts = sum(len(factor.choices) for factor in HEADS.context)
        self.scene = Trunk(config.scene_channels, 1, stem_stride=2, operations=operations)
        self.readers = _readers(
            config.scene_channels, config.scene_size, operations,
            pose=9, identity=config.identity_width, face=1, context=contexts,
        )  # fmt: skip
        self.colours = MLP((3 * config.colour_size**2, config.colour_width, contexts), operations)
        self.aligned = Trunk(config.face_channels, 1, stem_stride=2, operations=operations)
        self.face_readers = _readers(
            config.face_channels, config.face_size, operations,
            identity=config.identity_width, expression=len(HEADS.expression),
        )  # fmt: skip
        self.looks = operations.Linear(config.identity_width, len(HEADS.looks))

    def read_scene(self, images: Tensor) -> dict[str, Tensor]:
        """images (B, 3, image_size, image_size) -> rotation (B, 3, 3), place (B, 3) in shares of its ranges, context and
        face logits, and what the scene tells of the identity (B, D)."""
        features = self._scene_features(images)
        found = {name: reader(features) for name, reader in self.readers.items()}
        rotation, place = found.pop("pose").split([6, 3], dim=1)
        rotation = rotation_to_matrix(rotation + rotation.new_tensor(FRONTAL))
        colours = self.colours(_shrunk(images, self.config.colour_size).flatten(1))
        return {**found, "rotation": rotation, "place": place, "context": found["context"] + colours}

    def _scene_features(self, images: Tensor) -> Tensor:
        return self.scene(_shrunk(images, self.config.scene_size))

    def read_face(self, images: Tensor, pose: Tensor, scene_identity: Tensor) -> dict[str, Tensor]:
        """images (B, 3, image_size, image_size), pose (B, 6) to align them by, what the scene tells of the identity (B, D) ->
        expression (B, E) and looks (B, L) in shares of their ranges, identity (B, D) of unit norm."""
        rotation = matrix_to_rotation(euler_to_matrix(pose[:, :3]))
        similarity = similarity_from_pose(rotation, pose[:, 3:5], pose[:, 5:])
        features = self.aligned(warp(images, similarity, self.config.face_size))
        found = {name: reader(features) for name, reader in self.face_readers.items()}
        identity = F.normalize(found["identity"] + scene_identity, dim=1)
        return {**found, "identity": identity, "looks": self.looks(identity * self.config.identity_width**0.5)}

    @torch.no_grad()
    def features(self, images: Tensor) -> Tensor:
        """images (B, 3, H, W) in [-1, 1] -> (B, C): means of the last layer over the picture, for FID and KID."""
        return self._scene_features(resize(images.float(), self.config.image_size)).mean((2, 3))

    @torch.no_grad()
    def forward(self, images: Tensor) -> Judgement:
        """images (B, 3, H, W) in [-1, 1], one head each, framed as rendered ones."""
        images = resize(images.float(), self.config.image_size)
        scene = self.read_scene(images)
        pose = torch.cat([matrix_to_euler(scene["rotation"]), from_share(scene["place"], HEADS.pose[3:])], dim=1)
        face = self.read_face(images, pose, scene["identity"])
        return Judgement(
            face=scene["face"][:, 0].sigmoid(),
            identity=face["identity"],
            looks=from_share(face["looks"], HEADS.looks),
            expression=from_share(face["expression"], HEADS.expression),
            pose=pose,
            context=torch.stack([part.argmax(1).float() for part in by_factor(scene["context"], HEADS.context)], dim=1),
        )


def _readers(channels: tuple[int, ...], size: int, operations, **widths: int) -> nn.ModuleDict:
    """Name -> a reader, of so many numbers, of what a trunk with these channels makes of pictures of that size."""
    side = size // 2 ** len(channels)
    return nn.ModuleDict({name: Reader(channels[-1], side, width, operations) for name, width in widths.items()})


def _shrunk(images: Tensor, size: int) -> Tensor:
    return F.interpolate(images, size, mode="bilinear", antialias=True)


@torch.no_grad()
def judged(judge: Judge, images: Tensor) -> Judgement:
    """All pictures, CHUNK at a time; but for `face`, a row is NaN where the judge sees no face."""
    parts = [judge(chunk) for chunk in images.split(CHUNK)]
    whole = {field.name: torch.cat([getattr(part, field.name) for part in parts]) for field in fields(Judgement)}
    lost = whole["face"] < 0.5
    return Judgement(**{
        name: value if name == "face" else value.masked_fill(lost[:, None], math.nan) for name, value in whole.items()
    })  # fmt: skip


def to_share(values: Tensor, factors: tuple[Factor, ...]) -> Tensor:
    """(B, F) in the factors' units -> their places in the ranges, low = -1 and high = 1."""
    low, high = values.new_tensor([f.low for f in factors]), values.new_tensor([f.high for f in factors])
    return (values - low) / (high - low) * 2 - 1


def from_share(shares: Tensor, factors: tuple[Factor, ...]) -> Tensor:
    """Undoes `to_share`; what lies outside a range is put on its border."""
    low, high = shares.new_tensor([f.low for f in factors]), shares.new_tensor([f.high for f in factors])
    return low + (shares.clamp(-1, 1) + 1) / 2 * (high - low)


def by_factor(logits: Tensor, factors: tuple[Factor, ...]) -> tuple[Tensor, ...]:
    """(B, all choices) -> of each factor (B, its choices)."""
    return logits.split([len(factor.choices) for factor in factors], dim=1)


def save_judge(path: Path, judge: Judge) -> None:
    """Write weights (float16), config and the judge's own errors to one safetensors file, whole or not at all."""
    tensors = {name: tensor.half() for name, tensor in judge.state_dict().items()}
    extra = {"errors": json.dumps(judge.errors), "trained_on": judge.config.pictures}
    save_tensors(path, "judge", tensors, name="judge", config=asdict(judge.config), **extra)


def load_judge(path: Path) -> Judge:
    """Read a judge, float32, in eval mode. Raises ValueError, in one sentence, for any other or damaged file."""
    header, tensors = load_tensors(path, "judge")
    try:
        config, errors = JudgeConfig.from_dict(header.config), json.loads(header.metadata.get("errors", "{}"))
    except ValueError as error:
        raise ValueError(f"{header.path.name} cannot be used: {error}") from error
    judge = build_module(lambda layers: Judge(config, layers), nn, header, tensors).float()
    judge.errors = errors
    return judge

"""MEAF's configuration: its streams, its base family, and the defaults a user starts from."""

import math
from dataclasses import asdict, dataclass
from typing import cast

from ..config_fields import check_fields, config_from
from ..dsid.codes import SEMANTIC_WIDTHS, EncoderId, public_encoder
from ..dsid.config import DSIDConfig
from .branch import BranchConfig
from .fusion import FUSIONS
from .projectors import StreamConfig
from .sites import FAMILIES, UNetShape

MOST_STREAMS = 16


@dataclass(frozen=True)
class MEAFConfig:
    """What a MEAF is built from.

    name: shown in errors; base: label of the base family; unet: that family's shape; fusion: key of FUSIONS;
    streams: stream name -> its config; encoder: the DSID whose codes it was trained on, for streams that name no other;
    branch: the trainable copy of the sizes `control` and `full`, None for `light`.
    """

    name: str
    base: str
    unet: UNetShape
    fusion: str
    streams: dict[str, StreamConfig]
    encoder: EncoderId
    branch: BranchConfig | None = None

    def __post_init__(self):
        check_fields(self)
        if self.fusion not in FUSIONS:
            raise ValueError(f"unknown fusion {self.fusion!r}; known: {', '.join(FUSIONS)}")
        if not 0 < len(self.streams) <= MOST_STREAMS or not all(map(str.isidentifier, self.streams)):
            raise ValueError(f"a MEAF needs 1 to {MOST_STREAMS} streams, their names of letters; got {len(self.streams)}")
        for stream in self.streams.values():
            stream.require_buildable()
        if self.branch and [width % heads for width, heads in zip(self.unet.channels, self.branch.heads)] != [0] * self.levels:
            raise ValueError(f"heads of a branch are {self.branch.heads}; they must divide the widths {self.unet.channels}")
        if self.base in FAMILIES and self.unet != FAMILIES[self.base]:
            raise ValueError(f"the U-Net shape given is not that of base family {self.base!r}; give it a base name of its own")

    @property
    def levels(self) -> int:
        return len(self.unet.channels)

    @property
    def size(self) -> str:
        """light, control or full."""
        return self.branch.size if self.branch else "light"

    def encoder_of(self, stream: str) -> EncoderId:
        """Whose codes a stream reads."""
        face_model = self.streams[stream].face_model
        return public_encoder(face_model) if face_model else self.encoder

    def to_dict(self) -> dict:
        """JSON-ready; the inverse of `from_dict`."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: dict) -> "MEAFConfig":
        """Raises ValueError for missing, unknown or unusable entries."""
        streams, branch = values.get("streams"), values.get("branch")
        if not isinstance(streams, dict) or len(streams) > MOST_STREAMS:
            raise ValueError("not a usable MEAF config: its streams are no JSON object of a few entries")
        return config_from(
            cls,
            {
                **values,
                "unet": config_from(UNetShape, values.get("unet"), "U-Net"),
                "streams": {name: config_from(StreamConfig, stream, "stream") for name, stream in streams.items()},
                "encoder": config_from(EncoderId, values.get("encoder"), "encoder"),
                "branch": config_from(BranchConfig, branch, "branch") if branch else None,
            },
            "MEAF",
        )


MAX_STRENGTH = 3.0  # of a stream, as the nodes offer it


@dataclass(frozen=True)
class StreamSettings:
    """What a user sets per stream: strength (1 = as trained) and the part of the sampling it acts in (0 = first step)."""

    strength: float
    start_percent: float
    end_percent: float

    def __post_init__(self):
        if not math.isfinite(self.strength):
            raise ValueError(f"a strength of {self.strength} cannot be used; set one from 0 to {MAX_STRENGTH:g}")
        if not 0 <= self.start_percent <= self.end_percent <= 1:
            raise ValueError(
                f"a stream cannot act from {self.start_percent} to {self.end_percent}; "
                f"set 0 <= start_percent <= end_percent <= 1"
            )


PUBLIC_SEMANTICS = {"arkit52": 52}  # public encoders of expression and pose, and how many numbers their expression has

# Pose and layout are decided at high noise, expression in the middle, identity to the very end.
DEFAULT_SETTINGS = {
    "identity": StreamSettings(1.0, 0.0, 1.0),
    "expression": StreamSettings(1.0, 0.0, 0.9),
    "pose": StreamSettings(1.0, 0.0, 0.6),
}


def default_config(
    name: str,
    base: str,
    dsid: DSIDConfig | None,
    encoder: EncoderId,
    unet: UNetShape | None = None,
    fusion: str = "tokens",
    expression_width: int = 512,
    pose_width: int = 256,
    branch: BranchConfig | None = None,
    semantics: str = "",
) -> MEAFConfig:
    """The usual streams: identity in the text embedding's width, expression and rotation narrower. Only the rotation of the
    pose is fused: place and size of the face belong to the prompt.

    base: key of FAMILIES, or a name of its own together with `unet`; *_width: of the tokens of a stream. The printed
    formula, fusion "paper", knows one token a stream. branch: of the sizes control and full. semantics: key of
    PUBLIC_SEMANTICS whose codes expression and pose read, "" for the DSID's own; dsid: None where there is none, then
    identity has no stream.
    """
    if unet is None and base not in FAMILIES:
        raise ValueError(f"unknown base family {base!r}; known: {', '.join(FAMILIES)}")
    unet = unet or FAMILIES[base]
    counts = (4, 8, 4) if fusion == "tokens" else (1, 1, 1)
    if dsid is None and not semantics:
        raise ValueError("expression and pose read a DSID's codes or public ones; give a DSID or the name of the latter")
    width = PUBLIC_SEMANTICS[semantics] if dsid is None or semantics else dsid.expression_width
    rows = {
        "identity": ("identity", dsid.identity_width, 2 * dsid.identity_width, unet.context_width) if dsid else None,
        "expression": ("expression", width, 4 * width, expression_width),
        "pose": ("rotation", cast(int, SEMANTIC_WIDTHS["rotation"]), 256, pose_width),
    }
    streams = {
        name: StreamConfig((row[0],), row[1], row[2], count, row[3], face_model="" if name == "identity" else semantics)
        for (name, row), count in zip(rows.items(), counts)
        if row
    }
    return MEAFConfig(name=name, base=base, unet=unet, fusion=fusion, streams=streams, encoder=encoder, branch=branch)

"""MEAF's configuration: its streams, its base family, and the defaults a user starts from."""

from dataclasses import asdict, dataclass

from ..dsid.codes import SEMANTIC_WIDTHS, EncoderId, public_encoder
from ..dsid.config import DSIDConfig
from .branch import BranchConfig
from .fusion import FUSIONS
from .projectors import StreamConfig
from .sites import FAMILIES, UNetShape


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
        if self.fusion not in FUSIONS:
            raise ValueError(f"unknown fusion {self.fusion!r}; known: {', '.join(FUSIONS)}")
        if not self.streams:
            raise ValueError("a MEAF needs at least one stream")
        if self.base in FAMILIES and self.unet != FAMILIES[self.base]:
            raise ValueError(f"the U-Net shape given is not that of base family {self.base!r}; give it a base name of its own")

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
        try:
            unet = {key: tuple(value) if isinstance(value, list) else value for key, value in values["unet"].items()}
            return cls(
                **{
                    **values,
                    "unet": UNetShape(**unet),
                    "streams": {name: StreamConfig(**stream) for name, stream in values["streams"].items()},
                    "encoder": EncoderId(**values["encoder"]),
                    "branch": BranchConfig(**values["branch"]) if values.get("branch") else None,
                }
            )
        except (KeyError, TypeError, AttributeError) as error:
            raise ValueError(f"not a usable MEAF config ({error})") from error


@dataclass(frozen=True)
class StreamSettings:
    """What a user sets per stream: strength (1 = as trained) and the part of the sampling it acts in (0 = first step)."""

    strength: float
    start_percent: float
    end_percent: float

    def __post_init__(self):
        if not 0 <= self.start_percent <= self.end_percent <= 1:
            raise ValueError(
                f"a stream cannot act from {self.start_percent} to {self.end_percent}; "
                f"set 0 <= start_percent <= end_percent <= 1"
            )


# Pose and layout are decided at high noise, expression in the middle, identity to the very end.
DEFAULT_SETTINGS = {
    "identity": StreamSettings(1.0, 0.0, 1.0),
    "expression": StreamSettings(1.0, 0.0, 0.9),
    "pose": StreamSettings(1.0, 0.0, 0.6),
}


def default_config(
    name: str,
    base: str,
    dsid: DSIDConfig,
    encoder: EncoderId,
    unet: UNetShape | None = None,
    fusion: str = "tokens",
    expression_width: int = 512,
    pose_width: int = 256,
    branch: BranchConfig | None = None,
) -> MEAFConfig:
    """The usual streams: identity in the text embedding's width, expression and rotation narrower. Only the rotation of the
    pose is fused: place and size of the face belong to the prompt.

    base: key of FAMILIES, or a name of its own together with `unet`; *_width: of the tokens of a stream. The printed
    formula, fusion "paper", knows one token a stream. branch: of the sizes control and full.
    """
    if unet is None and base not in FAMILIES:
        raise ValueError(f"unknown base family {base!r}; known: {', '.join(FAMILIES)}")
    unet = unet or FAMILIES[base]
    counts = (4, 8, 4) if fusion == "tokens" else (1, 1, 1)
    rows = {
        "identity": ("identity", dsid.identity_width, 2 * dsid.identity_width, unet.context_width),
        "expression": ("expression", dsid.expression_width, 4 * dsid.expression_width, expression_width),
        "pose": ("rotation", SEMANTIC_WIDTHS["rotation"], 256, pose_width),
    }
    streams = {
        name: StreamConfig((field,), width, hidden, count, token_width)
        for (name, (field, width, hidden, token_width)), count in zip(rows.items(), counts)
    }
    return MEAFConfig(name=name, base=base, unet=unet, fusion=fusion, streams=streams, encoder=encoder, branch=branch)

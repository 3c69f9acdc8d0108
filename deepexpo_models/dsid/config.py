"""DSID's configuration: sizes of pictures, codes and networks."""

from dataclasses import asdict, dataclass, fields, replace

from ..config_fields import check_fields, config_from
from ..layers import GROUP_CHANNELS

POSE_WIDTH = 6 + 2 + 1  # rotation, translation, log scale
EXPRESSION_STRIDE = 2  # of the expression encoder's first layer
NETS_OF_PICTURES = ("generator_channels", "discriminator_channels")  # a DSID can do without
MOST = {"image_size": 4096, "expression_size": 4096, "identity_blocks": 64, "expression_blocks": 64, "pose_blocks": 64}
START_SIZE = 4  # pixels: where the generator starts and the discriminator ends


@dataclass(frozen=True)
class DSIDConfig:
    """What a DSID is built from.

    image_size, expression_size: sides in pixels of the face crop and of the aligned crop that expression is read from.
    *_width: lengths of the vectors. *_channels: one entry per resolution, from the finest down (generator: from the
    coarsest up); *_blocks: residual blocks per resolution. The identity and the pose encoder begin at 1/stem_stride of the
    picture's resolution, the expression encoder at half that of the aligned crop. Empty generator_channels: encoders alone.

    Raises ValueError for what cannot be built, naming the values.
    """

    name: str
    image_size: int
    expression_size: int
    stem_stride: int
    identity_width: int
    expression_width: int
    identity_channels: tuple[int, ...]
    identity_blocks: int
    expression_channels: tuple[int, ...]
    expression_blocks: int
    pose_channels: tuple[int, ...]
    pose_blocks: int
    generator_channels: tuple[int, ...]
    style_width: int
    discriminator_channels: tuple[int, ...]

    def __post_init__(self):
        check_fields(self, most=MOST)
        for field in fields(self):
            if field.name.endswith("_channels"):
                _require_groups(field.name, getattr(self, field.name))
        whole, aligned = ("image_size", self.stem_stride), ("expression_size", EXPRESSION_STRIDE)
        for trunk, begin in (("identity", whole), ("pose", whole), ("expression", aligned)):
            self._require_divisible(f"{trunk}_channels", *begin)
        for net in NETS_OF_PICTURES:
            if getattr(self, net):
                self._require_reach(net)

    def encoders_alone(self) -> "DSIDConfig":
        """Without a name and what draws: equal for files whose encoders are of one size."""
        return replace(self, name="", generator_channels=(), style_width=1, discriminator_channels=())

    def _require_divisible(self, trunk: str, size: str, stride: int) -> None:
        stages, side = len(getattr(self, trunk)), getattr(self, size)
        divisor = stride * 2 ** (stages - 1)
        if side % divisor:
            raise ValueError(
                f"{size} is {side}, but {trunk} has {stages} entries, which begin at 1/{stride} of it and halve it from "
                f"one to the next; use a multiple of {divisor}"
            )

    def _require_reach(self, net: str) -> None:
        steps = len(getattr(self, net)) - 1
        if START_SIZE * 2**steps != self.image_size:
            raise ValueError(
                f"{net} has {steps + 1} entries, which is for pictures of {START_SIZE * 2**steps} pixels, "
                f"but image_size is {self.image_size}; change one of them"
            )

    def to_dict(self) -> dict:
        """JSON-ready; the inverse of `from_dict`."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: dict) -> "DSIDConfig":
        """Raises ValueError for missing, unknown or unusable entries."""
        return config_from(cls, values, "DSID")


def _require_groups(name: str, channels: tuple[int, ...]) -> None:
    if not (channels or name in NETS_OF_PICTURES) or any(count % GROUP_CHANNELS for count in channels):
        raise ValueError(f"{name} is {channels}; it must list positive multiples of {GROUP_CHANNELS}")


CONFIGS = {
    "base": DSIDConfig(
        name="base",
        image_size=256,
        expression_size=128,
        stem_stride=2,
        identity_width=512,
        expression_width=128,
        identity_channels=(64, 128, 256, 512, 512),
        identity_blocks=2,
        expression_channels=(48, 96, 192, 384, 384),
        expression_blocks=2,
        pose_channels=(48, 96, 192, 320, 384),
        pose_blocks=1,
        generator_channels=(384, 512, 512, 384, 256, 128, 64),
        style_width=512,
        discriminator_channels=(64, 128, 256, 512, 512, 512, 512),
    ),
    "small": DSIDConfig(  # for experiments that are repeated: an ablation on a CPU
        name="small",
        image_size=64,
        expression_size=40,  # as many pixels as the aligned part of a crop has
        stem_stride=2,
        identity_width=128,
        expression_width=32,
        identity_channels=(24, 48, 96, 128),
        identity_blocks=1,
        expression_channels=(24, 48, 96),
        expression_blocks=1,
        pose_channels=(24, 32, 48, 64),
        pose_blocks=1,
        generator_channels=(64, 64, 64, 32, 16),
        style_width=64,
        discriminator_channels=(16, 32, 64, 64, 64),
    ),
    "photo": DSIDConfig(  # encoders for photographs, trained on rendered heads
        name="photo",
        image_size=128,
        expression_size=80,  # about the pixels that the aligned part of a crop has
        stem_stride=4,
        identity_width=256,
        expression_width=128,
        identity_channels=(48, 96, 160, 224),
        identity_blocks=1,
        expression_channels=(32, 64, 96, 160),
        expression_blocks=1,
        pose_channels=(24, 48, 96, 128),
        pose_blocks=1,
        generator_channels=(),
        style_width=128,
        discriminator_channels=(),
    ),
}
CONFIGS["photo-generator"] = replace(
    CONFIGS["photo"],
    name="photo-generator",
    generator_channels=(128, 128, 128, 80, 40, 16),
    discriminator_channels=(16, 32, 64, 96, 128, 128),
)

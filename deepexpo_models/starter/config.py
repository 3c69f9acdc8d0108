"""Sizes of the starter, in terms that diffusers and ComfyUI both understand."""

from dataclasses import asdict, dataclass

from ..config_fields import check_fields, config_from
from ..meaf.sites import UNetShape


@dataclass(frozen=True)
class StarterConfig:
    """A latent diffusion model. unet_*: as in `meaf.sites.UNetShape`; heads: of every attention of the U-Net; text_*: a
    CLIP text encoder of `tokens` positions; vae_channels: width per resolution, finest first, each halves the picture but
    the last; all widths of U-Net and VAE are multiples of 32, the group size of GroupNorm in Stable Diffusion.
    merges: the byte-pair merges of the vocabulary, "a b" each. scale: latents times scale have unit variance.
    """

    name: str
    image_size: int
    latent_channels: int
    vae_channels: tuple[int, ...]
    vae_layers: int
    unet_channels: tuple[int, ...]
    unet_layers: int
    heads: int
    text_width: int
    text_layers: int
    text_heads: int
    tokens: int
    prediction: str
    scale: float
    merges: tuple[str, ...]

    def __post_init__(self):
        check_fields(self, most={"image_size": 4096, "vae_layers": 16, "unet_layers": 16, "text_layers": 64, "tokens": 4096})
        if any(len(merge.split(" ")) != 2 for merge in self.merges):
            raise ValueError("merges must be pairs of pieces with a space between them")
        for width in (*self.vae_channels, *self.unet_channels):
            if width % 32:
                raise ValueError(f"a width of {width} channels is no multiple of 32, the groups of its GroupNorm")
        if self.prediction not in ("epsilon", "v_prediction"):
            raise ValueError(f"prediction is {self.prediction!r}; choose epsilon or v_prediction")

    @property
    def latent_size(self) -> int:
        return self.image_size // 2 ** (len(self.vae_channels) - 1)

    @property
    def unet_shape(self) -> UNetShape:
        depth = (1,) * (len(self.unet_channels) - 1) + (0,)
        return UNetShape(self.unet_channels, self.unet_layers, depth, 1, self.text_width)

    def to_dict(self) -> dict:
        """JSON-ready; the inverse of `from_dict`."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: dict) -> "StarterConfig":
        """Raises ValueError for missing, unknown or unusable entries."""
        return config_from(cls, values, "starter")


STARTER = StarterConfig(
    name="heads",
    image_size=128,
    latent_channels=16,
    vae_channels=(32, 32, 64, 64),
    vae_layers=1,
    unet_channels=(64, 96, 128),
    unet_layers=1,
    heads=4,
    text_width=128,
    text_layers=2,
    text_heads=4,
    tokens=77,
    prediction="v_prediction",
    scale=1.0,
    merges=(),
)

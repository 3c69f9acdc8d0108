"""Where MEAF attaches: every cross-attention (attn2) of a U-Net, named by its diffusers module path.

A base family is a row of FAMILIES. Hosts report the sites which the loaded model really has; `require_family` compares.
"""

from dataclasses import dataclass

from ..config_fields import check_fields


@dataclass(frozen=True)
class UNetShape:
    """The facts of a U-Net that MEAF's weights depend on.

    channels: width per level, top first; layers: residual blocks per level; depth: transformer blocks per attention, per
    level (0 = no attention); mid_depth: the same for the middle block; context_width: width of the text embedding.
    """

    channels: tuple[int, ...]
    layers: int
    depth: tuple[int, ...]
    mid_depth: int
    context_width: int

    def __post_init__(self):
        check_fields(self, zero=("depth", "mid_depth"), most={"layers": 16, "depth": 64, "mid_depth": 64})
        if len(self.channels) != len(self.depth) or not self.channels:
            raise ValueError(f"channels has {len(self.channels)} levels, depth has {len(self.depth)}; give one depth per level")


FAMILIES = {
    "sd15": UNetShape((320, 640, 1280, 1280), 2, (1, 1, 1, 0), 1, 768),
    "sd2": UNetShape((320, 640, 1280, 1280), 2, (1, 1, 1, 0), 1, 1024),
    "sdxl": UNetShape((320, 640, 1280), 2, (0, 2, 10), 10, 2048),
}


def unet_sites(shape: UNetShape) -> dict[str, int]:
    """Diffusers path of each attn2 -> its channels, in the order down, mid, up."""
    levels = list(enumerate(zip(shape.channels, shape.depth)))
    sites: dict[str, int] = {}
    for level, (channels, depth) in levels:
        sites |= _attentions(f"down_blocks.{level}", shape.layers, depth, channels)
    sites |= _attentions("mid_block", 1, shape.mid_depth, shape.channels[-1])
    for up, (_, (channels, depth)) in enumerate(reversed(levels)):
        sites |= _attentions(f"up_blocks.{up}", shape.layers + 1, depth, channels)
    return sites


def _attentions(block: str, count: int, depth: int, channels: int) -> dict[str, int]:
    return {
        f"{block}.attentions.{index}.transformer_blocks.{layer}.attn2": channels
        for index in range(count)
        for layer in range(depth)
    }


def describe(sites: dict[str, int], context_width: int) -> str:
    """A name for the model with these sites: its base family, or its facts when it is of none."""
    for family, shape in FAMILIES.items():
        if context_width == shape.context_width and sites == unet_sites(shape):
            return family
    return f"another model ({len(sites)} cross-attention layers, text width {context_width})"


def require_family(name: str, base: str, shape: UNetShape, sites: dict[str, int], context_width: int, own: str = "") -> None:
    """Raise a ValueError that names both sides unless the model has exactly the sites of `shape`, and the MEAF's base, where
    it tells its own.

    name, base, shape: of the MEAF; sites, context_width: of the loaded model; own: a starter's name, since starters of one
    shape draw different things.
    """
    if sites != unet_sites(shape) or context_width != shape.context_width or own not in ("", base):
        raise ValueError(
            f"MEAF {name!r} is for {base} models, the connected model is {own or describe(sites, context_width)}; "
            f"connect a {base} checkpoint, or load a MEAF made for this one"
        )

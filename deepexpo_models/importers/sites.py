"""Where a public adapter's numbered weights belong.

`ip_adapter.<n>.to_k_ip.weight` counts a diffusers U-Net's attention processors in the order down, up, mid; in each transformer
block attn1 comes first, so even n are self-attention, odd n cross-attention.
"""

from ..meaf.sites import UNetShape, unet_sites

ORDER = ("down_blocks", "up_blocks", "mid_block")


def numbered_sites(shape: UNetShape) -> dict[int, str]:
    """Number -> diffusers path of the attention, attn1 and attn2."""
    paths = sorted(unet_sites(shape), key=lambda path: ORDER.index(path.split(".")[0]))
    twins = [name for path in paths for name in (path.removesuffix("attn2") + "attn1", path)]
    return dict(enumerate(twins))


def cross_attentions(shape: UNetShape) -> dict[int, str]:
    """The same of attn2 alone."""
    return {number: path for number, path in numbered_sites(shape).items() if path.endswith("attn2")}

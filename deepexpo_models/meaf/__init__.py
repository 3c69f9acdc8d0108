"""MEAF, Multi-Embedding Attention Fusion: config, model, files. `diffusers_host` is imported on its own."""

from .codes import stream_codes
from .config import DEFAULT_SETTINGS, MEAFConfig, StreamConfig, StreamSettings, light_config
from .files import load_meaf, save_meaf
from .fusion import FusedStream, SiteTokens, fuse, resize_mask
from .model import MEAF
from .sites import FAMILIES, UNetShape, require_family, unet_sites

__all__ = [
    "DEFAULT_SETTINGS",
    "FAMILIES",
    "MEAF",
    "FusedStream",
    "MEAFConfig",
    "SiteTokens",
    "StreamConfig",
    "StreamSettings",
    "UNetShape",
    "fuse",
    "light_config",
    "load_meaf",
    "require_family",
    "resize_mask",
    "save_meaf",
    "stream_codes",
    "unet_sites",
]

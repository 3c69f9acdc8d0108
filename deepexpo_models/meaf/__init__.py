"""MEAF, Multi-Embedding Attention Fusion: config, model, files. `diffusers_host` is imported on its own."""

from .branch import PREFIX, SIZE_EMBEDDING, Branch, BranchConfig, Residuals
from .codes import stream_codes
from .config import DEFAULT_SETTINGS, MAX_STRENGTH, MEAFConfig, StreamSettings, default_config
from .files import load_meaf, save_meaf
from .formulations import LayerStreams, lay_out
from .fusion import FusedStream, SiteTokens, fuse, resize_mask
from .model import MEAF
from .projectors import StreamConfig
from .sites import FAMILIES, UNetShape, require_family, unet_sites

__all__ = [
    "DEFAULT_SETTINGS",
    "FAMILIES",
    "MAX_STRENGTH",
    "MEAF",
    "PREFIX",
    "SIZE_EMBEDDING",
    "Branch",
    "BranchConfig",
    "FusedStream",
    "LayerStreams",
    "MEAFConfig",
    "Residuals",
    "SiteTokens",
    "StreamConfig",
    "StreamSettings",
    "UNetShape",
    "default_config",
    "fuse",
    "lay_out",
    "load_meaf",
    "require_family",
    "resize_mask",
    "save_meaf",
    "stream_codes",
    "unet_sites",
]

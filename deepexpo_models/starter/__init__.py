"""The starter: a small text-to-image model of Stable Diffusion's architecture, so that everything can be tried at once."""

from .config import STARTER, StarterConfig
from .files import FILE_KIND, load_starter_tensors, save_starter_tensors
from .vocabulary import build_vocabulary, write_tokenizer

__all__ = [
    "FILE_KIND",
    "STARTER",
    "StarterConfig",
    "build_vocabulary",
    "load_starter_tensors",
    "save_starter_tensors",
    "write_tokenizer",
]

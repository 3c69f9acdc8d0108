"""Importers: public face adapters become MEAF streams. `python -m deepexpo_models.importers FILE --out OUT`."""

from .convert import convert, recognise
from .layouts import KINDS, Kind, Layout
from .lora import lora_file, lora_tensors, save_lora
from .read import PublicFile, is_public, open_public

__all__ = [
    "KINDS", "Kind", "Layout", "PublicFile", "convert", "is_public", "lora_file", "lora_tensors", "open_public",
    "recognise", "save_lora",
]  # fmt: skip

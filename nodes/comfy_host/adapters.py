"""Public adapters where artists keep them: listed by name alone, recognised and converted in memory when they are loaded."""

import os
from pathlib import Path

import comfy.ops
import folder_paths

from ...deepexpo_models.importers import KINDS, convert, is_public, lora_tensors, open_public, recognise
from ...deepexpo_models.meaf import load_meaf
from ...deepexpo_models.safetensors_file import excerpt
from .folders import FOLDER, names_in, weight_names, weight_path
from .headers import fingerprint, is_name
from .memory import LoadedMEAF, managed

KEYS = ("ipadapter", "instantid")  # folder keys that the packs of these adapters use too; models/<key> if none is set
SUFFIXES = (".safetensors", ".bin")
AUTO = "auto"
CHOICES = (AUTO, *KINDS)


def register_adapter_folders() -> None:
    for key in KEYS:
        folder_paths.add_model_folder_path(key, os.path.join(folder_paths.models_dir, key))


def meaf_names() -> list[str]:
    """The names in our own folders, then `<key>/<name>` of every file that may be an adapter. None of those is opened."""
    return list(dict.fromkeys([*weight_names("meaf"), *(f"{key}/{name}" for key in KEYS for name in _names(key))]))


def open_meaf(name: str, kind: str = AUTO) -> LoadedMEAF:
    """Read a name of `meaf_names`: a MEAF file, or a public adapter, by content.

    kind: of CHOICES, for adapters whose tensors are alike. Raises ValueError in one sentence for any other file.
    """
    path = _path(name)
    if not is_public(path):
        return LoadedMEAF(managed(load_meaf(path, comfy.ops.manual_cast)))
    file = open_public(path)
    layout = recognise(file, None if kind == AUTO else kind)
    tensors = file.tensors()
    meaf = convert(layout, tensors, f"{layout.kind.name}-{layout.base}", comfy.ops.manual_cast)
    return LoadedMEAF(managed(meaf), lora_tensors(tensors, layout.unet) if layout.kind.lora else {})


def validate_meaf(name: str | None) -> bool | str:
    """For validate_inputs: True, or why there is no such file. None: it comes by a link and is judged later."""
    try:
        return name is None or bool(_path(name))
    except ValueError as error:
        return str(error)


def meaf_fingerprint(name: str | None) -> str:
    """For fingerprint_inputs: another text whenever the file is another."""
    return fingerprint(_path(name)) if isinstance(name, str) and validate_meaf(name) is True else ""


def _names(key: str) -> list[str]:
    return sorted(name for name in names_in(key) if name.lower().endswith(SUFFIXES))


def _path(name: str) -> Path:
    key, _, rest = name.partition("/") if is_name(name) else ("", "", "")
    if key not in KEYS or folder_paths.get_full_path(FOLDER, name):
        return weight_path(name)
    path = folder_paths.get_full_path(key, rest)
    if path is None:
        raise ValueError(f"{excerpt(rest)} is not in the {key} model folders; put it into models/{key} and refresh")
    return Path(path)

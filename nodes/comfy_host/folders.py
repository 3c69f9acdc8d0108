"""Where files are: weights in models/deepexpo and the pack's own weights/; saved codes, see `saved_codes`."""

import os
from pathlib import Path

import folder_paths

from ...deepexpo_models.safetensors_file import excerpt
from ...deepexpo_models.weights import PACK_WEIGHTS
from .headers import FOLDER, SUFFIX, fingerprint, is_name, kind_of
from .saved_codes import code_names as code_names
from .saved_codes import code_path as code_path
from .saved_codes import new_code_path as new_code_path


def register_folder() -> None:
    """Add models/deepexpo and the pack's weights to ComfyUI's model folders; user paths from the yaml stay first."""
    for path in (os.path.join(folder_paths.models_dir, FOLDER), str(PACK_WEIGHTS)):
        folder_paths.add_model_folder_path(FOLDER, path)
    folder_paths.folder_names_and_paths[FOLDER][1].add(SUFFIX)


def weight_names(kind: str) -> list[str]:
    """Names in the model folders: those of this kind (read from content), then those that cannot be read, of which loading says
    why. Another kind is not listed."""
    kinds = {name: kind_of(folder_paths.get_full_path(FOLDER, name) or name) for name in names_in(FOLDER)}
    return sorted((name for name in kinds if kinds[name] in (kind, "")), key=lambda name: (not kinds[name], name))


def weight_path(name: str) -> Path:
    """Raises ValueError when no model folder has the name."""
    path = folder_paths.get_full_path(FOLDER, name) if is_name(name) else None
    if path is None:
        raise ValueError(f"{excerpt(name)} is in none of the {FOLDER} model folders; put it into models/{FOLDER} and refresh")
    return Path(path)


def validate_weight(name: str | None) -> bool | str:
    """For validate_inputs: True, or why there is no such file. None: it comes by a link and is judged later."""
    try:
        return name is None or bool(weight_path(name))
    except ValueError as error:
        return str(error)


def weight_fingerprint(name: str | None) -> str:
    """For fingerprint_inputs: another text whenever the file is another."""
    return fingerprint(folder_paths.get_full_path(FOLDER, name) or "") if is_name(name) else ""


def insightface_roots() -> list[Path]:
    """The folders whose `models` subfolders hold insightface's packs, in ComfyUI's order: those of extra_model_paths.yaml
    and of other packs, then models/insightface."""
    known = folder_paths.folder_names_and_paths
    named = folder_paths.get_folder_paths("insightface") if "insightface" in known else []
    return [Path(path) for path in dict.fromkeys([*named, os.path.join(folder_paths.models_dir, "insightface")])]


def names_in(key: str) -> list[str]:
    """All names under a folder key of ComfyUI."""
    try:
        return folder_paths.get_filename_list(key)
    except OSError:  # ComfyUI's cache asks the time of a folder that has been deleted since
        folder_paths.filename_list_cache.pop(key, None)
        return folder_paths.get_filename_list(key)

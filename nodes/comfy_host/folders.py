"""Where files are: models/deepexpo and the pack's own weights/, saved codes in ComfyUI's output and input folders."""

import os
from pathlib import Path

import folder_paths

from ...deepexpo_models.weights import read_header

FOLDER = "deepexpo"  # folder key, as in extra_model_paths.yaml, and subfolder of output and input for saved codes
SUFFIX = ".safetensors"
PACK_WEIGHTS = Path(__file__).parents[2] / "weights"


def register_folder() -> None:
    """Add models/deepexpo and the pack's weights to ComfyUI's model folders; user paths from the yaml stay first."""
    for path in (os.path.join(folder_paths.models_dir, FOLDER), str(PACK_WEIGHTS)):
        folder_paths.add_model_folder_path(FOLDER, path)
    folder_paths.folder_names_and_paths[FOLDER][1].add(SUFFIX)


def weight_names(kind: str) -> list[str]:
    """All names in the model folders, those of this kind (read from content) first; another kind is refused on loading."""
    names = folder_paths.get_filename_list(FOLDER)
    return sorted(names, key=lambda name: (_kind(folder_paths.get_full_path(FOLDER, name)) != kind, name))


def weight_path(name: str) -> Path:
    """Raises ValueError when no model folder has the name."""
    path = folder_paths.get_full_path(FOLDER, name)
    if path is None:
        raise ValueError(f"{name} is in none of the {FOLDER} model folders; put it into models/{FOLDER} and refresh")
    return Path(path)


def code_names(kind: str) -> list[str]:
    """Saved codes of a kind in output/deepexpo and input/deepexpo, as ComfyUI's annotated names ("... [output]")."""
    names = []
    for root, note in ((folder_paths.get_output_directory(), " [output]"), (folder_paths.get_input_directory(), "")):
        found = sorted(Path(root, FOLDER).rglob(f"*{SUFFIX}"))
        names += [f"{path.relative_to(root).as_posix()}{note}" for path in found if _kind(path) == kind]
    return names


def code_path(name: str) -> Path:
    """An annotated name -> its path. Raises ValueError when it does not exist or points outside ComfyUI's folders."""
    path = Path(folder_paths.get_annotated_filepath(name)).resolve()
    roots = (folder_paths.get_output_directory(), folder_paths.get_input_directory(), folder_paths.get_temp_directory())
    if not any(path.is_relative_to(Path(root).resolve()) for root in roots):
        raise ValueError(f"{name} lies outside ComfyUI's input and output folders; move it into output/{FOLDER}")
    if not path.is_file():
        raise ValueError(f"{name} does not exist; save a code first, or put the file into input/{FOLDER}")
    return path


def new_code_path(filename_prefix: str) -> tuple[Path, str]:
    """A free path in the output folder, numbered as ComfyUI numbers pictures, and its annotated name."""
    folder, stem, counter, subfolder, _ = folder_paths.get_save_image_path(filename_prefix, folder_paths.get_output_directory())
    name = f"{stem}_{counter:05}_{SUFFIX}"
    return Path(folder, name), f"{Path(subfolder, name).as_posix()} [output]"


def insightface_root() -> Path:
    """The folder whose `models` subfolder holds insightface's packs."""
    return Path(folder_paths.models_dir, "insightface")


def _kind(path: str | Path | None) -> str | None:
    try:
        return read_header(Path(path)).kind
    except (TypeError, ValueError):
        return None

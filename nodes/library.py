from collections.abc import Callable
from pathlib import Path
from typing import Any

from comfy_api.latest import io

from ..deepexpo_models.dsid import load_identity, load_semantics, load_thumbnail, save_identity, save_semantics, thumbnail
from ..deepexpo_models.dsid.files import split_tags
from ..deepexpo_models.image import bytes_to_comfy
from . import sockets
from .comfy_host.folders import FOLDER, code_names, code_path, new_code_path
from .comfy_host.headers import fingerprint
from .sockets import schema

NONE_SAVED = "none saved yet"


class _SaveCode(io.ComfyNode):
    KIND, SHOWN = "", ""
    SOCKET: Any
    SAVE: Callable[..., None]

    @classmethod
    def define_schema(cls):
        return schema(
            node_id=f"DeepExPoSave{cls.KIND.capitalize()}",
            display_name=f"Save {cls.KIND.capitalize()} ({cls.SHOWN})",
            description=f"Saves {cls.KIND} codes as a small safetensors file in ComfyUI's output folder.",
            inputs=[
                cls.SOCKET.Input(cls.KIND, tooltip=f"The {cls.KIND} codes to save."),
                io.String.Input(
                    "filename_prefix",
                    default=f"{FOLDER}/{cls.KIND}",
                    tooltip=f"Name in the output folder; a number is added. Names below {FOLDER}/ are listed by the load node.",
                ),
                io.Image.Input(
                    "picture",
                    optional=True,
                    tooltip="Kept small in the file, for the load node to show: the first of a batch. Open: a plain head is "
                    "drawn where the codes come from landmarks, and nothing is kept of other codes.",
                ),
                io.String.Input(
                    "tags", default="", optional=True, tooltip="Words to find it by in the library, with commas between."
                ),
            ],
            outputs=[
                sockets.SavedName.Output("name", display_name="name", tooltip="The saved file's name; links to the load node.")
            ],
            is_output_node=True,
        )

    @classmethod
    def execute(cls, filename_prefix, picture=None, tags="", **code) -> io.NodeOutput:
        path, name = new_code_path(filename_prefix)
        small = thumbnail(code[cls.KIND], picture)
        cls.SAVE(path, code[cls.KIND], small, split_tags(tags))
        return io.NodeOutput(name, ui=sockets.shown(_picture(small), cls, [name]))


class _LoadCode(io.ComfyNode):
    KIND, SHOWN = "", ""
    SOCKET: Any
    LOAD: Callable[[Path], Any]

    @classmethod
    def define_schema(cls):
        return schema(
            node_id=f"DeepExPoLoad{cls.KIND.capitalize()}",
            display_name=f"Load {cls.KIND.capitalize()} ({cls.SHOWN})",
            description=f"Loads saved {cls.KIND} codes from output/{FOLDER} or input/{FOLDER}.",
            inputs=[
                io.Combo.Input(
                    "name",
                    options=code_names(cls.KIND) or [NONE_SAVED],
                    tooltip=f"A file written by Save {cls.KIND.capitalize()}. Shared files go into input/{FOLDER}.",
                )
            ],
            outputs=[cls.SOCKET.Output(cls.KIND, display_name=cls.KIND.upper(), tooltip="The codes, as they were when saved.")],
        )

    @classmethod
    def validate_inputs(cls, name=None) -> bool | str:
        """Takes any file below ComfyUI's folders, not only the listed ones, and says why one cannot be used. A name that comes
        by a link is judged when it is there."""
        if name == NONE_SAVED:
            return f"no {cls.KIND} is saved yet; save one with Save {cls.KIND.capitalize()} and refresh"
        try:
            return name is None or bool(code_path(name))
        except ValueError as error:
            return str(error)

    @classmethod
    def fingerprint_inputs(cls, name=None) -> str:
        return "" if name is None else fingerprint(code_path(name))

    @classmethod
    def execute(cls, name) -> io.NodeOutput:
        path = code_path(name)
        return io.NodeOutput(cls.LOAD(path), ui=sockets.shown(_picture(load_thumbnail(path)), cls) or None)


def _picture(small: Any) -> Any:
    """A thumbnail (S, S, 3) uint8 -> (1, S, S, 3) in [0, 1]."""
    return None if small is None else bytes_to_comfy(small[None])


class SaveIdentity(_SaveCode):
    KIND, SHOWN, SOCKET, SAVE = "identity", "Face", sockets.Identity, staticmethod(save_identity)


class LoadIdentity(_LoadCode):
    KIND, SHOWN, SOCKET, LOAD = "identity", "Face", sockets.Identity, staticmethod(load_identity)


class SaveSemantics(_SaveCode):
    KIND, SHOWN, SOCKET, SAVE = "semantics", "Expression", sockets.Semantics, staticmethod(save_semantics)


class LoadSemantics(_LoadCode):
    KIND, SHOWN, SOCKET, LOAD = "semantics", "Expression", sockets.Semantics, staticmethod(load_semantics)


NODES = (SaveIdentity, LoadIdentity, SaveSemantics, LoadSemantics)

"""The ComfyUI side: thin nodes over deepexpo_models. The list of nodes is below; each module holds one family."""

from comfy_api.latest import ComfyExtension, io

from . import apply, edit, encode, faces, library, loaders, photo, presets, starter, studio
from .comfy_host.adapters import register_adapter_folders
from .comfy_host.folders import register_folder
from .comfy_host.routes import add_routes

MODULES = (loaders, faces, photo, encode, edit, presets, library, apply, starter, studio)


class DeepExPoExtension(ComfyExtension):
    async def get_node_list(self) -> list[type[io.ComfyNode]]:
        return [node for module in MODULES for node in module.NODES]


async def comfy_entrypoint() -> DeepExPoExtension:
    register_folder()
    register_adapter_folders()
    add_routes()
    return DeepExPoExtension()

from .nodes import comfy_entrypoint

WEB_DIRECTORY = "./web"  # help pages; the frontend asks for them under this folder's name, which pyproject cannot know

__all__ = ["WEB_DIRECTORY", "comfy_entrypoint"]

"""The library for the browser: what is saved, its small pictures, and many codes at once. Nothing leaves the machine."""

import asyncio
import io
import logging
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

from ...deepexpo_models.dsid.archive import LARGEST_PACKED, LOADERS, export_codes, import_codes, too_large
from ...deepexpo_models.dsid.files import load_thumbnail
from ...deepexpo_models.dsid.library import describe
from .saved_codes import SHIPPED, code_names, code_path, import_folder, library_name, plain_name

logger = logging.getLogger(__name__)
QUALITY = 85  # of JPEG


def library(kind: str) -> list[dict]:
    """Every code that the load node lists, with what its file says of itself; those that cannot be read are left out.

    Raises ValueError for another kind than those of saved codes.
    """
    if kind not in LOADERS:
        raise ValueError(f"kind is one of {', '.join(LOADERS)}")
    found = []
    for name in code_names(kind):
        try:
            entry = asdict(describe(code_path(name)))
        except (OSError, ValueError):
            continue
        if entry["kind"] == kind:
            found.append({"name": name, "title": title(name), **entry})
    return found


def title(name: str) -> str:
    """What people read below a picture: "deepexpo/me_00001_.safetensors [output]" -> "me 1"."""
    stem = Path(plain_name(name)).stem
    head, _, number = stem.rstrip("_").rpartition("_")
    return f"{head} {int(number)}" if head and number.isdecimal() else stem


def picture(name: str) -> bytes | None:
    """The thumbnail of a code as a JPEG file. Raises ValueError for a name that is no code."""
    from PIL import Image

    small = load_thumbnail(code_path(name))
    if small is None:
        return None
    written = io.BytesIO()
    Image.fromarray(small.numpy()).save(written, "JPEG", quality=QUALITY)
    return written.getvalue()


def export(kind: str) -> bytes:
    """All of the user's own codes of that kind, as a zip file."""
    own = [entry["name"] for entry in library(kind) if not entry["name"].endswith(SHIPPED)]
    return export_codes((plain_name(name), code_path(name)) for name in own)


def bring_in(content: bytes) -> list[str]:
    """A zip file of codes into the output folder -> their names, as the load nodes list them."""
    return [library_name(path) for path in import_codes(content, import_folder())]


def add_routes() -> None:
    """Below /deepexpo on ComfyUI's server; nothing where the pack is loaded without one."""
    try:
        from aiohttp import web
        from server import PromptServer
    except ImportError:
        return
    instance = getattr(PromptServer, "instance", None)
    if instance is None:
        return

    def refused(sentence: str, status: int = 400):
        return web.json_response({"error": sentence}, status=status)

    async def answered(work: Callable, respond: Callable):
        """The response, made from what the work gives in a thread, or its sentence with status 400."""
        try:
            return respond(await asyncio.get_running_loop().run_in_executor(None, work))
        except (OSError, ValueError) as error:
            return refused(str(error))

    @instance.routes.get("/deepexpo/library")
    async def _library(request):
        return await answered(lambda: library(request.query.get("kind", "")), web.json_response)

    @instance.routes.get("/deepexpo/thumbnail")
    async def _thumbnail(request):
        def respond(content: bytes | None):
            headers = {"X-Content-Type-Options": "nosniff", "Cache-Control": "no-cache"}
            return (
                web.Response(body=content, content_type="image/jpeg", headers=headers) if content else web.Response(status=404)
            )

        return await answered(lambda: picture(request.query.get("name", "")), respond)

    @instance.routes.get("/deepexpo/export")
    async def _export(request):
        def respond(content: bytes):
            headers = {"Content-Disposition": f'attachment; filename="deepexpo-{kind}.zip"'}
            return web.Response(body=content, content_type="application/zip", headers=headers)

        kind = request.query.get("kind", "")
        return await answered(lambda: export(kind), respond)

    @instance.routes.post("/deepexpo/import")
    async def _import(request):
        if (size := request.content_length or 0) > LARGEST_PACKED:
            return refused(too_large(size), 413)
        try:
            content = await request.read()
        except web.HTTPRequestEntityTooLarge:
            limit = request.client_max_size / 2**20
            return refused(
                f"the archive is larger than the {limit:g} MB that this ComfyUI takes; split it, or start ComfyUI with a "
                f"larger --max-upload-size",
                413,
            )
        return await answered(lambda: bring_in(content), lambda names: web.json_response({"names": names}))

"""The library of saved codes in a real ComfyUI: what is listed, chosen, shown, exported and imported."""

import asyncio
import io
import json
import re
import shutil
import sys
import urllib.request
import zipfile
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from PIL import Image

from deepexpo_models.dsid.archive import export_codes
from rig.host import PACK
from rig.pack import the_pack

HAPPY = "expressions/happy.safetensors [pack]"


@pytest.fixture(scope="module")
def pack():
    return the_pack()


@pytest.fixture(scope="module")
def routes(pack):
    return pack.module("nodes.comfy_host.routes")


@pytest.fixture
def saved(pack):
    """A saved identity with a picture and tags; afterwards the library is as it was."""
    import folder_paths

    code = pack.run("DeepExPoEncodeIdentity", dsid=pack.dsid(), image=torch.rand(1, 64, 64, 3))
    yield pack.run("DeepExPoSaveIdentity", identity=code, filename_prefix="deepexpo/ann", picture=torch.ones(1, 64, 64, 3),
                   tags="friend, blue eyes")  # fmt: skip
    shutil.rmtree(f"{folder_paths.get_output_directory()}/deepexpo")


def test_shipped_expressions_are_listed_and_loaded(pack):
    node = pack.loaded.nodes["DeepExPoLoadSemantics"]
    listed = node.GET_SCHEMA().inputs[0].options
    assert HAPPY in listed and node.validate_inputs(HAPPY) is True
    units = pack.module("deepexpo_models.head.expressions").preset_units("happy")
    assert torch.equal(pack.run("DeepExPoLoadSemantics", name=HAPPY).expression[0], units)


@pytest.mark.parametrize("name", ["expressions/../README.md [pack]", "../secret.safetensors [pack]", "/etc/passwd [pack]"])
def test_names_do_not_leave_the_pack(pack, name):
    answer = pack.loaded.nodes["DeepExPoLoadSemantics"].validate_inputs(name)
    assert isinstance(answer, str) and "lies outside ComfyUI's input and output folders" in answer


def test_the_library_says_what_each_file_holds(pack, routes, saved):
    (entry,) = (found for found in routes.library("identity") if found["name"] == saved)
    assert entry["title"] == "ann 1" and entry["tags"] == ("friend", "blue eyes") and entry["has_picture"]
    assert entry["encoder"] == pack.dsid().encoder.name and entry["encoder_sha256"] == pack.dsid().encoder.sha256
    happy = next(found for found in routes.library("semantics") if found["name"] == HAPPY)
    assert (happy["title"], happy["encoder"], happy["has_picture"]) == ("happy", "arkit52", True)


def test_a_picture_is_the_saved_one(routes, saved):
    with Image.open(io.BytesIO(routes.picture(saved))) as shown:
        assert shown.format == "JPEG" and shown.size == (128, 128) and min(shown.getpixel((64, 64))) > 240
    with pytest.raises(ValueError, match="does not exist"):
        routes.picture("deepexpo/nobody.safetensors [output]")


def test_out_and_in_again(pack, routes, saved):
    content = routes.export("identity")
    assert zipfile.ZipFile(io.BytesIO(content)).namelist() == ["ann_00001_.safetensors"], "the pack's own are not exported"
    (name,) = routes.bring_in(content)
    assert name == "deepexpo/imported/ann_00001_.safetensors [output]"
    assert name in pack.module("nodes.comfy_host.folders").code_names("identity")
    whole, again = (pack.run("DeepExPoLoadIdentity", name=found) for found in (saved, name))
    assert torch.equal(whole.embedding, again.embedding)


@pytest.mark.parametrize("name, title", [
    ("deepexpo/me_00001_.safetensors [output]", "me 1"), ("deepexpo/my [best] face_00012_.safetensors", "my [best] face 12"),
    ("deepexpo/x_².safetensors", "x_²"), ("deepexpo/x_٣_.safetensors", "x 3"), ("deepexpo/00001_.safetensors", "00001_"),
    ("deepexpo/_1_.safetensors [output]", "_1_"), ("expressions/happy.safetensors [pack]", "happy"),
])  # fmt: skip
def test_a_title_of_any_name(routes, name, title):
    assert routes.title(name) == title


def test_names_that_are_alike_share_one_archive(pack, routes, saved):
    """From the output folder and the input folder, one with a bracket in its name: all come out, and in again."""
    import folder_paths

    places = [
        ("get_output_directory", "ann_00001_ [old]"),
        ("get_input_directory", "ann_00001_"),
        ("get_output_directory", "²"),
    ]
    source, written = pack.module("nodes.comfy_host.folders").code_path(saved), []
    try:
        for root, stem in places:
            written.append(Path(getattr(folder_paths, root)(), "deepexpo", f"{stem}.safetensors"))
            written[-1].parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(source, written[-1])
        names = zipfile.ZipFile(io.BytesIO(routes.export("identity"))).namelist()
        listed = [entry["title"] for entry in routes.library("identity")]
    finally:
        for path in written:
            path.unlink()
    stems = {"ann_00001_", "ann_00001_ [old]", "²", "ann_00001__2"}
    assert len(names) == 4 and set(names) == {f"{stem}.safetensors" for stem in stems}
    assert {"ann 1", "ann_00001_ [old]", "²"} <= set(listed)


def test_other_kinds_are_refused(routes):
    for ask in (routes.library, routes.export):
        with pytest.raises(ValueError, match="kind is one of identity, semantics"):
            ask("dsid")


@pytest.mark.parametrize("chunked", [False, True])
@pytest.mark.parametrize("bound, words", [
    ("packed", "the archive has 0 MB, at most 0 are taken; split it"),
    ("server", r"larger than the 0.0\d+ MB that this ComfyUI takes; split it, or start"),
])  # fmt: skip
def test_an_upload_that_is_too_large_is_one_sentence(routes, monkeypatch, bound, words, chunked):
    """Whether its size is told beforehand or not, and whose bound it is."""
    monkeypatch.setattr(routes, "LARGEST_PACKED", 1000 if bound == "packed" else 1 << 30)
    monkeypatch.setattr(archive_of(routes), "LARGEST_PACKED", 1000 if bound == "packed" else 1 << 30)
    status, told = asyncio.run(posted(routes, monkeypatch, bytes(5000), chunked, 1 << 30 if bound == "packed" else 2000))
    assert status in (400, 413) and set(told) == {"error"} and re.search(words, told["error"])


async def posted(routes, monkeypatch, body: bytes, chunked: bool, bound: int) -> tuple[int, dict]:
    """The answer to an import by a server of these routes alone, which takes bodies of so many bytes."""
    from aiohttp import test_utils, web

    table = web.RouteTableDef()
    server = SimpleNamespace(PromptServer=SimpleNamespace(instance=SimpleNamespace(routes=table)))
    monkeypatch.setitem(sys.modules, "server", server)
    routes.add_routes()
    app = web.Application(client_max_size=bound)
    app.add_routes(table)

    async def pieces():
        yield body

    async with test_utils.TestClient(test_utils.TestServer(app)) as client:
        answer = await client.post("/deepexpo/import", data=pieces() if chunked else body)
        return answer.status, await answer.json()


def archive_of(routes):
    return sys.modules[routes.export_codes.__module__]


def test_the_browser_asks_a_server(server, routes):
    """Through HTTP: the list, a thumbnail, an import, an export of what came in, and what is refused."""
    listed = server.get_json("deepexpo/library", kind="semantics")
    assert HAPPY in [entry["name"] for entry in listed]
    assert Image.open(io.BytesIO(server.get("deepexpo/thumbnail", name=HAPPY))).size == (128, 128)
    packed = export_codes([("looks/happy.safetensors", PACK / "expressions" / "happy.safetensors")])
    names = json.loads(server._post("deepexpo/import", packed, "application/zip"))["names"]
    assert names == ["deepexpo/imported/looks/happy.safetensors [output]"]
    (again,) = zipfile.ZipFile(io.BytesIO(server.get("deepexpo/export", kind="semantics"))).namelist()
    assert again == "imported/looks/happy.safetensors"
    assert names[0] in [entry["name"] for entry in server.get_json("deepexpo/library", kind="semantics")]
    for path, query in (
        ("library", {"kind": "secrets"}),
        ("thumbnail", {"name": "../../etc/passwd"}),
        ("export", {"kind": "x"}),
        ("export", {"kind": "identity"}),
    ):
        with pytest.raises(RuntimeError, match=r"400 \{\n \"error\": "):
            server.get(f"deepexpo/{path}", **query)
    with pytest.raises(RuntimeError, match=r"(?s)400.*this is no archive of saved codes"):
        server._post("deepexpo/import", b"nothing", "application/zip")
    request = urllib.request.Request(f"{server.url}/extensions/ComfyUI-DeepExPo/js/library.js")
    assert b"DeepExPo.Library" in server._open(request)

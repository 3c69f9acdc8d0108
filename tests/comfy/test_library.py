"""The library of saved codes in a real ComfyUI: what is listed, chosen, shown, exported and imported."""

import io
import json
import shutil
import urllib.request
import zipfile

import pytest
import torch
from PIL import Image

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
    content = routes.export("identity", [])
    assert zipfile.ZipFile(io.BytesIO(content)).namelist() == ["ann_00001_.safetensors"], "the pack's own are not exported"
    (name,) = routes.bring_in(content)
    assert name == "deepexpo/imported/ann_00001_.safetensors [output]"
    assert name in pack.module("nodes.comfy_host.folders").code_names("identity")
    whole, again = (pack.run("DeepExPoLoadIdentity", name=found) for found in (saved, name))
    assert torch.equal(whole.embedding, again.embedding)


def test_the_browser_asks_a_server(server, routes):
    """Through HTTP: the list, a thumbnail, an export of shipped ones, an import, and what is refused."""
    listed = server.get_json("deepexpo/library", kind="semantics")
    assert HAPPY in [entry["name"] for entry in listed]
    assert Image.open(io.BytesIO(server.get("deepexpo/thumbnail", name=HAPPY))).size == (128, 128)
    packed = server.get("deepexpo/export", kind="semantics", name=HAPPY)
    names = json.loads(server._post("deepexpo/import", packed, "application/zip"))["names"]
    assert names == ["deepexpo/imported/expressions/happy.safetensors [output]"]
    assert names[0] in [entry["name"] for entry in server.get_json("deepexpo/library", kind="semantics")]
    for path, query in (
        ("library", {"kind": "secrets"}),
        ("thumbnail", {"name": "../../etc/passwd"}),
        ("export", {"kind": "x"}),
    ):
        with pytest.raises(RuntimeError, match=r"400 \{\n \"error\": "):
            server.get(f"deepexpo/{path}", **query)
    with pytest.raises(RuntimeError, match=r"(?s)400.*this is no archive of saved codes"):
        server._post("deepexpo/import", b"nothing", "application/zip")
    request = urllib.request.Request(f"{server.url}/extensions/ComfyUI-DeepExPo/js/library.js")
    assert b"DeepExPo.Library" in server._open(request)

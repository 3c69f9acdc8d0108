"""The rig itself: the models are ComfyUI's, the twin is the same network, packs load by path, the server works."""

import io
import sys

import numpy as np
import pytest
import torch
from PIL import Image

from rig import host
from rig.families import FAMILIES
from rig.models import conditioning, diffusers_twin, latents, predict_noise, sample, tiny_model, twin_noise
from rig.server import running_server

PACK_FILES = {
    "__init__.py": "from .nodes import comfy_entrypoint\n",
    "nodes/__init__.py": """
from comfy_api.latest import ComfyExtension, io
from ..greeting import words

class Greet(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return io.Schema("RigGreet", category="rig", inputs=[io.String.Input("name")], outputs=[io.String.Output()],
                         is_output_node=True)

    @classmethod
    def execute(cls, name):
        if not name:
            raise ValueError("nobody to greet")
        return io.NodeOutput(words(name), ui={"text": [words(name)]})

class Extension(ComfyExtension):
    async def get_node_list(self):
        return [Greet]

async def comfy_entrypoint():
    return Extension()
""",
    "greeting/__init__.py": "def words(name):\n    return f'hello {name}'\n",
}


def write_pack(folder, files=PACK_FILES):
    for name, text in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return folder


@pytest.fixture(scope="module")
def rig_server(tmp_path_factory):
    pack = write_pack(tmp_path_factory.mktemp("pack") / "small")
    with running_server(tmp_path_factory.mktemp("comfyui"), pack) as started:
        yield started


@pytest.mark.parametrize("family", FAMILIES)
def test_the_twin_predicts_the_same_noise(family):
    model = tiny_model(family)
    twin = diffusers_twin(model)
    noisy, positive = latents(batch=2, height=8, width=16), conditioning(family)
    ours, theirs = predict_noise(model, noisy, 500, positive), twin_noise(twin, noisy, 500, positive)
    print(f"{family}: max abs difference {(ours - theirs).abs().max():.1e} at a deviation of {ours.std():.2f}")
    assert (ours - theirs).abs().max() < 1e-5
    assert 0.1 < ours.std() < 10


@pytest.mark.parametrize("family", FAMILIES)
def test_the_context_matters_and_sampling_is_repeatable(family):
    model, noise = tiny_model(family), latents()
    one, again = (sample(model, conditioning(family, 1), conditioning(family, 2), noise=noise) for _ in range(2))
    other = sample(model, conditioning(family, 3), conditioning(family, 2), noise=noise)
    assert one.isfinite().all()
    assert torch.equal(one, again)
    assert not torch.allclose(one, other, atol=1e-2)


def test_the_attention_sites_are_those_of_the_real_family():
    from comfy.ldm.modules.attention import BasicTransformerBlock

    counts = {
        name: sum(isinstance(part, BasicTransformerBlock) for part in tiny_model(name).model.modules()) for name in FAMILIES
    }
    assert counts == {"sd15": 16, "sd2": 16, "sdxl": 70}


def test_a_pack_is_loaded_by_its_path(tmp_path):
    pack = host.load_pack(write_pack(tmp_path / "small.pack"))
    assert list(pack.nodes) == ["RigGreet"]
    assert pack.nodes["RigGreet"].execute(name="you").args == ("hello you",)
    assert pack.submodule("greeting").words("you") == "hello you"
    assert "greeting" not in sys.modules


def test_an_absolute_import_of_the_packs_own_code_fails(tmp_path, monkeypatch):
    files = PACK_FILES | {"nodes/__init__.py": "from greeting import words\n"}
    folder = write_pack(tmp_path / "absolute", files)
    monkeypatch.syspath_prepend(folder)
    with pytest.raises(ModuleNotFoundError, match="greeting"):
        host.load_pack(folder)


def test_the_server_runs_a_core_graph(rig_server):
    entry = rig_server.post_prompt({
        "1": {"class_type": "EmptyImage", "inputs": {"width": 16, "height": 8, "batch_size": 2, "color": 0x2040FF}},
        "2": {"class_type": "SaveImage", "inputs": {"images": ["1", 0], "filename_prefix": "rig"}},
    })  # fmt: skip
    pictures = [Image.open(io.BytesIO(data)) for data in rig_server.pictures(entry)]
    assert [picture.size for picture in pictures] == [(16, 8)] * 2
    assert pictures[0].getpixel((0, 0)) == (0x20, 0x40, 0xFF)
    assert len(list((rig_server.base / "output").glob("rig*.png"))) == 2


def test_an_uploaded_picture_comes_back(rig_server):
    pixels = np.random.default_rng(0).integers(0, 256, (8, 12, 3), dtype=np.uint8)
    data = io.BytesIO()
    Image.fromarray(pixels).save(data, "PNG")
    name = rig_server.upload_image(data.getvalue(), "noise.png")
    entry = rig_server.post_prompt({
        "1": {"class_type": "LoadImage", "inputs": {"image": name}},
        "2": {"class_type": "PreviewImage", "inputs": {"images": ["1", 0]}},
    })  # fmt: skip
    assert np.array_equal(np.array(Image.open(io.BytesIO(rig_server.pictures(entry)[0]))), pixels)


def test_the_server_runs_the_pack_and_tells_its_errors(rig_server):
    def greet(**inputs):
        return rig_server.post_prompt({"1": {"class_type": "RigGreet", "inputs": inputs}})

    assert "RigGreet" in rig_server.object_info()
    assert greet(name="you")["outputs"]["1"]["text"] == ["hello you"]
    with pytest.raises(RuntimeError, match="nobody to greet") as failure:
        greet(name="")
    if not host.is_installable_package(host.comfyui_folder()):
        assert "node 1 (RigGreet): ValueError: nobody to greet" in str(failure.value)
    with pytest.raises(RuntimeError, match="Required input is missing"):
        greet()

"""The strict reader: headers of every bad kind are one sentence at a bounded cost; what is read is ours alone."""

import json
import os
import struct
import threading

import pytest
import torch
from safetensors.torch import load_file, save_file

from deepexpo_models.dsid import CONFIGS, load_dsid
from deepexpo_models.meaf import load_meaf
from deepexpo_models.safetensors_file import DTYPES, open_safetensors, write_safetensors
from deepexpo_models.weights import load_tensors, read_header, save_tensors

META = {"deepexpo_format": "1", "kind": "dsid", "name": "n", "base": "", "config": "{}", "sha256": ""}
DEEP = "[" * 200_000 + "]" * 200_000


def entry(**changed) -> dict:
    return {"__metadata__": META, "a": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4], **changed}}


BAD = {
    "metadata a list": {"__metadata__": [1]},
    "metadata a text": {"__metadata__": "x"},
    "metadata of numbers": {"__metadata__": {**META, "kind": 5}},
    "kind a list": {"__metadata__": {**META, "kind": ["dsid"]}},
    "deep header": DEEP,
    "deep value": '{"__metadata__":{"a":' + DEEP + "}}",
    "deep config": {"__metadata__": {**META, "config": DEEP}},
    "config a list": {"__metadata__": {**META, "config": "[]"}},
    "config a number of 5000 digits": {"__metadata__": {**META, "config": "9" * 5000}},
    "a number of 5000 digits": '{"a":' + "9" * 5000 + "}",
    "offset a text": entry(data_offsets=[0, "4"]),
    "offset negative": entry(data_offsets=[0, -1]),
    "offset endless": '{"a":{"dtype":"F32","shape":[1],"data_offsets":[0,Infinity]}}',
    "offset true": entry(data_offsets=[False, True]),
    "a gap": entry(data_offsets=[4, 8]),
    "shape a dict": entry(shape={"x": 1}),
    "shape of other size": entry(shape=[3]),
    "shape of 9 sides": entry(shape=[1] * 9),
    "shape of 2**62": entry(shape=[2**62, 4, 0], data_offsets=[0, 0]),
    "dtype unknown": entry(dtype="Q4"),
    "dtype a list": entry(dtype=["F32"]),
    "no dtype": {"a": {"shape": [1], "data_offsets": [0, 4]}},
    "entry a number": {"a": 5},
    "a name twice": '{"a":{},"a":{}}',
    "UTF-16": json.dumps({"__metadata__": META}).encode("utf-16"),
    "a BOM": b"\xef\xbb\xbf{}",
    "half a surrogate": '{"__metadata__":{"deepexpo_format":"1","kind":"dsid\\ud800"}}',
    "NUL in a text": '{"__metadata__":{"deepexpo_format":"1","kind":"a\\u0000b"}}',
    "NUL bytes": b"\0" * 100,
    "a name of 500 letters": {"__metadata__": {**META, "name": "n" * 500}},
}


def write(path, header, body: bytes = b"\0\0\0\0", length: int | None = None):
    text = header if isinstance(header, str | bytes) else json.dumps(header)
    text = text.encode() if isinstance(text, str) else text
    path.write_bytes(struct.pack("<Q", len(text) if length is None else length) + text + body)
    return path


def sentence(call, path) -> str:
    with pytest.raises(ValueError) as caught:
        call(path)
    said = str(caught.value)
    assert type(caught.value) is ValueError or issubclass(type(caught.value), ValueError)
    assert said.startswith(path.name) and "\n" not in said and len(said) < 400 and str(path.parent) not in said
    return said


@pytest.mark.parametrize("header", BAD.values(), ids=BAD.keys())
def test_every_bad_header_is_one_sentence(tmp_path, header):
    for name, body in (("four.safetensors", b"\0\0\0\0"), ("none.safetensors", b"")):
        sentence(load_dsid, write(tmp_path / name, header, body))


@pytest.mark.parametrize("length", [3_000_000, 2**31, 2**63, 2**64 - 1])
def test_a_header_larger_than_any_is_not_read(tmp_path, length):
    path = write(tmp_path / "x.safetensors", b"{}", b" " * 100, length)
    if length < 2**31:
        os.truncate(path, length + 8)
    assert f"claims {length} bytes" in sentence(read_header, path)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no named pipes here")
def test_a_named_pipe_and_a_folder_never_block(tmp_path):
    os.mkfifo(tmp_path / "pipe.safetensors")
    (tmp_path / "folder.safetensors").mkdir()
    thread = threading.Thread(target=sentence, args=(read_header, tmp_path / "pipe.safetensors"), daemon=True)
    thread.start()
    thread.join(5)
    assert not thread.is_alive()
    sentence(read_header, tmp_path / "folder.safetensors")


def test_what_was_read_does_not_change_with_the_file(tmp_path):
    path = tmp_path / "x.safetensors"
    save_tensors(path, "dsid", {"a": torch.arange(50_000.0)}, name="n", config={})
    tensors = load_tensors(path, "dsid")[1]
    with path.open("r+b") as file:
        file.seek(1000)
        file.write(bytes(100_000))
    assert torch.equal(tensors["a"], torch.arange(50_000.0))
    os.truncate(path, 10)
    assert torch.equal(tensors["a"], torch.arange(50_000.0))


@pytest.mark.parametrize("dtype", DTYPES.values(), ids=DTYPES.keys())
def test_both_programs_read_what_either_writes(tmp_path, dtype):
    tensors = {
        "odd": torch.arange(3).to(torch.uint8),
        "a": torch.arange(6).reshape(2, 3).float().to(dtype),
        "scalar": torch.zeros((), dtype=dtype),
        "empty": torch.zeros(0, 3, dtype=dtype),
    }
    write_safetensors(tmp_path / "ours", tensors, {"name": "ä"})
    save_file(tensors, tmp_path / "theirs")
    theirs = load_file(tmp_path / "ours")
    with open_safetensors(tmp_path / "theirs") as file:
        ours = file.tensors()
    for name, tensor in tensors.items():
        for read in (theirs[name], ours[name]):
            assert read.dtype == dtype or name == "odd"
            assert read.shape == tensor.shape
            assert torch.equal(read.reshape(-1).view(torch.uint8), tensor.reshape(-1).view(torch.uint8))


def meaf_config(**changed) -> dict:
    unet = {"channels": [8], "layers": 1, "depth": [1], "mid_depth": 1, "context_width": 8}
    stream = {"inputs": ["identity"], "input_width": 8, "hidden_width": 8, "tokens": 1, "token_width": 8}
    for key, value in changed.items():
        (unet if key in unet else stream)[key] = value
    encoder = {"name": "n", "sha256": "0"}
    return {"name": "n", "base": "x", "fusion": "tokens", "encoder": encoder, "unet": unet, "streams": {"identity": stream}}


SMALL = CONFIGS["small"].to_dict()
BOMBS = {
    **{f"blocks {n}": ("dsid", {**SMALL, "identity_blocks": n}) for n in (50, 1000, 10**7, 10**30)},
    **{f"width {n}": ("dsid", {**SMALL, "identity_width": n}) for n in (10**5, 10**12, 10**30)},
    "channels": ("dsid", {**SMALL, "pose_channels": [8] * 10_000}),
    **{f"layers {n}": ("meaf", meaf_config(layers=n)) for n in (16, 1000, 10**9)},
    **{f"mid depth {n}": ("meaf", meaf_config(mid_depth=n)) for n in (64, 10**9)},
    "token width": ("meaf", meaf_config(token_width=10**15)),
    "no heads": ("meaf", meaf_config(projector="resampler", head_width=0, depth=1)),
    "resampler": ("meaf", meaf_config(projector="resampler", head_width=8, depth=10**7)),
    "text": ("meaf", meaf_config(tokens="8")),
    "true": ("meaf", meaf_config(tokens=True)),
    "no inputs": ("meaf", meaf_config(inputs=[])),
    "streams a list": ("meaf", {**meaf_config(), "streams": []}),
    "unet null": ("meaf", {**meaf_config(), "unet": None}),
}


@pytest.mark.parametrize(("kind", "config"), BOMBS.values(), ids=BOMBS.keys())
def test_a_config_asks_for_no_more_than_the_file_holds(tmp_path, kind, config, monkeypatch):
    """Of a file with one tensor, two parameters are never made."""
    made = []
    register = torch.nn.Module.register_parameter
    monkeypatch.setattr(torch.nn.Module, "register_parameter", lambda *args: (made.append(1), register(*args))[1])
    path = tmp_path / "bomb.safetensors"
    save_tensors(path, kind, {"a": torch.zeros(1)}, name="n", config=config, encoder_sha256="0")
    sentence({"dsid": load_dsid, "meaf": load_meaf}[kind], path)
    assert len(made) <= 2


def test_a_tensor_is_as_large_as_its_shape_says(tmp_path):
    text = b'{"a":{"dtype":"F32","shape":[2],"data_offsets":[0,4]}}'
    (tmp_path / "a.safetensors").write_bytes(len(text).to_bytes(8, "little") + text + bytes(4))
    with pytest.raises(ValueError, match="another size than its shape says"), open_safetensors(tmp_path / "a.safetensors"):
        pass

"""Files: round trips, and one clear sentence for every file that is not what it should be."""

import json
import re
import struct

import pytest
import torch
from safetensors.torch import save_file

from deepexpo_models.weights import load_tensors, read_header, save_tensors, tensors_sha256

TENSORS = {"a": torch.arange(6.0).reshape(2, 3), "b": torch.ones(4, dtype=torch.float16)}


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "face.safetensors"
    save_tensors(path, "dsid", TENSORS, name="tiny", config={"x": [1, 2]})
    return path


def refused(path, kind: str = "dsid") -> str:
    with pytest.raises(ValueError) as caught:
        load_tensors(path, kind)
    sentence = str(caught.value)
    assert path.name in sentence and "\n" not in sentence and len(sentence) < 300
    return sentence


def test_round_trip(file):
    header, tensors = load_tensors(file, "dsid")
    assert (header.name, header.config, header.shapes) == ("tiny", {"x": [1, 2]}, {"a": (2, 3), "b": (4,)})
    assert all(torch.equal(tensors[name], value) and tensors[name].dtype == value.dtype for name, value in TENSORS.items())


def test_hash_sees_names_dtypes_shapes_and_bytes():
    variants = [
        TENSORS,
        {"a": TENSORS["a"]},
        {"c": TENSORS["a"]},
        {"a": TENSORS["a"].view(torch.int32)},  # the same bytes
        {"a": TENSORS["a"].reshape(3, 2)},
        {"a": TENSORS["a"] + 1},
    ]
    assert len({tensors_sha256(variant) for variant in variants}) == len(variants)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float8_e4m3fn])
def test_every_weight_dtype_survives(tmp_path, dtype):
    path = tmp_path / "x.safetensors"
    save_tensors(path, "meaf", {"w": torch.randn(3, 3).to(dtype), "gate": torch.zeros(())}, name="n", config={})
    assert load_tensors(path, "meaf")[1]["w"].dtype == dtype


def test_wrong_kind_names_the_right_node(file):
    assert "Load DSID" in refused(file, kind="meaf")


def test_missing(tmp_path):
    assert "cannot be opened" in refused(tmp_path / "none.safetensors")


def test_truncated(file):
    file.write_bytes(file.read_bytes()[:-5])
    assert "truncated" in refused(file)


def test_oversized(file):
    file.write_bytes(file.read_bytes() + b"more")
    assert "longer than its header says" in refused(file)


def test_flipped_bit(file):
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)
    assert "SHA-256" in refused(file)


@pytest.mark.parametrize(
    "content", [b"", b"PK", b"\x80\x04pickle" * 20, struct.pack("<Q", 50 << 30) + b"{}", b"\x02" + bytes(7) + b"[]"]
)
def test_foreign_bytes(tmp_path, content):
    path = tmp_path / "foreign.safetensors"
    path.write_bytes(content)
    assert re.search("not a safetensors file", refused(path))


def test_another_programs_safetensors(tmp_path):
    path = tmp_path / "lora.safetensors"
    save_file(TENSORS, path)
    assert "not a DeepExPo file" in refused(path)


def test_newer_format(file):
    raw = file.read_bytes()
    length = struct.unpack("<Q", raw[:8])[0]
    header = raw[8 : 8 + length].replace(b'"deepexpo_format":"1"', b'"deepexpo_format":"9"')
    file.write_bytes(raw[:8] + header + raw[8 + length :])
    assert "update" in refused(file)


def test_garbled_config(file):
    raw = file.read_bytes()
    length = struct.unpack("<Q", raw[:8])[0]
    header = json.loads(raw[8 : 8 + length])
    header["__metadata__"]["config"] = "{"
    text = json.dumps(header).encode()
    file.write_bytes(struct.pack("<Q", len(text)) + text + raw[8 + length :])
    assert "corrupt" in refused(file)


def test_failed_save_keeps_the_old_file_and_leaves_nothing(file, monkeypatch):
    before = file.read_bytes()
    monkeypatch.setattr("deepexpo_models.whole_files.os.replace", lambda *_: (_ for _ in ()).throw(OSError("disk full")))
    with pytest.raises(OSError):
        save_tensors(file, "dsid", {"a": torch.zeros(1)}, name="new", config={})
    assert file.read_bytes() == before and list(file.parent.iterdir()) == [file]


def test_header_is_read_without_tensors(file):
    assert read_header(file).kind == "dsid"

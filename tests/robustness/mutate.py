"""Damaged and hostile variants of weight files, made from a whole one by a seeded random generator."""

import copy
import io
import json
import pickle
import struct
import zipfile
from random import Random

import torch
from safetensors.torch import load, save

from deepexpo_models.weights import tensors_sha256

DTYPES = ("I16", "U8", "F8_E4M3", "BOOL", "F64", "I64", "Q4", "BF16", "F32", "F16", "C64", "I32", "", "f32")
PATTERNS = (b"\xff" * 4, b"\x00\x7c\x00\x7c", b"\x00\x00\x80\x7f", bytes(4), b"\xff\xff\x7f\x7f", b"\x01\x02\x03\x04")
STORED = zipfile.ZIP_STORED


def variant(data: bytes, archive: bool, random: Random) -> tuple[str, bytes]:
    """What was done, and the file."""
    try:
        name, change = random.choice(ARCHIVE if archive else SAFETENSORS)
        return name, change(data, random)
    except (KeyError, IndexError, ValueError, RecursionError, OverflowError, zipfile.BadZipFile):
        return "flip", flip(data, random)  # the change did not suit the file


def value(random: Random, depth: int = 0):
    """Any JSON value, and what is none."""
    if depth < 3 and random.random() < 0.2:
        return [value(random, depth + 1) for _ in range(random.randrange(4))]
    if depth < 3 and random.random() < 0.2:
        return {str(random.randrange(9)): value(random, depth + 1) for _ in range(random.randrange(4))}
    scalars = (None, True, 0, 1, -1, 3, 8, 16, 64, 1000, 10**7, 2**31, 2**63, 10**30, 1.5, float("nan"), float("inf"), "",
               "x" * random.randrange(400), "\0../\ud7ff", "mlp", "resampler", "plus", "paper", "full")  # fmt: skip
    return random.choice(scalars)


def changed_json(node, random: Random):
    node = copy.deepcopy(node)
    for _ in range(random.choice((1, 1, 1, 2, 4))):
        places = list(_places(node))
        parent, key = random.choice(places)
        act = random.randrange(6)
        if act == 0:
            del parent[key]
        elif act == 1 and isinstance(parent, dict):
            parent[random.choice(("extra", "", "..", "\0", "x" * 300, "__metadata__"))] = value(random)
        elif act == 2 and isinstance(parent, dict):
            parent[f"{key}_"] = parent.pop(key)
        elif act == 3 and type(parent[key]) is int:
            parent[key] += random.choice((-1, 1, 8, -8, 64))
        elif act == 4 and isinstance(parent[key], list):
            parent[key] = parent[key] * random.randrange(3)
        else:
            parent[key] = value(random)
    return node


def _places(node):
    """(container, key) of every value inside."""
    for key in list(node) if isinstance(node, dict) else range(len(node)) if isinstance(node, list) else ():
        yield node, key
        yield from _places(node[key])


def flip(data: bytes, random: Random) -> bytes:
    changed = bytearray(data)
    for _ in range(random.choice((1, 1, 3, 20))):
        if changed:
            changed[random.randrange(min(len(changed), random.choice((64, 4096, len(changed)))))] = random.randrange(256)
    return bytes(changed)


def _split(data: bytes) -> tuple[dict, bytes]:
    length = struct.unpack("<Q", data[:8])[0]
    return json.loads(data[8 : 8 + length]), data[8 + length :]


def _joined(header, body: bytes, length: int | None = None) -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode("utf-8", "surrogatepass")
    return struct.pack("<Q", (len(text) if length is None else length) % 2**64) + text + body


def _signed(header: dict, body: bytes) -> bytes:
    """With the SHA-256 of what the header now says, so that the checks behind it are reached."""
    data = _joined(header, body)
    try:
        header["__metadata__"]["sha256"] = tensors_sha256(load(data))
        return _joined(header, body)
    except Exception:
        return data


def _cut(data, random):
    return data[: random.randrange(len(data))]


def _splice(data, random):
    return data[: random.randrange(len(data))] + data[random.randrange(len(data)) :]


def _length(data, random):
    lengths = (0, 1, len(data), len(data) - 8, 2**31, 2**63, 2**64 - 1, 1_999_999, 2_000_001)
    return _joined(data[8:], b"", random.choice(lengths))


def _header(data, random):
    header, body = _split(data)
    return _signed(changed_json(header, random), body)


def _config(data, random):
    header, body = _split(data)
    header["__metadata__"]["config"] = json.dumps(changed_json(json.loads(header["__metadata__"]["config"]), random))
    return _joined(header, body)


def _values(data, random):
    header, body = _split(data)
    begin, end = header[random.choice([name for name in header if name != "__metadata__"])]["data_offsets"]
    body = body[:begin] + (random.choice(PATTERNS) * ((end - begin) // 4 + 1))[: end - begin] + body[end:]
    return _signed(header, body)


def _dtype(data, random):
    header, body = _split(data)
    header[random.choice([name for name in header if name != "__metadata__"])]["dtype"] = random.choice(DTYPES)
    return _signed(header, body)


def _tensors(data, random):
    """Tensors dropped, added, reshaped, doubled or cast, with a header that agrees."""
    tensors, metadata = load(data), _split(data)[0].get("__metadata__", {})
    name = random.choice(list(tensors))
    tensor = tensors.pop(name)
    dtypes = (torch.int64, torch.float64, torch.bfloat16, torch.uint8, torch.bool)
    changes = (
        {}, {"extra": torch.zeros(random.choice(((0,), (1,), (2, 2)))), name: tensor}, {name: tensor.reshape(-1)},
        {name: torch.cat([tensor, tensor]) if tensor.ndim else tensor[None]}, {name: tensor[None].clone()},
        {name: tensor.to(random.choice(dtypes))}, {"../" + "x" * 300: tensor},
    )  # fmt: skip
    tensors |= random.choice(changes)
    return save(tensors, {**metadata, "sha256": tensors_sha256(tensors)} if "sha256" in metadata else metadata or None)


def _odd_header(data, random):
    raw = data[8 : 8 + struct.unpack("<Q", data[:8])[0]]
    deep = random.choice((900, 5000, 100_000))
    nested = b"[" * deep + b"]" * deep
    headers = (nested, b'{"a":' * deep + b"1" + b"}" * deep, raw.rstrip()[:-1] + b',"d":' + nested + b"}",
               raw.rstrip()[:-1] + b"," + raw[1:], b'{"__metadata__":' + random.choice((b"[1]", b'"a"', b"5", b"1e999")) + b"}",
               b"9" * random.choice((100, 5000)), raw.replace(b'"1"', b'"2"', 1), b"null", b'""', b"[]", b"{}",
               b"{" + b",".join(b'"%x":{}' % n for n in range(random.choice((10, 100_000)))) + b"}")  # fmt: skip
    return _joined(random.choice(headers), _split(data)[1])


def _members(data, random, change) -> bytes:
    source, out = zipfile.ZipFile(io.BytesIO(data)), io.BytesIO()
    with zipfile.ZipFile(out, "w", STORED) as archive:
        for info in source.infolist():
            for name, content, kind in change(info.filename, source.read(info)):
                archive.writestr(zipfile.ZipInfo(name), content, compress_type=kind)
    return out.getvalue()


def _pickle_flip(data, random):
    return _members(data, random, lambda n, c: [(n, flip(c, random) if n.endswith("data.pkl") else c, STORED)])


def _pickle_raw(data, random):
    codes = (b"\x80\x02" + b"]" * random.choice((100, 100_000, 2_000_000)) + b".", b"\x80\x02cos\nsystem\nX\1\0\0\0a\x85R.",
             b"\x80\x02}" + b"(" * 100_000 + b".", b"\x80\x02\x8a\xff" + b"\1" * 255 + b".", b"I" + b"9" * 5000 + b"\n.",
             b"\x80\x02ctorch._utils\n_rebuild_tensor_v2\n).R.", b"\x80\x02ccollections\nOrderedDict\n)R" * 5000 + b".",
             b"\x80\x02" + b"]q\0h\0a" * 50_000 + b".", random.randbytes(200))  # fmt: skip
    code = random.choice(codes)
    return _members(data, random, lambda n, c: [(n, code if n.endswith("data.pkl") else c, STORED)])


def _second_pickle(data, random):
    other = pickle.dumps({"other": random.choice((bytearray(7), print, io.BytesIO))}, 2)
    names = ("archive/DATA.PKL", "x/data.pkl", "archive/data.pkl", "archive/data/../data.pkl")
    extra = [(random.choice(names), other, STORED)]
    return _members(data, random, lambda n, c: [(n, c, STORED)] + (extra if n.endswith("data.pkl") else []))


def _storages(data, random):
    change = lambda n, c: c if "/data/" not in n else random.choice((b"", c[:-1], c + c, c))  # noqa: E731
    return _members(data, random, lambda n, c: [(n, change(n, c), STORED)])


def _names(data, random):
    other = lambda n: random.choice((n, n, n, "../" + n, "/" + n, n.replace("/", "\\"), n.upper()))  # noqa: E731
    return _members(data, random, lambda n, c: [(other(n), c, STORED)])


def _packed(data, random):
    zeros = bytes(random.choice((1000, 3_000_000)))
    return _members(data, random, lambda n, c: [(n, c, random.choice((STORED, zipfile.ZIP_DEFLATED)))]) + (
        b"" if random.random() < 0.5 else zeros[:1000]
    )


def _odd_contents(data, random):
    odd = (torch.zeros(3), torch.zeros(0), torch.zeros(2, dtype=torch.int64), torch.zeros(1).expand(10**9), 5, "x", None,
           torch.zeros(2, dtype=torch.complex64), torch.nn.Parameter(torch.zeros(2)), [torch.zeros(1)],
           torch.zeros(1).as_strided((1000, 1000, 1000), (0, 0, 0)))  # fmt: skip
    part = {"image_proj": {"proj.weight": random.choice(odd)}, random.choice(("a", 5, None, ("x",))): random.choice(odd)}
    buffer = io.BytesIO()
    torch.save(
        random.choice((part, [part], part["image_proj"], {}, "s")), buffer, _use_new_zipfile_serialization=random.random() < 0.8
    )
    return buffer.getvalue()


SAFETENSORS = (
    ("cut", _cut), ("longer", lambda data, random: data + bytes(random.randrange(1, 300))), ("flip", flip), ("splice", _splice),
    ("header length", _length), ("header", _header), ("header", _header), ("config", _config), ("config", _config),
    ("config", _config), ("values", _values), ("dtype", _dtype), ("tensors", _tensors), ("odd header", _odd_header),
)  # fmt: skip
ARCHIVE = (
    ("cut", _cut),
    ("flip", flip),
    ("splice", _splice),
    ("tail", lambda data, random: data[:-400] + flip(data[-400:], random)),
    ("pickle flip", _pickle_flip),
    ("pickle flip", _pickle_flip),
    ("pickle raw", _pickle_raw),
    ("second pickle", _second_pickle),
    ("storages", _storages),
    ("names", _names),
    ("packed", _packed),
    ("odd contents", _odd_contents),
)

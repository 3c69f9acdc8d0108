"""Archives of torch.save as the importers read them: what torch itself would load, from nothing but named tensors, bounded."""

import io
import pickle
import random
import struct
import time
import warnings
import zipfile
from collections import OrderedDict
from pathlib import Path

import pytest
import torch

from deepexpo_models.importers import open_public
from deepexpo_models.importers.pickled import MAX_OPCODES

STATUS = Path("/proc/self/status")
MiB = 1 << 20


def saved(thing) -> dict[str, bytes]:
    """Members of the archive that torch.save writes."""
    buffer = io.BytesIO()
    torch.save(thing, buffer)
    with zipfile.ZipFile(buffer) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def write(path: Path, *members: tuple[str, bytes]) -> Path:
    with warnings.catch_warnings(), zipfile.ZipFile(path, "w") as archive:
        warnings.simplefilter("ignore")  # of a name given twice
        for name, content in members:
            archive.writestr(name, content)
    return path


def with_pickle(path: Path, content: bytes) -> Path:
    members = saved({"a": torch.zeros(1)})
    return write(path, *((name, content if name.endswith("data.pkl") else old) for name, old in members.items()))


@pytest.fixture
def file(tmp_path) -> Path:
    return tmp_path / "given.bin"


def refusal(path: Path) -> str:
    with pytest.raises(ValueError) as refused:
        open_public(path).tensors()
    said = str(refused.value)
    assert "\n" not in said and said.startswith(path.name) and str(path.parent) not in said and len(said) < 400
    return said


# What is read


def test_reads_what_torch_reads(file):
    module = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.LayerNorm(4))
    shared = torch.randn(40)
    thing = {
        "image_proj": module.state_dict(),
        "ip_adapter": OrderedDict(
            half=torch.randn(5, 2).half(), brain=torch.randn(3).bfloat16(), double=torch.randn(2, 1, 3).double(),
            turned=torch.randn(4, 6).t(), part=shared[7:19].view(3, 4), again=shared[::2], number=torch.tensor(2.0),
            parameter=torch.nn.Parameter(torch.randn(2)),
        ),
    }  # fmt: skip
    torch.save(thing, file)
    found = open_public(file)
    loaded = torch.load(file, weights_only=True)
    expected = {f"{part}.{name}": x.detach() for part, tensors in loaded.items() for name, x in tensors.items()}
    tensors = found.tensors()
    assert found.shapes == {name: tuple(x.shape) for name, x in expected.items()}
    assert tensors.keys() == expected.keys()
    assert all(torch.equal(tensors[name], x) and tensors[name].dtype == x.dtype for name, x in expected.items())


def test_what_is_read_stays_when_the_file_goes(file):
    torch.save({"a": torch.ones(1000)}, file)
    tensors = open_public(file).tensors()
    file.write_bytes(b"")
    assert torch.equal(tensors["a"], torch.ones(1000))


def test_a_changed_number_is_noticed(file):
    torch.save({"a": torch.full((1000,), 3.0)}, file)
    content = bytearray(file.read_bytes())
    content[content.index(struct.pack("<f", 3.0)) + 400] ^= 1
    file.write_bytes(content)
    assert "truncated or corrupt" in refusal(file)


# Two tables of contents: readers must not be able to disagree on which one counts


@pytest.mark.parametrize("first", [True, False])
@pytest.mark.parametrize("name", ["archive/DATA.PKL", "archive/data.pkl", "x/data.pkl", "X/DATA.PKL", "archive/x/data.pkl"])
def test_a_second_table_is_refused(file, name, first):
    other = (name, pickle.dumps({"other": bytearray(7)}, 2))
    members = list(saved({"a": torch.zeros(3)}).items())
    assert "not one of torch's weights" in refusal(write(file, *([other, *members] if first else [*members, other])))


@pytest.mark.parametrize(
    "name", ["archive/code/run.py", "archive/data/0.py", "archive/data/../data.pkl", "data.pkl", "archive/"]
)
def test_members_of_another_kind_are_refused(file, name):
    assert "not one of torch's weights" in refusal(write(file, *saved({"a": torch.zeros(3)}).items(), (name, b"x")))


# Pickles of more than named tensors


@pytest.mark.parametrize("thing", [bytearray(10**6), {"a": {1, 2}}, {"a": 1.5}, {"a": [torch.zeros(1)]}, {"a": b"bytes"}])
def test_other_things_are_refused(file, thing):
    torch.save(thing, file)
    assert "choose the adapter's own file" in refusal(file)


HOSTILE = {
    "a call of what it has no right to": b"cbuiltins\nbytearray\nJ\xff\xff\xff\x7f\x85R.",
    "a call of a number": b"K\x01)R.",
    "a call with other arguments": b"ctorch._utils\n_rebuild_tensor_v2\n(K\x01K\x02tR.",
    "an odd number of items": b"}(K\x01u.",
    "a mark that is not there": b"}K\x01u.",
    "a key that cannot be one": b"}}K\x01s.",
    "an unknown memo": b"h\x07.",
    "a storage without a type": b"(X\x07\x00\x00\x00storageK\x01X\x01\x00\x00\x000X\x03\x00\x00\x00cpuK\x01tQ.",
    "an end inside a text": b"X\xff\xff\xff\xffabc",
    "no text": b"X\x02\x00\x00\x00\xff\xfe.",
    "no end": b"}" * 10,
    "nothing": b".",
    "nothing at all": b"",
}


@pytest.mark.parametrize("what", HOSTILE)
def test_hostile_pickles_are_refused(file, what):
    refusal(with_pickle(file, b"\x80\x02" + HOSTILE[what]))


def test_every_change_of_a_byte_is_refused_or_harmless(file):
    """Whatever the change, the answer is a sentence or tensors that the file holds."""
    members, draw = saved({"image_proj": {"a": torch.zeros(3), "b": torch.zeros(2, 2)}}), random.Random(0)
    (table,) = (name for name in members if name.endswith("data.pkl"))
    refused = 0
    for _ in range(400):
        content = bytearray(members[table])
        for _ in range(draw.choice((1, 1, 3))):
            content[draw.randrange(len(content))] = draw.randrange(256)
        write(file, *{**members, table: bytes(content)}.items())
        try:
            tensors = open_public(file).tensors()
        except ValueError:
            refused += 1
        else:
            assert sum(x.numel() for x in tensors.values()) * 4 <= file.stat().st_size
    assert refused > 100


def test_every_change_of_the_archive_is_refused_or_harmless(file):
    torch.save({"image_proj": {"a": torch.zeros(3)}}, file)
    whole, draw = file.read_bytes(), random.Random(0)
    for _ in range(400):
        content = bytearray(whole)
        for _ in range(3):
            content[draw.randrange(len(content))] = draw.randrange(256)
        file.write_bytes(content[: draw.choice((None, draw.randrange(4, len(content))))])
        try:
            open_public(file).tensors()
        except ValueError as error:
            assert "\n" not in str(error)


# Small files that claim much


def strided(shape: tuple[int, ...], name: str = "a"):
    return {name: torch.zeros(1).as_strided(shape, (0,) * len(shape))}


TENSOR = (  # the pickle of one number
    b"ctorch._utils\n_rebuild_tensor_v2\n((X\x07\x00\x00\x00storagectorch\nFloatStorage\nX\x01\x00\x00\x000"
    b"X\x03\x00\x00\x00cpuK\x01tQK\x00K\x01\x85K\x01\x85\x89}tR"
)


def one_tensor_often() -> bytes:
    """A dict of 16,384 names of one tensor, in a dict 10,000 times."""
    names = ((256 * (n // 128) + n % 128).to_bytes(2, "big") for n in range(16384))
    inner = b"}X\x01\x00\x00\x00t" + TENSOR + b"q\x01s(" + b"".join(b"X\x02\x00\x00\x00" + name + b"h\x01" for name in names)
    outer = b"".join(b"X\x04\x00\x00\x00%04d" % n + b"h\x00" for n in range(10_000))
    return b"\x80\x02" + inner + b"uq\x00}(" + outer + b"u."


BOMBS = {
    "a stride of 0": lambda path: torch.save(strided((100_000, 100_000)), path),
    "many tensors of one storage": lambda path: torch.save({str(n): torch.zeros(9).expand(9, 9) for n in range(3000)}, path),
    "a dimension that no memory has": lambda path: torch.save(strided((2**40, 2**20, 3)), path),
    "many dimensions": lambda path: torch.save(strided((1,) * 60), path),
    "a million opcodes": lambda path: with_pickle(path, b"\x80\x02" + b"}" * 1_000_000 + b"."),
    "four million opcodes": lambda path: with_pickle(path, b"\x80\x02" + b"N" * 3_900_000 + b"."),
    "opcodes to the limit": lambda path: with_pickle(path, b"\x80\x02" + b"}q\x00(" * (MAX_OPCODES // 3) + b"."),
    "a memo of 2**32": lambda path: with_pickle(path, b"\x80\x02}r\xff\xff\xff\xff."),
    "10**9 bytes by a call": lambda path: with_pickle(path, b"\x80\x02cbuiltins\nbytearray\nJ\x00\xca\x9a\x3b\x85R."),
    "a dict in a dict, often": lambda path: with_pickle(path, one_tensor_often()),
    "a directory of 60,000 members": lambda path: write(path, *((f"a/data/{n}", b"") for n in range(60_000))),
}  # fmt: skip


def memory(key: str) -> int:
    return next(int(line.split()[1]) for line in STATUS.read_text().splitlines() if line.startswith(key)) * 1024


@pytest.mark.skipif(not STATUS.exists(), reason="peak memory is read from Linux's /proc")
@pytest.mark.parametrize("bomb", BOMBS)
def test_small_files_cost_little(file, bomb):
    BOMBS[bomb](file)
    Path("/proc/self/clear_refs").write_text("5")
    before, start = memory("VmRSS"), time.process_time()
    refusal(file)
    spent, peak = time.process_time() - start, memory("VmHWM") - before
    print(f"{bomb}: {file.stat().st_size} bytes, {spent:.2f} s, {peak / MiB:.0f} MiB")
    assert peak < 4 * file.stat().st_size + 64 * MiB and spent < 1

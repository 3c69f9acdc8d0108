"""The table of contents of a torch.save archive, read without unpickling.

Such a pickle (protocol 2) can run code and claim any memory, so it is not given to `pickle` nor to `torch.load`: a stack
machine of the opcodes that a dict of tensors needs reads it, which knows the names in NAMES and calls nothing else. It only
says where tensors lie; their bytes are in the archive's other members.
"""

import struct
from collections.abc import Callable
from dataclasses import dataclass

import torch

from ..safetensors_file import excerpt

MAX_OPCODES = 200_000  # the largest published adapter, of 1,335 tensors, has about 40,000
START, STOP = b"\x80\x02", ord(".")
STORAGES = {
    "torch FloatStorage": torch.float32,
    "torch HalfStorage": torch.float16,
    "torch BFloat16Storage": torch.bfloat16,
    "torch DoubleStorage": torch.float64,
}


class Foreign(Exception):
    """The pickle holds more than named tensors; says what."""


class Damaged(Exception):
    """The pickle makes no sense."""


@dataclass(frozen=True)
class Storage:
    """The archive's member data/<key>: `count` numbers."""

    key: str
    dtype: torch.dtype
    count: int


@dataclass(frozen=True)
class Stored:
    """Where a tensor lies in a storage. Its last element is inside; strides may be 0."""

    storage: Storage
    offset: int
    shape: tuple[int, ...]
    stride: tuple[int, ...]


def parse(content: bytes):
    """The pickled thing: dicts, tuples, strings, whole numbers, and Stored for tensors. Raises Foreign or Damaged."""
    if not content.startswith(START):
        raise Damaged
    machine = _Machine(content)
    try:
        return machine.run()
    except (IndexError, KeyError, TypeError, ValueError, struct.error) as error:
        raise Damaged from error


class _Machine:
    def __init__(self, content: bytes):
        self.content, self.position = content, len(START)
        self.stack: list = []
        self.marks: list = []
        self.memo: dict = {}

    def run(self):
        for _ in range(MAX_OPCODES):
            (code,) = self.take(1)
            if code == STOP:
                return self.stack.pop()
            if code not in OPCODES:
                raise Foreign(f"its opcode {code:#x} makes none")
            OPCODES[code](self)
        raise Foreign(f"it has more than {MAX_OPCODES} opcodes")

    def take(self, count: int) -> bytes:
        self.position += count
        part = self.content[self.position - count : self.position]
        if len(part) != count:
            raise Damaged
        return part

    def number(self, layout: str) -> int:
        return struct.unpack(layout, self.take(struct.calcsize(layout)))[0]

    def line(self) -> str:
        end = self.content.index(b"\n", self.position)
        text = self.take(end - self.position).decode()
        self.position += 1
        return text

    def pop(self, count: int) -> tuple:
        if len(self.stack) < count:
            raise Damaged
        items = tuple(self.stack[len(self.stack) - count :])
        del self.stack[len(self.stack) - count :]
        return items

    def pop_mark(self) -> tuple:
        return self.pop(len(self.stack) - self.marks.pop())


def _global(machine: _Machine) -> None:
    name = f"{machine.line()} {machine.line()}"
    if name not in NAMES:
        raise Foreign(f"it names {excerpt(name)}")
    machine.stack.append(NAMES[name])


def _reduce(machine: _Machine) -> None:
    function, arguments = machine.pop(2)
    if not callable(function):
        raise Damaged
    machine.stack.append(function(*arguments))


def _set_items(machine: _Machine, items: tuple) -> None:
    if not isinstance(machine.stack[-1], dict):
        raise Damaged
    machine.stack[-1].update(zip(items[::2], items[1::2], strict=True))


def _storage(machine: _Machine) -> None:
    ((what, dtype, key, _, count),) = machine.pop(1)
    if what != "storage" or not isinstance(dtype, torch.dtype) or not isinstance(key, str):
        raise Damaged
    machine.stack.append(Storage(key, dtype, count))


def _ordered_dict() -> dict:
    return {}


def _tensor(storage: Storage, offset: int, shape: tuple, stride: tuple, *_) -> Stored:
    whole = isinstance(storage, Storage) and all(type(n) is int and n >= 0 for n in (storage.count, offset, *shape, *stride))
    if not whole or len(shape) != len(stride):
        raise Damaged
    last = offset + sum((size - 1) * step for size, step in zip(shape, stride))
    if 0 not in shape and last >= storage.count:
        raise Damaged
    return Stored(storage, offset, shape, stride)


def _parameter(tensor: Stored, *_) -> Stored:
    return tensor


NAMES = {
    **STORAGES,
    "collections OrderedDict": _ordered_dict,
    "torch._utils _rebuild_tensor_v2": _tensor,
    "torch._utils _rebuild_parameter": _parameter,
}


def _push(value: Callable) -> Callable:
    return lambda machine: machine.stack.append(value(machine))


def _put(layout: str) -> Callable:
    return lambda machine: machine.memo.__setitem__(machine.number(layout), machine.stack[-1])


OPCODES = {
    ord(code): action
    for code, action in {
        "}": _push(lambda _: {}),
        ")": _push(lambda _: ()),
        "(": lambda machine: machine.marks.append(len(machine.stack)),
        "t": _push(_Machine.pop_mark),
        "\x85": _push(lambda machine: machine.pop(1)),
        "\x86": _push(lambda machine: machine.pop(2)),
        "\x87": _push(lambda machine: machine.pop(3)),
        "X": _push(lambda machine: machine.take(machine.number("<I")).decode()),
        "J": _push(lambda machine: machine.number("<i")),
        "K": _push(lambda machine: machine.number("B")),
        "M": _push(lambda machine: machine.number("<H")),
        "\x8a": _push(lambda machine: int.from_bytes(machine.take(machine.number("B")), "little", signed=True)),
        "\x88": _push(lambda _: True),
        "\x89": _push(lambda _: False),
        "N": _push(lambda _: None),
        "q": _put("B"),
        "r": _put("<I"),
        "h": _push(lambda machine: machine.memo[machine.number("B")]),
        "j": _push(lambda machine: machine.memo[machine.number("<I")]),
        "c": _global,
        "R": _reduce,
        "Q": _storage,
        "b": lambda machine: machine.pop(1),  # attributes of a state dict, versions of its layers: not needed
        "s": lambda machine: _set_items(machine, machine.pop(2)),
        "u": lambda machine: _set_items(machine, machine.pop_mark()),
    }.items()
}

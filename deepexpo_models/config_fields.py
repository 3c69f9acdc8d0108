"""Checks of a config that comes from a file, before anything is built from it: each field has the type that its dataclass
names, and a size that a model can have."""

from collections.abc import Mapping
from dataclasses import fields
from functools import cache
from math import isfinite
from typing import Any, get_args, get_origin, get_type_hints

from .safetensors_file import excerpt

LARGEST = 1 << 20  # of any count or width; a model's own limit is what its file holds, see `weights.build_module`
LONGEST_TEXT = 200  # letters
MOST_NUMBERS = 16  # entries of a list of numbers


def config_from(make, values: object, what: str):
    """make(**values) of a dataclass. Raises ValueError, in one sentence, for missing, unknown or unusable entries."""
    if not isinstance(values, Mapping):
        raise ValueError(f"not a usable {what} config: it is no JSON object")
    known = {field.name for field in fields(make)}
    needed = {name for name in known if not hasattr(make, name)}  # a default is an attribute of the class
    missing, unknown = sorted(needed - values.keys()), sorted(values.keys() - known)
    if missing or unknown:
        parts = [
            f"{word} {', '.join(map(excerpt, names[:5]))}"
            for word, names in (("missing", missing), ("unknown", unknown))
            if names
        ]
        raise ValueError(f"not a usable {what} config: {', '.join(parts)}")
    return make(**values)


def check_fields(config, zero: tuple[str, ...] = (), most: Mapping[str, int] = {}) -> None:
    """Raise a ValueError that names the first field of another type or size; lists become tuples.

    zero: fields that may be 0; most: the largest value of fields that have one of their own. For `__post_init__` of a frozen
    dataclass whose fields are str, int, float, bool, tuples of int or str; others are left alone.
    """
    own: Any = type(config)
    for name, kind in _types(own).items():
        value, least, limit = getattr(config, name), 0 if name in zero else 1, most.get(name, LARGEST)
        if get_origin(kind) is tuple:
            object.__setattr__(config, name, _list(name, value, get_args(kind), least, limit))
        elif kind in CHECKS:
            CHECKS[kind](name, value, least, limit)


@cache
def _types(cls: Any) -> dict[str, Any]:
    hints = get_type_hints(cls)
    return {field.name: hints[field.name] for field in fields(cls)}


def _list(name: str, value: object, kinds: tuple, least: int, limit: int) -> tuple:
    length = None if kinds[-1] is Ellipsis else len(kinds)
    most = MOST_NUMBERS if kinds[0] is int else LARGEST
    if not isinstance(value, list | tuple) or len(value) > most or (length is not None and len(value) != length):
        raise ValueError(f"{name} is {excerpt(value)}; it must be a list of {length or f'at most {most}'} entries")
    for entry in value:
        CHECKS[kinds[0]](f"an entry of {name}", entry, least, limit)
    return tuple(value)


def _text(name: str, value: object, least: int, limit: int) -> None:
    if not isinstance(value, str) or len(value) > LONGEST_TEXT:
        raise ValueError(f"{name} is {excerpt(value)}; it must be a text of at most {LONGEST_TEXT} letters")


def _whole(name: str, value: object, least: int, limit: int) -> None:
    if type(value) is not int or not least <= value <= limit:
        raise ValueError(f"{name} is {excerpt(value)}; it must be a whole number of at least {least}, at most {limit}")


def _number(name: str, value: object, least: int, limit: int) -> None:
    if isinstance(value, bool) or not isinstance(value, int | float) or not isfinite(value):
        raise ValueError(f"{name} is {excerpt(value)}; it must be a number")


def _switch(name: str, value: object, least: int, limit: int) -> None:
    if not isinstance(value, bool):
        raise ValueError(f"{name} is {excerpt(value)}; it must be true or false")


CHECKS = {str: _text, int: _whole, float: _number, bool: _switch}  # type of a field -> (name, value, least, most)

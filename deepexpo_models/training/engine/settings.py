"""What every training run is given, and the command line made from it.

A trainer subclasses `RunSettings`, adds its own fields with `option`, and is called by `run_command(train, ItsSettings)`.
"""

import argparse
import dataclasses
import dis
import sys
import types
import typing
from dataclasses import dataclass
from pathlib import Path
from typing import cast

from ...whole_files import WriteError
from .checkpoint import TrainingError

SCHEDULES = ("cosine", "constant")
PACKAGE = Path(__file__).parents[2]
PRECISIONS = ("fp32", "bf16", "fp16")


def option(default=dataclasses.MISSING, help: str = "", *, choices: tuple = (), fixed: bool = False):
    """A field of settings: its help, what it may be, and whether a resumed run must have it as the first one had it."""
    return dataclasses.field(default=default, metadata={"help": help, "choices": choices, "fixed": fixed})


@dataclass(frozen=True, kw_only=True)
class RunSettings:
    """One run: where, how long, how fast. `steps` are optimizer steps; sizes are per process."""

    out: str = option(help="folder of this run; a folder that has states in it is resumed")
    steps: int = option(1000, "optimizer steps in all, those of resumed runs included")
    batch_size: int = option(8, "samples per process and per backward pass")
    lr: float = option(1e-4, "learning rate after the warm-up")
    warmup: int = option(100, "steps in which the learning rate rises from zero")
    schedule: str = option("cosine", "learning rate after the warm-up: falls to zero, or stays", choices=SCHEDULES)
    precision: str = option("fp32", "number format of the forward pass; fp16 needs a GPU", choices=PRECISIONS)
    accumulate: int = option(1, "backward passes per optimizer step")
    checkpointing: bool = option(False, "gradient checkpointing: less memory, slower")
    ema: float = option(0.999, "decay of the averaged weights, per step; 0 keeps the last weights")
    grad_clip: float = option(1.0, "largest gradient norm; 0 does not clip")
    seed: int = option(0, "seed of the weights and of the data stream", fixed=True)
    save_every: int = option(500, "steps between states that a run can be resumed from")
    log_every: int = option(20, "steps that one line of log.jsonl averages")
    sample_every: int = option(500, "steps between sample pictures; 0 makes none")
    keep: int = option(2, "states kept; older ones are deleted once a newer one is whole")
    max_minutes: float = option(0.0, "stop with a saved state this many minutes after the command began; 0 has no limit")
    workers: int = option(-1, "processes that make batches ahead; 0: none, -1: as many as there are cores, beside a GPU")
    threads: int = option(0, "CPU threads of torch; 0 leaves torch's own choice")
    tensorboard: bool = option(False, "write TensorBoard logs and pictures too")

    def __post_init__(self):
        if not self.out:
            raise ValueError("out is empty; name the folder of this run")
        for field in dataclasses.fields(self):
            choices, value = field.metadata.get("choices"), getattr(self, field.name)
            if choices and value not in choices:
                raise ValueError(f"{field.name} is {value!r}; choose from {', '.join(map(str, choices))}")
        for name in ("steps", "batch_size", "accumulate", "save_every", "log_every", "keep"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}; it must be at least 1")
        for name in ("warmup", "grad_clip", "sample_every", "max_minutes", "threads", "seed"):
            if not getattr(self, name) >= 0:
                raise ValueError(f"{name} is {getattr(self, name)}; it must be 0 or more")
        if self.workers < -1:
            raise ValueError(f"workers is {self.workers}; it must be 0 or more, or -1")
        if not 0 < self.lr < float("inf"):
            raise ValueError(f"lr is {self.lr}; it must be above 0")
        if not 0 <= self.ema < 1:
            raise ValueError(f"ema is {self.ema}; a decay lies in [0, 1), e.g. 0.999")


def parse_settings(cls, argv: list[str] | None = None, description: str = ""):
    """Make settings from a command line (default: sys.argv). What is wrong is told in one sentence, with exit code 2."""
    parser = _Parser(
        prog=_program(), description=description, allow_abbrev=False, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    hints = typing.get_type_hints(cls)
    actions = [
        parser.add_argument("--" + field.name.replace("_", "-"), dest=field.name, **_argument(field, hints[field.name]))
        for field in dataclasses.fields(cls)
        if field.init
    ]
    required = [f"{action.option_strings[0]} {action.metavar}" for action in actions if action.required]
    parser.usage = " ".join(["%(prog)s", *required, "[options]"])
    given = vars(parser.parse_args(argv))
    try:
        return cls(**given)
    except ValueError as error:
        parser.error(str(error))


def run_command(train, cls, argv: list[str] | None = None, description: str = "") -> None:
    """Train with settings from a command line. What our own code refuses (by a `raise` of ValueError, TrainingError or
    WriteError) is told in one sentence, with exit code 2; any other error keeps its traceback."""
    settings = parse_settings(cls, argv, description)
    try:
        train(settings)
    except (ValueError, TrainingError, WriteError) as error:
        if not _is_ours(error):
            raise
        print(f"{_program()}: {error}", file=sys.stderr)
        sys.exit(2)


def _is_ours(error: Exception) -> bool:
    """Whether a `raise` of the package says it, not a library, nor Python of a mistake in the package (as `int("x")`)."""
    end = cast(types.TracebackType, error.__traceback__)
    while end.tb_next is not None:
        end = end.tb_next
    code = end.tb_frame.f_code
    return Path(code.co_filename).is_relative_to(PACKAGE) and code.co_code[end.tb_lasti] == dis.opmap["RAISE_VARARGS"]


class _Parser(argparse.ArgumentParser):
    def error(self, message: str):
        self.exit(2, f"{self.prog}: {message.rstrip('.')} (--help lists all options)\n")


def _program() -> str:
    """The command as the user typed it: `python -m package.module`, not the path of a file."""
    spec = getattr(sys.modules.get("__main__"), "__spec__", None)
    return f"python -m {spec.name.removesuffix('.__main__')}" if spec and spec.name != "pytest.__main__" else "train"


def _argument(field: dataclasses.Field, hint) -> dict:
    """argparse's words for one field."""
    kind, several = _kind(hint)
    required = field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING
    default = field.default if field.default is not dataclasses.MISSING else None
    if field.default_factory is not dataclasses.MISSING:
        default = field.default_factory()
    shown = " ".join(map(str, default)) if isinstance(default, tuple | list) else default
    shown = ("off", "on")[default] if isinstance(default, bool) else shown
    note = "(required)" if required else "" if shown in (None, "") else f"(default: {shown})"
    words = {
        "required": required,
        "default": default,
        "help": f"{field.metadata.get('help', '')} {note}".strip().replace("%", "%%"),
    }
    if kind is bool:
        return words | {"action": _OnOff}
    if choices := field.metadata.get("choices"):
        words["choices"] = choices
    elif not several:
        words["metavar"] = {int: "N", float: "X", str: "TEXT"}.get(kind, kind.__name__.upper())
    if several:
        words |= {"nargs": "+", "action": _Tuple, "metavar": {int: "N", float: "X"}.get(kind, "TEXT")}
    return words | {"type": kind}


class _OnOff(argparse.Action):
    """--name and --no-name; argparse's own adds its default to the help a second time up to Python 3.12."""

    def __init__(self, option_strings, dest, default=None, required=False, help=None):
        negative = [f"--no-{name[2:]}" for name in option_strings]
        super().__init__([*option_strings, *negative], dest, nargs=0, default=default, required=required, help=help)

    def __call__(self, parser, namespace, values, option_string=None):
        setattr(namespace, self.dest, not option_string.startswith("--no-"))


class _Tuple(argparse.Action):
    def __call__(self, parser, namespace, values, option_string=None):
        setattr(namespace, self.dest, tuple(values))


def _kind(hint) -> tuple[type, bool]:
    """A field's annotation -> (type of one value, whether it takes several)."""
    arguments = [part for part in typing.get_args(hint) if part not in (type(None), Ellipsis)]
    origin = typing.get_origin(hint)
    if origin in (types.UnionType, typing.Union) and len(arguments) == 1:
        return _kind(arguments[0])  # X | None
    if origin in (tuple, list) and len(set(arguments)) == 1:
        return arguments[0], True
    if hint in (str, int, float, bool):
        return hint, False
    raise TypeError(f"an option cannot be of type {hint}; use str, int, float, bool, X | None or tuple[X, ...]")

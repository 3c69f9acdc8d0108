"""Results as Markdown and as JSON."""

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path

from ..whole_files import write_text


def markdown(rows: Sequence[Mapping]) -> str:
    """Rows of one table; nested figures become columns of their own, missing ones stay empty."""
    if not rows:
        return ""
    flat = [flattened(row) for row in rows]
    columns = list(dict.fromkeys(name for row in flat for name in row))
    lines = [" | ".join(columns), " | ".join("---" for _ in columns)]
    lines += [" | ".join(shown(row.get(name, "")) for name in columns) for row in flat]
    return "\n".join(f"| {line} |" for line in lines) + "\n"


def row_names(files: Sequence[Path]) -> dict[str, Path]:
    """Name without suffix, by which a table's rows know a file -> the file. Raises ValueError for two of one name."""
    found = {path.stem: path for path in files}
    if len(found) < len(files):
        twice = next(path for path in files if found[path.stem] != path)
        raise ValueError(f"{twice} and {found[twice.stem]} would be one row, {twice.stem!r}; rename one of them")
    return found


def write_table(folder: Path, name: str, rows: Sequence[Mapping]) -> None:
    """As name.json and name.md, and on the screen."""
    write_text(folder / f"{name}.json", as_json(rows))
    write_text(folder / f"{name}.md", markdown(rows))
    print(markdown(rows))


def figure_table(figures: Mapping) -> str:
    """One figure a line."""
    return markdown([{"figure": name, "value": value} for name, value in flattened(figures).items()])


def flattened(figures: Mapping, before: str = "") -> dict:
    """{"a": {"b": 1}} -> {"a: b": 1}."""
    found: dict = {}
    for name, value in figures.items():
        if isinstance(value, Mapping):
            found |= flattened(value, f"{before}{name}: ")
        else:
            found[f"{before}{name}"] = value
    return found


def shown(value) -> str:
    """Three decimals are enough for a reader; what could not be measured is "-"."""
    if isinstance(value, float):
        return f"{value:.3f}" if math.isfinite(value) else "-"
    return str(value)


def as_json(results) -> str:
    """Strict JSON, which knows no NaN: what could not be measured is null."""
    return json.dumps(_without_nan(results), indent=1, allow_nan=False) + "\n"


def _without_nan(value):
    if isinstance(value, Mapping):
        return {name: _without_nan(entry) for name, entry in value.items()}
    if isinstance(value, (list, tuple)):
        return [_without_nan(entry) for entry in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value

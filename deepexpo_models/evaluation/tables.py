"""Results as Markdown."""

from collections.abc import Mapping, Sequence


def markdown(rows: Sequence[Mapping]) -> str:
    """Rows of one table; nested figures become columns of their own, missing ones stay empty."""
    flat = [flattened(row) for row in rows]
    columns = list(dict.fromkeys(name for row in flat for name in row))
    lines = [" | ".join(columns), " | ".join("---" for _ in columns)]
    lines += [" | ".join(shown(row.get(name, "")) for name in columns) for row in flat]
    return "\n".join(f"| {line} |" for line in lines) + "\n"


def figure_table(figures: Mapping) -> str:
    """One figure a line."""
    return markdown([{"figure": name, "value": value} for name, value in flattened(figures).items()])


def flattened(figures: Mapping, before: str = "") -> dict:
    """{"a": {"b": 1}} -> {"a: b": 1}."""
    found = {}
    for name, value in figures.items():
        if isinstance(value, Mapping):
            found |= flattened(value, f"{before}{name}: ")
        else:
            found[f"{before}{name}"] = value
    return found


def shown(value) -> str:
    """Three significant decimals are enough for a reader."""
    return f"{value:.3f}" if isinstance(value, float) else str(value)

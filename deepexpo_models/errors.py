"""Errors in a sentence of ours."""


def first_line(error: Exception, limit: int = 160) -> str:
    """What kind of error, and the first line of what it says, at most `limit` characters: "OSError: not a file"."""
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0][:limit]}" if lines else type(error).__name__


def sentence(error: Exception, ours: type[Exception] | tuple[type[Exception], ...] = ValueError) -> str:
    """What an error of ours says, and of any other its `first_line`; always one line."""
    lines = str(error).strip().splitlines()
    return lines[0] if lines and isinstance(error, ours) else first_line(error)

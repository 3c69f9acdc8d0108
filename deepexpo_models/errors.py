"""Other programs' errors in a sentence of ours."""


def first_line(error: Exception, limit: int = 160) -> str:
    """What kind of error, and the first line of what it says, at most `limit` characters: "OSError: not a file"."""
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0][:limit]}" if lines else type(error).__name__

"""Frames of a clip in which no face was found."""

from collections.abc import Callable, Sequence
from typing import TypeVar

GAPS = ("refuse", "interpolate", "hold", "skip")  # what to do with frames that have no face
DONE = {"interpolate": "filled from the frames around them", "hold": "filled with the last face", "skip": "left out"}
Found = TypeVar("Found")


def fill_gaps(
    found: Sequence[Found | None], gaps: str, between: Callable[[Found, Found, float], Found]
) -> tuple[dict[int, Found], str]:
    """What was found in each frame, None where nothing was -> frame -> what stands there, and a sentence about the gaps,
    empty where there were none.

    refuse raises ValueError that names the frames without a face; interpolate goes from the frame before a gap to the one
    after it, `between(a, b, share)`; hold repeats the one before; both repeat the nearest at the ends; skip leaves such
    frames out. Raises ValueError also when no frame has a face.
    """
    if gaps not in GAPS:
        raise ValueError(f"unknown way with gaps {gaps!r}; known: {', '.join(GAPS)}")
    known = {number: item for number, item in enumerate(found) if item is not None}
    missing = [number for number in range(len(found)) if number not in known]
    if not known:
        raise ValueError("no face in any frame; use clearer pictures, or lower the confidence of what looks for faces")
    if missing and gaps == "refuse":
        raise ValueError(
            f"no face in {named_frames(missing, len(found))}; choose gaps 'interpolate', 'hold' or 'skip', or take these "
            f"frames out"
        )
    if gaps == "skip":
        filled = known
    else:
        filled = {number: _fill(found, number, gaps, between) for number in range(len(found))}
    return filled, f"no face in {named_frames(missing, len(found))}: {DONE[gaps]}" if missing else ""


def named_frames(numbers: Sequence[int], total: int) -> str:
    """Frames counted from 1, at most ten of them: "frames 2, 3 of 5"."""
    named = ", ".join(str(number + 1) for number in numbers[:10])
    more = f" and {len(numbers) - 10} more" if len(numbers) > 10 else ""
    return f"{'frame' if len(numbers) == 1 else 'frames'} {named}{more} of {total}"


def _fill(found, number: int, gaps: str, between):
    if found[number] is not None:
        return found[number]
    before = next((n for n in range(number, -1, -1) if found[n] is not None), None)
    after = next((n for n in range(number, len(found)) if found[n] is not None), None)
    if before is None or after is None or gaps == "hold":
        return found[after if before is None else before]
    return between(found[before], found[after], (number - before) / (after - before))

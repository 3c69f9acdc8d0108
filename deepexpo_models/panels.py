"""Pictures of numbers and labelled sheets, as nodes show them: (1, H, W, 3) in [0, 1]. Pillow alone."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from .image import bytes_to_comfy, comfy_to_bytes, to_rgb

WIDTH, STRIP, TITLE, MARGIN = 480, 84, 20, 10  # pixels of a panel, of one strip, of its title, around it
BACKGROUND, TEXT, AXIS, PALE, STRONG, MARK = "#22232a", "#e6e6ea", "#55565f", "#7a7f90", "#6fb1ff", "#ffb347"
DASH = 6
LABEL, GAP, LETTER = 26, 4, 14  # pixels of a sheet's labels, between its pictures, of its letters
LARGEST_SHEET = 16384  # pixels of a side


@dataclass(frozen=True)
class Strip:
    """One quantity over frames or pictures: a title, curves (pale ones first, the last strong), and a line to compare with.

    bars: the last curve as bars. Values that are not finite are left out.
    """

    title: str
    curves: tuple[Sequence[float], ...]
    low: float
    high: float
    mark: float | None = None
    bars: bool = False


def draw_strips(strips: Sequence[Strip]) -> Tensor:
    """One below the other -> (1, H, WIDTH, 3)."""
    from PIL import Image, ImageDraw

    panel = Image.new("RGB", (WIDTH, len(strips) * STRIP + MARGIN), BACKGROUND)
    drawing = ImageDraw.Draw(panel)
    for number, strip in enumerate(strips):
        _draw_strip(drawing, strip, number * STRIP + MARGIN)
    return _to_comfy(panel)


def label_sheet(images: Tensor, rows: Sequence[str], columns: Sequence[str], cell: int = 256) -> Tensor:
    """Pictures (N, H, W, C) in [0, 1], read by rows, with labels beside and above -> (1, H', W', 3).

    cell: the longer side of each picture in the sheet. Raises ValueError when the pictures are not rows times columns, and
    for a sheet of more than LARGEST_SHEET pixels a side.
    """
    from PIL import Image, ImageDraw

    if len(images) != len(rows) * len(columns):
        raise ValueError(
            f"the sheet has {len(rows)} rows and {len(columns)} columns, which are {len(rows) * len(columns)} pictures, but "
            f"{len(images)} are connected; set the latent's batch size to the sheet's count"
        )
    cells = _fit(images, cell)
    height, width = cells.shape[1:3]
    beside = max(LABEL, *(_text_width(row) + 2 * GAP for row in rows))
    size = (beside + len(columns) * (width + GAP), LABEL + len(rows) * (height + GAP))
    if max(size) > LARGEST_SHEET:
        raise ValueError(f"the sheet would be {size[0]} x {size[1]} pixels; choose a smaller cell")
    sheet = Image.new("RGB", size, BACKGROUND)
    drawing = ImageDraw.Draw(sheet)
    for number, picture in enumerate(cells):
        row, column = divmod(number, len(columns))
        place = (beside + column * (width + GAP), LABEL + row * (height + GAP))
        sheet.paste(Image.fromarray(comfy_to_bytes(picture).numpy()), place)
    for column, words in enumerate(columns):
        middle = beside + column * (width + GAP) + width // 2
        drawing.text((middle, LABEL // 2), _shortened(words, width), TEXT, anchor="mm", font_size=LETTER)
    for row, words in enumerate(rows):
        middle = LABEL + row * (height + GAP) + height // 2
        drawing.text((beside // 2, middle), words, TEXT, anchor="mm", font_size=LETTER)
    return _to_comfy(sheet)


def _draw_strip(drawing, strip: Strip, top: int) -> None:
    left, right, bottom = MARGIN, WIDTH - MARGIN, top + STRIP - MARGIN
    drawing.text((left, top), strip.title, TEXT, font_size=13)
    drawing.line((left, bottom, right, bottom), AXIS)

    def y(value: float) -> float:
        share = (value - strip.low) / max(strip.high - strip.low, 1e-9)
        return bottom - min(max(share, 0), 1) * (bottom - top - TITLE)

    if strip.mark is not None and math.isfinite(strip.mark):
        for x in range(left, right, 2 * DASH):
            drawing.line((x, y(strip.mark), min(x + DASH, right), y(strip.mark)), MARK)
    for number, curve in enumerate(strip.curves):
        last = number == len(strip.curves) - 1
        draw = _draw_bars if strip.bars and last else _draw_curve
        draw(drawing, curve, (left, right, bottom), y, STRONG if last else PALE)


def _draw_curve(drawing, curve: Sequence[float], place: tuple[int, int, int], y, colour: str) -> None:
    left, right, _ = place
    step = (right - left) / max(len(curve) - 1, 1)
    points = [(left + step * n, y(value)) for n, value in enumerate(curve) if math.isfinite(value)]
    drawing.line(points, colour, width=2) if len(points) > 1 else drawing.point(points, colour)


def _draw_bars(drawing, curve: Sequence[float], place: tuple[int, int, int], y, colour: str) -> None:
    left, right, bottom = place
    step = (right - left) / max(len(curve), 1)
    width = min(0.7 * step, 60)
    for number, value in enumerate(curve):
        if math.isfinite(value):
            x = left + step * (number + 0.5)
            drawing.rectangle((x - width / 2, y(value), x + width / 2, bottom), colour)


def _fit(images: Tensor, cell: int) -> Tensor:
    """(N, H, W, C) -> (N, h, w, 3), the longer side `cell`, on the CPU."""
    rgb = to_rgb(images).cpu().movedim(-1, 1)
    height, width = rgb.shape[-2:]
    scale = cell / max(height, width)
    size = (max(1, round(height * scale)), max(1, round(width * scale)))
    return F.interpolate(rgb, size, mode="bicubic", antialias=True).movedim(1, -1)


def _text_width(words: str) -> int:
    from PIL import ImageFont

    return math.ceil(ImageFont.load_default(LETTER).getlength(words))


def _shortened(words: str, width: int) -> str:
    """As much of the words as fits."""
    while len(words) > 1 and _text_width(words) > width:
        words = words[:-2].rstrip() + "…"
    return words


def _to_comfy(picture) -> Tensor:
    return bytes_to_comfy(torch.from_numpy(np.array(picture)))[None]

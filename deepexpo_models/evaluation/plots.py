"""Pictures of results, as PNG. Matplotlib is loaded where it is used."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor

from ..image import model_to_bytes

HISTOGRAM_BINS = 24


def lines_picture(
    path: Path, x: Sequence[float], lines: Mapping[str, Sequence[float]], title: str, labels: tuple[str, str]
) -> None:
    """One line per row over x."""
    figure, axes = _figure(6, 3.4)
    for name, values in lines.items():
        axes.plot(x, values, marker="o", label=name)
    axes.set_xlabel(labels[0])
    axes.set_ylabel(labels[1])
    axes.set_title(title, fontsize=10)
    axes.legend(frameon=False, fontsize=9)
    axes.spines[["top", "right"]].set_visible(False)
    _save(figure, path)


def histograms_picture(path: Path, panels: Mapping[str, Mapping[str, Tensor]], title: str, columns: int = 5) -> None:
    """Title of a panel -> name of a set -> its values (N,): one outline per set, in shares of the set on a logarithmic
    scale, over the range of the middle 98%."""
    rows = -(-len(panels) // columns)
    figure, grid = _figure(2.3 * columns, 0.8 + 1.5 * rows, columns, rows)
    for panel, (name, sets) in zip(grid.flat, panels.items()):
        low, high = torch.stack([values.quantile(torch.tensor([0.01, 0.99])) for values in sets.values()]).aminmax()
        for label, values in sets.items():
            shares, edges = torch.histogram(values.clamp(low, high).cpu(), HISTOGRAM_BINS, range=(low.item(), high.item()))
            panel.stairs((shares / len(values)).numpy(), edges.numpy(), label=label)
        panel.set_title(name, fontsize=8)
        panel.set_yscale("log")
        panel.spines[["top", "right"]].set_visible(False)
        panel.tick_params(labelsize=7)
    grid.flat[0].legend(frameon=False, fontsize=7)
    figure.suptitle(title, fontsize=9)
    _save(figure, path)


def sheet_picture(path: Path, images: Tensor, columns: int, notes: Sequence[str] | None = None, cell: int = 128) -> None:
    """(N, 3, S, S) in [-1, 1], in rows of `columns`, with a line of text below each cell that has a note."""
    from PIL import Image, ImageDraw

    if images.shape[-1] != cell:
        images = torch.nn.functional.interpolate(images, (cell, cell), mode="bicubic", antialias=True)
    levels = model_to_bytes(images).movedim(1, -1).cpu().numpy()
    line = 12 * max((note.count("\n") + 1 for note in notes or [] if note), default=0)
    rows = -(-len(levels) // columns)
    sheet = Image.new("RGB", (columns * (cell + 4), rows * (cell + 4 + line)), "white")
    draw = ImageDraw.Draw(sheet)
    for index, picture in enumerate(levels):
        left, top = (index % columns) * (cell + 4), (index // columns) * (cell + 4 + line)
        sheet.paste(Image.fromarray(picture), (left, top))
        if notes and notes[index]:
            draw.text((left, top + cell), notes[index], fill="black", font_size=10, spacing=1)
    path.parent.mkdir(parents=True, exist_ok=True)
    sheet.save(path)


def _figure(width: float, height: float, columns: int = 1, rows: int = 1):
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    return pyplot.subplots(rows, columns, figsize=(width, height), dpi=120)


def _save(figure, path: Path) -> None:
    from matplotlib import pyplot

    path.parent.mkdir(parents=True, exist_ok=True)
    figure.tight_layout()
    figure.savefig(path)
    pyplot.close(figure)

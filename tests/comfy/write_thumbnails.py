#!/usr/bin/env python
"""Thumbnails of the templates, from their pictures on the starter, or their maps: `python tests/comfy/write_thumbnails.py`.

Each template is run as it stands, through the HTTP API of a real server; its pictures stand side by side in
workflows/<name>.jpg.
"""

import sys
import tempfile
from pathlib import Path

import numpy as np
import torch
from PIL import Image

HERE = Path(__file__).resolve().parent
sys.path += [str(HERE), str(HERE.parent), str(HERE.parents[1])]  # last: `nodes` is ComfyUI's module first

from deepexpo_models.dsid.edit import arkit_semantics
from deepexpo_models.dsid.mesh import Framing, face_points
from deepexpo_models.head import load_basis
from deepexpo_models.head.control import draw_control
from deepexpo_models.head.expressions import preset_units
from rig import host
from rig.graphs import WORKFLOWS, decode, read_workflow, values
from rig.server import running_server

WIDTH, COLUMNS = 720, 4


def main() -> None:
    if reason := host.start():
        sys.exit(reason)
    with tempfile.TemporaryDirectory() as base, running_server(Path(base)) as server:
        for path in sorted((WORKFLOWS / "api").glob("*.json")):
            graph = read_workflow(path.stem)
            if values(graph, "DeepExPoDrawFaceControl", "style"):
                sheet(maps()).save(WORKFLOWS / f"{path.stem}.jpg", quality=88)
            elif not values(graph, "CheckpointLoaderSimple", "ckpt_name"):
                pictures = [decode(picture) for picture in server.pictures(server.post_prompt(graph, timeout=600))]
                sheet(pictures).save(WORKFLOWS / f"{path.stem}.jpg", quality=88)
                print(path.stem, len(pictures))


def maps() -> list[np.ndarray]:
    """One expression, turned, in three styles: what a template whose weights are not ours can show."""
    basis, size = load_basis(), (360, 360)
    code = arkit_semantics(preset_units("laughing")[None], torch.tensor([[28.0, 4.0, 6.0]]))
    points = face_points(None, code, basis, size, Framing(0.75, 0.5, 0.5))
    styles = ("mediapipe face", "shaded", "normal")
    return [(draw_control(points, size, style, basis)[0] * 255).byte().numpy() for style in styles]


def sheet(pictures: list[np.ndarray]) -> Image.Image:
    """In rows, each picture in a square of its own."""
    columns = min(COLUMNS, len(pictures))
    side, rows = WIDTH // columns, -(-len(pictures) // columns)
    drawn = Image.new("RGB", (WIDTH, rows * side), (32, 32, 36))
    for number, picture in enumerate(pictures):
        whole = Image.fromarray(picture)
        grown = whole.resize((round(whole.width * side / max(whole.size)), round(whole.height * side / max(whole.size))))
        row, column = divmod(number, columns)
        drawn.paste(grown, (column * side + (side - grown.width) // 2, row * side + (side - grown.height) // 2))
    return drawn


if __name__ == "__main__":
    main()

#!/usr/bin/env python
"""Thumbnails of the templates: `python tests/comfy/write_thumbnails.py [name ...]`.

Each template on the starter is run as it stands, through the HTTP API of a real server; of those whose weights are not ours the
maps are shown. The pictures stand side by side in workflows/<name>.jpg.
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
from rig.graphs import WORKFLOWS, decode, has, read_clip, read_workflow
from rig.server import running_server

WIDTH, COLUMNS = 720, 4


def main() -> None:
    if reason := host.start():
        sys.exit(reason)
    names = sys.argv[1:] or sorted(path.stem for path in (WORKFLOWS / "api").glob("*.json"))
    for name in [name for name in names if name in MAPS]:
        write(name, MAPS[name]())
    drawn = [name for name in names if name not in MAPS and has(read_workflow(name), "DeepExPoLoadStarter")]
    if not drawn:
        return
    with tempfile.TemporaryDirectory() as base, running_server(Path(base)) as server:
        for name in drawn:
            graph = read_workflow(name)
            shown = server.pictures(server.post_prompt(graph, timeout=1800), {key for key in graph if is_shown(graph[key])})
            clips = [frame for data in shown if data[4:8] == b"ftyp" for frame in read_clip(data)[::2]]
            write(name, clips or [decode(picture) for picture in shown])


def is_shown(node: dict) -> bool:
    """Sample faces, and what is saved; not the plots and sheets on the way."""
    return node["class_type"] in ("DeepExPoSampleFace", "DeepExPoDrawFaceControl", "SaveImage", "SaveVideo")


def write(name: str, pictures: list[np.ndarray]) -> None:
    sheet(pictures).save(WORKFLOWS / f"{name}.jpg", quality=88)
    print(name, len(pictures))


def heads(style: str, *looks: tuple[str, tuple[float, float, float]]) -> list[np.ndarray]:
    """A preset and yaw, pitch, roll in degrees, each -> pictures."""
    basis, side = load_basis(), (360, 360)
    code = arkit_semantics(
        torch.stack([preset_units(preset) for preset, _ in looks]), torch.tensor([turn for _, turn in looks])
    )
    points = face_points(None, code, basis, side, Framing(0.75, 0.5, 0.5))
    return [(picture * 255).byte().numpy() for picture in draw_control(points, side, style, basis)]


FRONT, TURNED, UP = (0.0, 0.0, 0.0), (28.0, 4.0, 6.0), (-25.0, 10.0, -8.0)
MAPS = {  # what a template whose weights are not ours can show
    "02_photo_sd15": lambda: heads("shaded", ("laughing", TURNED)) + heads("mediapipe face", ("laughing", TURNED)),
    "03_photo_sdxl": lambda: [
        picture for style in ("shaded", "depth", "instantid points") for picture in heads(style, ("happy", UP))
    ],
    "04_expression_and_pose_from_two_photos": lambda: heads("shaded", ("angry", FRONT), ("none", TURNED), ("angry", TURNED)),
    "05_one_person_many_expressions": lambda: [
        picture for style in ("shaded", "mediapipe face")
        for picture in heads(style, *((name, FRONT) for name in ("happy", "sad", "angry", "surprised")))
    ],
    "06_clip_to_maps": lambda: [
        picture for style in ("shaded", "mediapipe face")
        for picture in heads(style, *(("shout" if n % 2 else "none", (-30.0 + 20 * n, 0.0, 0.0)) for n in range(4)))
    ],
    "14_clip_on_photos": lambda: [
        picture for style in ("shaded", "mediapipe face")
        for picture in heads(style, *((("none", "happy", "wink", "happy")[n], (-24.0 + 16 * n, 6.0, 0.0)) for n in range(4)))
    ],
    "15_two_people_with_maps": lambda: [two_heads("shaded"), two_heads("mediapipe face")],
    "16_photo_sd15_app": lambda: heads("shaded", ("wink", TURNED)) + heads("mediapipe face", ("wink", TURNED)),
}  # fmt: skip


def two_heads(style: str) -> np.ndarray:
    """Side by side, turned to each other."""
    return np.concatenate(heads(style, ("laughing", (20.0, 0.0, 0.0)), ("surprised", (-20.0, 0.0, 0.0))), axis=1)


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

"""What MediaPipe's face landmarker reads in rendered heads, kept beside their true labels:

    python -m deepexpo_models.data.heads.judged --heads runs/heads/train --landmarker face_landmarker.task

A unit of the renderer and the landmarker's number of the same name are not the same thing: closed lids are a look down to the
landmarker, and a squint is what its training pictures called one. How far a face looks up depends to it on the shape of the
face as well: by 4 degrees from one person to another. Artists feed the landmarker's numbers; what it says of *renders* carries
over to photographs, and no photograph is needed. A shard's file is whole or not there, so the same command goes on after an
interruption.
"""

import argparse
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from ...dsid.mesh import units_of
from ...faces.detectors import DetectorUnavailable
from ...faces.landmarks import open_landmarker
from ...image import bytes_to_model, model_to_comfy
from ...whole_files import write_file
from .shards import JUDGED, SHARD
from .work import work_off

SIDE = 256  # pixels that the landmarker is shown
_worker: dict = {}


def shown(images: Tensor) -> Tensor:
    """Rendered heads (B, 3, S, S) in [-1, 1] as the landmarker sees them, (B, 3, SIDE, SIDE)."""
    return F.interpolate(images, SIDE, mode="bicubic").clamp(-1, 1)


def judge(images: Tensor, detect) -> dict[str, np.ndarray]:
    """images (B, 3, S, S) in [-1, 1] -> WORDS: units of ARKIT52 and the rotation, both float32; NaN where no face is found, and
    where nobody tells."""
    found = [detect(image) for image in model_to_comfy(shown(images))]
    unknown = torch.full((3, 3), torch.nan)
    return {
        "units": torch.stack([units_of(faces[0].scores if faces else {}, untold=torch.nan) for faces in found]).numpy(),
        "rotation": torch.stack([faces[0].rotation if faces else unknown for faces in found]).numpy(),
    }


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description="Write what MediaPipe's landmarker reads in rendered heads beside them.")
    parser.add_argument("--heads", type=Path, required=True, help="folder of rendered heads")
    parser.add_argument("--landmarker", type=Path, required=True, help="MediaPipe's file face_landmarker.task")
    parser.add_argument("--shards", type=int, default=0, help="how many shards at most; 0: all")
    parser.add_argument("--workers", type=int, default=1, help="processes; one a core")
    options = parser.parse_args(argv)
    shards = sorted(options.heads.glob("shard-*"))[: options.shards or None]
    left = [path for path in shards if not (path / JUDGED).exists()]
    if not shards:
        parser.exit(2, f"{options.heads} holds no rendered heads; render some with deepexpo_models.data.heads.generate\n")
    try:
        open_landmarker(options.landmarker)
    except DetectorUnavailable as error:
        parser.exit(2, f"{error}\n")
    work_off(_write, left, len(shards), SHARD, options.workers, _start, options.landmarker)


def _start(task: Path) -> None:
    torch.set_num_threads(1)
    _worker["detect"] = open_landmarker(task, matrix=True)


def _write(shard: Path) -> None:
    images = bytes_to_model(torch.from_numpy(np.load(shard / "images.npy")).movedim(-1, 1))
    words = judge(images, _worker["detect"])
    with write_file(shard / JUDGED) as path, open(path, "wb") as file:
        np.savez(file, units=words["units"], rotation=words["rotation"])


if __name__ == "__main__":
    main()

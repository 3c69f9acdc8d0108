"""Faces that come with the pack, read from its own folder: a server has them whoever's machine it is."""

from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from ...deepexpo_models.image import bytes_to_comfy

SIZE = 256  # pixels a side
FOLDER = Path(__file__).parents[2] / "workflows" / "samples"
PEOPLE = ("photograph", "person_1", "person_2", "person_3")  # scikit-image's astronaut, in the public domain; rendered heads
REFERENCES = ("surprised", "laughing", "dozing", "turned", "resting")  # rendered; the first and the last are one person
CLIP = "clip"  # frames side by side
CHOICES = {
    **{name: (name,) for name in (*PEOPLE, *REFERENCES)},
    "all people": PEOPLE,
    "all references": REFERENCES,
    CLIP: (CLIP,),
}


def sample_faces(which: str) -> Tensor:
    """One of CHOICES -> (B, 256, 256, 3) in [0, 1]. Raises ValueError when the pack is not whole."""
    if which == CLIP:
        return torch.cat(_read(FOLDER / f"{CLIP}.jpg").split(SIZE, dim=2))
    return torch.cat([_read(FOLDER / f"{name}.png") for name in CHOICES[which]])


def _read(path: Path) -> Tensor:
    try:
        with Image.open(path) as picture:
            return bytes_to_comfy(torch.from_numpy(np.array(picture.convert("RGB"))))[None]
    except OSError as error:
        raise ValueError(f"{path.name} is missing from the pack or damaged; install ComfyUI-DeepExPo again") from error

"""Photographs that come with packages; none is in this repository."""

from pathlib import Path

import numpy as np


def astronaut() -> np.ndarray:
    """(512, 512, 3) uint8 RGB, from scikit-image."""
    from skimage import data

    return data.astronaut()


def group_photo() -> np.ndarray:
    """(886, 1280, 3) uint8 RGB, six people, from insightface; read as a file, since importing insightface needs more."""
    import importlib.util

    from PIL import Image

    package = importlib.util.find_spec("insightface")
    if package is None:
        raise ModuleNotFoundError("insightface is not installed; its t1 picture is the reference photograph")
    return np.asarray(Image.open(Path(package.origin).parent / "data" / "images" / "t1.jpg").convert("RGB"))

"""Public face recognisers, by insightface, whose vectors imported identity streams read. Optional, offline, user-installed."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from ..image import bytes_to_comfy, comfy_to_bgr
from .detectors import DetectorUnavailable, Roots, analyse, open_pack, optional
from .find import NoFace

RECOGNISERS = {"buffalo_l": "w600k_r50.onnx", "antelopev2": "glintr100.onnx"}  # insightface's model packs -> their recogniser
ALIGNED_SIZE = 224  # pixels of the aligned face that CLIP looks at (IP-Adapter FaceID-Plus)


@dataclass(frozen=True, eq=False)
class RecognisedFaces:
    embeddings: Tensor  # (B, 512) float32, of the recogniser's own length, about 20
    aligned: Tensor  # (B, ALIGNED_SIZE, ALIGNED_SIZE, 3) in [0, 1], eyes, nose and mouth at ArcFace's places


def open_recogniser(name: str, root: Roots) -> Callable[[Tensor], RecognisedFaces]:
    """A function: pictures (B, H, W, 3) in [0, 1] -> the largest face of each.

    name: of RECOGNISERS; root: ComfyUI's models/insightface. Raises ValueError, in one sentence, for one that cannot be used;
    the function raises NoFace for a picture without one.
    """
    if name not in RECOGNISERS:
        raise ValueError(f"unknown face recogniser {name!r}; known: {', '.join(RECOGNISERS)}")
    try:
        analysis = open_pack(root, name, ["detection", "recognition"])
        with optional("insightface"):
            from insightface.utils.face_align import norm_crop
    except DetectorUnavailable as reason:
        raise ValueError(f"the face recogniser {name} cannot be used: {reason}") from reason
    _require_file(name, analysis)
    return lambda images: _recognise(analysis, norm_crop, images)


def _require_file(name: str, analysis) -> None:
    """Raise a ValueError for a pack whose recogniser is missing, or is another: Arc2Face puts its own into antelopev2."""
    found, expected = analysis.models.get("recognition"), RECOGNISERS[name]
    if found is None:
        raise ValueError(f"the model pack {name} holds no recogniser; put all of the pack's .onnx files into its folder")
    if Path(found.model_file).name != expected:
        raise ValueError(
            f"the model pack {name} holds the recogniser {Path(found.model_file).name} instead of {expected}, whose codes are "
            f"others; put the pack's own file there"
        )


def _recognise(analysis, norm_crop, images: Tensor) -> RecognisedFaces:
    embeddings, aligned = [], []
    for number, image in enumerate(images, 1):
        bgr = comfy_to_bgr(image)
        faces = analyse(analysis, bgr)
        if not faces:
            raise NoFace(f"no face found in image {number} of {len(images)}; use a clearer picture, or a larger crop scale")
        face = max(faces, key=lambda found: max(found.bbox[2] - found.bbox[0], found.bbox[3] - found.bbox[1]))
        embeddings.append(torch.from_numpy(np.array(face.embedding, dtype=np.float32)))
        rgb = norm_crop(bgr, face.kps, ALIGNED_SIZE)[..., ::-1]
        aligned.append(bytes_to_comfy(torch.from_numpy(np.ascontiguousarray(rgb))))
    return RecognisedFaces(torch.stack(embeddings), torch.stack(aligned))

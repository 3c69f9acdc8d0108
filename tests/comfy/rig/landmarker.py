"""A file for the face landmarker of ComfyUI's core (0.23 and newer) that finds one made-up face in every picture.

The file has the published layout, names and shapes; all weights are zero, so the biases alone speak: one detection, one set of
points, one set of scores. What the nodes do with it is real.
"""

from pathlib import Path

import torch
from torch import Tensor

from deepexpo_models.faces.landmarks import read_landmarks
from deepexpo_models.head import load_basis
from deepexpo_models.head.landmarks import connections

FILE = "mediapipe_face_fp32.safetensors"
BOX = 8.0  # the detection's width and height in pictures: so wide that the boxes of all cells are merged into one
CROP = 192 / (BOX * 1.5)  # pixels of the landmarker's crop for one picture
OFF = -100.0
PARTS = {  # topology -> a feature of head.landmarks
    "face_oval": "oval", "lips": "lips", "left_eye": "left eye", "right_eye": "right eye", "left_eyebrow": "left brow",
    "right_eyebrow": "right brow", "irises": "left eye", "nose": "nose", "tesselation": "oval",
}  # fmt: skip


def write_core_landmarker(path: Path, face: dict, size: tuple[int, int]) -> Path:
    """face: as in FACE_LANDMARKS, of a square picture of `size`. Written as models/detection/FILE has it."""
    from safetensors.torch import save_file

    path.parent.mkdir(parents=True, exist_ok=True)
    save_file({**_networks(face, size), **_geometry()}, path)
    return path


def _networks(face: dict, size: tuple[int, int]) -> dict[str, Tensor]:
    from comfy_extras.mediapipe import face_landmarker as core

    mesh, scores, short = core.FaceMesh(), core.FaceBlendshapes(), core.BlazeFace()
    parts = {"detector_short": short, "detector_full": core.BlazeFaceFullRange(), "mesh": mesh, "blendshapes": scores}
    with torch.no_grad():
        for part in parts.values():
            for weight in part.parameters():
                weight.zero_()
        short.cls_16.bias.fill_(OFF)
        short.cls_8.bias.fill_(1.0)
        parts["detector_full"].cls_dw.bias.fill_(OFF)
        short.reg_8.bias.view(6, 16)[:, 2:4] = BOX * 128
        mesh.head_landmarks.bias.copy_(_in_crop(face, size).flatten())
        shown = torch.tensor([face["blendshapes"].get(name, 0.0) for name in core.BLENDSHAPE_NAMES])
        scores.head.bias.copy_(torch.logit(shown, eps=1e-6))
    return {f"{name}.{key}": value.contiguous() for name, part in parts.items() for key, value in part.state_dict().items()}


def _in_crop(face: dict, size: tuple[int, int]) -> Tensor:
    """(478, 3): pixels of the picture to pixels of the crop, whose middle is the picture's."""
    (((mesh,),), _) = read_landmarks({"frames": [[face]], "image_size": size})
    middle = torch.tensor([size[1] / 2, size[0] / 2, 0.0])
    return (mesh.points - middle) / size[1] * CROP + torch.tensor([96.0, 96.0, 0.0])


def _geometry() -> dict[str, Tensor]:
    basis = load_basis()
    rigid = basis.rigid_weights.nonzero()[:, 0]
    return {
        "canonical_vertices": basis.points[:468].contiguous(),
        "procrustes_indices": rigid.int(),
        "procrustes_weights": basis.rigid_weights[rigid].contiguous(),
        **{f"topology.{name}": torch.tensor(connections(feature), dtype=torch.int32) for name, feature in PARTS.items()},
    }

"""Photographs to control maps, for a ControlNet beside the base: the reference's expression and pose on this person's face."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import torch
from diffusers import ControlNetModel
from torch import Tensor

from ..dsid import Identity, Semantics
from ..dsid.edit import ReadOut
from ..dsid.mesh import Framing, face_points, face_shape_of, semantics_of
from ..dsid.pairs import join_semantics
from ..errors import first_line
from ..faces.detectors import DetectorUnavailable
from ..faces.landmarks import Track, find_landmarks, open_landmarker, track_face
from ..head import load_basis
from ..head.control import STYLES, draw_control
from .base import Base
from .photos import Photos, each_photo, is_clip

# InstantID's own reads the face's tokens where others read the text: that is Identity to ControlNet's, in ComfyUI.
CONTROL_STYLES = tuple(style for style in STYLES if style != "instantid points")


@dataclass
class FaceControl:
    """net: on the base's device; style: what it was trained on, one of CONTROL_STYLES; strength: of its residuals, 0 to 2;
    framing: where the face stands in the picture.
    """

    net: ControlNetModel
    style: str = "mediapipe face"
    strength: float = 0.9
    framing: Framing = field(default_factory=Framing)

    @classmethod
    def load(cls, path: str | Path, base: Base, **settings) -> "FaceControl":
        """A ControlNet made for the base's family: a diffusers folder, or a checkpoint file. Raises ValueError, in one
        sentence, for what cannot be used."""
        place, options = Path(path), {"torch_dtype": base.unet.dtype, "local_files_only": True}
        if not place.exists():
            raise ValueError(f"there is no ControlNet at {path}; give a diffusers folder or a checkpoint file")
        load = ControlNetModel.from_pretrained if place.is_dir() else ControlNetModel.from_single_file
        try:
            net = load(str(place), **options)
        except (OSError, ValueError, KeyError, RuntimeError, TypeError) as error:
            raise ValueError(
                f"{path} is not readable as a ControlNet ({first_line(error)}); give a diffusers folder"
            ) from error
        width, own = net.config.cross_attention_dim, base.unet.config.cross_attention_dim
        if width != own:
            raise ValueError(
                f"the ControlNet reads text of width {width}, the base's has {own}; give one made for {base.family}"
            )
        return cls(net.to(base.unet.device).requires_grad_(False).eval(), **settings)

    def maps(self, identity: Identity | None, semantics: Semantics, size: tuple[int, int], readout: ReadOut | None) -> Tensor:
        """-> (N, H, W, 3) in [0, 1], one for each code; size: (height, width) in pixels."""
        basis = load_basis()
        shaped = identity if identity is not None and identity.face_shape is not None else None
        return draw_control(face_points(shaped, semantics, basis, size, self.framing, readout=readout), size, self.style, basis)

    def residuals(self, maps: Tensor) -> Callable[..., dict]:
        """The `control` of `sample` for maps (N, H, W, 3): both halves of a batch see them."""
        seen = maps.movedim(-1, 1).to(self.net.device, self.net.dtype)
        seen = torch.cat([seen, seen])

        def control(latents: Tensor, timestep: Tensor, **text) -> dict:
            down, middle = self.net(
                latents, timestep, controlnet_cond=seen, conditioning_scale=self.strength, return_dict=False, **text
            )
            return {"down_block_additional_residuals": down, "mid_block_additional_residual": middle}

        return control


class Landmarks:
    """Photos -> landmark codes, by MediaPipe's package and its file. Raises ValueError, in one sentence, without them."""

    def __init__(self, task: Path):
        try:
            self._detect = open_landmarker(task, faces=0)
        except DetectorUnavailable as error:
            raise ValueError(str(error)) from error

    def semantics(self, photos: Photos) -> Semantics:
        """One arkit52 code for each photo, or for each frame of a clip, gaps between its faces filled."""
        return join_semantics(*(semantics_of(track, load_basis()) for track in self._tracks(photos)))

    def face_shape(self, photos: Photos) -> Tensor:
        """Photos of one person -> the resting face (1, 478 * 3) in cm, the mean of each photo's."""
        return torch.stack([face_shape_of(track, load_basis()) for track in self._tracks(photos)]).mean(0)

    def _tracks(self, photos: Photos) -> Iterator[Track]:
        """A clip is one track; photos, which may be of any sizes, are one each."""
        for photo in [photos] if isinstance(photos, str | Path) else photos:
            clip = not isinstance(photo, Tensor) and is_clip(photo)
            images = [photo] if isinstance(photo, Tensor) else each_photo(photo)
            parts = [find_landmarks(self._detect, image[None]) for image in images]
            seen = {**parts[0], "frames": [part["frames"][0] for part in parts]}
            yield track_face(seen, gaps="interpolate" if clip else "refuse")

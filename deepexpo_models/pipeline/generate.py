"""The main job on one screen: who (identity photos), how (reference photos), where (a prompt) -> pictures."""

import logging
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import cast

import torch
import torch.nn.functional as F
from PIL.Image import Image, fromarray
from torch import Tensor

from ..dsid import DSID, EncoderId, Identity, Semantics, average_identities, load_dsid, public_encoder
from ..dsid.edit import ARKIT, readout_for
from ..dsid.precision import set_precision
from ..faces import crop_face, open_recogniser
from ..faces.detectors import Face
from ..faces.find import open_detector
from ..faces.recognisers import RECOGNISERS
from ..faces.track import Tracker
from ..image import comfy_to_model, model_to_bytes
from ..meaf import DEFAULT_SETTINGS, FAMILIES, MEAF, StreamSettings, load_meaf, require_family, unet_sites
from ..meaf.codes import stream_codes
from ..meaf.sampled_layers import Latents
from ..weights import PACK_WEIGHTS
from .base import Base, load_base
from .face_control import FaceControl, Landmarks
from .photos import ENCODED_AT_ONCE, Photos, each_photo
from .sampling import BeforeStep, fused, sample

logger = logging.getLogger(__name__)
STARTER = {
    "base": PACK_WEIGHTS / "heads-base.safetensors",
    "meaf": PACK_WEIGHTS / "heads-meaf.safetensors",
    "dsid": PACK_WEIGHTS / "photo-dsid.safetensors",
}
CFG = 5.0  # of the starter
HABITS = {"heads": {"cfg": CFG, "batch": 25}}  # of bases by their names
STABLE_DIFFUSION = {"cfg": 7.0}


@dataclass
class Pipeline:
    """A base, the MEAF that fuses codes with it (None: the base alone), and the DSID whose codes it reads.

    detector: how faces are found, one of faces.CHOICES; insightface: the folder that holds models/<pack>/*.onnx; batch:
    pictures drawn at once; landmarks: what measures faces; control: a ControlNet that is shown the reference's expression and
    head pose on the person's proportions, by landmarks or by the read-outs of the DSID; without landmarks of the person on an
    average face.
    """

    base: Base
    meaf: MEAF | None = None
    dsid: DSID | None = None
    steps: int = 25
    cfg: float = CFG
    detector: str = "auto"
    insightface: Path | None = None
    batch: int = 4
    landmarks: Landmarks | None = None
    control: FaceControl | None = None

    @classmethod
    def load(
        cls,
        base: str | Path = "",
        meaf: str | Path = "",
        dsid: str | Path = "",
        device: str = "",
        base_config: str | Path = "",
        precision: str = "float32",
        compiled: bool = False,
        landmarker: str | Path = "",
        **settings,
    ) -> "Pipeline":
        """The starter that comes with the pack, or a Stable Diffusion checkpoint (.safetensors, or a diffusers folder) with a
        MEAF and its DSID. base_config: see `load_base`; precision: of the DSID's encoders, see `dsid.precision`;
        compiled: the U-Net by torch.compile; landmarker: MediaPipe's file face_landmarker.task. Raises ValueError, in one
        sentence, for what cannot be used.
        """
        files = {"base": base, "meaf": meaf, "dsid": dsid} if base else {**STARTER, **_given(meaf=meaf, dsid=dsid)}
        place = torch.device(device or best_device())
        dtype = torch.float32 if place.type == "cpu" else torch.float16
        loaded = load_base(str(files["base"]), place, dtype, str(base_config))
        if compiled:
            loaded.unet.compile()
        kind = loaded.unet.dtype
        encoders = load_dsid(Path(files["dsid"])).to(place).float().eval() if files["dsid"] else None
        if encoders and (note := set_precision(encoders, precision, place)):
            logger.warning(note)
        streams = load_meaf(Path(files["meaf"])).to(place, kind).eval() if files["meaf"] else None
        if streams:
            _require_fit(streams, loaded)
        return cls(
            loaded,
            streams,
            encoders,
            landmarks=Landmarks(Path(landmarker)) if landmarker else None,
            **{**HABITS.get(loaded.family, STABLE_DIFFUSION), **settings},
        )

    def __call__(
        self,
        prompt: str,
        identity: Identity | Photos | None = None,
        reference: Semantics | Photos | None = None,
        *,
        negative: str = "",
        seed: int = 0,
        strengths: Mapping[str, float] = {},
        width: int = 0,
        height: int = 0,
        progress: BeforeStep = lambda share: None,
    ) -> list[Image]:
        """One picture of the person for each reference. identity: photos of one person (files, or (B, H, W, 3) in [0, 1]),
        or a code; reference: photos, or codes; strengths: of streams, else the usual ones; width, height: pixels, else the
        base's own; progress: called with the share of the steps done, before each. Raises ValueError, in one sentence.
        """
        who = identity if isinstance(identity, Identity | None) else self.identity(identity)
        how = reference if isinstance(reference, Semantics | None) else self.semantics(reference)
        codes = self.codes(who, how)
        noise = self.noise(seed, width, height)
        maps = self.maps(who, how, noise)
        rows = max([1, *map(len, codes.values()), *([] if maps is None else [len(maps)])])
        noise, maps = noise.expand(rows, -1, -1, -1), None if maps is None else maps.expand(rows, -1, -1, -1)
        codes = {name: code.expand(rows, -1) for name, code in codes.items()}
        pictures = self.draw([prompt] * rows, codes, noise, settings_of(codes, strengths), negative, progress, maps)
        return [fromarray(levels.numpy()) for levels in model_to_bytes(pictures).movedim(1, -1).cpu()]

    def identity(self, photos: Photos) -> Identity:
        """Photos of one person -> who it is, in the space that the MEAF's identity stream reads; with landmarks, the resting
        face too."""
        code = self._identity(photos)
        return code if self.landmarks is None else replace(code, face_shape=self.landmarks.face_shape(photos))

    def _identity(self, photos: Photos) -> Identity:
        encoder = self._encoder("identity")
        if encoder == self._own():
            codes = self._encode(lambda dsid, crops: {"identity": dsid.encode_identity(crops)}, each_photo(photos))
            return average_identities(Identity(codes["identity"], encoder))
        if encoder.name not in RECOGNISERS or encoder != public_encoder(encoder.name):
            raise ValueError(self._no_encoder("identity", encoder))
        recognise = open_recogniser(encoder.name, self.insightface)
        found = torch.cat([recognise(image[None]).embeddings for image in each_photo(photos)])
        norm = torch.linalg.vector_norm(found, dim=-1, keepdim=True)
        return average_identities(Identity(F.normalize(found, dim=-1), encoder, norm))

    def semantics(self, photos: Photos) -> Semantics:
        """Photos, or the frames of a clip, which are never all in memory -> expression and head pose, one code for each: what
        the MEAF reads, and the landmarker's numbers where it has no stream for them.
        """
        stream = self._semantic_stream()
        encoder = ARKIT if self.control and not stream else self._encoder(stream or "expression")
        if encoder == ARKIT:
            if self.landmarks is None:
                raise ValueError("faces are measured by MediaPipe's landmarker; give face_landmarker.task (--landmarker)")
            return self.landmarks.semantics(photos)
        if encoder != self._own():
            raise ValueError(self._no_encoder("semantics", encoder))
        return Semantics(**self._encode(DSID.encode_semantics, each_photo(photos)), encoder=encoder)

    def codes(self, identity: Identity | None, semantics: Semantics | None) -> dict[str, Tensor]:
        """Stream name -> (N, width), N the number of pictures; none for the base alone. With a ControlNet beside a MEAF that
        has no stream for them, the semantics are the ControlNet's alone."""
        if self.control and not self._semantic_stream():
            semantics = None
        if identity is None and semantics is None:
            return {}
        found = stream_codes(self._meaf().config, identity, semantics)
        rows = max(map(len, found.values()))
        return {name: code.expand(rows, -1) for name, code in found.items()}

    def maps(self, identity: Identity | None, semantics: Semantics | None, noise: Tensor) -> Tensor | None:
        """What the ControlNet is shown, (N, H, W, 3) in [0, 1], for pictures of this noise; None without one."""
        if self.control is None:
            return None
        if semantics is None:
            raise ValueError("a ControlNet draws a reference's expression and head pose; give a reference, or leave it away")
        size = noise.shape[-2] * self.base.factor, noise.shape[-1] * self.base.factor
        return self.control.maps(identity, semantics, size, readout_for(self.dsid, semantics))

    def noise(self, seed: int, width: int = 0, height: int = 0) -> Tensor:
        """(1, C, h, w) of unit variance, the same on every device."""
        sides = [side or self.base.size for side in (height, width)]
        if any(side % self.base.factor or side < 0 for side in sides):
            raise ValueError(f"a picture of {sides[1]} x {sides[0]} cannot be drawn; give multiples of {self.base.factor}")
        generator = torch.Generator().manual_seed(seed)
        shape = (1, self.base.unet.config.in_channels, *[side // self.base.factor for side in sides])
        return torch.randn(shape, generator=generator).to(self.base.unet.device)

    @torch.no_grad()
    def draw(
        self,
        prompts: Sequence[str],
        codes: dict[str, Tensor],
        noise: Tensor,
        settings: Mapping[str, StreamSettings] = DEFAULT_SETTINGS,
        negative: str = "",
        progress: BeforeStep = lambda share: None,
        maps: Tensor | None = None,
    ) -> Tensor:
        """N prompts, stream -> (N, width), noise (N, C, h, w), maps (N, H, W, 3) for the ControlNet -> pictures (N, 3, H, W)
        in [-1, 1]."""
        pictures = []
        for rows in torch.arange(len(prompts)).split(self.batch):
            sentences = [prompts[row] for row in rows.tolist()]
            text, without = self.base.text(sentences), self.base.text([negative] * len(rows))
            chosen = {name: code[rows.to(code.device)] for name, code in codes.items()}
            call = Latents(2 * len(rows), *noise.shape[-2:])
            with fused(self.base, self.meaf, chosen, settings, self.steps, call) as before_step:
                tell = _both(before_step, _part(progress, int(rows[0]), len(rows), len(prompts)))
                control = {} if maps is None or self.control is None else {"control": self.control.residuals(maps[rows])}
                chosen_noise = noise[rows.to(noise.device)]
                latents = sample(self.base, text, without, chosen_noise, self.steps, self.cfg, tell, **control)
            pictures.append(self.base.decode(latents).clamp(-1, 1))
        progress(1.0)
        return torch.cat(pictures)

    @torch.no_grad()
    def _encode(self, encode: Callable[[DSID, Tensor], dict[str, Tensor]], images: Iterator[Tensor]) -> dict[str, Tensor]:
        """Face crops of pictures (H, W, 3) in [0, 1], read by the DSID a few at a time, at its own size."""
        dsid = self._dsid()
        tracker, parts = Tracker(open_detector(self.detector, self.insightface)), []
        numbered = enumerate(images, 1)
        while pictures := list(islice(numbered, ENCODED_AT_ONCE)):
            crops = [self._crop(tracker, image, f"photo {number}") for number, image in pictures]
            parts.append(encode(dsid, comfy_to_model(torch.stack(crops)).to(next(dsid.parameters()).device)))
        if not parts:
            raise ValueError("there is no picture to read; give at least one")
        return {name: torch.cat([part[name] for part in parts]) for name in parts[0]}

    def _crop(self, tracker: Tracker, image: Tensor, name: str) -> Tensor:
        face = cast(Face, tracker.find(image, name=name).face)  # a strict tracker finds one or raises
        return crop_face(image, face, size=self._dsid().config.image_size)[0]

    def _dsid(self) -> DSID:
        if self.dsid is None:
            raise ValueError("this MEAF reads a DSID's codes; give the DSID (--dsid)")
        return self.dsid

    def _meaf(self) -> MEAF:
        if self.meaf is None:
            raise ValueError(
                "there is no MEAF to fuse photos with this base; give one made for it (--meaf), or leave photos away"
            )
        return self.meaf

    def _semantic_stream(self) -> str:
        """The first stream of the MEAF that reads expression or head pose; empty where none does."""
        streams = self.meaf.config.streams if self.meaf else ()
        return next((name for name in ("expression", "pose") if name in streams), "")

    def _own(self) -> EncoderId | None:
        return self.dsid.encoder if self.dsid else None

    def _encoder(self, stream: str) -> EncoderId:
        """Whose codes a stream of the MEAF reads."""
        config = self._meaf().config
        return config.encoder_of(stream) if stream in config.streams else config.encoder

    def _no_encoder(self, what: str, encoder: EncoderId) -> str:
        have = f", and {self._own()} was given" if self.dsid else ""
        return f"MEAF {self._meaf().config.name!r} reads {what} of {encoder}{have}; give that DSID's file (--dsid)"


def settings_of(codes: Iterable[str], strengths: Mapping[str, float]) -> dict[str, StreamSettings]:
    """Of each stream: the usual settings, or those of an always open one for a name of its own, with the given strengths."""
    usual = {name: DEFAULT_SETTINGS.get(name, StreamSettings(1.0, 0.0, 1.0)) for name in codes}
    return {name: replace(settings, strength=strengths.get(name, settings.strength)) for name, settings in usual.items()}


def _require_fit(meaf: MEAF, base: Base) -> None:
    own = "" if base.family in FAMILIES else base.family
    config = meaf.config
    require_family(config.name, config.base, config.unet, unet_sites(base.shape), base.shape.context_width, own)


def best_device() -> str:
    """cuda, mps or cpu."""
    if torch.cuda.is_available():
        return "cuda"
    return "mps" if torch.backends.mps.is_available() else "cpu"


def _given(**files) -> dict:
    return {name: path for name, path in files.items() if path}


def _part(progress: BeforeStep, done: int, rows: int, total: int) -> BeforeStep:
    """The share of all pictures, told by the share of some `rows` of them after `done`."""
    return lambda share: progress((done + share * rows) / total)


def _both(first: BeforeStep, second: BeforeStep) -> BeforeStep:
    def call(share: float) -> None:
        first(share)
        second(share)

    return call

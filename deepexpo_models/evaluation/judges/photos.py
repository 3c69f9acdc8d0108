"""Judges of photographs: networks of others, no training losses of ours, each optional and loaded when it is opened.

A judge has a name and `measure`: pictures (B, 3, H, W) in [-1, 1] -> {feature: (B, width) float32}, a row of NaN where it
finds no face. Of several faces it takes the largest. The features:

    identity     a recogniser's embedding
    pose         yaw, pitch, roll in degrees; their signs are the judge's own, so compare within one judge
    blendshapes  strengths of facial movements in [0, 1]
    emotion      the index of a class
    clip         an embedding of the whole picture; its judge also has `read(prompts) -> (N, width)`
    inception    features of the whole picture for FID and KID

No judge downloads anything: the user gives the files (`JudgeFiles`).
"""

import importlib.util
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from ...dsid.rotation import matrix_to_euler
from ...faces.detectors import INSIGHTFACE_SIZES
from ...faces.find import open_detector
from ...faces.landmarks import rotation_of
from ...image import IMAGENET_MEAN, IMAGENET_STD, comfy_to_bgr, model_to_comfy, normalised, resize
from .judge import judged, load_judge, to_share
from .kinds import HEADS

CLIP_MEAN, CLIP_STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
INCEPTION_FILE = "inception-2015-12-05.pt"  # the name that clean-fid looks for
NEUTRAL = "_neutral"  # MediaPipe's first blendshape is no movement


class PhotoJudge(Protocol):
    name: str

    def measure(self, images: Tensor) -> dict[str, Tensor]: ...


@dataclass(frozen=True)
class JudgeFiles:
    """What the judges read: folders for insightface (it holds models/<pack>/*.onnx), clip (transformers' own) and inception,
    files for the others.
    """

    insightface: Path | None = None
    mediapipe: Path | None = None
    hsemotion: Path | None = None
    clip: Path | None = None
    inception: Path | None = None
    rendered: Path | None = None

    def require(self, field: str, what: str) -> Path:
        """The path of a field. Raises ValueError, in one sentence, when it is not given or not there."""
        path = getattr(self, field)
        if path is None or not Path(path).exists():
            where = "none was given" if path is None else f"{path} is not there"
            raise ValueError(f"this judge needs {what}, but {where}; give it with --{field}-path")
        return Path(path)


@contextmanager
def required(package: str) -> Iterator[None]:
    """Around the imports of a Python package: ValueError, in one sentence, when it is missing or broken."""
    try:
        yield
    except Exception as error:  # broken installations raise anything
        raise ValueError(f"this judge needs the Python package {package} ({error}); install or repair it") from error


class InsightfaceJudge:
    """Embedding and pose by one of insightface's model packs."""

    def __init__(self, files: JudgeFiles, pack: str):
        self.name = f"insightface {pack}"
        with required("insightface"):
            from insightface.app import FaceAnalysis
        root = files.require("insightface", f"a folder that holds models/{pack}/*.onnx").resolve()
        folder = root / "models" / pack
        if not any(folder.glob("*.onnx")):
            raise ValueError(f"the model pack {pack} is not in {folder}; put its .onnx files right there")
        modules = ["detection", "recognition", "landmark_3d_68"]
        self._analysis = FaceAnalysis(
            name=str(folder), root=str(root), allowed_modules=modules, providers=["CPUExecutionProvider"]
        )

    def measure(self, images: Tensor) -> dict[str, Tensor]:
        faces = [self._largest(comfy_to_bgr(image)) for image in model_to_comfy(images)]
        return {
            "identity": rows([face and face.normed_embedding for face in faces], 512),
            "pose": rows([face and np.asarray(face.pose)[[1, 0, 2]] for face in faces], 3),  # it gives pitch, yaw, roll
        }

    def _largest(self, bgr: np.ndarray):
        """The largest face, or None. A face that fills the picture is found at a smaller size only."""
        for size in INSIGHTFACE_SIZES:
            self._analysis.prepare(ctx_id=-1, det_size=(size, size))
            if found := self._analysis.get(bgr):
                return max(found, key=lambda face: (face.bbox[2] - face.bbox[0]) * (face.bbox[3] - face.bbox[1]))
        return None


class DlibJudge:
    """dlib's face recogniser (King 2017, 99.4% on LFW), with the weights that the package face_recognition_models installs."""

    name = "dlib"

    def __init__(self, files: JudgeFiles):
        with required("dlib"):
            import dlib
        package = importlib.util.find_spec("face_recognition_models")
        if package is None or package.origin is None:
            raise ValueError("this judge needs the Python package face_recognition_models, which holds its weights; install it")
        models = Path(package.origin).parent / "models"
        self._detect = dlib.get_frontal_face_detector()
        self._place = dlib.shape_predictor(str(models / "shape_predictor_5_face_landmarks.dat"))
        self._encode = dlib.face_recognition_model_v1(str(models / "dlib_face_recognition_resnet_model_v1.dat"))
        self._chip = dlib.get_face_chip

    def measure(self, images: Tensor) -> dict[str, Tensor]:
        return {"identity": rows([self._embedding(to_rgb_levels(image)) for image in model_to_comfy(images)], 128)}

    def _embedding(self, rgb: np.ndarray) -> np.ndarray | None:
        if not (faces := list(self._detect(rgb, 1))):
            return None
        place = self._place(rgb, max(faces, key=lambda face: face.area()))
        return np.array(self._encode.compute_face_descriptor(self._chip(rgb, place, 150, 0.25)))


class MediapipeJudge:
    """The 51 blendshapes that move, and the pose, by MediaPipe's face landmarker."""

    name = "mediapipe"

    def __init__(self, files: JudgeFiles):
        with required("mediapipe"):
            import mediapipe
            from mediapipe.tasks.python import BaseOptions, vision
        task = files.require("mediapipe", "MediaPipe's file face_landmarker.task")
        self._image = partial(mediapipe.Image, image_format=mediapipe.ImageFormat.SRGB)
        self._landmarker = vision.FaceLandmarker.create_from_options(
            vision.FaceLandmarkerOptions(
                base_options=BaseOptions(model_asset_buffer=task.read_bytes()),
                output_face_blendshapes=True,
                output_facial_transformation_matrixes=True,
                num_faces=1,
            )
        )

    def measure(self, images: Tensor) -> dict[str, Tensor]:
        found = [self._landmarker.detect(self._image(data=to_rgb_levels(image))) for image in model_to_comfy(images)]
        shapes = [seen.face_blendshapes and moving(seen.face_blendshapes[0]) for seen in found]
        matrices = [seen.facial_transformation_matrixes for seen in found]
        return {
            "blendshapes": rows([shape or None for shape in shapes], 51),
            "pose": rows([pose_of_matrix(matrix[0]) if len(matrix) else None for matrix in matrices], 3),
        }


class HSEmotionJudge:
    """AffectNet's classes by an ONNX file of HSEmotion (enet_b0_8_best_vgaf, enet_b2_8), on the box of the largest face.

    Such classifiers are right on about two in three photographs of AffectNet: agreement is not truth.
    """

    name = "hsemotion"

    def __init__(self, files: JudgeFiles):
        with required("onnxruntime"):
            import onnxruntime
        path = files.require("hsemotion", "an .onnx file of HSEmotion, e.g. enet_b0_8_best_vgaf.onnx")
        opened = open_detector("auto", files.insightface)
        if opened.detect is None:
            raise ValueError(f"hsemotion needs a face detector; {'; '.join(opened.unavailable.values())}")
        self._detect = opened.detect
        self._session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
        self._side = 224 if "_b0_" in path.name else 260
        self._drop = 2 if "_mtl" in path.name else 0  # valence and arousal come after the classes

    def measure(self, images: Tensor) -> dict[str, Tensor]:
        return {"emotion": rows([self._class(image) for image in model_to_comfy(images)], 1)}

    def _class(self, image: Tensor) -> list[float] | None:
        faces = self._detect(image)
        if not faces:
            return None
        left, top, right, bottom = (max(0, round(edge)) for edge in max(faces, key=lambda face: face.side).box)
        crop = image[top:bottom, left:right].movedim(-1, 0)[None]
        pixels = F.interpolate(crop, (self._side, self._side), mode="bilinear", antialias=True)
        inputs = normalised(pixels, IMAGENET_MEAN, IMAGENET_STD).numpy()
        scores = self._session.run(None, {self._session.get_inputs()[0].name: inputs})[0][0]
        return [float(scores[: len(scores) - self._drop].argmax())]


class CLIPJudge:
    """Pictures and prompts in CLIP's common space, by a model in transformers' format (ViT-L/14)."""

    name = "clip"

    def __init__(self, files: JudgeFiles):
        with required("transformers"):
            from transformers import CLIPModel, CLIPTokenizer
        folder = files.require("clip", "the folder of a CLIP model in transformers' format")
        try:
            self._model = CLIPModel.from_pretrained(folder, local_files_only=True, use_safetensors=True).float().eval()
            self._tokenizer = CLIPTokenizer.from_pretrained(folder, local_files_only=True)
        except (OSError, ValueError) as error:
            raise ValueError(f"{folder} does not hold a CLIP model that transformers can read ({error})") from error

    @torch.no_grad()
    def measure(self, images: Tensor) -> dict[str, Tensor]:
        size = self._model.config.vision_config.image_size
        pixels = normalised((resize(images.float(), size) + 1) / 2, CLIP_MEAN, CLIP_STD)
        return {"clip": pooled(self._model.get_image_features(pixel_values=pixels))}

    @torch.no_grad()
    def read(self, prompts: list[str]) -> Tensor:
        """N prompts -> (N, width)."""
        length = self._model.config.text_config.max_position_embeddings
        words = self._tokenizer(prompts, padding="max_length", truncation=True, max_length=length, return_tensors="pt")
        return pooled(self._model.get_text_features(input_ids=words.input_ids, attention_mask=words.attention_mask))


class InceptionJudge:
    """The Inception features and the resizing that FID is defined by (Parmar et al. 2022), of the package clean-fid."""

    name = "inception"

    def __init__(self, files: JudgeFiles):
        with required("clean-fid"):
            from cleanfid.inception_torchscript import InceptionV3W
            from cleanfid.resize import build_resizer
        folder = files.require("inception", f"a folder that holds {INCEPTION_FILE}")
        if not (folder / INCEPTION_FILE).is_file():
            raise ValueError(f"{INCEPTION_FILE}, the weights that clean-fid names, is not in {folder}; put it there")
        self._resize, self._net = build_resizer("clean"), InceptionV3W(str(folder), download=False).eval()

    @torch.no_grad()
    def measure(self, images: Tensor) -> dict[str, Tensor]:
        pixels = np.stack([self._resize(to_rgb_levels(image)) for image in model_to_comfy(images)])
        return {"inception": self._net(torch.from_numpy(pixels).movedim(-1, 1).float())}


class OwnJudge:
    """Our own judge of rendered heads (see `judge`): for a starter's pictures, no use on photographs."""

    name = "rendered"

    def __init__(self, files: JudgeFiles):
        self._judge = load_judge(files.require(self.name, "a judge made by deepexpo_models.training.train_judge"))

    def measure(self, images: Tensor) -> dict[str, Tensor]:
        seen = judged(self._judge, images)
        shapes = (to_share(seen.expression, HEADS.expression) + 1) / 2
        return {"identity": seen.identity, "pose": seen.pose[:, :3], "blendshapes": shapes}


def open_judge(name: str, files: JudgeFiles) -> PhotoJudge:
    """Raises ValueError, in one sentence, for an unknown name, and for a package or a file that is missing."""
    if name not in JUDGES:
        raise ValueError(f"unknown judge {name!r}; known: {', '.join(JUDGES)}")
    try:
        return JUDGES[name](files)
    except ValueError as error:
        raise ValueError(f"the judge {name} cannot be used: {error}") from error


def rows(found: list, width: int) -> Tensor:
    """One row per picture, NaN where there is None -> (B, width) float32."""
    return torch.stack([
        torch.full((width,), torch.nan) if row is None else torch.as_tensor(np.asarray(row), dtype=torch.float32)
        for row in found
    ])  # fmt: skip


def moving(categories) -> list[float]:
    """MediaPipe's blendshapes without the neutral one, in its order."""
    return [category.score for category in categories if category.category_name != NEUTRAL]


def pose_of_matrix(matrix: np.ndarray) -> Tensor:
    """MediaPipe's 4 x 4 matrix (x to the right, y up, z to the viewer) -> yaw, pitch, roll as in dsid.rotation."""
    return matrix_to_euler(rotation_of(torch.as_tensor(np.asarray(matrix), dtype=torch.float32)))


def to_rgb_levels(image: Tensor) -> np.ndarray:
    """(H, W, 3) in [0, 1] -> the same in uint8."""
    return np.ascontiguousarray(comfy_to_bgr(image)[..., ::-1])


def pooled(features) -> Tensor:
    """transformers 5 returns an output with the embedding in it, transformers 4 the embedding."""
    return features if isinstance(features, Tensor) else features.pooler_output


JUDGES: dict[str, Callable[[JudgeFiles], PhotoJudge]] = {
    "insightface": partial(InsightfaceJudge, pack="buffalo_l"),
    "antelopev2": partial(InsightfaceJudge, pack="antelopev2"),
    "dlib": DlibJudge,
    "mediapipe": MediapipeJudge,
    "hsemotion": HSEmotionJudge,
    "clip": CLIPJudge,
    "inception": InceptionJudge,
    "rendered": OwnJudge,
}

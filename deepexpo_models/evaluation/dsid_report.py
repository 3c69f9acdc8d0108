"""What a DSID's codes hold, measured on drawn people that no training has seen."""

from dataclasses import dataclass

import torch
from torch import Tensor

from ..data.studio import FRAMES
from ..data.synthetic import (
    COLUMN,
    CONTEXT,
    EXPRESSION,
    IDENTITY,
    Scene,
    concatenate,
    render,
    sample_scenes,
)
from ..data.synthetic.shards import studio_scene
from ..dsid import DSID
from ..dsid.rotation import euler_to_matrix, geodesic_angle, matrix_to_rotation, rotation_to_matrix
from .metrics import icc, psnr, ssim, top1
from .probes import dci, leak_matrix, ridge_predict, ridge_r2

VIEWS = 6  # pictures of each person; the first is the gallery's
CODES = ("identity", "expression", "pose")
CHUNK = 50


@dataclass(frozen=True)
class Encoded:
    """Codes (N, D) of N pictures."""

    identity: Tensor
    expression: Tensor
    pose: Tensor

    def named(self) -> dict[str, Tensor]:
        return {name: getattr(self, name) for name in CODES}


def measure_dsid(dsid: DSID, people: int = 200, seed: int = 11) -> dict:
    """All figures of a DSID as a JSON-ready dict; the row "untrained" is the same network with fresh weights."""
    generator = torch.Generator().manual_seed(seed)
    scene = _views(people, generator)
    images = render(scene, dsid.config.image_size).images
    codes, person = encode(dsid, images), torch.arange(people).repeat_interleave(VIEWS)
    torch.manual_seed(seed)
    untrained = encode(DSID(dsid.config).eval(), images)
    factors = factor_groups(scene)
    return {
        "people": people,
        "pictures": len(scene),
        "identity top-1": identity_top1(codes.identity, people),
        "identity top-1 by skin": _by_skin(codes.identity, scene, people),
        "pose error, read linearly, degrees": linear_pose_error(codes.pose, scene, person),
        "pose error, as encoded, degrees": encoded_pose_error(codes.pose, scene),
        "expression R2": dict(zip(_names(EXPRESSION), ridge_r2(codes.expression, scene.expression, person).tolist())),
        "leak": leak_matrix(codes.named(), factors, person),
        "leak, untrained": leak_matrix(untrained.named(), factors, person),
        "pose from identity R2, linear": ridge_r2(codes.identity, factors["pose"], person).clamp(min=0).mean().item(),
        "identity from semantics": _identity_from_semantics(codes, scene, person),
        "identity from semantics, untrained": _identity_from_semantics(untrained, scene, person),
        "DCI": dict(zip(("disentanglement", "completeness"), dci(_importances(codes, factors, person)))),
        **_icc(codes, people),
        **extreme_poses(dsid, generator, people),
        **swap_figures(dsid, generator),
    }


@torch.no_grad()
def encode(dsid: DSID, images: Tensor) -> Encoded:
    parts = []
    for chunk in images.split(CHUNK):
        semantics = dsid.encode_semantics(chunk)
        pose = torch.cat([semantics[name] for name in ("rotation", "translation", "log_scale")], dim=1)
        parts.append((dsid.encode_identity(chunk), semantics["expression"], pose))
    return Encoded(*[torch.cat(column) for column in zip(*parts)])


def factor_groups(scene: Scene) -> dict[str, Tensor]:
    """The numbers of a scene by group; classes (hair style, context) are left out but for worn things."""
    numbers = [COLUMN[f.name][1] for f in IDENTITY if not f.choices]
    worn = [COLUMN[f.name][1] for f in CONTEXT if len(f.choices) == 2]
    light = scene.nuisance[:, :5]
    return {
        "identity": scene.identity[:, numbers],
        "expression": scene.expression,
        "pose": scene.pose,
        "nuisance": torch.cat([light, scene.context[:, worn]], dim=1),
    }


def identity_top1(identity: Tensor, people: int) -> float:
    """One picture of each person is the gallery, all others look for their person in it."""
    views = identity.unflatten(0, (people, VIEWS))
    labels = torch.arange(people).repeat_interleave(VIEWS - 1)
    return top1(views[:, 1:].flatten(0, 1), views[:, 0], labels)


def linear_pose_error(pose: Tensor, scene: Scene, person: Tensor) -> float:
    """Mean geodesic angle between true rotations and those read linearly from the pose code, in degrees."""
    true = euler_to_matrix(scene.pose[:, :3])
    read, rows = ridge_predict(pose, matrix_to_rotation(true), person)
    return torch.rad2deg(geodesic_angle(rotation_to_matrix(read), true[rows])).mean().item()


def encoded_pose_error(pose: Tensor, scene: Scene) -> float:
    true = euler_to_matrix(scene.pose[:, :3])
    return torch.rad2deg(geodesic_angle(rotation_to_matrix(pose[:, :6]), true)).mean().item()


def extreme_poses(dsid: DSID, generator, people: int) -> dict[str, float]:
    """People and poses that are both held out."""
    scene = sample_scenes(people, generator, "test", poses="extreme")
    codes = encode(dsid, render(scene, dsid.config.image_size).images)
    return {"pose error, extreme poses, degrees": encoded_pose_error(codes.pose, scene)}


def swap_figures(dsid: DSID, generator, groups: int = 64) -> dict[str, float]:
    """`picture_figures` of drawn people."""
    scenes = [studio_scene(generator, "test") for _ in range(groups)]
    size = dsid.config.image_size

    def pick(person: int, frame: int):
        return render(concatenate([s[person * FRAMES + frame : person * FRAMES + frame + 1] for s in scenes]), size)

    source, target, face, pose = pick(0, FRAMES - 1), pick(0, 1), pick(1, 1), pick(2, FRAMES - 1)
    return picture_figures(dsid, source.images, target.images, face.images, pose.images, target.face)


@torch.no_grad()
def picture_figures(
    dsid: DSID, source: Tensor, target: Tensor, expression: Tensor, pose: Tensor, face: Tensor
) -> dict[str, float]:
    """PSNR and SSIM within the face (N, 1, S, S) of drawn pictures against the true ones `target` (N, 3, S, S): self (all codes
    from the person's own pictures, the identity from `source`) and swap (identity, expression and pose from three people).
    """
    identity = dsid.encode_identity(source)
    own, lent, posed = (dsid.encode_semantics(images) for images in (target, expression, pose))
    made = {
        "self": dsid.reenact(identity, **own),
        "swap": dsid.reenact(identity, **{**posed, "expression": lent["expression"]}),
    }
    return {
        f"{metric} {name}": function(picture)
        for name, picture in made.items()
        for metric, function in (
            ("PSNR", lambda x: psnr(x, target, face)),
            ("SSIM", lambda x: ssim(x * face, target * face)),
        )
    }


def _views(people: int, generator) -> Scene:
    persons = sample_scenes(people, generator, "test").identity.repeat_interleave(VIEWS, dim=0)
    return sample_scenes(people * VIEWS, generator).with_groups(identity=persons)


def _by_skin(identity: Tensor, scene: Scene, people: int) -> dict[str, float]:
    """Top-1 among all people, for each third of skin tones."""
    tone = scene.identity[::VIEWS, COLUMN["skin_melanin"][1]]
    views = identity.unflatten(0, (people, VIEWS))
    found = {}
    for name, low, high in (("light", 0.0, 1 / 3), ("middle", 1 / 3, 2 / 3), ("dark", 2 / 3, 1.01)):
        rows = ((tone >= low) & (tone < high)).nonzero().flatten()
        queries, labels = views[rows, 1:].flatten(0, 1), rows.repeat_interleave(VIEWS - 1)
        found[name] = top1(queries, views[:, 0], labels)
    return found


def _identity_from_semantics(codes: Encoded, scene: Scene, person: Tensor) -> float:
    both = torch.cat([codes.expression, codes.pose], dim=1)
    return leak_matrix({"semantics": both}, {"identity": factor_groups(scene)["identity"]}, person)["semantics"]["identity"]


def _importances(codes: Encoded, factors: dict[str, Tensor], person: Tensor) -> Tensor:
    """(codes, groups): linear read-out of what a code should and should not hold; nuisance belongs to no code."""
    table = leak_matrix(codes.named(), {name: factors[name] for name in CODES}, person, probe=ridge_r2)
    return torch.tensor([[table[code][group] for group in CODES] for code in CODES])


def _icc(codes: Encoded, people: int) -> dict[str, float]:
    views = {name: code.unflatten(0, (people, VIEWS)) for name, code in codes.named().items()}
    return {f"ICC {name}": icc(view[:, 0], view[:, 1]) for name, view in views.items()}


def _names(factors) -> list[str]:
    return [factor.name for factor in factors]

#!/usr/bin/env python
"""The picture on each node's help page: `python tests/write_help_pictures.py` writes web/docs/pictures/<node id>.jpg.

Everything is drawn from what comes with the pack: sample faces, `photo-dsid`, the head.
"""

import sys
from functools import cache
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

ROOT = Path(__file__).resolve().parents[1]
sys.path.append(str(ROOT))

from deepexpo_models.dsid import (
    SEMANTIC_FIELDS,
    Edit,
    Identity,
    Semantics,
    arkit_semantics,
    blend_identities,
    blend_semantics,
    combine_semantics,
    edit_semantics,
    euler_to_matrix,
    load_dsid,
    matrix_to_rotation,
    public_encoder,
    smooth_semantics,
)
from deepexpo_models.dsid.mesh import Framing, face_points
from deepexpo_models.dsid.smoothing import plot_smoothing
from deepexpo_models.evaluation.likeness import Seen, compare_pictures, plot
from deepexpo_models.head import load_basis
from deepexpo_models.head.control import draw_control
from deepexpo_models.head.expressions import preset_units
from deepexpo_models.image import comfy_to_model, model_to_comfy, resize
from deepexpo_models.panels import label_sheet

OUT = ROOT / "web" / "docs" / "pictures"
CELL, WIDEST, QUALITY = 120, 640, 85
FACE = Framing(0.7, 0.5, 0.5)


def sample(name: str) -> Tensor:
    """(1, 256, 256, 3) in [0, 1]"""
    with Image.open(ROOT / "workflows" / "samples" / f"{name}.png") as picture:
        return torch.from_numpy(np.array(picture.convert("RGB"), dtype=np.float32) / 255)[None]


def look(preset: str = "none", yaw: float = 0.0, pitch: float = 0.0) -> Semantics:
    return arkit_semantics(preset_units(preset)[None], torch.tensor([[yaw, pitch, 0.0]]))


def person(width: float = 1.0, height: float = 1.0) -> Identity:
    """Somebody whose face is so many times wider and higher than the average."""
    shape = load_basis().points * torch.tensor([width, height, 1.0])
    return Identity(torch.eye(1, 8), public_encoder("nobody"), face_shape=shape.flatten()[None])


def head(code: Semantics, style: str = "shaded", who: Identity | None = None) -> Tensor:
    size, basis = (2 * CELL, 2 * CELL), load_basis()
    return draw_control(face_points(who, code, basis, size, FACE), size, style, basis)


@cache
def dsid():
    return load_dsid(ROOT / "weights" / "photo-dsid.safetensors").float().eval()


@torch.no_grad()
def who(name: str) -> Identity:
    return Identity(dsid().encode_identity(resize(comfy_to_model(sample(name)), 128)), dsid().encoder)


@torch.no_grad()
def how(name: str) -> Semantics:
    return Semantics(**dsid().encode_semantics(resize(comfy_to_model(sample(name)), 128)), encoder=dsid().encoder)


@torch.no_grad()
def drawn(identity: Identity, semantics: Semantics) -> Tensor:
    parts = [getattr(semantics, field) for field in SEMANTIC_FIELDS]
    return model_to_comfy(dsid().reenact(identity.embedding.expand(len(parts[0]), -1), *parts))


def row(**pictures: Tensor) -> Tensor:
    """Pictures side by side, each below its name."""
    cells = [torch.nn.functional.interpolate(p[:1].movedim(-1, 1), (CELL, CELL), mode="area").movedim(1, -1)
             for p in pictures.values()]  # fmt: skip
    return label_sheet(torch.cat(cells), ("",), [name.replace("_", " ") for name in pictures], CELL)


def thumbnail(template: str) -> Tensor:
    with Image.open(next((ROOT / "workflows").glob(template))) as picture:
        return torch.from_numpy(np.array(picture.convert("RGB"), dtype=np.float32) / 255)[None]


def cell_of(template: str, number: int, columns: int = 4) -> Tensor:
    """One of the pictures that stand side by side in a thumbnail."""
    whole = thumbnail(template)
    side = whole.shape[2] // columns
    return whole[:, :side, number * side : (number + 1) * side]


def sheet() -> Tensor:
    names, people = ("none", "laughing", "surprised", "wink"), (person(0.9, 1.05), person(1.12, 0.95))
    pictures = torch.cat([head(look(name, 15), who=somebody) for somebody in people for name in names])
    return label_sheet(pictures, ("person 1", "person 2"), names, CELL)


def smoothing() -> Tensor:
    draw, frames = torch.Generator().manual_seed(0), torch.arange(60.0)
    angles = torch.stack([25 * torch.sin(frames / 9), 8 * torch.cos(frames / 7), 0 * frames], dim=1)
    angles += 1.5 * torch.randn(60, 3, generator=draw)
    smile = (preset_units("happy")[None] * (0.5 + 0.5 * torch.sin(frames / 8))[:, None]).clamp(0, 1)
    clip = arkit_semantics((smile + 0.04 * torch.randn(60, 52, generator=draw)).clamp(0, 1), angles)
    return plot_smoothing(clip, smooth_semantics(clip, 0.7))


def measured() -> Tensor:
    """Of `photo-dsid`'s codes, moved in steps from the person's look to the reference's."""
    person, start, end = who("person_1"), how("person_1"), how("laughing")
    steps = [blend_semantics(start, end, factor) for factor in (0.25, 0.5, 0.75, 1.0)]
    made = Seen(
        torch.cat([blend_identities(person, who("laughing"), share).embedding for share in (0.05, 0.1, 0.2, 0.3)]),
        torch.cat([code.expression for code in steps]), torch.cat([code.rotation for code in steps]),
    )  # fmt: skip
    seen = {"made": made, "identity": Seen(person.embedding, start.expression, start.rotation),
            "reference": Seen(who("laughing").embedding, end.expression, end.rotation)}  # fmt: skip
    return plot(compare_pictures(seen, (str(dsid().encoder), str(dsid().encoder))))


def turned(code: Semantics, yaw: float) -> Semantics:
    turn = matrix_to_rotation(euler_to_matrix(torch.tensor([[yaw, 0.0, 0.0]])))
    return combine_semantics(code, Semantics(code.expression, turn, code.translation, code.log_scale, code.encoder))


def presets(*names: str) -> Tensor:
    return row(**{name: head(look(name)) for name in names})


def crop() -> Tensor:
    photo = torch.full((1, 400, 400, 3), 0.75)
    photo[:, 40:296, 120:376] = sample("person_2")
    return row(photo=photo, crop=sample("person_2"))


REFERENCE = "surprised"  # of the starter's template
SAMPLES = ("photograph", "person_1", "person_2", "surprised", "laughing", "dozing")
MAP = ("mediapipe face", "openpose head", "normal (opengl)", "depth", "lines")
PICTURES = {
    "DeepExPoLoadDSID": lambda: row(identity_of=sample("person_1"), semantics_of=sample("laughing")),
    "DeepExPoLoadMEAF": lambda: thumbnail("*starter.jpg"),
    "DeepExPoLoadStarter": lambda: row(
        photograph=sample("photograph"), reference=sample(REFERENCE), made=cell_of("*starter.jpg", 2),
    ),
    "DeepExPoApplyMEAF": lambda: row(
        person=sample("photograph"), reference=sample(REFERENCE), made=cell_of("*starter.jpg", 2)
    ),
    "DeepExPoSampleFace": lambda: row(**{n: sample(n) for n in SAMPLES}),
    "DeepExPoCropFace": crop,
    "DeepExPoFindLandmarks": lambda: row(face=head(look("happy", 15)), landmarks=head(look("happy", 15), "mediapipe face")),
    "DeepExPoDrawFaceControl": lambda: row(**{style: head(look("laughing", 20), style) for style in MAP}),
    "DeepExPoEncodeIdentity": lambda: row(photo=sample("person_3"), face_shape=head(look(), who=person(0.95))),
    "DeepExPoEncodeSemantics": lambda: row(photo=sample("surprised"), how_it_looks=head(look("surprised"))),
    "DeepExPoReenact": lambda: row(
        identity=sample("person_3"), semantics=sample("laughing"), drawn=drawn(who("person_3"), how("laughing"))
    ),
    "DeepExPoEditSemantics": lambda: row(
        rest=head(look()), smile=head(edit_semantics(None, Edit(sliders={"smile": 1.0, "cheek_raise": 0.6}))),
        yaw_30=head(look(yaw=30)), surprised=head(look("surprised")), wink=head(look("wink", -15)),
    ),
    "DeepExPoCombineSemantics": lambda: row(
        expression_from=head(look("laughing")), pose_from=head(look(yaw=-30)), combined=head(turned(look("laughing"), -30))
    ),
    "DeepExPoBlendSemantics": lambda: row(
        **{f"{factor:g}": head(blend_semantics(look(), look("surprised", 30), factor)) for factor in (0.0, 0.5, 1.0, 1.4)}
    ),
    "DeepExPoBlendIdentities": lambda: row(
        **{f"{factor:g}": head(look(), who=blend_identities(person(0.85, 1.05), person(1.2, 0.92), factor))
           for factor in (0.0, 0.33, 0.67, 1.0)}
    ),
    "DeepExPoSaveIdentity": lambda: row(code=sample("person_1"), saved_with_its_picture=sample("person_1")),
    "DeepExPoLoadIdentity": lambda: row(**{name: sample(name) for name in ("person_1", "person_2", "person_3")}),
    "DeepExPoSaveSemantics": lambda: presets("happy", "wink"),
    "DeepExPoLoadSemantics": lambda: presets("happy", "laughing", "surprised", "sad", "wink"),
    "DeepExPoSmoothSemantics": smoothing,
    "DeepExPoPairSheet": sheet,
    "DeepExPoDrawSheet": sheet,
    "DeepExPoMeasure": measured,
    "DeepExPoExpressionPresets": lambda: presets("none", "happy", "surprised", "angry", "afraid"),
    "DeepExPoIdentityToControlNet": lambda: row(identity=sample("person_1"), control=head(look(yaw=15), "instantid points")),
}  # fmt: skip


def main() -> None:
    OUT.mkdir(parents=True, exist_ok=True)
    for path in sorted((ROOT / "web" / "docs").glob("*.md")):
        picture = Image.fromarray((PICTURES[path.stem]()[0].clamp(0, 1) * 255).round().byte().numpy())
        picture.thumbnail((WIDEST, WIDEST))
        picture.save(OUT / f"{path.stem}.jpg", quality=QUALITY)
        link_picture(path)
        print(path.stem, picture.size)


def link_picture(path: Path) -> None:
    """Below the page's title, once."""
    link = f"![{path.read_text(encoding='utf-8').splitlines()[0].lstrip('# ')}](pictures/{path.stem}.jpg)"
    text = path.read_text(encoding="utf-8")
    if link not in text:
        title, rest = text.split("\n", 1)
        path.write_text(f"{title}\n\n{link}\n{rest}", encoding="utf-8")


if __name__ == "__main__":
    main()

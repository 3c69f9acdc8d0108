"""Rendered heads on disk: what a training reads many times is rendered once.

A group is a small film studio, see `data.studio`. A part of the pictures is spoilt (see `spoil`).
"""

import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Generator, Tensor

from ...head import ARKIT52
from ...image import bytes_to_model
from ..studio import FRAMES, PEOPLE, Roles, sample_roles
from .build import HAIRS as HAIR_NAMES
from .geometry import make_actor
from .people import HAIR_COLOURS, IRISES, Person, sample_person
from .poses import FRONTAL, camera_direction, euler_matrix, sample_pose
from .render import HeadRenderer
from .scenery import BACKGROUNDS, COLOURS, LIGHTS, PATTERNS, Setting, sample_setting
from .spoil import spoil
from .units import sample_expression, sample_gaze, with_gaze

GROUPS = 8
SHARD = PEOPLE * FRAMES * GROUPS  # pictures
SPOILT_SHARE = 0.2
RENDERER = 2  # its version: rises when the same numbers give other pictures
SEEN_CLOTH = 0.02  # share of a picture from which on its clothes are named
SPLITS = {"train": 0, "test": 1}
CALM = ("plain", "gradient")  # backgrounds
JUDGED = "judged.npz"  # of a shard: what the landmarker read in its pictures, see judged.py
RECOGNISED = "recognised.npz"  # what a recogniser saw in them, see training.ask_recogniser
WORDS = {"units": (52,), "rotation": (3, 3)}  # that it holds
LABELS = {"rotation": (3, 3), "units": (52,), "gaze": (2,), "five": (5, 2), "surface": (96, 2)}
CONTEXT = ("male", "age", "hair", "hair_colour", "iris", "glasses", "hat", "beard", "background", "background_colour", "cloth",
           "pattern", "light", "spoilt")  # fmt: skip


@dataclass(frozen=True)
class Heads:
    """images (B, 3, S, S) in [-1, 1]; rotation (B, 3, 3) by the landmarker's zero; units (B, 52); gaze (B, 2), radians;
    five (B, 5, 2) and surface (B, 96, 2) in crop coordinates; context (B, len(CONTEXT)); person (B,);
    judged (B, 52), judged_rotation (B, 3, 3): units and rotation as the landmarker reads them, NaN where it was not asked or
    found no face.
    """

    images: Tensor
    rotation: Tensor
    units: Tensor
    gaze: Tensor
    five: Tensor
    surface: Tensor
    context: Tensor
    person: Tensor
    judged: Tensor
    judged_rotation: Tensor


def render_shard(
    renderer: HeadRenderer, index: int, seed: int, split: str, pictures: Sequence[np.ndarray] = ()
) -> dict[str, np.ndarray]:
    """The SHARD pictures and labels of one shard; the same numbers, model and pictures give the same on one machine."""
    rng = np.random.default_rng([seed, SPLITS[split], index])
    rows = [row for _ in range(GROUPS) for row in _group(renderer, rng, split, pictures)]
    return {name: np.stack([row[name] for row in rows]) for name in rows[0]}


def _group(renderer: HeadRenderer, rng: np.random.Generator, split: str, pictures) -> list[dict[str, np.ndarray]]:
    model = renderer.model
    expressions = [sample_expression(rng, split) for _ in range(FRAMES)]
    rotations = [euler_matrix(*sample_pose(rng, split)) for _ in range(FRAMES)]
    gazes = [sample_gaze(rng, camera_direction(rotation)) for rotation in rotations]
    rows = []
    for member in range(PEOPLE):
        person = sample_person(rng, model.names, model.skins, model.hairs, model.brows, model.lashes, split)
        actor = make_actor(model, person)
        settings = [sample_setting(rng, pictures) for _ in range(2)]
        for frame in range(FRAMES):
            pose = (frame + member) % FRAMES
            units, setting = with_gaze(expressions[frame], gazes[frame]), settings[frame // (FRAMES // 2)]
            rendered = renderer.render(actor, units, gazes[frame], rotations[pose], _torso(rng, rotations[pose]), setting)
            rows.append(_row(rng, rendered, person, setting))
    return rows


def _torso(rng: np.random.Generator, rotation: np.ndarray) -> np.ndarray:
    """The shoulders follow the head by a part of its yaw."""
    yaw = np.degrees(np.arctan2(rotation[2, 0], np.hypot(rotation[0, 0], rotation[1, 0])))
    turned = np.clip(yaw * rng.uniform(0.1, 0.9) + rng.normal(0, 12), yaw - 55, yaw + 55)
    return euler_matrix(turned, *rng.normal(0, 4, 2))


def _row(rng, rendered, person: Person, setting: Setting) -> dict[str, np.ndarray]:
    spoilt = rng.random() < SPOILT_SHARE
    picture, labels = rendered.picture, rendered.labels
    if spoilt:
        nose = np.clip(((labels["five"][2] + 1) / 2 * len(picture)).astype(int), 4, len(picture) - 5)
        skin = picture[nose[1] - 3 : nose[1] + 4, nose[0] - 3 : nose[0] + 4].reshape(-1, 3).mean(0) / 255
        picture = spoil(picture, rng, skin, labels["five"][3:].mean(0))
    return {"images": picture, **labels, "context": context_of(person, setting, spoilt, rendered.cloth > SEEN_CLOTH)}


def context_of(person: Person, setting: Setting, spoilt: bool, dressed: bool) -> np.ndarray:
    """(len(CONTEXT),) float32: numbers, or places in the tables of names; -1 for none: cloth and pattern where clothes are not
    seen. glasses: 2 where they are dark."""
    hairs = list(HAIR_COLOURS)
    glasses = 0 if person.glasses is None else 2 if person.glasses.shade > 0.25 else 1
    values = (
        person.sex, person.age, -1 if person.hair is None else HAIR_NAMES.index(person.hair), hairs.index(person.hair_name),
        list(IRISES).index(person.iris_name), glasses, person.hat is not None, person.stubble,
        BACKGROUNDS.index(setting.background_kind), _place(setting.background_colour),
        _place(setting.cloth_colour if dressed else ""), PATTERNS.index(setting.pattern) if dressed else -1,
        LIGHTS.index(setting.light.name), spoilt,
    )  # fmt: skip
    return np.array(values, np.float32)


def _place(colour: str) -> int:
    return list(COLOURS).index(colour) if colour else -1


def write_shard(renderer: HeadRenderer, folder: Path, index: int, seed: int, split: str, pictures, model_sha256: str) -> Path:
    """Render one shard into folder/shard-<index>/; a whole one that is there already is left as it is."""
    final, partial = folder / f"shard-{index:05d}", folder / f"partial-{index:05d}"
    settings = {
        "index": index, "seed": seed, "split": split, "size": renderer.size, "renderer": RENDERER, "model": model_sha256,
        "pictures": len(pictures), "frontal": FRONTAL.tolist(), "units": ARKIT52, "context": CONTEXT,
    }  # fmt: skip
    if final.exists():
        _require_same(final, settings)
        return final
    partial.mkdir(parents=True, exist_ok=True)
    for name, values in render_shard(renderer, index, seed, split, pictures).items():
        np.save(partial / f"{name}.npy", values)
    (partial / "settings.json").write_text(json.dumps(settings))
    os.replace(partial, final)
    return final


def _require_same(folder: Path, settings: dict) -> None:
    found, wanted = json.loads((folder / "settings.json").read_text()), json.loads(json.dumps(settings))
    if odd := sorted(name for name in wanted if found.get(name) != wanted[name]):
        raise ValueError(f"{folder} was rendered with another {odd[0]}; choose another folder or delete it")


class HeadStore:
    """All whole shards of a folder, read from disk as they are needed; `refresh` takes in what was rendered meanwhile.

    Raises ValueError when there are none, or when they are of different sizes.
    """

    def __init__(self, folder: str | Path):
        self.folder = Path(folder)
        self._shards: dict[Path, dict[str, np.ndarray]] = {}  # in the order of their coming: a row stays the same picture
        self._words: dict[Path, dict[str, np.ndarray]] = {}  # of files that lie beside the pictures, once they are there
        if not self.refresh():
            raise ValueError(
                f"{folder} holds no rendered heads; render some: python -m deepexpo_models.data.heads.generate --out {folder}"
            )
        self.settings = json.loads((next(iter(self._shards)) / "settings.json").read_text())

    def refresh(self) -> int:
        """Returns the number of pictures."""
        names = ("images", *LABELS, "context")
        for path in sorted(set(self.folder.glob("shard-*")) - set(self._shards)):
            self._shards[path] = {name: np.load(path / f"{name}.npy", mmap_mode="r") for name in names}
        self._paths = list(self._shards)
        return len(self)

    def __len__(self) -> int:
        return SHARD * len(self._shards)

    @property
    def size(self) -> int:
        return self.settings["size"]

    def heads(self, rows: Tensor) -> Heads:
        """rows (B,) -> their pictures and labels."""
        read = {name: self.read(name, rows) for name in (*LABELS, "context")}
        words = {"judged": self.judged(rows), "judged_rotation": self.judged(rows, "rotation")}
        return Heads(self.images(rows), **read, person=self.person(rows), **words)

    def images(self, rows: Tensor) -> Tensor:
        """rows (B,) -> (B, 3, S, S) in [-1, 1]."""
        return bytes_to_model(self.read("images", rows).movedim(-1, 1))

    def judged(self, rows: Tensor, word: str = "units") -> Tensor:
        """rows (B,) -> (B, *WORDS[word]), NaN where the landmarker was not asked or found no face."""
        values = torch.full((len(rows), *WORDS[word]), torch.nan)
        return self._take(values, rows, JUDGED, word)

    def recognised(self, rows: Tensor) -> Tensor:
        """rows (B,) -> (B, D) of the recogniser's width, NaN where it was not asked or found no face; D is 1 where it was never
        asked."""
        known = (self._beside(shard, RECOGNISED) for shard in range(len(self._paths)))
        width = next((words["vectors"].shape[1] for words in known if words), 1)
        return self._take(torch.full((len(rows), width), torch.nan), rows, RECOGNISED, "vectors")

    def _take(self, values: Tensor, rows: Tensor, file: str, word: str) -> Tensor:
        """values, with the rows that a file beside the pictures tells put in."""
        for place, row in enumerate(rows.tolist()):
            if known := self._beside(row // SHARD, file):
                values[place] = torch.from_numpy(known[word][row % SHARD])
        return values

    def judged_rows(self) -> Tensor:
        """(N,) the rows that the landmarker found a face in. Raises ValueError when it was not asked about any."""
        rows = torch.arange(len(self))
        found = rows[self.judged(rows).isfinite().any(1)]
        if not len(found):
            raise ValueError(f"the landmarker was not asked about any head of {self.folder}; run data.heads.judged on it first")
        return found

    def _beside(self, shard: int, file: str) -> dict[str, np.ndarray]:
        """Empty until it is there; it may come while a training runs."""
        path = self._paths[shard] / file
        if path not in self._words and path.exists():
            with np.load(path) as words:
                self._words[path] = dict(words)
        return self._words.get(path, {})

    def person(self, rows: Tensor) -> Tensor:
        """rows (B,) -> (B,) a number for each person."""
        return rows // FRAMES

    def unspoilt(self, *backgrounds: str) -> Tensor:
        """(M,) rows of the pictures that are as they were rendered, before one of the kinds of backgrounds (none: any)."""
        kinds = torch.tensor([BACKGROUNDS.index(kind) for kind in backgrounds or BACKGROUNDS])
        return ((self._context("spoilt") == 0) & torch.isin(self._context("background"), kinds)).nonzero()[:, 0]

    def calm(self) -> Tensor:
        """(M,) rows of the unspoilt pictures with nothing behind the head but one colour, or two that run into each other."""
        return self.unspoilt(*CALM)

    def _context(self, name: str) -> Tensor:
        """(N,) of all pictures."""
        column = CONTEXT.index(name)
        return torch.from_numpy(np.concatenate([shard["context"][:, column] for shard in self._shards.values()]))

    def sample(self, count: int, generator: Generator) -> Tensor:
        """(count,) rows, any."""
        return torch.randint(len(self), (count,), generator=generator)

    def sample_roles(self, count: int, generator: Generator, same_clip: float = 0.5) -> Roles:
        """As `studio.sample_roles`, with targets that are not spoilt: no code holds a hand before a face."""
        return sample_roles(self.unspoilt(), count, generator, same_clip)

    def read(self, name: str, rows: Tensor) -> Tensor:
        """rows (B,) -> one of "images", LABELS or "context", as it is stored."""
        shard, place = (rows // SHARD).tolist(), (rows % SHARD).tolist()
        return torch.from_numpy(np.stack([self._shards[self._paths[s]][name][p] for s, p in zip(shard, place)]))

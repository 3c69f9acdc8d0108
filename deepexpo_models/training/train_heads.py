"""Train DSID's encoders on rendered heads, whose rotation, expression, gaze and person are known:

    python -m deepexpo_models.training.train_heads --part semantics --out runs/semantics --heads runs/heads
    python -m deepexpo_models.training.train_heads --part identity --out runs/identity --heads runs/heads \
        --init runs/semantics/dsid.safetensors

Render the heads first (deepexpo_models.data.heads.generate); shards that come while a run goes on are taken in. The released
file holds both encoders, the one that was not trained as --init has it, no generator, and linear read-outs from the
expression code to ARKit's units and the gaze.
"""

import copy
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Generator, Tensor, nn

from ..data.heads.shards import HeadStore
from ..dsid import CONFIGS, DSID, encoder_id, load_dsid, save_dsid
from ..dsid.readout import ReadOut
from ..dsid.rotation import geodesic_angle, rotation_to_matrix
from ..evaluation.real_faces import correlation
from ..head import ARKIT52
from .engine.ema import EMA
from .engine.engine import Engine, make_scheduler
from .engine.optimizers import make_optimizer, parameter_groups
from .engine.settings import RunSettings, option, run_command
from .heads.identity import IdentityStep, recognition, sample_pairs
from .heads.step import HeadsStep
from .heads.views import plain_views, sample_views

NO_MATRICES = ("stem",)  # left to Adam
GALLERY = 200  # held-out people among whom one is found again
HELD_OUT = 512  # pictures of the test folder that a report reads
REFRESH_EVERY = 100  # steps between looks for new shards
SAMPLE_ROWS = 4096  # that the units' spread is taken from


@dataclass(frozen=True, kw_only=True)
class HeadsSettings(RunSettings):
    """Training of DSID's encoders on rendered heads."""

    batch_size: int = option(48, "pictures per process and per backward pass, an even number")
    lr: float = option(5e-3, "learning rate after the warm-up")
    warmup: int = option(40, "steps in which the learning rate rises from zero")
    ema: float = option(0.998, "decay of the averaged weights, per step; 0 keeps the last weights")
    grad_clip: float = option(2.0, "largest gradient norm; 0 does not clip")
    part: str = option("semantics", "which encoder to train", choices=("semantics", "identity"), fixed=True)
    config: str = option("photo", "sizes", choices=tuple(CONFIGS), fixed=True)
    name: str = option("photo", "name in the released file")
    heads: str = option("", "folder of rendered heads")
    test: str = option("", "folder of rendered heads of held-out people, for the reports")
    init: str = option("", "a DSID file whose encoders are taken over where they fit, its read-outs too")
    augment: float = option(0.4, "strength of the changes of colour; 0: none")
    w_identity: float = option(1.0, "identity: weight of its InfoNCE")
    w_traits: float = option(0.3, "identity: weight of sex, age, beard and glasses, read linearly")
    w_told: float = option(1.0, "identity: weight of what a recogniser sees, read linearly, where ask_recogniser asked it")
    w_alike: float = option(10.0, "identity: weight of the recogniser's likeness of any two people")
    w_rotation: float = option(1.0, "weight of the rotation")
    w_place: float = option(2.0, "weight of place and size")
    w_units: float = option(4.0, "weight of ARKit's units")
    w_judged: float = option(2.0, "weight of what MediaPipe's landmarker reads in the heads, where data.heads.judged asked it")
    judged_rotation: float = option(
        15.0, "degrees off the renderer's rotation up to which the landmarker's is learned instead; 0: never"
    )
    w_gaze: float = option(0.5, "weight of the gaze")
    w_surface: float = option(4.0, "weight of the surface's points in the crop")
    w_aligned: float = option(2.0, "weight of the surface's points in the aligned crop")
    w_same: float = option(0.05, "weight of equal codes for one expression by two people")

    def __post_init__(self):
        super().__post_init__()
        if not self.heads:
            raise ValueError("there is nothing to train on; render heads (deepexpo_models.data.heads.generate), give --heads")
        if self.batch_size % 2:
            raise ValueError(f"batch_size is {self.batch_size}; heads come in pairs of one expression, so it must be even")


def train(settings: HeadsSettings) -> Path | None:
    """Run or resume; returns the released file, None when the run was stopped before its end."""
    engine = Engine(settings)
    store, test = HeadStore(settings.heads), HeadStore(settings.test) if settings.test else None
    model = start_model(settings.config, settings.init)
    made: dict[str, type[Semantics] | type[People]] = {"semantics": Semantics, "identity": People}
    part = made[settings.part](model, store, settings)
    module: Any = part.module
    module = module.to(memory_format=torch.channels_last)  # a sixth faster on a CPU
    optimizer = make_optimizer("muon", parameter_groups([(module, 1.0)], settings.lr, NO_MATRICES))
    schedule, ema = make_scheduler(optimizer, settings), EMA(module, settings.ema)
    module, optimizer = engine.prepare(module, optimizer)
    for name, thing in {"module": module, "optimizer": optimizer, "schedule": schedule, "ema": ema}.items():
        engine.register(name, thing)

    for step in engine.steps(engine.restore()):
        if step % REFRESH_EVERY == 0:
            store.refresh()
        for accumulated in range(settings.accumulate):
            terms = part.terms(module, engine, settings, engine.generator(step, accumulated))
            weighted = {name: term * getattr(settings, f"w_{name}") for name, term in terms.items()}
            engine.backward(sum(weighted.values()), weighted)
        norm = engine.clip(module.parameters())
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
        ema.update(module, step)
        engine.log(step, {**terms, "grad_norm": norm})
        if settings.sample_every and (step + 1) % settings.sample_every == 0:
            with ema.applied(module):
                _release(engine, part, settings)
                if test is not None:
                    engine.log(step + 1, part.meters(test, engine.device))

    with ema.applied(module):
        path = _release(engine, part, settings)
    return path if engine.finished else None


class Semantics:
    """The part that learns rotation, place, units and gaze."""

    def __init__(self, model: DSID, store: HeadStore, settings: HeadsSettings):
        heads = store.heads(torch.arange(0, len(store), max(1, len(store) // SAMPLE_ROWS)))
        self.model, self.store = model, store
        model.averaging = None  # fitted to the encoder as it was
        spread, judged = ((x - x.nanmean(0)).square().nanmean(0).sqrt() for x in (heads.units, heads.judged))
        self.module = HeadsStep(model.semantic_encoder, spread, judged, settings.judged_rotation)

    def terms(self, module: nn.Module, engine: Engine, settings: HeadsSettings, generator: Generator) -> dict[str, Tensor]:
        views = sample_views(self.store, settings.batch_size, generator, settings.augment).to(engine.device)
        with engine.autocast():
            return module(views, generator)

    def meters(self, test: HeadStore, device: torch.device) -> dict[str, float]:
        return meters(self.model, self.module, test, device)

    @property
    def readout(self) -> ReadOut:
        """The renderer's units and degrees of gaze; `fit_readout` puts the units into the landmarker's words."""
        return ReadOut.of_units(self.module.read.weight.detach(), self.module.read.bias.detach())


class People:
    """The part that learns to tell people apart. A batch has batch_size pictures, two of each person."""

    def __init__(self, model: DSID, store: HeadStore, settings: HeadsSettings):
        self.model, self.store, self.readout = model, store, model.readout
        rows = torch.arange(0, len(store), max(1, len(store) // SAMPLE_ROWS))
        self.module = IdentityStep(model.identity_encoder, store.recognised(rows))

    def terms(self, module: nn.Module, engine: Engine, settings: HeadsSettings, generator: Generator) -> dict[str, Tensor]:
        pairs = sample_pairs(self.store, settings.batch_size // 2, generator)
        with engine.autocast():
            return module(pairs.to(engine.device))

    def meters(self, test: HeadStore, device: torch.device) -> dict[str, float]:
        return recognition(self.model.identity_encoder, test, GALLERY, device)


def start_model(config: str, init: str) -> DSID:
    """A new model, with the encoders of a file as far as their shapes are the same."""
    model = DSID(CONFIGS[config])
    if init:
        given = load_dsid(Path(init)).float()
        for name in ("identity_encoder", "semantic_encoder"):
            state, own = getattr(given, name).state_dict(), getattr(model, name).state_dict()
            if all(key in own and own[key].shape == value.shape for key, value in state.items()):
                getattr(model, name).load_state_dict(state)
        model.readout, model.averaging, model.trained_on = given.readout, given.averaging, given.trained_on
    return model


@torch.no_grad()
def meters(model: DSID, module: HeadsStep, test: HeadStore, device: torch.device) -> dict[str, float]:
    """On held-out people, places found by the encoder itself: degrees, R2 of units, correlation of gaze."""
    rows = torch.linspace(0, len(test) - 1, HELD_OUT).long()
    views = plain_views(test.heads(rows)).to(device)
    codes = [model.semantic_encoder(images) for images in views.images.split(64)]
    code = {name: torch.cat([part[name] for part in codes]).float() for name in codes[0]}
    units, gaze = module.read(code["expression"]).split([len(ARKIT52), 2], dim=-1)
    turned = torch.rad2deg(geodesic_angle(rotation_to_matrix(code["rotation"]), views.rotation))
    r2 = 1 - (units - views.units).square().mean(0) / views.units.var(0).clamp(min=1e-4)
    shown = ("jawOpen", "mouthSmileLeft", "eyeBlinkLeft", "browInnerUp", "browDownLeft", "mouthPucker", "eyeSquintLeft")
    return {
        "held-out degrees": turned.mean().item(),
        **{f"held-out R2 {name}": r2[ARKIT52.index(name)].item() for name in shown},
        **{f"held-out r gaze {axis}": correlation(gaze[:, i], views.gaze[:, i]) for i, axis in enumerate("xy")},
    }


def _release(engine: Engine, part: Semantics | People, settings: HeadsSettings) -> Path:
    path = Path(settings.out) / "dsid.safetensors"
    if engine.is_main:
        released = copy.deepcopy(part.model).half()
        released.readout = part.readout
        released.trained_on = tuple(dict.fromkeys((*part.model.trained_on, "rendered heads")))
        save_dsid(path, released, encoder_id(settings.name, released))
    return path


def main(argv: list[str] | None = None) -> None:
    run_command(train, HeadsSettings, argv, "Train DSID's encoders on rendered heads.")


if __name__ == "__main__":
    main()

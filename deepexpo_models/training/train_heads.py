"""Train DSID's semantic encoder on rendered heads, whose rotation, expression and gaze are known:

    python -m deepexpo_models.training.train_heads --out runs/photo --heads runs/heads --init weights/starter-dsid.safetensors

Render the heads first (deepexpo_models.data.heads.generate); shards that come while a run goes on are taken in. The released
file holds both encoders (the identity encoder of --init as it is, or of an earlier run), no generator, and linear read-outs
from the expression code to ARKit's units and the gaze.
"""

import copy
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from ..data.heads.shards import HeadStore
from ..dsid import CONFIGS, DSID, encoder_id, load_dsid, save_dsid
from ..dsid.readout import ReadOut
from ..dsid.rotation import geodesic_angle, rotation_to_matrix
from ..head import ARKIT52
from .engine.ema import EMA
from .engine.engine import Engine, make_scheduler
from .engine.optimizers import make_optimizer, parameter_groups
from .engine.settings import RunSettings, option, parse_settings
from .heads.step import HeadsStep
from .heads.views import plain_views, sample_views

NO_MATRICES = ("stem", "head", "read", "surface", "aligned")  # first and last layers are left to Adam
HELD_OUT = 512  # pictures of the test folder that a report reads
REFRESH_EVERY = 100  # steps between looks for new shards
SAMPLE_ROWS = 4096  # that the units' spread is taken from


@dataclass(frozen=True, kw_only=True)
class HeadsSettings(RunSettings):
    """Training of the semantic encoder on rendered heads."""

    batch_size: int = option(48, "pictures per process and per backward pass, an even number")
    lr: float = option(5e-3, "learning rate after the warm-up")
    warmup: int = option(40, "steps in which the learning rate rises from zero")
    ema: float = option(0.998, "decay of the averaged weights, per step; 0 keeps the last weights")
    grad_clip: float = option(2.0, "largest gradient norm; 0 does not clip")
    config: str = option("photo", "sizes", choices=tuple(CONFIGS), fixed=True)
    name: str = option("photo", "name in the released file")
    heads: str = option("", "folder of rendered heads")
    test: str = option("", "folder of rendered heads of held-out people, for the reports")
    init: str = option("", "a DSID file whose identity encoder, and semantic encoder where it fits, are taken over")
    augment: float = option(1.0, "strength of the changes of colour; 0: none")
    w_rotation: float = option(1.0, "weight of the rotation")
    w_place: float = option(2.0, "weight of place and size")
    w_units: float = option(4.0, "weight of ARKit's units")
    w_gaze: float = option(0.5, "weight of the gaze")
    w_surface: float = option(4.0, "weight of the surface's points in the crop")
    w_aligned: float = option(2.0, "weight of the surface's points in the aligned crop")
    w_same: float = option(0.2, "weight of equal codes for one expression by two people")

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
    spread = store.heads(torch.arange(0, len(store), max(1, len(store) // SAMPLE_ROWS))).units.std(0)
    module = HeadsStep(model.semantic_encoder, spread).to(memory_format=torch.channels_last)  # a sixth faster on a CPU
    optimizer = make_optimizer("muon", parameter_groups([(module, 1.0)], settings.lr, NO_MATRICES))
    schedule, ema = make_scheduler(optimizer, settings), EMA(module, settings.ema)
    module, optimizer = engine.prepare(module, optimizer)
    for name, thing in {"module": module, "optimizer": optimizer, "schedule": schedule, "ema": ema}.items():
        engine.register(name, thing)

    for step in engine.steps(engine.restore()):
        if step % REFRESH_EVERY == 0:
            store.refresh()
        for part in range(settings.accumulate):
            generator = engine.generator(step, part)
            views = sample_views(store, settings.batch_size, generator, settings.augment).to(engine.device)
            with engine.autocast():
                terms = module(views, generator)
            weighted = {name: term * getattr(settings, f"w_{name}") for name, term in terms.items()}
            engine.backward(sum(weighted.values()), weighted)
        norm = engine.clip(module.parameters())
        optimizer.step(), schedule.step(), optimizer.zero_grad()
        ema.update(module, step)
        engine.log(step, {**terms, "grad_norm": norm})
        if settings.sample_every and (step + 1) % settings.sample_every == 0:
            with ema.applied(module):
                _release(engine, model, module, settings)
                if test is not None:
                    engine.log(step + 1, meters(model, module, test, engine.device))

    with ema.applied(module):
        path = _release(engine, model, module, settings)
    return path if engine.finished else None


def start_model(config: str, init: str) -> DSID:
    """A new model, with the encoders of a file as far as their shapes are the same."""
    model = DSID(CONFIGS[config])
    if init:
        given = load_dsid(Path(init)).float()
        for name in ("identity_encoder", "semantic_encoder"):
            state, own = getattr(given, name).state_dict(), getattr(model, name).state_dict()
            if all(key in own and own[key].shape == value.shape for key, value in state.items()):
                getattr(model, name).load_state_dict(state)
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
        **{f"held-out r gaze {axis}": _correlation(gaze[:, i], views.gaze[:, i]) for i, axis in enumerate("xy")},
    }


def _correlation(a: Tensor, b: Tensor) -> float:
    return torch.corrcoef(torch.stack([a, b]))[0, 1].item()


def _release(engine: Engine, model: DSID, module: HeadsStep, settings: HeadsSettings) -> Path:
    path = Path(settings.out) / "dsid.safetensors"
    if engine.is_main:
        released = copy.deepcopy(model).half()
        released.readout = ReadOut.of_units(module.read.weight, module.read.bias)
        released.trained_on = ("rendered heads",)
        save_dsid(path, released, encoder_id(settings.name, released))
    return path


def main(argv: list[str] | None = None) -> None:
    train(parse_settings(HeadsSettings, argv, "Train DSID's semantic encoder on rendered heads."))


if __name__ == "__main__":
    main()

"""Train DSID: python -m deepexpo_models.training.train_dsid --out runs/dsid --heads HEADS or --clips FOLDER

Phases: pictures and codes from the start; after `critic_from` of the steps a critic joins; the penalties and
the cycle rise between `ramp` shares of the run, because from the first step they would switch the codes off.
"""

import copy
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ..dsid import CONFIGS, DSID, Discriminator, DSIDConfig, encoder_id, load_dsid, save_dsid
from ..dsid.losses import EncoderPerceptual, Perceptual, gradient_penalty, hinge_critic, hinge_generator
from ..dsid.readout import ReadOut
from ..weights import kinds_of_pictures
from .dsid.batches import Batch
from .dsid.heads import RenderedHeads
from .dsid.meters import meters, unlabelled
from .dsid.step import DSIDStep, Switches
from .engine.ema import EMA
from .engine.engine import Engine, make_scheduler
from .engine.muon import Muon, split_parameters
from .engine.settings import RunSettings, option, run_command

R1_EVERY = 16
NO_MATRICES = ("stem", "head", "to_rgb")  # first and last layers are left to Adam
RAMPED = ("pair", "frames", "cycle")  # risen late; the other weights hold from the first step


@dataclass(frozen=True, kw_only=True)
class DSIDSettings(RunSettings):
    """Training of DSID."""

    lr: float = option(2e-3, "learning rate after the warm-up")
    config: str = option("photo-generator", "sizes", choices=tuple(CONFIGS), fixed=True)
    name: str = option("dsid", "name in the released file")
    heads: str = option("", "folder of rendered heads (deepexpo_models.data.heads.generate)")
    test: str = option("", "rendered heads: folder of held-out people, for the reports; without it there are none")
    clips: str = option("", "folder of clips or frame folders, prepared by deepexpo_models.data.prepare or as they are")
    stills: str = option("", "folder of single pictures, mixed in")
    stills_share: float = option(0.3, "share of single pictures in a batch of clips and stills")
    init: str = option("", "a DSID file to start from")
    augment: float = option(1.0, "strength of the augmentation of the encoders' inputs; 0: none")
    freeze: bool = option(False, "keep the encoders of --init: only the generator learns")
    align: bool = option(True, "read expression from the aligned crop")
    triples: bool = option(True, "rendered heads: expression and pose lent by other people; off: pairs as clips have them")
    labels: bool = option(True, "rendered heads: show their labels; off: as clips that nobody has labelled")
    plain: bool = option(False, "rendered heads: show targets on grey, for no code holds a background")
    same_clip: float = option(0.5, "rendered heads: share of pairs within one clip")
    region_weight: float = option(8.0, "extra weight of eyes, brows and mouth")
    generated: int = option(16, "rows of a batch that the generator draws; 0: the encoders learn from labels and contrasts")
    vgg: str = option("", "safetensors file of torchvision's vgg19, for the perceptual loss")
    perceptual_from: str = option("", "a DSID file whose semantic encoder measures the perceptual loss instead of vgg19")
    critic_from: float = option(1.0, "share of the steps after which a critic joins; 1: never")
    ramp: tuple[float, float] = option((0.25, 0.5), "shares of the steps between which pair, frames and cycle rise")
    w_picture: float = option(1.0, "weight of the reconstruction")
    w_perceptual: float = option(10.0, "weight of the perceptual loss")
    w_identity: float = option(0.2, "weight of the identity's InfoNCE")
    w_expression: float = option(0.3, "weight of the expression's InfoNCE between people who play the same face")
    w_label: float = option(2.0, "weight of expression labels, where there are any: ARKit's units, gaze")
    w_traits: float = option(1.0, "rendered heads: weight of labels of the person")
    w_pose: float = option(1.0, "weight of the pose labels")
    w_equivariance: float = option(0.2, "weight of the in-plane equivariance")
    w_pair: float = option(0.2, "weight of the correlation between identity and semantics")
    w_frames: float = option(0.2, "weight of the correlation between the semantics of two frames")
    w_floor: float = option(0.1, "weight of the floor under the expression's variance")
    w_size: float = option(0.02, "weight that holds the expression's mean square at 1")
    w_cycle: float = option(0.1, "weight of reading drawn pictures again")
    w_critic: float = option(0.1, "weight of the critic's verdict")

    def __post_init__(self):
        super().__post_init__()
        if not (self.heads or self.clips or self.stills):
            raise ValueError("there is nothing to train on; give --heads, --clips or --stills")
        if self.heads and (self.clips or self.stills):
            raise ValueError("--heads is trained on alone; leave out --clips and --stills")
        if self.plain and not self.heads:
            raise ValueError("--plain shows rendered heads on grey; give their folder as --heads, or leave it out")
        if self.vgg and self.perceptual_from:
            raise ValueError("--vgg and --perceptual-from both measure the perceptual loss; give one of them")
        if self.freeze and not self.generated:
            raise ValueError("--freeze leaves the generator alone to learn, and --generated 0 draws nothing; give one up")


def train(settings: DSIDSettings) -> Path | None:
    """Run or resume; returns the released file, None when the run was stopped before its end."""
    engine = Engine(settings)
    data = _data(settings)
    config = CONFIGS[settings.config]
    model = _model(settings)
    step_module: Any = DSIDStep(model, _switches(settings), data.labels, _perceptual(settings))
    step_module = step_module.to(memory_format=torch.channels_last)  # up to a third faster on a CPU
    probes = step_module.probes
    critic = Discriminator(config)
    matrices, rest = ([p for p in group if p.requires_grad] for group in split_parameters([model, probes], NO_MATRICES))
    optimizer = Muon(matrices, rest, settings.lr)
    critic_optimizer = torch.optim.AdamW(critic.parameters(), settings.lr, betas=(0.0, 0.99))
    schedule, ema = make_scheduler(optimizer, settings), EMA(model, settings.ema)
    step_module, critic, optimizer, critic_optimizer = engine.prepare(step_module, critic, optimizer, critic_optimizer)
    things = {"model": model, "probes": probes, "critic": critic, "optimizer": optimizer, "critic_optimizer": critic_optimizer}
    for name, thing in {**things, "schedule": schedule, "ema": ema}.items():
        engine.register(name, thing)

    feed, said = engine.feed(data.sample), set[str]()
    for step in engine.steps(engine.restore()):
        progress = step / settings.steps
        with_critic = progress >= settings.critic_from
        for part in range(settings.accumulate):
            batch, generator = feed.take(step, part)
            batch = batch.to(engine.device)
            with engine.autocast():
                terms, made, true = step_module(batch, generator)
                if with_critic:
                    terms["critic"] = hinge_generator(critic(made))
            weighted = {name: term * _weight(settings, name, progress) for name, term in terms.items()}
            engine.backward(sum(weighted.values()), weighted)
        norm = engine.clip(model.parameters())
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
        ema.update(model, step)
        if with_critic:
            terms["critic_loss"] = _train_critic(engine, critic, critic_optimizer, made.detach(), true, step)
        absent = unlabelled(batch)
        for name in absent.keys() & terms.keys() - said:
            engine.say(f"the log has no {name} at step {step + 1}: {absent[name]} in its batch")
            said.add(name)
        engine.log(step, {**{name: term for name, term in terms.items() if name not in absent}, "grad_norm": norm})
        if settings.sample_every and (step + 1) % settings.sample_every == 0:
            _report(engine, model, ema, data, settings, step + 1)

    if not engine.finished:
        return None
    with ema.applied(model):
        path = Path(settings.out) / "dsid.safetensors"
        if engine.is_main:
            released = copy.deepcopy(model).half()
            released.readout = _readout(settings, model, data, probes)
            photographs = settings.clips or settings.stills
            released.trained_on = kinds_of_pictures(settings.heads, photographs, model.trained_on)
            save_dsid(path, released, model.encoder if settings.freeze else encoder_id(settings.name, released))
    return path


def _model(settings: DSIDSettings) -> DSID:
    config = CONFIGS[settings.config]
    if not settings.init:
        if settings.freeze:
            raise ValueError("--freeze keeps the encoders of --init, which is not given")
        return DSID(config)
    given = load_dsid(Path(settings.init)).float()
    model = given if given.config == config else _with_generator(given, config, settings.init)
    model.requires_grad_(True)
    if not settings.freeze:
        model.averaging = None  # fitted to the encoders as they were
    for encoder in (model.identity_encoder, model.semantic_encoder):
        encoder.requires_grad_(not settings.freeze)
    return model


def _with_generator(given: DSID, config: DSIDConfig, name: str) -> DSID:
    """A file of encoders alone, with a new generator. Raises ValueError for encoders of other sizes."""
    if given.generator is not None or given.config.encoders_alone() != config.encoders_alone():
        raise ValueError(f"{name} is of config {given.config.name!r}, not {config.name!r}; give --config")
    model = DSID(config)
    model.identity_encoder, model.semantic_encoder = given.identity_encoder, given.semantic_encoder
    model.encoder, model.trained_on = given.encoder, given.trained_on
    model.readout, model.averaging = given.readout, given.averaging
    return model


def _readout(settings: DSIDSettings, model: DSID, data, probes) -> ReadOut | None:
    """Frozen encoders keep theirs; those that were trained have what their labels taught, if these have a file's words."""
    if settings.freeze:
        return model.readout
    return data.readout(probes["label"]) if settings.heads else None


def _perceptual(settings: DSIDSettings) -> nn.Module | None:
    if settings.perceptual_from:
        return EncoderPerceptual(load_dsid(Path(settings.perceptual_from)).float().semantic_encoder)
    return Perceptual(settings.vgg) if settings.vgg else None


def _switches(settings: DSIDSettings) -> Switches:
    return Switches(
        augment=settings.augment,
        align=settings.align,
        region_weight=settings.region_weight,
        generated=settings.generated,
        cycle=settings.w_cycle > 0,
        equivariance=settings.w_equivariance > 0,
        contrast=settings.w_expression > 0,
        codes=not settings.freeze,
    )


def _data(settings: DSIDSettings):
    if not settings.heads:
        from .dsid.clips import RealFaces

        return RealFaces(settings)
    size, asked = CONFIGS[settings.config].image_size, settings
    return RenderedHeads(asked.heads, size, asked.triples, asked.same_clip, asked.labels, asked.test, asked.plain)


def _weight(settings: DSIDSettings, name: str, progress: float) -> float:
    weight = getattr(settings, f"w_{name}")
    if name not in RAMPED:
        return weight
    begin, end = settings.ramp
    return weight * min(1.0, max(0.0, (progress - begin) / max(1e-9, end - begin)))


def _train_critic(engine: Engine, critic, optimizer, made: Tensor, true: Tensor, step: int) -> Tensor:
    lazily = step % R1_EVERY == 0
    true = true.detach().requires_grad_(lazily)
    with engine.autocast():
        verdict = critic(true)
        loss = hinge_critic(verdict, critic(made))
        if lazily:
            loss = loss + R1_EVERY * gradient_penalty(verdict, true)
    optimizer.zero_grad()  # what the generator's pass left there
    engine.accelerator.backward(loss)
    optimizer.step(), optimizer.zero_grad()
    return loss.detach()


@torch.no_grad()
def _report(engine: Engine, model: DSID, ema: EMA, data, settings: DSIDSettings, step: int) -> None:
    """Meters on held-out people, and a sheet: identity, expression, pose, drawn, true."""
    held_out: Batch | None = data.held_out(engine)
    if held_out is None:
        return
    batch = held_out.to(engine.device)
    with ema.applied(model):
        model.eval()
        engine.log(step, meters(model, batch))
        few = slice(0, 8)
        semantics = model.encode_semantics(batch.expression[few])
        pose = {name: code for name, code in model.encode_semantics(batch.pose[few]).items() if name != "expression"}
        made = model.reenact(model.encode_identity(batch.source[few]), semantics["expression"], **pose)
        columns = torch.stack([batch.source[few], batch.expression[few], batch.pose[few], made, batch.target[few]], dim=1)
        engine.images(step, "swap", columns.flatten(0, 1), columns=5)
        model.train()


def main(argv: list[str] | None = None) -> None:
    run_command(train, DSIDSettings, argv, "Train DSID on rendered heads, or on clips and stills.")


if __name__ == "__main__":
    main()

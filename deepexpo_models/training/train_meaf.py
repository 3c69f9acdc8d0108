"""Train a MEAF: python -m deepexpo_models.training.train_meaf --out runs/meaf --dsid FILE --base FILE --clips FOLDER

or --heads HEADS, where every sample has a true picture: expression and pose come from other people. The base stays frozen.
With --semantics arkit52 expression and pose are ARKit's numbers and the head's rotation, as a landmarker or a renderer tells
them: no DSID is needed.
"""

from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast

import torch
from torch import Generator, Tensor, nn

from ..dsid import DSID, load_dsid, public_encoder
from ..dsid.losses import Perceptual
from ..dsid.rotation import geodesic_angle, rotation_to_matrix
from ..image import resize
from ..meaf import MEAF, MEAFConfig, default_config, load_meaf, save_meaf
from ..meaf.branch import COPIED, PREFIX
from ..meaf.config import PUBLIC_SEMANTICS
from ..meaf.diffusers_host import AttachedMEAF, branch_config
from ..meaf.fusion import FUSIONS
from ..pipeline.base import Base, load_base
from ..weights import kinds_of_pictures
from .engine.ema import EMA
from .engine.engine import Engine, make_scheduler
from .engine.optimizers import OPTIMIZERS, make_optimizer, parameter_groups
from .engine.settings import RunSettings, option, run_command
from .engine.sharding import parameters_named, state_of
from .meaf.batches import MEAFBatch
from .meaf.clips import CaptionedFaces
from .meaf.diffusion_loss import min_snr_weights, sample_times
from .meaf.heads import HeadTargets
from .meaf.lora import attach_lora, release_lora, without_lora
from .meaf.show import show

SIZES = ("light", *COPIED)
AVERAGES = {"meaf": "ema", "lora": "lora_ema"}  # what is trained -> its average, as states name both


@dataclass(frozen=True, kw_only=True)
class MEAFSettings(RunSettings):
    """Training of MEAF."""

    lr: float = option(1e-3, "learning rate after the warm-up")
    dsid: str = option("", "DSID file whose codes it shall read; with --semantics arkit52 for the identity alone", fixed=True)
    semantics: str = option("dsid", "what expression and pose are: the DSID's codes, or ARKit's 52 numbers and the head's "
                            "rotation as labels tell them", choices=("dsid", *PUBLIC_SEMANTICS), fixed=True)  # fmt: skip
    base: str = option(help="starter file, Stable Diffusion checkpoint file or diffusers folder", fixed=True)
    base_config: str = option("", "diffusers folder of the family, for the settings and tokenizer of a checkpoint file")
    heads: str = option("", "folder of rendered heads (deepexpo_models.data.heads.generate)")
    cache: str = option("", "heads: folder of codes and latents, which runs may share; else the run's own")
    clips: str = option("", "folder of face crops of clips (deepexpo_models.data.prepare) with captions beside them")
    stills: str = option("", "folder of single face crops with captions, mixed in")
    stills_share: float = option(0.3, "share of single pictures in a batch of clips and stills")
    without_target: float = option(0.2, "clips: share of samples with another person's reference; needs --image-rows")
    name: str = option("meaf", "name in the released file")
    init: str = option("", "a MEAF file to start from, an imported one too; streams that it lacks are new")
    freeze: tuple[str, ...] = option((), "streams that keep the weights of --init")
    size: str = option("light", "streams alone, or a trainable copy of half the U-Net or all of it", choices=SIZES, fixed=True)
    light_too: bool = option(False, "with a copy: the streams act in the frozen U-Net as well", fixed=True)
    copy_lr: float = option(0.1, "learning rate of the copy, in shares of --lr")
    fusion: str = option("tokens", "how a stream is fused; paper is the printed formula", choices=tuple(FUSIONS), fixed=True)
    expression_width: int = option(512, "width of the expression tokens", fixed=True)
    pose_width: int = option(256, "width of the pose tokens", fixed=True)
    optimizer: str = option("muon", "what moves the weights", choices=tuple(OPTIMIZERS), fixed=True)
    lora_rank: int = option(0, "rank of a LoRA on the base's attention, trained beside; 0: none", fixed=True)
    lora_share: float = option(0.1, "learning rate of the LoRA, as a share of --lr")
    drop_text: float = option(0.1, "share of empty prompts")
    drop_stream: float = option(0.1, "share of each stream's codes left out, independently")
    drop_streams: float = option(0.05, "share of samples without any code")
    drop_all: float = option(0.05, "share of samples without codes and prompt")
    face_weight: float = option(2.0, "extra weight of the face in the noise loss")
    region_weight: float = option(4.0, "extra weight of eyes, brows and mouth in the noise loss")
    snr_gamma: float = option(5.0, "min-SNR weighting (Hang et al. 2023); 0: none")
    late_share: float = option(0.0, "share of the time steps drawn from the last 400 of 1000 only")
    image_rows: int = option(0, "rows of a batch that are decoded for the picture losses; 0: none of them")
    vgg: str = option("", "safetensors file of torchvision's vgg19, for the vgg loss")
    w_identity: tuple[float, float] = option((0.1, 0.5), "weight of the decoded picture's identity; it rises in the last third")
    w_expression: float = option(0.1, "weight of its expression code")
    w_pose: float = option(0.05, "weight of its rotation")
    w_vgg: float = option(0.01, "weight of VGG features against the target; samples of one video only")
    w_mse: float = option(0.1, "weight of pixels against the target; samples of one video only")
    w_prior: float = option(1.0, "weight that holds what is outside the face to the base's own finding, without a target")

    def __post_init__(self):
        super().__post_init__()
        if bool(self.heads) == bool(self.clips or self.stills):
            raise ValueError("give either --heads, or --clips and --stills: the faces to train on")
        self._check_semantics()
        if self.lora_rank < 0 or not self.lora_share > 0:
            raise ValueError(f"lora_rank is {self.lora_rank}, lora_share {self.lora_share}; give 0 or more, and above 0")
        if self.freeze and not self.init:
            raise ValueError("--freeze keeps streams of --init, which is not given")
        if self.light_too and self.size == "light":
            raise ValueError("--light-too is for a copy; give --size control or full with it")

    @property
    def public(self) -> str:
        """Key of PUBLIC_SEMANTICS, "" where expression and pose are the DSID's codes."""
        return "" if self.semantics == "dsid" else self.semantics

    def _check_semantics(self) -> None:
        if not self.public and not self.dsid:
            raise ValueError("dsid is empty; name the DSID whose codes the MEAF shall read, or give --semantics arkit52")
        if self.public and self.image_rows:
            raise ValueError("picture losses read the DSID's expression codes; leave --image-rows out with --semantics arkit52")


@dataclass
class Parts:
    """What a run is made of: the base, batches, the module that makes loss terms of them, what of it is trained ("meaf" and
    perhaps "lora") and the optimizer of that."""

    base: Base
    data: Any
    step: "MEAFStep"
    trained: dict[str, nn.Module]
    optimizer: torch.optim.Optimizer

    @property
    def meaf(self) -> MEAF:
        return cast(MEAF, self.trained["meaf"])


def make_parts(settings: MEAFSettings, engine: Engine) -> Parts:
    """Everything on the engine's device, ready for `engine.prepare`."""
    dsid = load_dsid(Path(settings.dsid)).float().eval().requires_grad_(False) if settings.dsid else None
    base = load_base(settings.base, engine.device, config=settings.base_config)
    if dsid:
        dsid.to(engine.device)
    data = _data(settings, dsid, base, engine)
    meaf = _meaf(settings, dsid, base)
    if settings.checkpointing:
        base.unet.enable_gradient_checkpointing()
    if settings.checkpointing and meaf.branch:
        meaf.branch.copy.checkpointing = True
    trained = {"meaf": meaf, **({"lora": attach_lora(base.unet, settings.lora_rank)} if settings.lora_rank else {})}
    step = MEAFStep(meaf, base, dsid, settings)
    step.lora = trained.get("lora")  # shared with the base, which is no part of the module
    return Parts(base, data, step, trained, _optimizer(trained, settings, engine.sharded))


def train(settings: MEAFSettings) -> Path | None:
    """Run or resume; returns the released file, None when the run was stopped before its end."""
    engine = Engine(settings, shards=True)
    parts = make_parts(settings, engine)
    trained, meaf = parts.trained, parts.meaf
    schedule = make_scheduler(parts.optimizer, settings)
    step_module, optimizer = engine.prepare(parts.step, parts.optimizer)
    emas = {name: EMA(module, settings.ema) for name, module in trained.items()}
    averages = {AVERAGES[name]: ema for name, ema in emas.items()}
    for name, thing in {**trained, "optimizer": optimizer, "schedule": schedule, **averages}.items():
        engine.register(name, thing)

    feed = engine.feed(lambda count, generator, _: parts.data.sample(count, generator))
    for step in engine.steps(engine.restore()):
        for part in range(settings.accumulate):
            sample, generator = feed.take(step, part)
            batch = parts.data.encoded(sample)
            with engine.autocast():
                terms = step_module(batch, generator)
            weighted = {name: term * _weight(settings, name, step / settings.steps) for name, term in terms.items()}
            engine.backward(sum(weighted.values()), weighted)
        norm = engine.clip(step_module.parameters())
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
        for name, ema in emas.items():
            ema.update(trained[name], step)
        engine.log(step, {**terms, "grad_norm": norm, **gate_sizes(meaf)})
        if settings.sample_every and (step + 1) % settings.sample_every == 0 and not engine.sharded:  # slices draw nothing
            with ExitStack() as averaged, engine.autocast():
                for name, ema in emas.items():
                    averaged.enter_context(ema.applied(trained[name]))
                engine.images(step + 1, "meaf", show(parts.base, parts.data, parts.step), columns=2)

    if not engine.finished:
        return None
    weights = {name: state_of(ema, engine.is_main) for name, ema in emas.items()}
    if engine.is_main:
        _release(Path(settings.out), meaf, weights)
    return Path(settings.out) / "meaf.safetensors"


class MEAFStep(nn.Module):
    """forward(batch, generator) -> named loss terms. Only MEAF's weights learn; a stream that reads codes which the data do not
    have rests."""

    lora: nn.Module | None

    def __init__(self, meaf: MEAF, base: Base, dsid: DSID | None, settings: MEAFSettings):
        super().__init__()
        self.meaf, self.settings = meaf, settings
        self._frozen = (base, dsid)  # in a tuple: no part of this module's parameters
        self.attached = AttachedMEAF(base.unet, meaf)  # for good: checkpointing runs layers again in the backward pass
        self.streams = {
            name: stream for name, stream in meaf.config.streams.items() if stream.face_model in ("", settings.public)
        }
        self.perceptual = (Perceptual(settings.vgg),) if settings.vgg else ()
        self.snr_weights = min_snr_weights(base.schedule.alphas_cumprod, base.prediction, settings.snr_gamma)

    def forward(self, batch: MEAFBatch, generator: Generator) -> dict[str, Tensor]:
        base, _ = self._frozen
        clean = batch.latents.to(next(self.meaf.parameters()).device)
        noise = torch.randn(clean.shape, generator=generator).to(clean)
        times = sample_times(len(clean), generator, self.settings.late_share).to(clean.device)
        kept = drops(len(clean), tuple(self.streams), self.settings, generator)
        text = base.text([sentence if keep else "" for sentence, keep in zip(batch.captions, kept["text"])])
        noisy = base.schedule.add_noise(clean, noise, times)
        own = None if batch.has_target.all() else self._without_meaf(noisy, times, text)
        self.attached.condition(self._tokens(batch, kept, clean.device), dict.fromkeys(self.streams, 1.0))
        found = base.unet(noisy, times, **text).sample.float()
        weights = 1 + self.settings.face_weight * batch.face + self.settings.region_weight * batch.region
        weights = (weights / weights.mean((1, 2, 3), keepdim=True)).to(clean)
        error = (found - base.target(clean, noise, times)).square() * weights
        known = batch.has_target.to(clean)
        terms = {"noise": (error.mean((1, 2, 3)) * self.snr_weights.to(clean)[times] * known).mean()}
        if own is not None:
            moved = (found - own).square() * (1 - batch.face.to(clean)) * (1 - known)[:, None, None, None]
            terms["prior"] = moved.mean()
        if self.settings.image_rows:
            whole = torch.stack([kept[name] for name in self.streams]).all(0)
            rows = whole.nonzero().flatten()[: self.settings.image_rows].to(clean.device)
            terms |= self._picture_terms(batch, base.clean(found[rows], noisy[rows], times[rows]), times[rows], rows)
        return terms

    @torch.no_grad()
    def _without_meaf(self, noisy: Tensor, times: Tensor, text: dict) -> Tensor:
        base, _ = self._frozen
        self.attached.condition({})
        with without_lora(base.unet):
            return base.unet(noisy, times, **text).sample.float()

    def guided(self, batch: MEAFBatch) -> dict[str, Tensor]:
        """Tokens of a negative half, then of the codes, for classifier-free guidance."""
        device, halves = next(self.meaf.parameters()).device, []
        for there in (False, True):
            kept = torch.full((len(batch.captions),), there)
            halves.append(self._tokens(batch, dict.fromkeys(self.streams, kept), device))
        return {name: torch.cat([half[name] for half in halves]) for name in self.streams}

    def _tokens(self, batch: MEAFBatch, kept: dict[str, Tensor], device: torch.device) -> dict[str, Tensor]:
        tokens = {}
        for name, stream in self.streams.items():
            code = torch.cat([batch.codes[field] for field in stream.inputs], dim=-1).to(device)
            there = kept[name].to(device) & code.isfinite().all(1)  # NaN: no label tells it
            code = code.nan_to_num()
            tokens[name] = torch.where(there[:, None, None], self.meaf.tokens(name, code), self.meaf.null_tokens(name, code))
        return tokens

    def _picture_terms(self, batch: MEAFBatch, clean: Tensor, times: Tensor, rows: Tensor) -> dict[str, Tensor]:
        """Losses of the picture that one step means, weighted by alpha_bar: at high noise it is a blur."""
        base, dsid = self._frozen
        if dsid is None or not len(rows):
            return {}
        trust = base.schedule.alphas_cumprod.to(clean)[times]
        pictures = resize(base.decode(clean).clamp(-1, 1), dsid.config.image_size)
        codes = {name: code[rows.cpu()].to(clean) for name, code in batch.codes.items()}
        semantics = dsid.encode_semantics(pictures)
        turn = geodesic_angle(*[rotation_to_matrix(code["rotation"].float()) for code in (semantics, codes)])
        each = {
            "expression": (semantics["expression"] - codes["expression"]).square().mean(-1),
            "pose": turn.flatten(),
        }
        if "identity" in self.streams:
            each["identity"] = 1 - (dsid.encode_identity(pictures) * codes["identity"]).sum(-1)
        target = batch.images[rows.cpu()].to(clean)
        same = batch.has_target[rows.cpu()].to(clean)
        each["mse"] = (pictures - target).square().mean((1, 2, 3)) * same
        terms = {name: (value * trust).mean() for name, value in each.items()}
        if self.perceptual:
            terms["vgg"] = self.perceptual[0](pictures * same[:, None, None, None], target * same[:, None, None, None])
        return terms


def drops(count: int, streams: tuple[str, ...], settings: MEAFSettings, generator: Generator) -> dict[str, Tensor]:
    """What each sample keeps: "text" and stream names -> (count,) bool."""
    draw = lambda share: torch.rand(count, generator=generator) >= share  # noqa: E731
    any_stream, anything = draw(settings.drop_streams), draw(settings.drop_all)
    kept = {name: draw(settings.drop_stream) & any_stream & anything for name in streams}
    return {"text": draw(settings.drop_text) & anything, **kept}


def gate_sizes(meaf: MEAF) -> dict[str, Tensor]:
    """Mean size of each stream's gates, and of the joins of a branch: how much of it the U-Net hears."""
    sizes = {
        f"gate/{name}": torch.stack([p.detach().abs() for p in parameters_named("gate", stream)]).mean()
        for name, stream in meaf.streams.items()
    }
    if meaf.branch:
        sizes["joins"] = torch.stack([w.detach().abs().mean() for w in meaf.branch.joins.parameters() if w.ndim > 1]).mean()
    return sizes


def _weight(settings: MEAFSettings, name: str, progress: float) -> float:
    """Of a loss term at a share of the run."""
    if name == "identity":
        first, last = settings.w_identity
        return first + (last - first) * max(0.0, 3 * progress - 2)
    return getattr(settings, f"w_{name}", 1.0)


def _data(settings: MEAFSettings, dsid: DSID | None, base: Base, engine: Engine):
    if settings.heads:
        cache = Path(settings.cache or settings.out)
        return HeadTargets(settings.heads, cache, dsid, base, bool(settings.public), engine.say)
    return CaptionedFaces(settings, dsid, base, engine.say)


def _meaf(settings: MEAFSettings, dsid: DSID | None, base: Base) -> MEAF:
    empty = base.text([""])
    text = empty["encoder_hidden_states"][0]
    branch = None
    if settings.size != "light":
        branch = branch_config(base.unet, settings.size, len(text), settings.light_too)
    encoder = dsid.encoder if dsid else public_encoder(settings.public)
    fresh = default_config(
        settings.name, base.family, dsid.config if dsid else None, encoder, base.shape, settings.fusion, branch=branch,
        semantics=settings.public, expression_width=settings.expression_width, pose_width=settings.pose_width,
    )  # fmt: skip
    given = load_meaf(Path(settings.init)).float().requires_grad_(True) if settings.init else None
    meaf = _completed(given, fresh, settings) if given else MEAF(fresh)
    if meaf.branch and not (given and given.branch):
        pooled = empty.get("added_cond_kwargs", {}).get("text_embeds")
        meaf.branch.copy_base(base.unet, text, None if pooled is None else pooled[0])
    photographs, earlier = settings.clips or settings.stills, given.trained_on if given else ()
    meaf.trained_on = kinds_of_pictures(settings.heads, photographs, earlier)
    if not given:
        return meaf
    for name in settings.freeze:
        if name not in meaf.streams:
            raise ValueError(f"{settings.init} has no stream {name!r} to freeze; it has {', '.join(meaf.streams)}")
        meaf.streams[name].requires_grad_(False)
    for name, stream in meaf.config.streams.items():
        if stream.face_model not in ("", settings.public) and name not in settings.freeze:
            raise ValueError(
                f"the {name} stream of {settings.init} reads the codes of {meaf.config.encoder_of(name)}, "
                f"which these data do not have; keep it as it is with --freeze {name}"
            )
    return meaf


def _completed(given: MEAF, fresh: MEAFConfig, settings: MEAFSettings) -> MEAF:
    """The MEAF with the streams and the branch that it lacks; an imported one has but its own stream."""
    config = _continued(given.config, fresh, settings.freeze)
    if fresh.streams.keys() <= config.streams.keys() and fresh.branch == config.branch:
        given.config = config
        return given
    meaf = MEAF(replace(config, streams={**fresh.streams, **config.streams}, branch=fresh.branch))
    if meaf.load_state_dict(given.state_dict(), strict=False).unexpected_keys:
        raise ValueError(
            f"{settings.init} is of size {config.size} and has weights that --size {settings.size} has no place for; "
            f"give --size {config.size}" + (" or add --light-too" if config.size == "light" else "")
        )
    if not config.branch:  # in the copy too, streams that are there begin silent; a frozen one stays so
        for name, stream in meaf.streams.items():
            for site in meaf.sites if name in config.streams else ():
                if site.startswith(PREFIX):
                    nn.init.zeros_(cast(Any, stream).sites.get_submodule(site).gate)
    return meaf


def _continued(config: MEAFConfig, fresh: MEAFConfig, frozen: tuple[str, ...]) -> MEAFConfig:
    """A MEAF's config once it goes on with the codes of fresh's encoder. Raises ValueError where a stream of its own cannot."""
    was = config.encoder
    for name, stream in config.streams.items() if was != fresh.encoder else ():
        fits = name in fresh.streams and stream.input_width == fresh.streams[name].input_width
        if not stream.face_model and (name in frozen or not fits):
            raise ValueError(f"the {name} stream of MEAF {config.name!r} was trained on {was}; give that as --dsid")
    return replace(config, name=fresh.name, encoder=fresh.encoder)


def _optimizer(trained: dict[str, nn.Module], settings: MEAFSettings, sharded: bool) -> torch.optim.Optimizer:
    meaf = cast(MEAF, trained["meaf"])
    rated: list[tuple[nn.Module, float]] = [(meaf.streams, 1.0)]
    rated += [(meaf.branch.joins, 1.0), (meaf.branch.copy, settings.copy_lr)] if meaf.branch else []
    rated += [(trained["lora"], settings.lora_share)] if "lora" in trained else []
    return make_optimizer(settings.optimizer, parameter_groups(rated, settings.lr, ("null_tokens",)), sharded)


def _release(out: Path, trained: MEAF, averaged: dict[str, dict[str, Tensor]]) -> None:
    """Averaged weights -> meaf.safetensors and, where there is a LoRA, lora.safetensors: both in half precision."""
    meaf = MEAF(trained.config)
    meaf.load_state_dict(averaged["meaf"])
    meaf.trained_on = trained.trained_on
    save_meaf(out / "meaf.safetensors", meaf.half())
    if "lora" in averaged:
        release_lora(out / "lora.safetensors", averaged["lora"])


def main(argv: list[str] | None = None) -> None:
    run_command(train, MEAFSettings, argv, "Train a MEAF on a frozen base.")


if __name__ == "__main__":
    main()

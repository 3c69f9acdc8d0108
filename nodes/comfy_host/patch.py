"""MEAF on a ComfyUI model: bound late, never exclusive.

The exclusive attn2 replace slot is not taken at node time. Wrappers on a clone build, for each U-Net call, replacements
which call whatever replacement stands there and add our streams, so packs, LoRAs, ControlNets and guidance nodes work
before and after. Read on ComfyUI 0.3.64 and 0.12: `WrappersMP`, `calc_cond_batch`, `BasicTransformerBlock`.
"""

import hashlib
import logging
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, replace

import torch
from comfy.model_patcher import ModelPatcher
from comfy.patcher_extension import WrappersMP
from torch import Tensor

from ...deepexpo_models.dsid import Identity, Semantics
from ...deepexpo_models.meaf import MAX_STRENGTH, StreamSettings, require_family, stream_codes
from .attention import SKIPPED, FusedAttention, Others, Watch
from .branch import compute_dtype, join_branches
from .memory import LoadedMEAF
from .rows import read_rows
from .sampling import PatchStream, SamplingRun, StreamCall, check_batch, sides_by_uuid
from .sites import ComfySites, find_sites

logger = logging.getLogger(__name__)
KEY = "deepexpo.meaf"
BATCH = "deepexpo.batch"
COMPILE_KEY = "torch.compile"  # of the wrapper that ComfyUI's TorchCompileModel sets


def apply_meaf(
    model: ModelPatcher,
    meaf: LoadedMEAF,
    identity: Identity | None,
    semantics: Semantics | None,
    settings: dict[str, StreamSettings],
    mask: Tensor | None,
) -> ModelPatcher:
    """A clone of the model with MEAF's streams; the input model is untouched.

    settings: stream -> its settings, strengths beyond 0 to MAX_STRENGTH being clamped; mask (M, H, W) or (H, W), clamped to
    [0, 1], or None. Streams already applied to the same
    region are replaced, others stay, so applying twice equals once and masked people add up. Raises ValueError, in one
    sentence, for codes of another encoder, a model of another base family, codes that cannot be aligned, a mask that is none.
    """
    config = meaf.config
    codes = stream_codes(config, identity, semantics)
    sites = find_sites(model.get_model_object("diffusion_model"))
    require_family(config.name, config.base, config.unet, sites.channels, sites.context_width, starter_name(model))
    mask = None if mask is None else _usable_mask(mask)
    added = tuple(
        PatchStream(
            meaf.model,
            name,
            code.detach().clone(),
            _in_range(name, settings.get(name, StreamSettings(1.0, 0.0, 1.0))),
            mask,
            _region(mask),
        )
        for name, code in codes.items()
    )
    return _attach(model.clone(), added, sites, meaf.patcher)


def starter_name(model: ModelPatcher) -> str:
    """Of a starter, "" of any other model. Asked of the instance alone: newer ComfyUIs answer None, and log a warning, for
    whatever their model configs do not have."""
    return vars(model.model.model_config).get("deepexpo_starter", "")


def _in_range(name: str, settings: StreamSettings) -> StreamSettings:
    """A linked number has none of its widget's bounds."""
    strength = min(max(settings.strength, 0.0), MAX_STRENGTH)
    if strength != settings.strength:
        logger.warning(f"the {name} strength is {settings.strength:g}; DeepExPo uses {strength:g}, the end of its range")
    return replace(settings, strength=strength)


def _usable_mask(mask: Tensor) -> Tensor:
    """(M, H, W) or (H, W) -> (M, H, W) in [0, 1]."""
    if mask.ndim not in (2, 3) or 0 in mask.shape:
        raise ValueError(
            f"the mask of Apply MEAF has the shape {tuple(mask.shape)}; connect a mask of at least one pixel, (M, H, W)"
        )
    if mask.is_floating_point() and not bool(mask.isfinite().all()):
        raise ValueError("the mask of Apply MEAF holds NaN or infinite values; repair the node it comes from")
    return mask.detach().float().clamp(0, 1).reshape(-1, *mask.shape[-2:])


def _attach(model: ModelPatcher, added: tuple[PatchStream, ...], sites: ComfySites, patcher: ModelPatcher) -> ModelPatcher:
    earlier: MEAFPatch | None = model.get_attachment(KEY)
    taken = {(stream.name, stream.region) for stream in added}
    kept = tuple(s for s in (earlier.streams if earlier else ()) if (s.name, s.region) not in taken)
    patch = MEAFPatch(kept + added, sites)
    model.set_attachments(KEY, patch)
    for kind, wrapper in patch.wrappers():
        model.remove_wrappers_with_key(kind, KEY)
        model.add_wrapper_with_key(kind, KEY, wrapper)
    used = {id(stream.meaf) for stream in patch.streams}
    others = [p for p in model.get_additional_models_with_key(KEY) if p.model is not patcher.model and id(p.model) in used]
    model.set_additional_models(KEY, [*others, patcher])
    return model


def _region(mask: Tensor | None) -> str:
    if mask is None:
        return ""
    return f"{tuple(mask.shape)} {hashlib.sha256(mask.float().cpu().contiguous().numpy()).hexdigest()}"


@dataclass(frozen=True, eq=False)
class MEAFPatch:
    """All streams on a model. Frozen, and shared by its clones: ComfyUI deep-copies patch objects with each clone up to
    0.12, and shares them later."""

    streams: tuple[PatchStream, ...]
    sites: ComfySites

    def __deepcopy__(self, memo):
        return self

    def wrappers(self) -> tuple[tuple[str, Callable], ...]:
        return (
            (WrappersMP.OUTER_SAMPLE, self.outer_sample),
            (WrappersMP.PREDICT_NOISE, self.predict_noise),
            (WrappersMP.CALC_COND_BATCH, self.calc_cond_batch),
            (WrappersMP.APPLY_MODEL, self.apply_model),
        )

    def outer_sample(self, executor, noise: Tensor, *args, **kwargs):
        """Begin a run; whatever happens, nothing of it stays."""
        guider = executor.class_obj
        check_batch(self.streams, len(noise))
        options = guider.model_options.setdefault("transformer_options", {})
        try:
            model_sampling = guider.model_patcher.get_model_object("model_sampling")
            options[KEY] = run = SamplingRun(self.streams, model_sampling, sides_by_uuid(guider.conds))
            run.conds = [cond for group in guider.conds.values() for cond in group]
            return executor(noise, *args, **kwargs)
        finally:
            options.pop(KEY, None)

    def predict_noise(self, executor, x: Tensor, timestep: Tensor, model_options: dict = {}, seed=None):
        """Decide once per step which streams act."""
        run = model_options.get("transformer_options", {}).get(KEY)
        if run is not None:
            run.active, run.pictures = run.at_sigma(float(timestep.max())), x
        return executor(x, timestep, model_options, seed)

    def calc_cond_batch(self, executor, model, conds, x_in: Tensor, timestep: Tensor, model_options: dict):
        """Note what the batch is made of."""
        options = model_options.get("transformer_options", {})
        run = options.get(KEY)
        if run is not None and run.active != ():
            model_options = {**model_options, "transformer_options": {**options, BATCH: run.batch(conds, x_in, options)}}
        return executor(model, conds, x_in, timestep, model_options)

    def apply_model(
        self,
        executor,
        x: Tensor,
        t: Tensor,
        c_concat=None,
        c_crossattn=None,
        control=None,
        transformer_options={},
        **kwargs,
    ):
        """Add the streams for this call of the U-Net."""
        run = transformer_options.get(KEY) or SamplingRun(self.streams, executor.class_obj.model_sampling, {})
        active = run.at_sigma(float(t.max())) if run.active is None else run.active
        if not active:
            return executor(x, t, c_concat, c_crossattn, control, transformer_options, **kwargs)
        batch = transformer_options.get(BATCH) or run.batch_of_call(transformer_options, x)
        call = StreamCall(run, active, read_rows(batch, transformer_options, x, c_crossattn, run.places))
        if any(stream.code(row) is None for stream in active for row in call.rows):
            run.warn_once(SKIPPED)
        with ExitStack() as registered:  # owns all that is registered for the length of the call
            options = self._with_streams(transformer_options, call, x, executor.class_obj)
            options = join_branches(registered, executor.class_obj, call, x, t, options, kwargs.get("y"))
            return executor(x, t, c_concat, c_crossattn, control, options, **kwargs)

    def _with_streams(self, options: dict, call: StreamCall, x: Tensor, model) -> dict:
        """Streams in the base's own layers; a MEAF that acts in its branch alone has none there."""
        steady = _is_compiled(options, model)
        here = [s for s in (self.streams if steady else call.active) if not s.meaf.sites.keys().isdisjoint(self.sites.channels)]
        if not here:
            return options
        replacements, patches = options.get("patches_replace", {}), options.get("patches", {})
        watch = Watch(call.run) if patches.get("attn2_patch") else None
        acting, like = call.active if steady else None, torch.empty(0, dtype=compute_dtype(model), device=x.device)
        by_fusion, attn2 = _by_fusion(here), dict(replacements.get("attn2", {}))
        for key, site in self.sites.keys.items():
            size = self.sites.size(site, *x.shape[-2:])
            heads = self.sites.heads[site]
            layers = tuple(call.run.layer(streams, call.rows, site, heads, size, like, acting) for streams in by_fusion)
            others = Others(call.run, by_fusion, call.rows, site, watch, acting)
            attn2[key] = FusedAttention(layers, size, len(x), attn2.get(key, attn2.get(key[:2])), others)
        options = {**options, "patches_replace": {**replacements, "attn2": attn2}}
        if watch is not None:
            options["patches"] = {**patches, "attn2_patch": [watch.before, *patches["attn2_patch"], watch.after]}
        return options


def _is_compiled(options: dict, model) -> bool:
    """Whether torch.compile sees the U-Net: then layers keep their shapes, and all streams are laid out, whichever act."""
    wrappers = options.get("wrappers", {}).get(WrappersMP.APPLY_MODEL, {})
    return COMPILE_KEY in wrappers or hasattr(model.diffusion_model, "_orig_mod")


def _by_fusion(streams) -> tuple[tuple[PatchStream, ...], ...]:
    fusions = dict.fromkeys(stream.meaf.config.fusion for stream in streams)
    return tuple(tuple(s for s in streams if s.meaf.config.fusion == fusion) for fusion in fusions)

"""MEAF on a ComfyUI model: bound late, never exclusive.

The exclusive attn2 replace slot is not taken at node time. Wrappers on a clone build, for each U-Net call, replacements
which call whatever replacement stands there and add our streams, so packs, LoRAs, ControlNets and guidance nodes work
before and after. Read on ComfyUI 0.3.64 and 0.12: `WrappersMP`, `calc_cond_batch`, `BasicTransformerBlock`.
"""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass, replace

from comfy.ldm.modules.attention import optimized_attention
from comfy.model_patcher import ModelPatcher
from comfy.patcher_extension import WrappersMP
from torch import Tensor

from ...deepexpo_models.dsid import Identity, Semantics
from ...deepexpo_models.meaf import StreamSettings, fuse, require_family, stream_codes
from .branch import joined_branches
from .memory import LoadedMEAF
from .sampling import PatchStream, SamplingRun, StreamCall, check_batch, roles_by_position, roles_by_uuid
from .sites import PatchKey, find_sites

KEY = "deepexpo.meaf"
ROLES = "deepexpo.roles"


def apply_meaf(
    model: ModelPatcher,
    meaf: LoadedMEAF,
    identity: Identity | None,
    semantics: Semantics | None,
    settings: dict[str, StreamSettings],
    mask: Tensor | None,
) -> ModelPatcher:
    """A clone of the model with MEAF's streams; the input model is untouched.

    settings: stream -> its settings; mask (M, H, W) or (H, W) in [0, 1], or None. Streams already applied to the same
    region are replaced, others stay, so applying twice equals once and masked people add up. Raises ValueError, in one
    sentence, for codes of another encoder, a model of another base family, or codes that cannot be aligned.
    """
    config = meaf.config
    codes = stream_codes(config, identity, semantics)
    sites = find_sites(model.get_model_object("diffusion_model"))
    require_family(config.name, config.base, config.unet, sites.channels, sites.context_width)
    mask = None if mask is None else mask.detach().clone().reshape(-1, *mask.shape[-2:])
    added = tuple(
        PatchStream(
            meaf.model,
            name,
            code.detach().clone(),
            settings.get(name, StreamSettings(1.0, 0.0, 1.0)),
            mask,
            _region(mask),
        )
        for name, code in codes.items()
    )
    return _attach(model.clone(), added, sites.keys, meaf.patcher)


def _attach(
    model: ModelPatcher, added: tuple[PatchStream, ...], keys: dict[PatchKey, str], patcher: ModelPatcher
) -> ModelPatcher:
    earlier: MEAFPatch | None = model.get_attachment(KEY)
    taken = {(stream.name, stream.region) for stream in added}
    kept = tuple(s for s in (earlier.streams if earlier else ()) if (s.name, s.region) not in taken)
    patch = MEAFPatch(kept + added, keys)
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
    sites: dict[PatchKey, str]

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
        model_sampling = guider.model_patcher.get_model_object("model_sampling")
        options[KEY] = SamplingRun(self.streams, model_sampling, roles_by_uuid(guider.conds))
        try:
            return executor(noise, *args, **kwargs)
        finally:
            options.pop(KEY, None)

    def predict_noise(self, executor, x: Tensor, timestep: Tensor, model_options: dict = {}, seed=None):
        """Decide once per step which streams act; the only device sync."""
        run = model_options.get("transformer_options", {}).get(KEY)
        if run is not None:
            run.active = run.at_sigma(float(timestep.max()))
        return executor(x, timestep, model_options, seed)

    def calc_cond_batch(self, executor, model, conds, x_in: Tensor, timestep: Tensor, model_options: dict):
        """Note the role of each list: its position alone does not tell (dual CFG passes negative, middle, positive)."""
        options = model_options.get("transformer_options", {})
        run = options.get(KEY)
        if run is not None:
            model_options = {**model_options, "transformer_options": {**options, ROLES: run.list_roles(conds)}}
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
        call = _call(run, active, transformer_options, len(x))
        options = self._with_streams(transformer_options, call)
        with joined_branches(executor.class_obj, call, x, t, control, options, kwargs.get("y")) as (control, options):
            return executor(x, t, c_concat, c_crossattn, control, options, **kwargs)

    def _with_streams(self, options: dict, call: "FusedCall") -> dict:
        """Streams in the base's own layers; a MEAF that acts in its branch alone has none there."""
        active = tuple(stream for stream in call.active if not stream.meaf.sites.keys().isdisjoint(self.sites.values()))
        if not active:
            return options
        replacements = options.get("patches_replace", {})
        attn2 = dict(replacements.get("attn2", {}))
        for key, site in self.sites.items():
            attn2[key] = replace(call, active=active, inner=attn2.get(key, attn2.get(key[:2])), site=site)
        return {**options, "patches_replace": {**replacements, "attn2": attn2}}


@dataclass(frozen=True, eq=False)
class FusedCall(StreamCall):
    """The attn2 replacement of one layer for one call of the U-Net; inner: the replacement that stood there, if any."""

    inner: Callable | None = None
    site: str = ""

    def __call__(self, q: Tensor, k: Tensor, v: Tensor, extra: dict) -> Tensor:
        text = self._text(q, k, v, extra)
        call = self._expanded(len(q))
        if call is None:
            self.run.warn_once(
                "DeepExPo is skipped where another node changes the batch inside the attention: per-latent codes and masks "
                "cannot be aligned there; use one code without a mask, or remove that node"
            )
            return text
        height, width = extra["activations_shape"][-2:]
        for fusion, streams in _by_fusion(call.active):
            text = fuse(text, q, extra["n_heads"], [call.fused(s, call.site, q, (height, width)) for s in streams], fusion)
        return text

    def _text(self, q: Tensor, k: Tensor, v: Tensor, extra: dict) -> Tensor:
        if self.inner is not None:
            return self.inner(q, k, v, extra)
        return optimized_attention(
            q, k, v, extra["n_heads"], attn_precision=extra.get("attn_precision"), transformer_options=extra
        )

    def _expanded(self, batch: int) -> "FusedCall | None":
        """This call for the batch found at the layer; another pack may have repeated each chunk's rows there."""
        if batch == len(self.roles) * len(self.rows):
            return self
        uniform = all(len(s.codes) == 1 and s.mask is None for s in self.active)
        if not uniform or batch % len(self.roles):
            return None
        return replace(self, rows=(0,) * (batch // len(self.roles)))


def _by_fusion(active: tuple[PatchStream, ...]):
    fusions = dict.fromkeys(stream.meaf.config.fusion for stream in active)
    return [(fusion, [s for s in active if s.meaf.config.fusion == fusion]) for fusion in fusions]


def _call(run: SamplingRun, active: tuple[PatchStream, ...], options: dict, batch: int) -> FusedCall:
    positions = options.get("cond_or_uncond") or [0]
    listed = options.get(ROLES) or roles_by_position(1 + max(positions))
    return FusedCall(run, active, tuple(listed[i] for i in positions), _latent_rows(options, batch // len(positions)))


def _latent_rows(options: dict, latents: int) -> tuple[int, ...]:
    """Index of each latent of this call in the run's batch: context windows (ComfyUI's, AnimateDiff's) see a part of it."""
    window = options.get("context_window")
    if window is not None and getattr(window, "dim", 0) == 0 and len(window.index_list) == latents:
        return tuple(window.index_list)
    indices = (options.get("ad_params") or {}).get("sub_idxs")
    return tuple(indices) if indices is not None and len(indices) == latents else tuple(range(latents))

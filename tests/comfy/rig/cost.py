"""A full-size SD1.5 with MEAFs of several sizes, each through Apply MEAF and through the simplest patch, and their cost."""

import time
from collections.abc import Callable
from contextlib import contextmanager
from dataclasses import replace
from itertools import pairwise

import torch
from torch.utils.flop_counter import FlopCounterMode

from .families import FAMILIES
from .models import bare_model, conditioning, full_model, latents, repeat_draw, sample
from .pack import the_pack

LATENT = 32  # pixels / 8; with classifier-free guidance every U-Net call is of two of these
ROUNDS, STEPS = 4, 3  # of what is timed
TOKENS = {
    "2 x 4": {"identity": 4, "expression": 4},
    "2 x 16": {"identity": 16, "expression": 16},
    "light (4 + 8 + 4)": {"identity": 4, "expression": 8, "pose": 4},
}
BASE, OURS, PLAIN = "unpatched", "Apply MEAF, {}", "projecting each step, {}"
LIGHT = OURS.format("light (4 + 8 + 4)")


def in_windows(studio, frames: int, size: int) -> tuple:
    """A clip of these many codes through windows of `size`, as AnimateDiff sends them: the patched model, and a list to which a
    run adds the bytes that it keeps, once per window."""
    from comfy.patcher_extension import WrappersMP

    key, kept = studio.pack.module("nodes.comfy_host.patch").KEY, []
    identity, semantics = studio.codes(6, batch=frames)
    model = studio.apply(identity=identity, semantics=semantics).clone()

    def wrapper(executor, x, timestep, model_options={}, seed=None):
        options, out = model_options["transformer_options"], []
        for start in range(0, len(x), size):
            part = x[start : start + size]
            options["ad_params"] = {"sub_idxs": list(range(start, start + len(part)))}
            out.append(executor(part, timestep[: len(part)], model_options, seed))
            kept.append(options[key].kept_bytes())
        return torch.cat(out)

    model.add_wrapper_with_key(WrappersMP.PREDICT_NOISE, "windows", wrapper)
    return model, kept


class Bench:
    """A full-size U-Net, SD1.5 unless told, and its patched variants. weights: False where the U-Net itself is never run, which
    then takes no memory."""

    def __init__(self, dtype: torch.dtype = torch.float32, family: str = "sd15", weights: bool = True):
        self.pack, self.family = the_pack(), family
        self.dsid = self.pack.module("deepexpo_models.dsid")
        widths = FAMILIES[family].full
        self.model = full_model(family, dtype) if weights else bare_model(family, widths, dtype)
        self.conditions = conditioning(family, 1, widths=widths), conditioning(family, 5, widths=widths)

    def variants(self) -> dict:
        """Name -> ModelPatcher. Each kind of tokens twice: through the node, and through the plain patch."""
        variants = {BASE: self.model}
        for name, tokens in TOKENS.items():
            meaf = self.meaf(tokens)
            variants[OURS.format(name)] = self.ours(meaf)
            variants[PLAIN.format(name)] = self.plain(meaf)
        return variants

    def meaf(self, tokens: dict[str, int], dtype: torch.dtype | None = None):
        """The light MEAF with other numbers of tokens, in the U-Net's dtype unless told."""
        import comfy.ops
        from comfy.model_patcher import ModelPatcher

        config = default_config(self.family)
        streams = {name: replace(config.streams[name], tokens=count) for name, count in tokens.items()}
        library = self.pack.module("deepexpo_models.meaf")
        model = library.MEAF(replace(config, streams=streams), comfy.ops.manual_cast)
        model.to(dtype or self.model.model_dtype()).eval().requires_grad_(False)
        repeat_draw(model, torch.randn(100_003, generator=torch.Generator().manual_seed(3)))
        patcher = ModelPatcher(model, self.model.load_device, self.model.offload_device)
        return self.pack.module("nodes.comfy_host.memory").LoadedMEAF(patcher)

    def ours(self, meaf, model=None, mask: torch.Tensor | None = None):
        whole = {f"{stream}_end_percent": 1.0 for stream in ("expression", "pose")}
        identity, semantics = self.codes(meaf)
        given = {"model": model or self.model, "meaf": meaf, "identity": identity, "mask": mask}
        if meaf.config.streams.keys() - {"identity"}:
            given["semantics"] = semantics
        return self.pack.run("DeepExPoApplyMEAF", **given, **whole)

    def codes(self, meaf):
        config, encoder = self.dsid.CONFIGS["base"], self.dsid.EncoderId(**vars(meaf.config.encoder))
        face = torch.nn.functional.normalize(torch.ones(1, config.identity_width), dim=-1)
        rotation, place, scale = self.dsid.matrix_to_rotation(torch.eye(3)[None]), torch.zeros(1, 2), torch.zeros(1, 1)
        expression = torch.ones(1, config.expression_width)
        return self.dsid.Identity(face, encoder), self.dsid.Semantics(expression, rotation, place, scale, encoder)

    @torch.no_grad()
    def plain(self, meaf):
        """The same streams as the simplest patch has them: keys and values from the tokens in every call."""
        codes = self.pack.module("deepexpo_models.meaf").stream_codes(meaf.config, *self.codes(meaf))
        model, dtype = meaf.model, self.model.model_dtype()
        tokens = {s: torch.cat([model.tokens(s, code.to(dtype)), model.null_tokens(s)]) for s, code in codes.items()}
        find_sites = self.pack.module("nodes.comfy_host.sites").find_sites
        patched = self.model.clone()
        for key, site in find_sites(self.model.get_model_object("diffusion_model")).keys.items():
            layers = {stream: model.streams[stream].sites.get_submodule(site) for stream in tokens}
            patched.set_model_attn2_replace(plain_attention(layers, tokens), *key)
        return patched

    def sample(self, model, steps: int, callback: Callable) -> None:
        noise = latents(height=LATENT, width=LATENT)
        sample(model, *self.conditions, noise=noise, steps=steps, callback=lambda *_: callback())


def plain_attention(layers: dict, tokens: dict[str, torch.Tensor]) -> Callable:
    """tokens: stream -> (2, N, D), of the positive and the negative side."""
    from comfy.ldm.modules.attention import optimized_attention

    def attend(q, k, v, extra):
        heads = extra["n_heads"]
        out = optimized_attention(q, k, v, heads, attn_precision=extra["attn_precision"], transformer_options=extra)
        for stream, layer in layers.items():
            chosen = tokens[stream][extra["cond_or_uncond"]]
            parts = [split_heads(x, heads) for x in (q, layer.to_k(chosen), layer.to_v(chosen))]
            out = out + torch.nn.functional.scaled_dot_product_attention(*parts).transpose(1, 2).flatten(2)
        return out

    return attend


def split_heads(x: torch.Tensor, heads: int) -> torch.Tensor:
    return x.unflatten(-1, (heads, -1)).transpose(1, 2)


def default_config(family: str):
    library = the_pack().module("deepexpo_models.meaf")
    dsid = the_pack().module("deepexpo_models.dsid")
    return library.default_config("benchmark", family, dsid.CONFIGS["base"], dsid.EncoderId("base", "b" * 64))


def step_flops(bench: Bench, model, steps: int = 2) -> list[int]:
    """Per sampling step; the last is the steady state."""
    totals = [0]
    with FlopCounterMode(display=False) as counter:
        bench.sample(model, steps, lambda: totals.append(counter.get_total_flops()))
    return [after - before for before, after in pairwise(totals)]


def step_seconds(bench: Bench, model) -> list[tuple[float, float]]:
    """Of each step after the first: seconds in all, and of these in the streams' own code."""
    marks = []
    with time_of_streams(bench) as spent:
        bench.sample(model, STEPS, lambda: marks.append((time.perf_counter(), sum(spent))))
    return [(after[0] - before[0], after[1] - before[1]) for before, after in pairwise(marks)]


def steps_in_turn(bench: Bench, variants: dict, rounds: int = ROUNDS) -> dict[str, list[tuple[float, float]]]:
    """step_seconds of each, the variants in turn, so that what else the machine does falls on all alike."""
    found = {name: [] for name in variants}
    for _ in range(rounds):
        for name, model in variants.items():
            found[name] += step_seconds(bench, model)
    return found


@contextmanager
def time_of_streams(bench: Bench):
    """A list that collects the seconds inside our attention replacement, less those of the text attention in it."""
    call, spent = bench.pack.module("nodes.comfy_host.attention").FusedAttention, []
    whole, text = call.__call__, call._text

    def timed(method, sign):
        def measure(*args):
            began = time.perf_counter()
            result = method(*args)
            spent.append(sign * (time.perf_counter() - began))
            return result

        return measure

    call.__call__, call._text = timed(whole, 1), timed(text, -1)
    try:
        yield spent
    finally:
        call.__call__, call._text = whole, text


def projected_bytes(bench: Bench, model) -> int:
    """The keys and values that a run keeps."""
    from comfy.patcher_extension import WrappersMP

    key, found = bench.pack.module("nodes.comfy_host.patch").KEY, []

    def watch(executor, x, timestep, model_options={}, seed=None):
        result = executor(x, timestep, model_options, seed)
        found.append(model_options["transformer_options"][key].kept_bytes())
        return result

    watched = model.clone()
    watched.add_wrapper_with_key(WrappersMP.PREDICT_NOISE, "benchmark", watch)
    bench.sample(watched, 1, lambda: None)
    return found[-1]

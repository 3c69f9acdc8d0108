"""The cross-attention layers of a U-Net call without the U-Net: what each is given, and what a patched model answers there."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from kernels import Kernels

from .models import latents, sample
from .pack import the_pack

TEXT = 77  # tokens of a prompt


@dataclass(frozen=True, eq=False)
class Layer:
    """place: block, number, transformer; query (B, L, C), key and value of the text (B, N, C); extra: what ComfyUI adds."""

    place: tuple[str, int, int]
    query: Tensor
    key: Tensor
    value: Tensor
    extra: dict

    def answer(self, replacements: dict[tuple, Callable]) -> Tensor:
        """As a transformer block looks for a replacement; the plain text attention where there is none."""
        found = self.replacement(replacements) or text_attention
        return found(self.query, self.key, self.value, self.extra)

    def replacement(self, replacements: dict[tuple, Callable]) -> Callable | None:
        return replacements.get(self.place) or replacements.get(self.place[:2])


@dataclass(frozen=True, eq=False)
class Call:
    """What a model's patches do in one U-Net call; without replacements the text attention alone."""

    layers: Sequence[Layer]
    replacements: dict[tuple, Callable]

    def __call__(self) -> None:
        for layer in self.layers:
            layer.answer(self.replacements)

    @property
    def acting(self) -> int:
        return sum(layer.replacement(self.replacements) is not None for layer in self.layers)

    def counts(self) -> tuple[int, int]:
        """Kernels, bytes read and written."""
        with Kernels() as seen:
            self()
        return seen.count, seen.bytes


def text_attention(query: Tensor, key: Tensor, value: Tensor, extra: dict) -> Tensor:
    from comfy.ldm.modules import attention

    return attention.optimized_attention(query, key, value, extra["n_heads"], transformer_options=extra)


def calls(models: dict, conditions, latent: int) -> dict[str, Call]:
    """Of models that differ in their patches alone: the same queries and texts for all. latent: height and width."""
    options = {name: options_of_call(model, conditions, latent) for name, model in models.items()}
    first = next(iter(models))
    layers = layers_of(models[first], options[first], latent)
    return {name: Call(layers, found.get("patches_replace", {}).get("attn2", {})) for name, found in options.items()}


def options_of_call(model, conditions, latent: int) -> dict:
    """The transformer options that the U-Net would see in the first step of a run, guided, both sides in one call."""
    from comfy.patcher_extension import WrappersMP

    seen = {}

    def in_place_of_the_unet(executor, x, t, c_concat=None, c_crossattn=None, control=None, transformer_options={}, **kwargs):
        if len(x) != 2:
            raise RuntimeError("ComfyUI called the U-Net once for each side: too little memory is free to measure here")
        seen.update(transformer_options)
        return torch.zeros_like(x)

    watched = model.clone()  # its wrappers come first, so that ours is the last before the U-Net
    watched.add_wrapper_with_key(WrappersMP.APPLY_MODEL, "layers", in_place_of_the_unet)
    sample(watched, *conditions, noise=latents(height=latent, width=latent), steps=1)
    return seen


def layers_of(model, options: dict, latent: int) -> list[Layer]:
    """Random queries and texts of the shapes that the layers have."""
    sites, dtype = the_pack().module("nodes.comfy_host.sites").find_sites(model.model.diffusion_model), model.model_dtype()
    shared = {name: value for name, value in options.items() if not name.startswith("patches")}
    shared |= {"attn_precision": None, "original_shape": [2, 4, latent, latent]}
    found, draw = [], torch.Generator().manual_seed(0)
    for number, (place, site) in enumerate(sites.keys.items()):
        width, heads, (high, wide) = sites.channels[site], sites.heads[site], sites.size(site, latent, latent)
        shapes = [(2, high * wide, width), (2, TEXT, width), (2, TEXT, width)]
        extra = {**shared, "block": place[:2], "block_index": place[2], "transformer_index": number}
        extra |= {"n_heads": heads, "dim_head": width // heads, "activations_shape": [2, width, high, wide]}
        found.append(Layer(place, *(torch.randn(shape, generator=draw).to(dtype) for shape in shapes), extra))
    return found


def seconds(variants: dict[str, Callable], repeats: int) -> dict[str, list[float]]:
    """Of each repeat, after one that is not timed; in turn, so that what else the machine does falls on all alike. CPU time,
    which is that of the call where there is one thread."""
    found: dict[str, list[float]] = {name: [] for name in variants}
    for repeat in range(repeats + 1):
        for name, call in variants.items():
            began = time.process_time()
            call()
            if repeat:
                found[name].append(time.process_time() - began)
    return found

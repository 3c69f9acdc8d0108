"""Synthetic files of public face adapters, and the published formulas, written down from the publications alone: nothing here
comes from deepexpo_models, so that it can judge the importers.

A file is {name: tensor} in the published names. `tokens` and `IPAttention` are the reference; `attention_numbers` are the
published places of the numbered weights.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor

LORA_RANK = 128
# Number of the attn2 processor -> its block and width: down, up, mid.
SD15 = {
    **{n: (f"down_blocks.0.attentions.{i}.transformer_blocks.0", 320) for i, n in enumerate((1, 3))},
    **{n: (f"down_blocks.1.attentions.{i}.transformer_blocks.0", 640) for i, n in enumerate((5, 7))},
    **{n: (f"down_blocks.2.attentions.{i}.transformer_blocks.0", 1280) for i, n in enumerate((9, 11))},
    **{n: (f"up_blocks.1.attentions.{i}.transformer_blocks.0", 1280) for i, n in enumerate((13, 15, 17))},
    **{n: (f"up_blocks.2.attentions.{i}.transformer_blocks.0", 640) for i, n in enumerate((19, 21, 23))},
    **{n: (f"up_blocks.3.attentions.{i}.transformer_blocks.0", 320) for i, n in enumerate((25, 27, 29))},
    31: ("mid_block.attentions.0.transformer_blocks.0", 1280),
}


def _run(block: str, first: int, depth: int, width: int) -> dict:
    return {first + 2 * layer: (f"{block}.transformer_blocks.{layer}", width) for layer in range(depth)}


SDXL = {
    **_run("down_blocks.1.attentions.0", 1, 2, 640), **_run("down_blocks.1.attentions.1", 5, 2, 640),
    **_run("down_blocks.2.attentions.0", 9, 10, 1280), **_run("down_blocks.2.attentions.1", 29, 10, 1280),
    **_run("up_blocks.0.attentions.0", 49, 10, 1280), **_run("up_blocks.0.attentions.1", 69, 10, 1280),
    **_run("up_blocks.0.attentions.2", 89, 10, 1280), **_run("up_blocks.1.attentions.0", 109, 2, 640),
    **_run("up_blocks.1.attentions.1", 113, 2, 640), **_run("up_blocks.1.attentions.2", 117, 2, 640),
    **_run("mid_block.attentions.0", 121, 10, 1280),
}  # fmt: skip
PUBLISHED = {"sd15": (SD15, 768), "sdxl": (SDXL, 2048)}  # attention_numbers, text width


def scaled_numbers(base: str, channels: int) -> dict:
    """The published places at other widths: `channels` instead of 320."""
    return {n: (path, width * channels // 320) for n, (path, width) in PUBLISHED[base][0].items()}


def adapter_shapes(numbers: dict, context: int, projector: dict, lora: bool) -> dict[str, tuple[int, ...]]:
    shapes = {f"image_proj.{name}": shape for name, shape in projector.items()}
    for n, (_, width) in numbers.items():
        shapes |= {f"ip_adapter.{n}.{part}_ip.weight": (width, context) for part in ("to_k", "to_v")}
        if lora:
            shapes |= _lora(n - 1, width, width) | _lora(n, width, context)
    return shapes


def _lora(n: int, width: int, context: int) -> dict:
    ins = {"to_q": width, "to_k": context, "to_v": context, "to_out": width}
    down = {f"ip_adapter.{n}.{part}_lora.down.weight": (LORA_RANK, fan) for part, fan in ins.items()}
    return down | {f"ip_adapter.{n}.{part}_lora.up.weight": (width, LORA_RANK) for part in ins}


def mlp(context: int, tokens: int = 4, face: int = 512, hidden: int = 1024) -> dict:
    return {
        "proj.0.weight": (hidden, face), "proj.0.bias": (hidden,),
        "proj.2.weight": (tokens * context, hidden), "proj.2.bias": (tokens * context,),
        "norm.weight": (context,), "norm.bias": (context,),
    }  # fmt: skip


def linear(context: int, tokens: int, face: int) -> dict:
    return {
        "proj.weight": (tokens * context, face), "proj.bias": (tokens * context,),
        "norm.weight": (context,), "norm.bias": (context,),
    }  # fmt: skip


def resampler(context: int, tokens: int = 16, face: int = 512, width: int = 1280) -> dict:
    return {
        "latents": (1, tokens, width),
        "proj_in.weight": (width, face), "proj_in.bias": (width,),
        "proj_out.weight": (context, width), "proj_out.bias": (context,),
        "norm_out.weight": (context,), "norm_out.bias": (context,),
        **_layers(width),
    }  # fmt: skip


def plus_face(context: int, clip: int = 1280, width: int = 1280) -> dict:
    """IP-Adapter Plus-Face: 16 latents that look at CLIP's patches; width 768 in SD1.5's file, 1280 in SDXL's."""
    return resampler(context, face=clip, width=width)


def full_face(context: int, clip: int = 1280) -> dict:
    return {
        "proj.0.weight": (clip, clip), "proj.0.bias": (clip,), "proj.2.weight": (context, clip), "proj.2.bias": (context,),
        "proj.3.weight": (context,), "proj.3.bias": (context,),
    }  # fmt: skip


def plus(context: int, clip: int = 1280) -> dict:
    perceiver = {
        "proj_in.weight": (context, clip), "proj_in.bias": (context,),
        "proj_out.weight": (context, context), "proj_out.bias": (context,),
        "norm_out.weight": (context,), "norm_out.bias": (context,),
        **_layers(context),
    }  # fmt: skip
    return mlp(context) | {f"perceiver_resampler.{name}": shape for name, shape in perceiver.items()}


def _layers(width: int) -> dict:
    layer = {
        "0.norm1.weight": (width,), "0.norm1.bias": (width,), "0.norm2.weight": (width,), "0.norm2.bias": (width,),
        "0.to_q.weight": (width, width), "0.to_kv.weight": (2 * width, width), "0.to_out.weight": (width, width),
        "1.0.weight": (width,), "1.0.bias": (width,), "1.1.weight": (4 * width, width), "1.3.weight": (width, 4 * width),
    }  # fmt: skip
    return {f"layers.{i}.{name}": shape for i in range(4) for name, shape in layer.items()}


def random_file(shapes: dict, seed: int = 0, dtype: torch.dtype = torch.float32) -> dict[str, Tensor]:
    """Values at which every part shows: matrices of 1 / sqrt(fan in), norms about 1, LoRAs of a tenth."""
    draw = torch.Generator().manual_seed(seed)

    def value(name: str, shape: tuple) -> Tensor:
        noise = torch.randn(shape, generator=draw)
        if len(shape) == 1:
            return noise * 0.1 + name.endswith("weight")
        return noise * shape[-1] ** -0.5 * (0.3 if "_lora" in name else 1)

    return {name: value(name, shape).to(dtype) for name, shape in shapes.items()}


def nested(file: dict[str, Tensor]) -> dict[str, dict[str, Tensor]]:
    """As the .bin files have it: {"image_proj": {...}, "ip_adapter": {...}}."""
    parts = ("image_proj", "ip_adapter")
    return {p: {name.removeprefix(f"{p}."): x for name, x in file.items() if name.startswith(f"{p}.")} for p in parts}


# The published formulas


def tokens(file: dict[str, Tensor], context: int, face: Tensor, picture: Tensor | None = None, *, shortcut=True, head=64):
    """face (B, F), or several photos of it (B, n, F), whose tokens stand side by side; picture (B, M, D) -> tokens
    (B, N, context). What looks at the picture alone gets no face."""
    if face is not None and face.ndim == 3:
        return torch.cat([tokens(file, context, photo) for photo in face.unbind(1)], dim=1)
    p = {name.removeprefix("image_proj."): x for name, x in file.items() if name.startswith("image_proj.")}
    if "proj.3.weight" in p:
        x = F.linear(F.gelu(F.linear(picture, p["proj.0.weight"], p["proj.0.bias"])), p["proj.2.weight"], p["proj.2.bias"])
        return F.layer_norm(x, (context,), p["proj.3.weight"], p["proj.3.bias"])
    if "latents" in p:
        looked_at = face[:, None] if picture is None else picture
        seen = _perceiver(p, F.linear(looked_at, p["proj_in.weight"], p["proj_in.bias"]), p["latents"], head)
        return F.layer_norm(
            F.linear(seen, p["proj_out.weight"], p["proj_out.bias"]), (context,), p["norm_out.weight"], p["norm_out.bias"]
        )
    if "proj.weight" in p:
        x = F.linear(face, p["proj.weight"], p["proj.bias"])
    else:
        x = F.gelu(F.linear(face, p["proj.0.weight"], p["proj.0.bias"]))
        x = F.linear(x, p["proj.2.weight"], p["proj.2.bias"])
    x = F.layer_norm(x.reshape(len(face), -1, context), (context,), p["norm.weight"], p["norm.bias"])
    if picture is None:
        return x
    q = {name.removeprefix("perceiver_resampler."): y for name, y in p.items() if name.startswith("perceiver_resampler.")}
    seen = _perceiver(q, F.linear(picture, q["proj_in.weight"], q["proj_in.bias"]), x, head)
    seen = F.layer_norm(
        F.linear(seen, q["proj_out.weight"], q["proj_out.bias"]), (context,), q["norm_out.weight"], q["norm_out.bias"]
    )
    return x + seen if shortcut else seen


def _perceiver(p: dict, seen: Tensor, latents: Tensor, head: int) -> Tensor:
    latents = latents.expand(len(seen), -1, -1)
    width = latents.shape[-1]
    for i in range(4):
        w = {name.removeprefix(f"layers.{i}."): x for name, x in p.items() if name.startswith(f"layers.{i}.")}
        own = F.layer_norm(latents, (width,), w["0.norm2.weight"], w["0.norm2.bias"])
        both = torch.cat([F.layer_norm(seen, (width,), w["0.norm1.weight"], w["0.norm1.bias"]), own], dim=1)
        key, value = (both @ w["0.to_kv.weight"].T).chunk(2, dim=-1)
        latents = latents + attention(own @ w["0.to_q.weight"].T, key, value, width // head) @ w["0.to_out.weight"].T
        x = F.layer_norm(latents, (width,), w["1.0.weight"], w["1.0.bias"])
        latents = latents + F.gelu(x @ w["1.1.weight"].T) @ w["1.3.weight"].T
    return latents


def attention(query: Tensor, key: Tensor, value: Tensor, heads: int) -> Tensor:
    """softmax(q k^T / sqrt(d)) v, per head; all (B, L, H * d)."""
    q, k, v = (x.unflatten(-1, (heads, -1)).transpose(1, 2) for x in (query, key, value))
    weights = (q @ k.transpose(-1, -2) / math.sqrt(q.shape[-1])).softmax(-1)
    return (weights @ v).transpose(1, 2).flatten(2)


class IPAttention:
    """A diffusers attention processor: text attention, plus the adapter's where the layer has it, LoRA added to all four."""

    def __init__(self, file: dict[str, Tensor], number: int, image: Tensor | None, lora: bool = False):
        self.file, self.prefix, self.image, self.lora = file, f"ip_adapter.{number}.", image, lora

    def __call__(self, attn, hidden_states: Tensor, encoder_hidden_states: Tensor | None = None, attention_mask=None, **_):
        context = hidden_states if encoder_hidden_states is None else encoder_hidden_states
        query = self._linear(attn.to_q, "to_q", hidden_states)
        key, value = self._linear(attn.to_k, "to_k", context), self._linear(attn.to_v, "to_v", context)
        out = attention(query, key, value, attn.heads)
        if f"{self.prefix}to_k_ip.weight" in self.file and self.image is not None:
            key, value = (self.image @ self.file[f"{self.prefix}{part}_ip.weight"].T for part in ("to_k", "to_v"))
            out = out + attention(query, key, value, attn.heads)
        return self._linear(attn.to_out[0], "to_out", out)

    def _linear(self, layer, part: str, x: Tensor) -> Tensor:
        out = layer(x)
        if not self.lora:
            return out
        down, up = (self.file[f"{self.prefix}{part}_lora.{side}.weight"] for side in ("down", "up"))
        return out + x @ down.T @ up.T


def attach_reference(unet, file: dict[str, Tensor], image: Tensor | None, lora: bool = False) -> None:
    """On a diffusers U-Net, numbered by the order of its own processors."""
    unet.set_attn_processor({name: IPAttention(file, n, image, lora) for n, name in enumerate(unet.attn_processors)})

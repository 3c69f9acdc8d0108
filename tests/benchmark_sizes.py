"""What MEAF's sizes cost on the real SD1.5 and SDXL: arithmetic and bytes. `python tests/benchmark_sizes.py --write`

Needs no weights, no GPU and no memory to speak of: everything is on PyTorch's meta device, where shapes are computed and
numbers are not. Prints the report; --write puts it in docs/sizes.md.
"""

import argparse
import sys
from pathlib import Path

import torch
from diffusers import UNet2DConditionModel
from torch.utils.flop_counter import FlopCounterMode

ROOT = Path(__file__).resolve().parents[1]
sys.path.append(str(ROOT))

from deepexpo_models.dsid import CONFIGS, EncoderId
from deepexpo_models.evaluation.tables import markdown
from deepexpo_models.meaf import MEAF, SIZE_EMBEDDING, default_config
from deepexpo_models.meaf.branch import COPIED
from deepexpo_models.meaf.diffusers_host import AttachedMEAF, branch_config

GIB, TERA = 2**30, 1e12
TEXT = 77
BASES = {  # family -> (what diffusers builds it from, pixels it was made for)
    "sd15": ({"cross_attention_dim": 768, "attention_head_dim": 8}, 512),
    "sdxl": (
        {
            "block_out_channels": (320, 640, 1280), "down_block_types": ("DownBlock2D",) + ("CrossAttnDownBlock2D",) * 2,
            "up_block_types": ("CrossAttnUpBlock2D",) * 2 + ("UpBlock2D",), "transformer_layers_per_block": (1, 2, 10),
            "attention_head_dim": (5, 10, 20), "cross_attention_dim": 2048, "use_linear_projection": True,
            "addition_embed_type": "text_time", "addition_time_embed_dim": 256,
            "projection_class_embeddings_input_dim": 1280 + SIZE_EMBEDDING,
        },
        1024,
    ),
}  # fmt: skip


def rows(family: str) -> list[dict]:
    """One row for the base alone and one per size."""
    arguments, pixels = BASES[family]
    with torch.device("meta"):
        unet = UNet2DConditionModel(**arguments).requires_grad_(False)
        found = [{"": "the base alone", "weights, M": parameters(unet), **cost(unet, None, pixels)}]
        for size in ("light", *COPIED):
            branch = None if size == "light" else branch_config(unet, size)
            config = default_config(size, family, CONFIGS["base"], EncoderId("base", "b" * 64), branch=branch)
            meaf = MEAF(config)
            count = parameters(meaf)
            table = {
                "": size, "weights, M": count, "file in fp16, GiB": 2e6 * count / GIB, **cost(unet, meaf, pixels),
                "weights, gradients, AdamW, GiB": 16e6 * count / GIB,
            }  # fmt: skip
            found.append(table)
    base = found[0]["TFLOP per step"]
    return [{**row, "over the base": f"{row['TFLOP per step'] / base - 1:+.2%}"} for row in found]


def cost(unet: UNet2DConditionModel, meaf: MEAF | None, pixels: int) -> dict[str, float]:
    """A sampling step of one picture with guidance, and what a training step of one picture keeps for its backward pass."""
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        call(unet, meaf, pixels, batch=2)
    projections = 0
    if meaf is not None:  # ComfyUI projects tokens once per run, diffusers' host in every call
        with torch.no_grad(), FlopCounterMode(display=False) as once:
            for name, tokens in every_token(meaf, 2).items():
                for site in meaf.sites:
                    meaf.project(name, site, tokens)
        projections = once.get_total_flops()
    found = {"TFLOP per step": (counter.get_total_flops() - projections) / TERA}
    return found if meaf is None else {**found, "activations of one training picture, fp16, GiB": kept(unet, meaf, pixels)}


def call(unet: UNet2DConditionModel, meaf: MEAF | None, pixels: int, batch: int) -> torch.Tensor:
    latents = torch.empty(batch, 4, pixels // 8, pixels // 8)
    text = torch.empty(batch, TEXT, unet.config.cross_attention_dim)
    added = {"text_embeds": torch.empty(batch, 1280), "time_ids": torch.empty(batch, 6)}
    inputs = latents, torch.empty(batch), text
    if meaf is None:
        return unet(*inputs, added_cond_kwargs=added).sample
    with AttachedMEAF(unet, meaf) as attached:
        attached.condition(every_token(meaf, batch))
        return unet(*inputs, added_cond_kwargs=added).sample


def every_token(meaf: MEAF, batch: int) -> dict[str, torch.Tensor]:
    return {name: meaf.tokens(name, torch.empty(batch, stream.input_width)) for name, stream in meaf.config.streams.items()}


def kept(unet: UNet2DConditionModel, meaf: MEAF, pixels: int) -> float:
    """GiB of the tensors that autograd keeps, in half precision, weights not counted; no checkpointing."""
    weights = {p.untyped_storage()._cdata for module in (unet, meaf) for p in module.parameters()}
    found = {}

    def note(tensor):
        storage = tensor.untyped_storage()
        if storage._cdata not in weights:
            found[storage._cdata] = tensor.numel()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        result = call(unet, meaf, pixels, batch=1)
    del result
    return 2 * sum(found.values()) / GIB


def parameters(module: torch.nn.Module) -> float:
    return sum(p.numel() for p in module.parameters()) / 1e6


HEAD = """# Sizes of MEAF

A MEAF is of one of three sizes; the file says which, and the nodes and workflows are the same.

| size | what is added to the frozen U-Net |
| --- | --- |
| `light` | streams in its cross-attention |
| `control` | a trainable copy of the way down and the middle, with the streams in its own cross-attention; \
1x1 convolutions that begin at zero join it to every skip connection and the middle |
| `full` | the paper's dual branch: the whole U-Net copied, joined at the middle and at each block of the way up |

The copy sees the latents, the time step and an empty prompt. An untrained one is bit-equal to the base. ComfyUI loads,
offloads and casts it like a ControlNet, and ControlNets add to it. What is joined is scaled by
`max over the acting streams of strength * mask`.

## Cost on the real bases
"""


def report() -> str:
    parts = [
        HEAD,
        "Made by `python tests/benchmark_sizes.py --write`: counted from the shapes of every operation, on PyTorch's meta "
        "device; nothing was run on a GPU. A step is one sampling step of one picture with guidance (batch 2); the projection "
        "of tokens, once per run in ComfyUI, is not in it. AdamW in float32: 16 bytes per weight.\n",
    ]
    for family, (_, pixels) in BASES.items():
        parts += [f"### {family}, {pixels} x {pixels}\n", markdown(rows(family))]
    return "\n".join(parts)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--write", action="store_true", help="write docs/sizes.md")
    arguments = parser.parse_args()
    text = report()
    print(text)
    if arguments.write:
        (ROOT / "docs" / "sizes.md").write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()

"""ComfyUI's TorchCompileModel before Apply MEAF, and what it counts."""

import os
from contextlib import contextmanager
from unittest.mock import patch

import torch
from torch import Tensor
from torch._dynamo.utils import counters

from .models import latents

BACKEND = os.environ.get("DEEPEXPO_COMPILE_BACKEND", "aot_eager")  # traced and made functional as by inductor
HALF = torch.zeros(1, 64, 64)
HALF[..., :32] = 1


def compiled(model):
    """What TorchCompileModel does, with a backend that it does not offer."""
    from comfy_api.torch_helpers import set_torch_compile_wrapper

    model = model.clone()
    set_torch_compile_wrapper(model=model, backend=BACKEND)
    return model


def changes(studio) -> list[dict]:
    """Ten settings of Apply MEAF: strengths, codes, masks, a window that ends, a stream that is off."""
    identity, semantics = studio.codes(7)
    return [
        {},
        *({"identity_strength": strength} for strength in (0.3, 0.9, 1.7)),
        {"identity": identity},
        {"semantics": semantics},
        {"mask": HALF},
        {"mask": 1 - HALF},
        {"pose_end_percent": 0.3},
        {"expression_strength": 0.0},
    ]


def sampled(studio, model) -> Tensor:
    return studio.sample(model, noise=latents(height=8, width=8), steps=2)


@contextmanager
def pytorch_attention():
    """What ComfyUI takes on a GPU; its choice for CPUs asks for the free memory in each layer, which breaks the graph."""
    from comfy.ldm.modules import attention

    chosen = dict.fromkeys(("optimized_attention", "optimized_attention_masked"), attention.attention_pytorch)
    with patch.multiple(attention, **chosen):
        yield


def count_graphs(studio, patched: bool) -> tuple[dict, list[Tensor]]:
    """Graphs and breaks (by their reason), beginning with none, and the pictures: of the model alone, or of `changes`."""
    base = compiled(studio.model)
    torch._dynamo.reset()
    counters.clear()
    with pytorch_attention():
        pictures = [sampled(studio, studio.apply(base, **change) if patched else base) for change in changes(studio)]
    return {"graphs": counters["stats"]["unique_graphs"], "breaks": dict(counters["graph_break"])}, pictures

"""TorchCompileModel before Apply MEAF: the compiled U-Net is one graph, whatever strength, code, mask or window changes."""

import os
from itertools import pairwise

import pytest
import torch
from torch._dynamo.utils import counters

from rig.models import latents
from studio import Studio

BACKEND = os.environ.get("DEEPEXPO_COMPILE_BACKEND", "aot_eager")
HALF = torch.zeros(1, 64, 64)
HALF[..., :32] = 1


def compiled(model):
    """What TorchCompileModel does, but traced and made functional as by inductor, and not compiled for minutes."""
    from comfy_api.torch_helpers import set_torch_compile_wrapper

    model = model.clone()
    set_torch_compile_wrapper(model=model, backend=BACKEND)
    return model


def counted(calls) -> tuple[dict, list[torch.Tensor]]:
    """Graphs, and breaks by their reason, of calls that begin with an empty cache."""
    torch._dynamo.reset()
    counters.clear()
    pictures = [call() for call in calls]
    return {"graphs": counters["stats"]["unique_graphs"], "breaks": dict(counters["graph_break"])}, pictures


def changes(studio: Studio) -> list[dict]:
    """Ten settings of Apply MEAF: strengths, codes, masks, a window that ends, streams that are off."""
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


@pytest.fixture
def pytorch_attention(monkeypatch):
    """What ComfyUI takes on a GPU; its choice for CPUs asks for the free memory at each layer, which breaks the graph."""
    from comfy.ldm.modules import attention

    for name in ("optimized_attention", "optimized_attention_masked"):
        monkeypatch.setattr(attention, name, attention.attention_pytorch)


@pytest.mark.parametrize("size", ["light", "control"])
def test_one_graph_for_ten_changes(size, pytorch_attention):
    studio = Studio("sd15", size)
    settings = {"noise": latents(height=8, width=8), "steps": 2}
    base = compiled(studio.model)
    plain, _ = counted([lambda: studio.sample(base, **settings)])
    wanted = [studio.sample(studio.apply(**change), **settings) for change in changes(studio)]
    for before, after in pairwise(wanted):
        assert (before - after).abs().max() > 1e-5, "a change that changes nothing proves nothing"
    found, pictures = counted(
        [lambda change=change: studio.sample(studio.apply(base, **change), **settings) for change in changes(studio)]
    )
    assert found == plain == {"graphs": 1, "breaks": {}}
    for picture, right in zip(pictures, wanted, strict=True):
        assert (picture - right).abs().max() < 1e-4 * right.abs().max()

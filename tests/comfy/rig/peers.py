"""Other packs' attention patches, to be measured beside ours: run from the user's own clones through their nodes and classes,
with random weights in the files' form. Nothing of theirs is here."""

import sys
from collections.abc import Callable
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import ModuleType, SimpleNamespace
from unittest.mock import MagicMock, patch

import numpy
import torch
from torch import Tensor, nn

from . import host
from .compiled import pytorch_attention
from .pack import the_pack

VARIABLE = "DEEPEXPO_PEERS"  # the folder of clones, for the tests
WHOLE = {"weight": 1.0, "start_at": 0.0, "end_at": 1.0}
BLOCKS = ("input", "output", "middle")  # the order in which IP-Adapter's files count the layers


@dataclass(frozen=True)
class Peer:
    """family: of the U-Net; apply(module, model, tokens, mask) -> a patched clone of the model, for one face."""

    name: str
    clone: str
    family: str
    apply: Callable

    def inside(self, folder: Path) -> Path:
        return folder.resolve() / self.clone.rsplit("/", 1)[1]

    def load(self, folder: Path) -> ModuleType:
        """Import it as ComfyUI does. Raises ValueError, in one sentence that a page can show (FOLDER is the folder), where
        it is not there or cannot be imported."""
        path = self.inside(folder)
        if not (path / "__init__.py").is_file():
            raise ValueError(f"no {path.name} in FOLDER; clone {self.clone} there")
        try:
            return host.import_folder(path)
        except Exception as error:
            problem = f"{type(error).__name__}: {error}".splitlines()[0].replace(str(path), path.name)
            raise ValueError(f"{path.name} does not load ({problem}); install what it needs, or take it away") from error


def require_folder(folder: Path) -> None:
    if not folder.is_dir():
        clones = ", ".join(peer.clone for peer in PEERS)
        raise ValueError(f"no folder {folder}; give one that holds clones of other packs ({clones}), or leave --peers out")


def load_all(folder: Path) -> tuple[dict[str, Callable], list[str]]:
    """Name -> its apply(model, tokens, mask), and a sentence for each pack that is not there or does not load."""
    require_folder(folder)
    loaded, sentences = {}, []
    for peer in PEERS:
        try:
            loaded[peer.name] = partial(peer.apply, peer.load(folder))
        except ValueError as error:
            sentences.append(str(error))
    return loaded, sentences


@contextmanager
def comfy_as_on_a_gpu(dtype: torch.dtype):
    """PyTorch's attention, and the U-Net's dtype where a pack asks ComfyUI for it."""
    from comfy import model_management

    chosen = {"fp32_unet": dtype == torch.float32, "bf16_unet": dtype == torch.bfloat16}
    with pytorch_attention(), patch.multiple(model_management.args, **chosen):
        yield


def key_values(model) -> dict[str, Tensor]:
    """Random projections of every cross-attention layer, named and numbered as in IP-Adapter's files."""
    found = the_pack().module("nodes.comfy_host.sites").find_sites(model.get_model_object("diffusion_model"))
    keys = sorted(found.keys, key=lambda key: BLOCKS.index(key[0]))  # within a block as they come
    shapes = [(found.channels[found.keys[key]], found.context_width) for key in keys]
    names = ("to_k_ip", "to_v_ip")
    return {
        f"{2 * number + 1}.{name}.weight": torch.randn(shape) * shape[1] ** -0.5
        for number, shape in enumerate(shapes)
        for name in names
    }


def context_width(weights: dict[str, Tensor]) -> int:
    return weights["1.to_k_ip.weight"].shape[1]


def ip_adapter(pack: ModuleType, model, tokens: int, mask: Tensor | None = None):
    """As a "full face" file, the one kind that makes as many tokens as it is given embeddings."""
    layers, width = key_values(model), 64
    middle = context_width(layers)
    project = nn.Sequential(nn.Linear(width, width), nn.GELU(), nn.Linear(width, middle), nn.LayerNorm(middle))
    weights = {"image_proj": {f"proj.{name}": value for name, value in project.state_dict().items()}, "ip_adapter": layers}
    faces = {side: torch.randn(1, tokens, width) for side in ("pos_embed", "neg_embed")}
    options = {"weight_type": "linear", "embeds_scaling": "V only", "attn_mask": mask}
    return run(pack, "IPAdapterEmbeds", model=model, ipadapter=weights, **faces, **options, **WHOLE)


def instant_id(pack: ModuleType, model, tokens: int, mask: Tensor | None = None):
    """Without its ControlNet, and with one face found without a detector."""
    layers, parts = key_values(model), sys.modules[f"{pack.__name__}.InstantID"]
    sizes = {"cross_attention_dim": 1280, "output_cross_attention_dim": context_width(layers)}
    sizes |= {"clip_embeddings_dim": 512, "clip_extra_context_tokens": tokens}
    resampler = parts.Resampler(
        dim=1280, depth=4, dim_head=64, heads=20, num_queries=tokens, embedding_dim=512, ff_mult=4,
        output_dim=sizes["output_cross_attention_dim"],
    )  # fmt: skip
    adapter = parts.InstantID({"image_proj": resampler.state_dict(), "ip_adapter": layers}, **sizes)
    face = {"bbox": (0, 0, 1, 1), "kps": numpy.zeros((5, 2)), "embedding": numpy.ones(512, numpy.float32)}
    detector = SimpleNamespace(det_model=SimpleNamespace(), get=lambda picture: [face])
    rest = {"image": torch.zeros(1, 64, 64, 3), "control_net": MagicMock(), "positive": [], "negative": [], "mask": mask}
    return run(pack, "ApplyInstantID", model=model, instantid=adapter, insightface=detector, **rest, **WHOLE)


def pulid(pack: ModuleType, model, tokens: int, mask: Tensor | None = None):
    """Its attention with the method "fidelity", set by its own function at every layer: its node wants three face models."""
    parts, model, layers = sys.modules[f"{pack.__name__}.pulid"], model.clone(), key_values(model)
    width, dtype = context_width(layers), model.model_dtype()
    adapter = SimpleNamespace(ip_layers=parts.To_KV(layers).to(dtype))
    codes = {side: torch.cat([torch.randn(1, tokens, width), torch.zeros(1, 8, width)], 1) for side in ("cond", "uncond")}
    given = {"pulid": adapter, "weight": 1.0, "ortho": False, "ortho_v2": True, "mask": mask, "sigma_end": 0.0}
    given |= {"sigma_start": float("inf"), **{side: code.to(dtype) for side, code in codes.items()}}
    found = the_pack().module("nodes.comfy_host.sites").find_sites(model.get_model_object("diffusion_model"))
    for number, key in enumerate(sorted(found.keys, key=lambda key: BLOCKS.index(key[0]))):
        parts.set_model_patch_replace(model, {**given, "module_key": str(2 * number + 1)}, key)
    return model


def run(pack: ModuleType, name: str, **inputs):
    """The first output of one of its nodes."""
    node = pack.NODE_CLASS_MAPPINGS[name]()
    return getattr(node, node.FUNCTION)(**inputs)[0]


PEERS = (
    Peer("IPAdapter_plus", "https://github.com/cubiq/ComfyUI_IPAdapter_plus", "sd15", ip_adapter),
    Peer("InstantID", "https://github.com/cubiq/ComfyUI_InstantID", "sdxl", instant_id),
    Peer("PuLID", "https://github.com/cubiq/PuLID_ComfyUI", "sdxl", pulid),
)

"""The published adapters: a row each, and the exact names and shapes of the tensors that a file of it holds.

A file is recognised by these alone, never by its name. K and V name the base family, the projector the kind; a LoRA beside
them, of every attention's to_q, to_k, to_v and to_out, is part of some.
"""

from dataclasses import dataclass

import torch

from ..meaf.projectors import PROJECTORS, StreamConfig
from ..meaf.sites import FAMILIES, UNetShape, unet_sites
from .sites import cross_attentions, numbered_sites

Shapes = dict[str, tuple[int, ...]]
LORA_RANK = 128
LORA_PARTS = ("to_q", "to_k", "to_v", "to_out")
CLIP_PATCHES = (257, 1280)  # CLIP ViT-H/14 at 224 pixels, hidden_states[-2]
HEAD_WIDTH = 64
DEPTH = 4
PERCEIVERS = ("resampler", "patch_resampler", "plus", "plusv2")


@dataclass(frozen=True)
class Kind:
    """A published adapter.

    stream: the MEAF stream it becomes; inputs: the fields of the code it reads, `raw_identity` being the recogniser's
    embedding at its own length; width: of the face's vector, 0 where it reads none; projectors: keys of PROJECTORS, of which
    a file has one; hidden: width inside; tokens: their number, both None where the file decides; picture: patches and their
    width of the CLIP features it looks at; face_model: whose vectors it was trained on.
    """

    name: str
    title: str
    bases: tuple[str, ...]
    stream: str
    inputs: tuple[str, ...]
    width: int
    projectors: tuple[str, ...]
    hidden: int | None
    tokens: int | None
    face_model: str
    lora: bool = False
    picture: tuple[int, int] = (0, 0)
    head_width: int = HEAD_WIDTH


@dataclass(frozen=True)
class Layout:
    """A kind on a base family, with all sizes."""

    kind: Kind
    base: str
    unet: UNetShape
    stream: StreamConfig

    @property
    def title(self) -> str:
        return f"{self.kind.title} for {self.base}"

    def shapes(self) -> Shapes:
        """Name -> shape of every tensor in a file."""
        with torch.device("meta"):
            projector = PROJECTORS[self.stream.projector](self.stream)
        shapes = {f"image_proj.{name}": tuple(tensor.shape) for name, tensor in projector.state_dict().items()}
        return shapes | attention_shapes(self.unet) | (lora_shapes(self.unet) if self.kind.lora else {})


FACE = ("identity",)
PICTURE = ("picture", "blank")
FACE_AND_PICTURE = ("identity", *PICTURE)
BOTH = ("sd15", "sdxl")
KINDS = {
    kind.name: kind
    for kind in (
        Kind("faceid", "IP-Adapter FaceID", BOTH, "identity", FACE, 512, ("mlp",), 1024, 4, "buffalo_l", lora=True),
        Kind("faceid-plus", "IP-Adapter FaceID-Plus", ("sd15",), "identity", FACE_AND_PICTURE, 512, ("plus",), 1024, 4,
             "buffalo_l", lora=True, picture=CLIP_PATCHES),
        Kind("faceid-plusv2", "IP-Adapter FaceID-PlusV2", BOTH, "identity", FACE_AND_PICTURE, 512, ("plusv2",), 1024, 4,
             "buffalo_l", lora=True, picture=CLIP_PATCHES),
        Kind("faceid-portrait", "IP-Adapter FaceID-Portrait", BOTH, "identity", ("photos",), 512, ("portrait",), 1024, 16,
             "buffalo_l"),
        Kind("instantid", "InstantID's adapter", ("sdxl",), "identity", ("raw_identity",), 512, ("resampler",), 1280, 16,
             "antelopev2"),
        # IP-Adapter Plus, not of faces, has the same tensors as Plus-Face. Full-Face was published for SD1.5 alone.
        Kind("plus-face", "IP-Adapter Plus-Face", BOTH, "identity", PICTURE, 0, ("patch_resampler",), None, 16, "clip_vit_h",
             picture=CLIP_PATCHES),
        Kind("full-face", "IP-Adapter Full-Face", ("sd15",), "identity", PICTURE, 0, ("patch_mlp",), 1280, 257, "clip_vit_h",
             picture=CLIP_PATCHES),
        # The published file's projector is one of these three; its hidden width and tokens are read from it.
        Kind("arc2face-expression", "Arc2Face's expression adapter", ("sd15",), "expression", ("expression",), 55,
             ("linear", "mlp", "resampler"), None, None, "smirk"),
    )
}  # fmt: skip


def layouts(found: Shapes, kinds: dict[str, Kind] = KINDS, families: dict[str, UNetShape] = FAMILIES) -> list[Layout]:
    """What a file of these tensors could be: every kind on every base it was published for, sizes that a kind leaves open
    read from the file."""
    return [
        Layout(kind, base, families[base], _stream(kind, projector, families[base].context_width, found))
        for kind in kinds.values()
        for base in kind.bases
        for projector in kind.projectors
    ]


def attention_shapes(unet: UNetShape) -> Shapes:
    channels, width = unet_sites(unet), unet.context_width
    return {
        f"ip_adapter.{number}.{part}_ip.weight": (channels[path], width)
        for number, path in cross_attentions(unet).items()
        for part in ("to_k", "to_v")
    }


def lora_shapes(unet: UNetShape) -> Shapes:
    channels = unet_sites(unet)
    shapes: Shapes = {}
    for number, path in numbered_sites(unet).items():
        width = channels[path.replace("attn1", "attn2")]
        context = unet.context_width if path.endswith("attn2") else width
        for part in LORA_PARTS:
            fan_in = context if part in ("to_k", "to_v") else width
            shapes[f"ip_adapter.{number}.{part}_lora.down.weight"] = (LORA_RANK, fan_in)
            shapes[f"ip_adapter.{number}.{part}_lora.up.weight"] = (width, LORA_RANK)
    return shapes


def _stream(kind: Kind, projector: str, token_width: int, found: Shapes) -> StreamConfig:
    hidden, tokens = _open_sizes(projector, token_width, found)
    perceives = projector in PERCEIVERS
    return StreamConfig(
        inputs=kind.inputs,
        input_width=kind.width + 2 * kind.picture[0] * kind.picture[1],
        hidden_width=kind.hidden or hidden,
        tokens=kind.tokens or tokens,
        token_width=token_width,
        projector=projector,
        depth=DEPTH if perceives else 0,
        head_width=kind.head_width if perceives else 0,
        picture=kind.picture,
        face_model=kind.face_model,
    )


def _open_sizes(projector: str, token_width: int, found: Shapes) -> tuple[int, int]:
    """Hidden width and number of tokens as the file has them; 1 where it has no such tensor, which then fits no layout."""

    def size(name: str, axis: int) -> int:
        shape = found.get(f"image_proj.{name}", ())
        return max(1, shape[axis]) if len(shape) > axis else 1

    return {
        "linear": (1, max(1, size("proj.weight", 0) // token_width)),
        "mlp": (size("proj.0.weight", 0), max(1, size("proj.2.weight", 0) // token_width)),
        "resampler": (size("latents", 2), size("latents", 1)),
        "patch_resampler": (size("latents", 2), size("latents", 1)),
    }.get(projector, (1, 1))

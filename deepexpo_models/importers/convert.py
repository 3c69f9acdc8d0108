"""A public adapter -> a MEAF of one stream that does the same."""

import torch
from torch import Tensor, nn

from ..dsid.codes import public_encoder
from ..meaf import FAMILIES, MEAF, MEAFConfig, UNetShape
from ..meaf.projectors import PROJECTORS, StreamConfig
from ..safetensors_file import excerpt
from ..weights import shape_problems
from .layouts import KINDS, Kind, Layout, Shapes, layouts
from .read import PublicFile
from .sites import cross_attentions

# Of the null key's logit: no score of an attention comes near it, so its weight is exactly zero; finite, so it can be averaged.
NULL_OFF = -1e4


def recognise(
    file: PublicFile,
    kind: str | None = None,
    kinds: dict[str, Kind] = KINDS,
    families: dict[str, UNetShape] = FAMILIES,
) -> Layout:
    """Which adapter a file is, by the names and shapes of its tensors.

    kind: a key of kinds, needed where two have the same tensors. Raises ValueError, in one sentence, for a file of none,
    one with missing, extra or misshapen tensors, and one that is not of that kind.
    """
    if kind is not None and kind not in kinds:
        raise ValueError(f"unknown kind {kind!r}; known: {', '.join(kinds)}")
    known = layouts(file.shapes, kinds, families)
    fitting = [layout for layout in known if layout.shapes() == file.shapes]
    chosen = [layout for layout in fitting if kind in (None, layout.kind.name)]
    if len(chosen) == 1:
        return chosen[0]
    if chosen:
        titles, names = (" or ".join(texts) for texts in ([x.title for x in chosen], [x.kind.name for x in chosen]))
        raise ValueError(f"{file.path.name} may be {titles}, their tensors are alike; choose the kind {names}")
    if fitting:
        raise ValueError(f"{file.path.name} is {fitting[0].title}, not {kind}; leave the kind out, or choose another file")
    raise ValueError(_refusal(file, [layout for layout in known if kind in (None, layout.kind.name)]))


def convert(layout: Layout, tensors: dict[str, Tensor], name: str, operations=nn) -> MEAF:
    """The MEAF, on the CPU in the file's dtypes, of the layers in operations.

    Gates 1, null key off, null tokens the projector's of a zero code: that is the unconditional which those adapters were
    trained with.
    """
    stream = layout.kind.stream
    encoder = public_encoder(layout.stream.face_model)
    config = MEAFConfig(name, layout.base, layout.unet, "tokens", {stream: layout.stream}, encoder)
    projection = {key.removeprefix("image_proj."): x for key, x in tensors.items() if key.startswith("image_proj.")}
    weights = {f"projection.{key}": tensor for key, tensor in projection.items()}
    weights["null_tokens"] = _null_tokens(layout.stream, projection)
    for number, path in cross_attentions(layout.unet).items():
        key, value = (tensors[f"ip_adapter.{number}.{part}_ip.weight"] for part in ("to_k", "to_v"))
        site = {"to_k.weight": key, "to_v.weight": value, "gate": key.new_ones(()), "null_logit": key.new_full((), NULL_OFF)}
        weights |= {f"sites.{path}.{part}": tensor for part, tensor in site.items()}
    with torch.device("meta"):
        meaf = MEAF(config, operations)
    meaf.load_state_dict({f"streams.{stream}.{key}": tensor for key, tensor in weights.items()}, strict=True, assign=True)
    meaf.trained_on = ("photographs",)
    return meaf.eval().requires_grad_(False)


@torch.no_grad()
def _null_tokens(stream: StreamConfig, weights: dict[str, Tensor]) -> Tensor:
    """(N, token_width) in the weights' dtype. A stream that looks at a picture makes its own instead, see meaf.projectors."""
    with torch.device("meta"):
        projector = PROJECTORS[stream.projector](stream)
    projector.load_state_dict({key: tensor.float() for key, tensor in weights.items()}, strict=True, assign=True)
    return projector(torch.zeros(1, stream.input_width))[0].to(next(iter(weights.values())).dtype)


def _refusal(file: PublicFile, known: list[Layout]) -> str:
    """What is wrong with a file that fits none of the layouts: compared with the one that shares most tensors with it."""
    nearest = max(known, key=lambda layout: _shared(layout.shapes(), file.shapes))
    if not _shared(nearest.shapes(), file.shapes):
        titles = ", ".join(dict.fromkeys(layout.kind.title for layout in known))
        first = excerpt(min(file.shapes))
        return f"{file.path.name} is none of the known adapters, its first tensor is {first}; choose a file of {titles}"
    problems = shape_problems(file.shapes, nearest.shapes())
    return (
        f"{file.path.name} is none of the known adapters; {nearest.title} is nearest, but of its tensors are {problems}: "
        f"download it again, or choose another file"
    )


def _shared(a: Shapes, b: Shapes) -> int:
    return len(a.items() & b.items())

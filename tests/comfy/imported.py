"""Synthetic public adapters for the tiny base models, imported, written and loaded by Load MEAF."""

from dataclasses import replace

import torch

import public_adapters as published
from deepexpo_models.importers import KINDS, PublicFile, convert, recognise
from deepexpo_models.meaf import MEAF, save_meaf
from rig.families import TINY
from rig.pack import the_pack, tiny_shape, weights_folder

HEAD, WIDTH = 8, 64  # of the tiny perceivers
PATCHES = (5, 48)  # of the tiny CLIP Vision: 28 pixels in patches of 14, and the class
PROJECTORS = {
    "faceid": published.mlp(TINY.context),
    "faceid-plus": published.plus(TINY.context, PATCHES[1]),
    "faceid-plusv2": published.plus(TINY.context, PATCHES[1]),
    "faceid-portrait": published.mlp(TINY.context, tokens=16),
    "instantid": published.resampler(TINY.context, width=WIDTH),
    "plus-face": published.plus_face(TINY.context, PATCHES[1], WIDTH),
    "full-face": published.full_face(TINY.context, PATCHES[1]),
    "arc2face-expression": published.mlp(TINY.context, face=55, hidden=110),
}


def written_and_loaded(meaf: MEAF):
    """Through a file and Load MEAF; other tests share the folder."""
    path = weights_folder() / "imported.safetensors"
    save_meaf(path, meaf)
    try:
        return the_pack().run("DeepExPoLoadMEAF", meaf_name=path.name)
    finally:
        path.unlink()


class Imported:
    """A synthetic adapter of a kind for the tiny base, imported, written and loaded by Load MEAF."""

    def __init__(self, kind: str, base: str):
        self.kind, self.base = kind, base
        lora = KINDS[kind].lora
        shapes = published.adapter_shapes(published.scaled_numbers(base, TINY.channels), TINY.context, PROJECTORS[kind], lora)
        self.file = published.random_file(shapes)
        picture = PATCHES if KINDS[kind].picture[0] else (0, 0)
        hidden = WIDTH if kind == "instantid" else KINDS[kind].hidden
        tokens = PATCHES[0] if kind == "full-face" else KINDS[kind].tokens
        tiny = replace(KINDS[kind], bases=("tiny",), hidden=hidden, tokens=tokens, picture=picture, head_width=HEAD)
        found = PublicFile(None, {name: tuple(x.shape) for name, x in self.file.items()})
        layout = recognise(found, kind, {kind: tiny}, {"tiny": tiny_shape(base)})
        self.unet = layout.unet
        self.converted = convert(layout, self.file, kind)
        self.meaf = written_and_loaded(self.converted)

    def codes(self, batch: int):
        """The code for Apply MEAF, and the published formula's tokens of it."""
        dsid = the_pack().module("deepexpo_models.dsid")
        encoder = dsid.public_encoder(KINDS[self.kind].face_model)
        torch.manual_seed(3)
        if self.kind == "arc2face-expression":
            numbers = torch.randn(batch, 55)
            rest = torch.eye(3)[:2].flatten().expand(batch, -1), torch.zeros(batch, 2), torch.zeros(batch, 1)
            return {"semantics": dsid.Semantics(numbers, *rest, encoder)}, self.tokens(numbers)
        raw, picture, blank = torch.randn(batch, 512), torch.randn(batch, *PATCHES), torch.randn(batch, *PATCHES)
        norm = raw.norm(dim=-1, keepdim=True)
        identity = dsid.Identity(raw / norm, encoder, norm, picture.flatten(1), blank.flatten(1))
        vector = raw if self.kind == "instantid" else raw / norm
        return {"identity": identity}, self.tokens(vector, picture if KINDS[self.kind].picture[0] else None)

    def tokens(self, vector, picture=None):
        shortcut = self.kind == "faceid-plusv2"
        return published.tokens(self.file, TINY.context, vector, picture, shortcut=shortcut, head=HEAD)

    def apply(self, model, **inputs):
        whole = {"identity_end_percent": 1.0, "expression_end_percent": 1.0}
        return the_pack().run("DeepExPoApplyMEAF", model=model, meaf=self.meaf, **whole, **inputs)

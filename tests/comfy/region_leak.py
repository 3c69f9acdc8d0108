#!/usr/bin/env python
"""How much of one person reaches the other's half of a picture: `python tests/comfy/region_leak.py`.

On the starter, two Apply MEAF with a mask each and a prompt area each, as in the template of two people. The right person and
their expression are exchanged for others, with the same noise: what changes in the left half has leaked. Without masks, the
control, both halves should change alike.
"""

import sys
from dataclasses import dataclass
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path += [str(HERE), str(HERE.parent), str(HERE.parents[1])]  # last: `nodes` is ComfyUI's module first

import torch
from torch import Tensor

from rig import host

SIDE = 128  # pixels of each half
SEEDS, STEPS, CFG = range(4), 12, 3.0
TEXTS = (
    "a photo of a woman, plain yellow background, green clothes",
    "a photo of a man, plain yellow background, purple clothes",
)


@dataclass(frozen=True)
class Scene:
    """Who is on the left and on the right: (person, reference) of the sample faces."""

    left: tuple[str, str] = ("photograph", "turned")
    right: tuple[str, str] = ("person_1", "laughing")


OTHER = Scene(right=("person_3", "surprised"))


@torch.no_grad()
def draw(pack, scene: Scene, masked: bool, seed: int, steps: int) -> Tensor:
    """(SIDE, 2 * SIDE, 3) in [0, 1]"""
    import nodes

    model, clip, vae = pack.run("DeepExPoLoadStarter")
    dsid = pack.run("DeepExPoLoadDSID", dsid_name="photo-dsid.safetensors")
    meaf = pack.run("DeepExPoLoadMEAF", meaf_name="heads-meaf.safetensors")
    areas = []
    for number, (person, reference) in enumerate((scene.left, scene.right)):
        mask = torch.zeros(1, SIDE, 2 * SIDE)
        mask[:, :, number * SIDE : (number + 1) * SIDE] = 1
        identity = pack.run("DeepExPoEncodeIdentity", dsid=dsid, image=pack.run("DeepExPoSampleFace", which=person))
        semantics = pack.run("DeepExPoEncodeSemantics", dsid=dsid, image=pack.run("DeepExPoSampleFace", which=reference))
        where = {"mask": mask} if masked else {}
        model = pack.run("DeepExPoApplyMEAF", model=model, meaf=meaf, identity=identity, semantics=semantics, **where)
        text = nodes.CLIPTextEncode().encode(clip, TEXTS[number])[0]
        areas += nodes.ConditioningSetArea().append(text, SIDE, SIDE, number * SIDE, 0, 1.0)[0]
    negative = nodes.CLIPTextEncode().encode(clip, "")[0]
    empty = nodes.EmptyLatentImage().generate(2 * SIDE, SIDE)[0]
    latents = nodes.KSampler().sample(model, seed, steps, CFG, "euler", "normal", areas, negative, empty)[0]
    return nodes.VAEDecode().decode(vae, latents)[0][0]


def changes(pack, masked: bool, seed: int, steps: int) -> tuple[float, float]:
    """Mean change of the left and of the right half, in levels of 255, when the right person is another."""
    one, other = (draw(pack, scene, masked, seed, steps) for scene in (Scene(), OTHER))
    moved = (one - other).abs() * 255
    return moved[:, :SIDE].mean().item(), moved[:, SIDE:].mean().item()


def main() -> None:
    if reason := host.start():
        sys.exit(reason)
    from rig.pack import the_pack

    print("| | own half | other's half | leak |\n|---|---|---|---|")
    for masked in (True, False):
        pairs = [changes(the_pack(), masked, seed, STEPS) for seed in SEEDS]
        left, right = (sum(side) / len(pairs) for side in zip(*pairs))
        print(f"| {'a mask each' if masked else 'no masks'} | {right:.1f} | {left:.1f} | {left / right:.2f} |", flush=True)


if __name__ == "__main__":
    main()

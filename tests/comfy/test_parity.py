"""Same weights, same latents, same codes: ComfyUI and diffusers give the same epsilon."""

import pytest
import torch

import random_weights
from deepexpo_models.meaf import load_meaf
from deepexpo_models.meaf.diffusers_host import AttachedMEAF
from rig.models import diffusers_twin, latents, predict_noise, twin_noise
from studio import Studio


@pytest.mark.parametrize("mask", [None, "left"])
@pytest.mark.parametrize("size", ["light", "control", "full"])
@pytest.mark.parametrize("family", ["sd15", "sd2", "sdxl"])
@torch.no_grad()
def test_hosts_agree(family, size, mask):
    studio = Studio(family, size)
    if mask:
        mask = torch.zeros(1, 64, 64)
        mask[..., :24] = 1
    strengths = {"identity": 0.8, "expression": 1.2, "pose": 0.5}
    widgets = {f"{stream}_strength": value for stream, value in strengths.items()}
    noisy = latents(batch=2)
    ours = predict_noise(studio.apply(mask=mask, **widgets), noisy, 500, studio.positive)

    meaf = load_meaf(studio.pack_weights() / random_weights.MEAF_FILE.format(f"tiny-{family}", size)).float()
    codes = {
        "identity": studio.identity.embedding,
        "expression": studio.semantics.expression,
        "pose": studio.semantics.rotation,
    }
    twin = diffusers_twin(studio.model)
    plain = twin_noise(twin, noisy, 500, studio.positive)
    with AttachedMEAF(twin, meaf) as attached:
        tokens = {name: meaf.tokens(name, code) for name, code in codes.items()}
        attached.condition(tokens, strengths, dict.fromkeys(tokens, mask) if mask is not None else None)
        theirs = twin_noise(twin, noisy, 500, studio.positive)
    difference = (ours - theirs).abs().max().item()
    print(f"{family} {size}: max difference {difference:.2g}, effect {(theirs - plain).abs().max().item():.2g}")
    assert difference < 1e-5
    assert (theirs - plain).abs().max() > 0.05

"""Beside other packs: layers without the U-Net are those of the U-Net, and packs run from a folder of clones."""

import os
import subprocess
import sys
from functools import partial
from pathlib import Path

import pytest
import torch

from benchmark import PAGE, joined, page
from beside_peers import CASES, OF_SDXL, formulation_of, half, layer_calls
from rig.cost import BASE, Bench
from rig.layers import layers_of, options_of_call
from rig.models import latents, predict_noise
from rig.peers import PEERS, VARIABLE, comfy_as_on_a_gpu, load_all
from studio import Studio

FOLDER = os.environ.get(VARIABLE, "")
with_clones = pytest.mark.skipif(not FOLDER, reason=f"set {VARIABLE} to a folder with clones of other packs to run beside them")


def test_without_the_folder_one_sentence_says_what_to_give(tmp_path):
    script = Path(__file__).with_name("benchmark.py")
    done = subprocess.run([sys.executable, script, "--peers", tmp_path / "none"], capture_output=True, text=True)
    assert done.returncode == 2
    assert f"error: no folder {tmp_path / 'none'}; give one that holds clones of other packs" in done.stderr


def test_a_pack_that_is_missing_or_broken_is_one_sentence(tmp_path):
    broken = PEERS[0].inside(tmp_path)
    broken.mkdir()
    (broken / "__init__.py").write_text("import a_module_that_is_nowhere")
    loaded, sentences = load_all(tmp_path)
    assert not loaded and len(sentences) == len(PEERS)
    assert "does not load (ModuleNotFoundError: No module named 'a_module_that_is_nowhere')" in sentences[0]
    assert sentences[1] == f"no ComfyUI_InstantID in FOLDER; clone {PEERS[1].clone} there"


def test_a_section_is_written_alone():
    text = PAGE.read_text(encoding="utf-8")
    first, sections = page(text)
    assert joined(first, sections) == text
    changed = joined(first, sections | {"Time": "none"})
    assert page(changed) == (first, sections | {"Time": "none"})


@pytest.mark.parametrize("family", ["sd15", "sdxl"])
def test_layers_without_the_unet_are_those_of_the_unet(family):
    """Places, shapes and what a replacement reads, against a call of the U-Net itself."""
    studio, seen = Studio(family), {}
    options = options_of_call(studio.model, (studio.positive, studio.negative), 16)
    layers = layers_of(studio.model, options, 16)
    watched = studio.model.clone()
    for layer in layers:

        def watch(query, key, value, extra, place=layer.place):
            seen[place] = tuple(query.shape), tuple(key.shape), {**extra}
            return query

        watched.set_model_attn2_replace(watch, *layer.place)
    predict_noise(watched, latents(height=16, width=16), 500, studio.positive, studio.negative, cfg=3.0)
    assert seen.keys() == {layer.place for layer in layers}
    for layer in layers:
        query, key, extra = seen[layer.place]
        assert (query, key) == (tuple(layer.query.shape), tuple(layer.key.shape))
        for name in ("n_heads", "dim_head", "activations_shape", "original_shape", "block", "block_index"):
            assert list(_listed(layer.extra[name])) == list(_listed(extra[name])), name
        assert layer.extra["cond_or_uncond"] == extra["cond_or_uncond"] and "sigmas" in layer.extra


def _listed(value):
    return value if isinstance(value, list | tuple) else [value]


def test_a_mask_shows_its_half():
    assert half(None, 8) is None
    left, right = half(0, 8), half(1, 8)
    assert torch.equal(left + right, torch.ones(1, 8, 8)) and left[..., :4].all()


def clones() -> dict:
    """Peer's name -> its apply; a pack that does not load fails its test with the sentence."""
    loaded, sentences = load_all(Path(FOLDER))
    assert "IPAdapter_plus" in loaded, sentences
    return loaded


@with_clones
@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_ours_counts_less_than_ip_adapter(case):
    bench = Bench(torch.bfloat16, weights=False)
    with comfy_as_on_a_gpu(torch.bfloat16), formulation_of("cuda"):
        found = layer_calls(bench, case, clones()["IPAdapter_plus"], 256)
        (text, text_bytes), *patched = (found[name].counts() for name in (BASE, "ours", "theirs"))
        (ours, our_bytes), (theirs, their_bytes) = ((kernels - text, moved - text_bytes) for kernels, moved in patched)
    assert 0 < ours < theirs and 0 < our_bytes < their_bytes
    assert found[BASE].acting == 0 and found["ours"].acting == 16 and found["theirs"].acting >= 15


@with_clones
@pytest.mark.parametrize("peer", [peer for peer in PEERS if peer.name in OF_SDXL], ids=lambda peer: peer.name)
def test_packs_for_sdxl_act(peer):
    """On a tiny SDXL: its patch changes what the layers answer."""
    studio = Studio("sdxl")
    with comfy_as_on_a_gpu(torch.float32):
        try:
            apply = partial(peer.apply, peer.load(Path(FOLDER)))
        except ValueError as error:
            pytest.skip(str(error))
        with torch.inference_mode():  # as ComfyUI runs its nodes
            plain, patched = (studio.noise(model) for model in (studio.model, apply(studio.model, 4)))
    assert (plain - patched).abs().max() > 1e-3 * plain.abs().max()

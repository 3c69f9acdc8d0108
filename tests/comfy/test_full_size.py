"""The laws once at the real sizes: SD1.5, SD2 and SDXL with a light MEAF for the base DSID, SD1.5 with a control one too, all
at random weights."""

import gc
from collections import Counter
from types import SimpleNamespace

import pytest
import torch

import random_weights
from rig.families import FAMILIES
from rig.models import bare_model, conditioning, full_model, latents, predict_noise
from rig.pack import branch_of, the_pack, weights_folder
from studio import OFF, STREAMS, Studio

SITES = {("sd15", "light"): 16, ("sd15", "control"): 7, ("sd2", "light"): 16, ("sdxl", "light"): 70}
PARAMETERS = {
    ("sd15", "light"): 44_456_288, ("sd15", "control"): 384_005_034, ("sd2", "light"): 51_897_184,
    ("sdxl", "light"): 479_956_132,
}  # fmt: skip


class FullStudio(Studio):
    """Real widths, float32 (SDXL bf16, for memory), MEAF stored in fp16 and read from its file."""

    def __init__(self, family: str, size: str):
        self.family, self.size, self.pack = family, size, the_pack()
        library = self.pack.module("deepexpo_models.dsid")
        self.dsid = SimpleNamespace(config=library.CONFIGS["base"], encoder=library.EncoderId("base", "b" * 64))
        self.meaf = self._written_and_loaded()
        self.model = full_model(family, torch.bfloat16 if family == "sdxl" else torch.float32)
        self.positive = conditioning(family, widths=FAMILIES[family].full)
        self.identity, self.semantics = self.codes(0)

    def _written_and_loaded(self):
        branch = None if self.size == "light" else branch_of(self.family, self.size, FAMILIES[self.family].full)
        path = random_weights.write_meaf(weights_folder(), self.family, "base", self.dsid.encoder, branch=branch)
        try:
            return self.pack.run("DeepExPoLoadMEAF", meaf_name=path.name)
        finally:
            path.unlink()

    def noise(self, model):
        return predict_noise(model, latents(height=16, width=16), 500, self.positive)


@pytest.fixture(scope="module", params=SITES, ids="-".join)
def studio(request):
    import comfy.model_management

    yield FullStudio(*request.param)
    comfy.model_management.unload_all_models()
    gc.collect()


def test_every_stream_reaches_every_site_and_strength_zero_is_bit_equal(studio, monkeypatch):
    run, calls = studio.pack.module("nodes.comfy_host.sampling").SamplingRun, Counter()
    layer = run.layer

    def counted(self, streams, rows, site, *rest):
        calls.update((stream.name, site) for stream in streams)
        return layer(self, streams, rows, site, *rest)

    monkeypatch.setattr(run, "layer", counted)

    base, patched = studio.noise(studio.model), studio.noise(studio.apply())
    assert calls == Counter((stream, site) for stream in STREAMS for site in studio.meaf.model.sites)
    assert len(studio.meaf.model.sites) == SITES[studio.family, studio.size]

    effect = (patched - base).std() / base.std()
    print(f"{studio.family} {studio.size}: epsilon of deviation {base.std():.2f}, changed by {effect:.2f} of it")
    assert patched.isfinite().all() and effect > 0.01
    assert torch.equal(studio.noise(studio.apply(**OFF)), base)


def test_the_meaf_has_its_stated_size(studio):
    parameters = list(studio.meaf.model.parameters())
    assert sum(parameter.numel() for parameter in parameters) == PARAMETERS[studio.family, studio.size]
    assert {parameter.dtype for parameter in parameters} == {torch.float16}


def test_other_base_families_are_refused_by_name(studio):
    """SD1.5 and SD2 have the same layers at the same widths: only the text embedding tells them apart."""
    for other in FAMILIES.keys() - {studio.family}:
        sentence = f"'random-{studio.family}' is for {studio.family} models, the connected model is {other};"
        with pytest.raises(ValueError, match=sentence):
            studio.apply(bare_model(other, FAMILIES[other].full))

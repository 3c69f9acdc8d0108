"""What most graphs begin with, on tiny models: a checkpoint, a MEAF for it, and codes."""

from pathlib import Path

import torch

from rig.models import conditioning, latents, predict_noise, sample, tiny_model
from rig.pack import the_pack, weights_folder

STREAMS = ("identity", "expression", "pose")
OFF = {f"{stream}_strength": 0.0 for stream in STREAMS}
WHOLE = {f"{stream}_end_percent": 1.0 for stream in STREAMS}  # every stream to the end, so one call shows all


def same(a: torch.Tensor, b: torch.Tensor) -> bool:
    """Equal but for rounding: another batch size or another order of sums is another kernel."""
    return bool((a - b).abs().max() <= 3e-4 * b.abs().max())


class Studio:
    """The parts, and what an artist does with them."""

    def __init__(self, family: str, size: str = "light"):
        self.family, self.size, self.pack = family, size, the_pack()
        self.model = tiny_model(family)
        self.meaf = self.pack.meaf(family, size)
        self.dsid = self.pack.dsid()
        self.positive, self.negative = conditioning(family, 1), conditioning(family, 5)
        self.identity, self.semantics = self.codes(0)

    def codes(self, seed: int, batch: int = 1):
        """Codes as the encoders would give them, drawn apart so that every difference shows."""
        dsid, config = self.pack.module("deepexpo_models.dsid"), self.dsid.config
        draw = torch.Generator().manual_seed(seed)
        normal = [torch.randn(batch, width, generator=draw) for width in (config.identity_width, config.expression_width)]
        turn = dsid.euler_to_matrix(torch.rand(batch, 3, generator=draw) * 60 - 30)
        identity = dsid.Identity(torch.nn.functional.normalize(normal[0], dim=-1), self.dsid.encoder)
        place = torch.zeros(batch, 2), torch.zeros(batch, 1)
        return identity, dsid.Semantics(normal[1], dsid.matrix_to_rotation(turn), *place, self.dsid.encoder)

    def apply(self, model=None, **inputs):
        given = {"identity": self.identity, "semantics": self.semantics, **inputs}
        return self.pack.run("DeepExPoApplyMEAF", **{"model": model or self.model, "meaf": self.meaf, **WHOLE, **given})

    def sample(self, model, **settings):
        import comfy.model_management

        # Every run begins with its own weights: 0.12 keeps a LoRA's when the next model on the CPU has none.
        comfy.model_management.unload_all_models()
        settings = {"noise": latents(), **settings}
        return sample(model, self.positive, self.negative, **settings)

    def noise(self, model, timestep: int = 500, noisy=None):
        return predict_noise(model, latents() if noisy is None else noisy, timestep, self.positive)

    def pack_weights(self) -> Path:
        return weights_folder()

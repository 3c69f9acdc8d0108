"""Sample pictures of a MEAF's training."""

import torch
from torch import Tensor

from ...image import resize
from ...pipeline.base import Base
from ...pipeline.sampling import sample

ROWS = 4
STEPS, CFG = 15, 4.0


@torch.no_grad()
def show(base: Base, data, step_module) -> Tensor:
    """(2 * ROWS, 3, S, S) in [-1, 1]: targets, each with what is drawn for its caption and codes; always the same ones."""
    generator = torch.Generator().manual_seed(7)
    batch = data.encoded(data.sample(ROWS, generator))
    noise = torch.randn(batch.latents.shape, generator=generator).to(base.unet.device)
    step_module.attached.condition(step_module.guided(batch), dict.fromkeys(step_module.streams, 1.0))
    latents = sample(base, base.text(batch.captions), base.text([""] * ROWS), noise, STEPS, CFG)
    drawn = base.decode(latents).clamp(-1, 1).cpu().float()
    return torch.stack([resize(batch.images.cpu().float(), drawn.shape[-1]), drawn], dim=1).flatten(0, 1)

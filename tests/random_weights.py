"""Real DSID and MEAF files at random weights, gates opened: what the tests run on where trained weights are not the point."""

from pathlib import Path

import torch

from deepexpo_models.dsid import CONFIGS, DSID, EncoderId, save_dsid
from deepexpo_models.meaf import MEAF, BranchConfig, UNetShape, default_config, save_meaf

DSID_FILE = "deepexpo_dsid_{}.safetensors"
MEAF_FILE = "deepexpo_meaf_{}_{}.safetensors"  # base, size


def write_dsid(folder: Path, config: str, seed: int = 0) -> EncoderId:
    torch.manual_seed(seed)
    return save_dsid(Path(folder, DSID_FILE.format(config)), DSID(CONFIGS[config]).half())


@torch.no_grad()
def random_meaf(
    base: str,
    dsid: str,
    encoder: EncoderId,
    unet: UNetShape | None = None,
    branch: BranchConfig | None = None,
    seed: int = 1,
) -> MEAF:
    """Gates at 1, and values and joins large enough that every stream shows."""
    torch.manual_seed(seed)
    meaf = MEAF(default_config(f"random-{base}", base, CONFIGS[dsid], encoder, unet, branch=branch))
    for name, parameter in meaf.named_parameters():
        if name.endswith(".gate"):
            parameter.fill_(1.0)
        elif name.endswith(".to_v.weight") and name.startswith("streams."):
            parameter.normal_(std=0.1)
        elif name.startswith("branch.joins."):
            parameter.normal_(std=0.02)
    for buffer in meaf.buffers():
        buffer.normal_()
    return meaf.eval().requires_grad_(False)


def write_meaf(
    folder: Path,
    base: str,
    dsid: str,
    encoder: EncoderId,
    unet: UNetShape | None = None,
    branch: BranchConfig | None = None,
) -> Path:
    meaf = random_meaf(base, dsid, encoder, unet, branch).half()
    path = Path(folder, MEAF_FILE.format(base, meaf.config.size))
    save_meaf(path, meaf)
    return path

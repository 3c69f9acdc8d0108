"""Meters for the log of a DSID run (METHOD 2.7): cheap, on held-out people, no labels needed but the pose's."""

import torch
import torch.nn.functional as F
from torch import Tensor

from ..dsid import DSID
from ..dsid.losses import pose_error
from .dsid_batches import Batch


@torch.no_grad()
def meters(model: DSID, batch: Batch) -> dict[str, float]:
    """ICC of identity and expression between two frames of a person, identity top-1 among the batch, mean pose error in
    degrees, PSNR of pictures drawn from the person's own codes (self) and from three people's (swap), within the face.
    """
    first, second = model.encode_identity(batch.source), model.encode_identity(batch.target)
    own, lent, posed = (model.encode_semantics(images) for images in (batch.target, batch.expression, batch.pose))
    pose = {name: code for name, code in posed.items() if name != "expression"}
    frames = model.encode_semantics(batch.source)["expression"]
    values = {
        "icc_identity": icc(first, second),
        "icc_expression": icc(own["expression"], frames),
        "top1": (first @ second.T).argmax(1).eq(torch.arange(len(first), device=first.device)).float().mean().item(),
        "psnr_self": masked_psnr(model.reenact(first, **own), batch.target, batch.face),
        "psnr_swap": masked_psnr(model.reenact(first, lent["expression"], **pose), batch.target, batch.face),
    }
    rotation_only = {**batch.target_pose, "translation": own["translation"], "log_scale": own["log_scale"]}
    values["pose_degrees"] = torch.rad2deg(pose_error(own, rotation_only)).item()
    return values


def icc(first: Tensor, second: Tensor) -> float:
    """Codes (B, D) of two frames of B people -> sum of covariances over sum of variances: 1, all identity; 0, none."""
    first, second = first.float() - first.float().mean(0), second.float() - second.float().mean(0)
    shared = (first * second).sum()
    return (shared / (0.5 * (first.square().sum() + second.square().sum())).clamp(min=1e-8)).item()


def masked_psnr(made: Tensor, true: Tensor, mask: Tensor) -> float:
    """Pictures in [-1, 1], mask (B, 1, H, W) -> decibels within the mask, mean over pictures."""
    error = ((made - true).float().square() * mask).sum((1, 2, 3)) / (3 * mask.sum((1, 2, 3))).clamp(min=1)
    return (-10 * torch.log10(F.relu(error) / 4 + 1e-10)).mean().item()

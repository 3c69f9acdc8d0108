"""Meters for the log of a DSID run: cheap, on held-out people, no labels needed but the pose's."""

import torch

from ...dsid import DSID
from ...dsid.losses import cross_correlation, pose_error
from ...evaluation.metrics import icc, psnr, top1
from .batches import Batch


@torch.no_grad()
def meters(model: DSID, batch: Batch) -> dict[str, float]:
    """ICC of identity and expression between two frames of a person; leaks (mean squared correlation of the entries of two
    codes beyond chance, 0 for independent ones); identity top-1 among the batch; mean pose error in degrees; PSNR within
    the face of pictures drawn from the person's own codes (self) and from three people's (swap).
    """
    first, second = model.encode_identity(batch.source), model.encode_identity(batch.target)
    own, lent, posed = (model.encode_semantics(images) for images in (batch.target, batch.expression, batch.pose))
    pose = {name: code for name, code in posed.items() if name != "expression"}
    frames = model.encode_semantics(batch.source)["expression"]
    values = {
        "icc_identity": icc(first, second),
        "icc_expression": icc(own["expression"], frames),
        "leak_identity_pose": cross_correlation(second, own["rotation"]).item(),
        "leak_identity_expression": cross_correlation(second, own["expression"]).item(),
        "leak_expression_pose": cross_correlation(own["expression"], own["rotation"]).item(),
        "top1": top1(first, second, torch.arange(len(first), device=first.device)),
        "psnr_self": psnr(model.reenact(first, **own), batch.target, batch.face),
        "psnr_swap": psnr(model.reenact(first, lent["expression"], **pose), batch.target, batch.face),
    }
    rotation_only = {**batch.target_pose, "translation": own["translation"], "log_scale": own["log_scale"]}
    values["pose_degrees"] = torch.rad2deg(pose_error(own, rotation_only)).item()
    return values

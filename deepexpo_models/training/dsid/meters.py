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
    the face of pictures drawn from the person's own codes (self) and from three people's (swap). What cannot be told is
    left out: the pose error without labels, and agreement of two pictures where people have one each.
    """
    first, second = model.encode_identity(batch.source), model.encode_identity(batch.target)
    own, donor, posed = (model.encode_semantics(images) for images in (batch.target, batch.expression, batch.pose))
    pose = {name: code for name, code in posed.items() if name != "expression"}
    frames = model.encode_semantics(batch.source)["expression"]
    values = {
        "leak_identity_pose": cross_correlation(second, own["rotation"]).item(),
        "leak_identity_expression": cross_correlation(second, own["expression"]).item(),
        "leak_expression_pose": cross_correlation(own["expression"], own["rotation"]).item(),
        "psnr_self": psnr(model.reenact(first, **own), batch.target, batch.face),
        "psnr_swap": psnr(model.reenact(first, donor["expression"], **pose), batch.target, batch.face),
    }
    twice = ~batch.still if batch.still is not None else torch.ones(len(first), dtype=torch.bool, device=first.device)
    if twice.sum() > 1:
        first, second, frames, shown = first[twice], second[twice], frames[twice], own["expression"][twice]
        values |= {
            "icc_identity": icc(first, second),
            "icc_expression": icc(shown, frames),
            "top1": top1(first, second, torch.arange(len(first), device=first.device)),
        }
    if has_pose(batch):
        rotation_only = {**batch.target_pose, "translation": own["translation"], "log_scale": own["log_scale"]}
        values["pose_degrees"] = torch.rad2deg(pose_error(own, rotation_only)).item()
    return values


def has_pose(batch: Batch) -> bool:
    """Whether the pose of any target is known."""
    return bool(batch.target_pose["rotation"].isfinite().all(-1).any())


def unlabelled(batch: Batch) -> dict[str, str]:
    """Loss terms that a batch says nothing of, and what is missing: they are 0 there, which must not look like success."""
    single = batch.still is not None and bool((~batch.still).sum() < 2)
    missing = {
        "pose": "" if has_pose(batch) else "no picture has a pose label",
        "label": "" if batch.label.isfinite().any() else "no picture has expression labels",
        "traits": "" if batch.traits.isfinite().any() else "nothing is known of the people",
        **dict.fromkeys(("identity", "pair", "frames"), "people have one picture each" if single else ""),
    }
    return {name: reason for name, reason in missing.items() if reason}

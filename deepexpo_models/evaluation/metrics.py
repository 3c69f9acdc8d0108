"""The metrics as pure functions of features. A picture without a face is a row of NaN: it counts as the worst value
and is reported as a share, never dropped.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from ..dsid.rotation import euler_to_matrix, geodesic_angle

WORST_COSINE, WORST_DEGREES = -1.0, 180.0
CHANGE_FLOOR = 0.15  # SEMCHG: references that differ less from the identity photo say nothing
KID_DEGREE = 3
DEAD = 1e-3  # rise of closeness, in [-1, 1], below which a stream does nothing


def csim(made: Tensor, person: Tensor) -> float:
    """CSIM: mean cosine of recogniser embeddings (N, D) of made pictures and of the person, in [-1, 1], higher is better."""
    return _filled(F.cosine_similarity(made.float(), person.float(), dim=-1), WORST_COSINE).mean().item()


def id_distance(made: Tensor, person: Tensor) -> float:
    """ID: 1 - CSIM, in [0, 2], lower is better."""
    return 1 - csim(made, person)


def copy_paste(made: Tensor, given: Tensor, other: Tensor) -> float:
    """CSIM to the given photo minus CSIM to another photo of the person: above 0, the photo itself is copied."""
    return csim(made, given) - csim(made, other)


def top1(queries: Tensor, gallery: Tensor, labels: Tensor) -> float:
    """Share of queries (N, D) whose nearest row of the gallery (G, D) by cosine is labels (N,)."""
    cosines = F.normalize(queries.float(), dim=-1) @ F.normalize(gallery.float(), dim=-1).T
    return (_filled(cosines, WORST_COSINE).argmax(1) == labels).logical_and(~queries.isnan().any(1)).float().mean().item()


def area_under_curve(same: Tensor, other: Tensor) -> float:
    """Chance that a value of `same` is above one of `other` (Mann and Whitney 1947)."""
    order = torch.cat([same, other]).argsort().argsort().double()[: len(same)]
    return ((order.sum() - len(same) * (len(same) - 1) / 2) / (len(same) * len(other))).item()


def sim(made: Tensor, reference: Tensor, spans: Tensor) -> float:
    """SIM: mean |difference| of expression factors (N, F) in shares of their ranges spans (F,), in [0, 1], lower is better."""
    return _filled((made - reference).abs() / spans, 1.0).clamp(max=1).mean().item()


def semchg(made: Tensor, person: Tensor, reference: Tensor) -> float:
    """SEMCHG: how far from the identity photo's expression to the reference's, factors (N, F): the projection
    <made - person, reference - person> / |reference - person|^2 in [0, 1], over pairs that differ by more than
    CHANGE_FLOOR; a face missing anywhere counts as no change. NaN when no pair differs that much.
    """
    wanted, got = reference - person, made - person
    size = wanted.norm(dim=1)
    ratio = _filled((got * wanted).sum(1) / size.square().clamp(min=1e-12), 0.0).clamp(0, 1)
    far = ~(size <= CHANGE_FLOOR)  # NaN is kept
    return ratio[far].mean().item() if far.any() else float("nan")


def correlation(made: Tensor, reference: Tensor) -> Tensor:
    """(N, F) each -> Pearson's correlation (F,), 0 for what does not vary. Rows without a face count as the mean, which
    lowers it.
    """
    made, reference = made.double(), reference.double()
    made = torch.where(made.isnan(), made.nanmean(0), made)
    pairs = [torch.stack([a, b]) for a, b in zip(made.T, reference.T)]
    return torch.stack([_filled(torch.corrcoef(pair)[0, 1], 0.0) for pair in pairs])


def agreement(made: Tensor, wanted: Tensor) -> float:
    """EXP and context: share of equal classes (N,) or (N, K); a missing face agrees with nothing."""
    return (made == wanted).float().mean().item()


def pose_errors(made: Tensor, reference: Tensor) -> dict[str, float]:
    """Yaw, pitch, roll in degrees (N, 3) -> POSE, the mean geodesic angle, and the mean absolute difference of each, all in
    degrees, lower is better.
    """
    apart = ((made - reference + 180) % 360 - 180).abs()
    axes = _filled(apart, WORST_DEGREES).mean(0).tolist()
    return {"POSE": turned(made, reference).mean().item(), **dict(zip(("yaw", "pitch", "roll"), axes))}


def turned(made: Tensor, reference: Tensor) -> Tensor:
    """Yaw, pitch, roll in degrees (N, 3) -> the angle between the two heads (N,) in degrees, WORST_DEGREES without a face."""
    angle = geodesic_angle(euler_to_matrix(made), euler_to_matrix(reference))
    return _filled(torch.rad2deg(angle), WORST_DEGREES)


def psnr(made: Tensor, true: Tensor, mask: Tensor | None = None) -> float:
    """Pictures (B, 3, H, W) in [-1, 1], mask (B, 1, H, W) -> mean decibels over pictures, within the mask."""
    mask = torch.ones_like(made[:, :1]) if mask is None else mask
    error = ((made - true).float().square() * mask).sum((1, 2, 3)) / (3 * mask.sum((1, 2, 3))).clamp(min=1)
    return (-10 * torch.log10(error / 4 + 1e-10)).mean().item()


def ssim(made: Tensor, true: Tensor) -> float:
    """Wang et al. 2004: Gaussian window of 11 x 11, sigma 1.5, on (B, C, H, W) in [-1, 1]; mean over all, 1 is equal."""
    line = torch.exp(-((torch.arange(11) - 5.0) ** 2) / (2 * 1.5**2))
    window = torch.outer(line, line) / line.sum() ** 2
    window = window.to(made).expand(made.shape[1], 1, 11, 11)

    def mean(x: Tensor) -> Tensor:
        return F.conv2d(x, window, groups=made.shape[1])

    a, b = mean(made), mean(true)
    spread_a, spread_b = mean(made**2) - a**2, mean(true**2) - b**2
    shared = mean(made * true) - a * b
    c1, c2 = (0.01 * 2) ** 2, (0.03 * 2) ** 2  # the range of [-1, 1] is 2
    return ((2 * a * b + c1) * (2 * shared + c2) / ((a**2 + b**2 + c1) * (spread_a + spread_b + c2))).mean().item()


def fid(made: Tensor, true: Tensor) -> float:
    """Frechet distance of two feature sets (N, D), (M, D) as Gaussians, float64 (Heusel et al. 2017).

    Raises ValueError with fewer rows than dimensions: the covariance would be a guess; use `kid`.
    """
    if min(len(made), len(true)) <= made.shape[1]:
        few = min(len(made), len(true))
        raise ValueError(f"FID of {made.shape[1]} features needs more than as many pictures, got {few}; use KID")
    made, true = made.double(), true.double()
    cov_a, cov_b = (torch.atleast_2d(torch.cov(features.T)) for features in (made, true))
    root = _root(cov_a)
    mixed = torch.linalg.eigvalsh(root @ cov_b @ root).clamp(min=0).sqrt().sum()
    return ((made.mean(0) - true.mean(0)).square().sum() + cov_a.trace() + cov_b.trace() - 2 * mixed).item()


def kid(made: Tensor, true: Tensor) -> float:
    """Unbiased squared MMD with the kernel (x y / D + 1)^3 (Binkowski et al. 2018); about 0 for one distribution."""
    made, true = made.double(), true.double()

    def kernel(a: Tensor, b: Tensor) -> Tensor:
        return (a @ b.T / a.shape[1] + 1) ** KID_DEGREE

    def within(x: Tensor) -> Tensor:
        table = kernel(x, x)
        return (table.sum() - table.trace()) / (len(x) * (len(x) - 1))

    return (within(made) + within(true) - 2 * kernel(made, true).mean()).item()


def icc(first: Tensor, second: Tensor) -> float:
    """Codes (B, D) of two frames of B people -> sum of covariances over sum of variances."""
    first, second = first.double() - first.double().mean(0), second.double() - second.double().mean(0)
    return ((first * second).sum() / (0.5 * (first.square().sum() + second.square().sum())).clamp(min=1e-12)).item()


def sweep_effects(sweep: Tensor, own: Tensor) -> dict[str, float | bool]:
    """A strength sweep's measurements (S, F), own (F,) bool the stream's own columns -> whether their mean never falls, its
    rise, and how far the others moved, each from its least to its most and then the mean, as a share of that rise: NaN
    where the stream does nothing (DEAD).
    """
    line, others = sweep[:, own].mean(1), sweep[:, ~own]
    rise = (line[-1] - line[0]).item()
    moved = (others.amax(0) - others.amin(0)).mean().item()
    side = moved / abs(rise) if abs(rise) > DEAD else math.nan
    return {"monotonic": bool((line.diff() >= 0).all()), "rise": rise, "side effect": side}


def missing(features: Tensor) -> float:
    """Share of rows without a face."""
    return features.isnan().flatten(1).any(1).float().mean().item()


def _filled(values: Tensor, worst: float) -> Tensor:
    return torch.where(values.isnan(), torch.full_like(values, worst), values)


def _root(matrix: Tensor) -> Tensor:
    values, vectors = torch.linalg.eigh(matrix)
    return (vectors * values.clamp(min=0).sqrt()) @ vectors.T

"""DSID's losses: functions of pictures and codes that know no trainer. All return scalars in float32.

Penalties over a batch (`info_nce`, `cross_correlation`) want the codes of all processes: gather before calling.
"""

import torch
import torch.nn.functional as F
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from ..image import IMAGENET_MEAN, IMAGENET_STD, normalised
from .encoders import SemanticEncoder
from .rotation import geodesic_angle, rotation_to_matrix

SCALES = 3  # of the reconstruction's pyramid
VGG_LAYERS = (1, 6, 11, 20, 29)  # relu1_1, 2_1, 3_1, 4_1, 5_1 of torchvision's vgg19.features
VGG_WIDTHS = (64, 64, 0, 128, 128, 0, 256, 256, 256, 256, 0, 512, 512, 512, 512, 0, 512)  # 0: max pool


def weight_map(region: Tensor, face: Tensor, region_weight: float, background: float = 0.15) -> Tensor:
    """region, face (B, 1, H, W) in [0, 1] -> weights (B, 1, H, W) with mean 1 per picture: eyes, brows and mouth count
    1 + region_weight times as much as the face, which no code leaves to chance; the rest counts `background`.
    """
    weights = background + (1 - background) * face + region_weight * region
    return weights / weights.mean(dim=(1, 2, 3), keepdim=True)


def reconstruction(made: Tensor, true: Tensor, weights: Tensor) -> Tensor:
    """made, true (B, 3, H, W), weights (B, 1, H, W) -> L1 over a pyramid of SCALES, plus L1 of the finest gradients."""
    loss = _weighted(_gradients(made) - _gradients(true), weights[:, :, :-1, :-1])
    for scale in range(SCALES):
        if scale:
            made, true, weights = (F.avg_pool2d(x, 2) for x in (made, true, weights))
        loss = loss + _weighted(made - true, weights)
    return loss


def _weighted(difference: Tensor, weights: Tensor) -> Tensor:
    return (difference.float().abs() * weights).mean()


def _gradients(x: Tensor) -> Tensor:
    corner = x[..., :-1, :-1]
    return torch.cat([x[..., 1:, :-1] - corner, x[..., :-1, 1:] - corner], dim=1)


def info_nce(first: Tensor, second: Tensor, temperature: float = 0.1) -> Tensor:
    """first, second (B, D): row i of both belong together, all other rows apart; symmetric, on cosines.

    van den Oord et al. 2018, "Representation Learning with Contrastive Predictive Coding".
    """
    logits = F.normalize(first.float(), dim=-1) @ F.normalize(second.float(), dim=-1).T / temperature
    rows = torch.arange(len(logits), device=logits.device)
    return (F.cross_entropy(logits, rows) + F.cross_entropy(logits.T, rows)) / 2


def cross_correlation(first: Tensor, second: Tensor) -> Tensor:
    """first (B, D), second (B, E) -> mean squared correlation of their entries over the batch, minus what independent
    codes of so few rows show, 1 / (B - 1). What two far frames of one clip share is the identity.
    """
    (first,), (second,) = standardised(first), standardised(second)
    correlation = first.T @ second / (len(first) - 1)
    return correlation.square().mean() - 1 / (len(first) - 1)


def standardised(*codes: Tensor) -> list[Tensor]:
    """Batches (B, D) of one code -> the same, together with mean 0 and variance 1 per entry. From untrained networks codes
    hardly differ, and a contrast of their cosines never starts.
    """
    together = torch.cat(codes).float()
    together = together - together.mean(0)
    together = together / (together.square().sum(0) / max(1, len(together) - 1) + 1e-6).sqrt()
    return list(together.split([len(code) for code in codes]))


def variance_floor(codes: Tensor, floor: float = 1.0) -> Tensor:
    """Mean shortfall of each entry's standard deviation below `floor`; keeps penalties from shrinking a code to nothing.

    Bardes et al. 2022, "VICReg".
    """
    return F.relu(floor - (codes.float().var(dim=0) + 1e-4).sqrt()).mean()


def pose_error(found: dict[str, Tensor], true: dict[str, Tensor]) -> Tensor:
    """Poses as `SemanticEncoder.encode_pose` gives them -> geodesic angle in radians plus L1 of place and log scale, over
    the rows whose true rotation is known (no NaN); 0 without one.
    """
    known = true["rotation"].isfinite().all(dim=-1)
    if not known.any():
        return found["rotation"].sum() * 0
    turn = geodesic_angle(*[rotation_to_matrix(pose["rotation"][known].float()) for pose in (found, true)])
    place = [(found[name][known] - true[name][known]).float().abs().mean() for name in ("translation", "log_scale")]
    return turn.mean() + 2 * sum(place)


def hinge_critic(real: Tensor, made: Tensor) -> Tensor:
    """Logits of true and of made pictures -> the critic's loss (Lim and Ye 2017, "Geometric GAN")."""
    return F.relu(1 - real.float()).mean() + F.relu(1 + made.float()).mean()


def hinge_generator(made: Tensor) -> Tensor:
    return -made.float().mean()


def gradient_penalty(logits: Tensor, pictures: Tensor) -> Tensor:
    """R1: mean squared gradient of the critic at true pictures, which must require grad (Mescheder et al. 2018)."""
    (gradient,) = torch.autograd.grad(logits.float().sum(), pictures, create_graph=True)
    return gradient.float().square().sum(dim=(1, 2, 3)).mean() / 2


class Perceptual(nn.Module):
    """L1 between VGG-19 features of two pictures at four sizes, from a user's own weight file.

    path: safetensors of torchvision's vgg19, keys features.<n>.weight and .bias. Raises ValueError for other files.
    """

    def __init__(self, path: str):
        super().__init__()
        self.features = _vgg_features()
        _load_vgg(self.features, path)
        self.requires_grad_(False)

    def forward(self, made: Tensor, true: Tensor) -> Tensor:
        """made, true (B, 3, H, W) in [-1, 1] -> scalar."""
        loss = made.new_zeros(())
        for _ in range(4):
            for one, other in zip(self._layers(made), self._layers(true.detach())):
                loss = loss + (one - other).float().abs().mean()
            made, true = F.avg_pool2d(made, 2), F.avg_pool2d(true, 2)
        return loss

    def _layers(self, images: Tensor) -> list[Tensor]:
        x, found = normalised((images + 1) / 2, IMAGENET_MEAN, IMAGENET_STD), []
        for index, layer in enumerate(self.features):
            if isinstance(layer, nn.MaxPool2d) and min(x.shape[-2:]) < 2:
                break
            x = layer(x)
            if index in VGG_LAYERS:
                found.append(x)
        return found


class EncoderPerceptual(nn.Module):
    """Distance of two pictures in the features of a semantic encoder's two trunks, after every stage: each position's channels
    scaled to unit length, squared differences (LPIPS of Zhang et al. 2018, without learned weights).

    Both trunks see the whole crop: the face is about as large in it as in the aligned crop that expression is read from.
    """

    def __init__(self, encoder: SemanticEncoder):
        super().__init__()
        self.size = encoder.config.image_size
        self.pose, self.expression = encoder.pose.trunk, encoder.expression.trunk
        self.requires_grad_(False)

    def forward(self, made: Tensor, true: Tensor) -> Tensor:
        """made, true (B, 3, H, W) in [-1, 1] -> scalar."""
        pictures = (self._resized(made), self._resized(true.detach()))
        pairs = [zip(*(trunk.stage_features(images) for images in pictures)) for trunk in (self.pose, self.expression)]
        return torch.stack([_apart(one, other) for layers in pairs for one, other in layers]).mean()

    def _resized(self, images: Tensor) -> Tensor:
        if images.shape[-1] == self.size:
            return images
        return F.interpolate(images, self.size, mode="bilinear", antialias=True)


def _apart(one: Tensor, other: Tensor) -> Tensor:
    one, other = (F.normalize(features.float(), dim=1) for features in (one, other))
    return (one - other).square().sum(1).mean()


def _vgg_features() -> nn.Sequential:
    layers: list[nn.Module] = []
    width = 3
    for out in VGG_WIDTHS:
        layers += [nn.Conv2d(width, out, 3, padding=1), nn.ReLU()] if out else [nn.MaxPool2d(2)]
        width = out or width
    return nn.Sequential(*layers)


def _load_vgg(features: nn.Sequential, path: str) -> None:
    try:
        tensors = load_file(path)
    except (OSError, SafetensorError) as error:
        raise ValueError(f"{path} cannot be read ({error}); give torchvision's vgg19 weights as a safetensors file") from error
    wanted = {f"{n}.{kind}" for n, layer in enumerate(features) if isinstance(layer, nn.Conv2d) for kind in ("weight", "bias")}
    missing = sorted(wanted - {key.removeprefix("features.") for key in tensors})
    if missing:
        raise ValueError(f"{path} lacks features.{missing[0]}; give torchvision's vgg19 weights as a safetensors file")
    features.load_state_dict({key: tensors.get(f"features.{key}", tensors.get(key)) for key in wanted})

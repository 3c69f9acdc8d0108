"""DSID, Dynamic Semantic and Identity Disentanglement: two encoders and a generator."""

from torch import Tensor, nn

from .averaging import Averaging
from .codes import EncoderId
from .config import DSIDConfig
from .encoders import IdentityEncoder, SemanticEncoder
from .generator import Generator
from .readout import ReadOut


class DSID(nn.Module):
    """What a DSID file holds. Plain tensors in and out; `codes` names them.

    operations: the namespace that Linear, Conv2d and GroupNorm come from (torch.nn, or ComfyUI's casting layers).
    """

    encoder: EncoderId  # whose codes it makes; of loaded ones
    trained_on: tuple[str, ...] = ()  # of weights.TRAINED_ON; kept in the file's metadata

    def __init__(self, config: DSIDConfig, operations=nn):
        super().__init__()
        self.config = config
        self.identity_encoder = IdentityEncoder(config, operations)
        self.semantic_encoder = SemanticEncoder(config, operations)
        self.generator = Generator(config, operations) if config.generator_channels else None
        self.readout: ReadOut | None = None  # what the file knows to read from an expression code
        self.averaging: Averaging | None = None  # over what views semantics are read, if not in the picture alone

    def encode_identity(self, images: Tensor) -> Tensor:
        """images (B, 3, S, S) in [-1, 1] -> embedding (B, identity_width) of unit norm."""
        return self.identity_encoder(images)

    def encode_semantics(self, images: Tensor, points: Tensor | None = None) -> dict[str, Tensor]:
        """images (B, 3, S, S) in [-1, 1], points (B, 5, 2) or None -> expression, rotation, translation, log_scale.

        See `SemanticEncoder.forward` for shapes and ranges.
        """
        if self.averaging:
            return self.averaging(self.semantic_encoder, images, points)
        return self.semantic_encoder(images, points)

    def reenact(self, identity: Tensor, expression: Tensor, rotation: Tensor, translation: Tensor, log_scale: Tensor) -> Tensor:
        """Codes (B, ...) -> pictures (B, 3, S, S) in [-1, 1], see `Generator.forward`. ValueError for a DSID without one."""
        if self.generator is None:
            raise ValueError(
                f"the DSID {self.config.name!r} holds encoders alone and draws no pictures; load one with a generator"
            )
        return self.generator(identity, expression, rotation, translation, log_scale)

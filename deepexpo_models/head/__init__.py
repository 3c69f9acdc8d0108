"""The 3-D head: 478 points, ARKit's expressions, a person's resting face, and pictures of it that steer a picture model."""

from .basis import ARKIT52, HeadBasis, load_basis

__all__ = ["ARKIT52", "HeadBasis", "load_basis"]

"""Averaged weights: what a run releases and shows, steadier than the last step's."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from .processes import unwrap


class EMA:
    """A shadow of a module: floating-point parameters averaged in fp32, buffers and all else copied.

    shadow <- shadow + (1 - d) * (parameter - shadow) with d = min(decay, (1 + step) / (10 + step)): the warm-up lets early
    averages forget the random start. A constant stays that constant, bit by bit.
    """

    def __init__(self, module: nn.Module, decay: float):
        if not 0 <= decay < 1:
            raise ValueError(f"the decay of averaged weights is {decay}; it lies in [0, 1), e.g. 0.999")
        self.decay = decay
        self.shadow = {name: _shadow(tensor) for name, tensor in _tensors(module).items()}

    @torch.no_grad()
    def update(self, module: nn.Module, step: int) -> None:
        """Take in the module's weights after `step` (counted from 0)."""
        weight = 1 - min(self.decay, (1 + step) / (10 + step))
        averaged, live = [], []
        for name, tensor in _tensors(module).items():
            self.shadow[name] = self.shadow[name].to(tensor.device)
            if _is_averaged(tensor):
                averaged.append(self.shadow[name])
                live.append(tensor.detach().float())
            else:
                self.shadow[name].copy_(tensor)
        if averaged:
            torch._foreach_lerp_(averaged, live, weight)

    @torch.no_grad()
    def copy_to(self, module: nn.Module) -> None:
        """Write the averaged weights into a module, in its own dtypes."""
        for name, tensor in _tensors(module).items():
            tensor.copy_(self.shadow[name])

    @contextmanager
    def applied(self, module: nn.Module) -> Iterator[None]:
        """Inside, the module has the averaged weights; afterwards, also after an error, its own ones bit by bit."""
        kept = {name: tensor.detach().clone() for name, tensor in _tensors(module).items()}
        try:
            self.copy_to(module)
            yield
        finally:
            with torch.no_grad():
                for name, tensor in _tensors(module).items():
                    tensor.copy_(kept[name])

    def state_dict(self) -> dict[str, Tensor]:
        """Name of parameter or buffer -> averaged tensor."""
        return dict(self.shadow)

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Take averaged weights over; ValueError when they belong to another module."""
        shapes = {name: tuple(tensor.shape) for name, tensor in self.shadow.items()}
        found = {name: tuple(tensor.shape) for name, tensor in state.items()}
        if shapes != found:
            wrong = sorted(name for name in shapes.keys() | found.keys() if shapes.get(name) != found.get(name))
            raise ValueError(
                f"these averaged weights are of another model: {wrong[0]} is {found.get(wrong[0], 'missing')}, "
                f"expected {shapes.get(wrong[0], 'no such tensor')}; use the settings that the run began with"
            )
        for name, tensor in state.items():
            self.shadow[name].copy_(tensor)


def _tensors(module: nn.Module) -> dict[str, Tensor]:
    module = unwrap(module)
    return {**dict(module.named_parameters()), **dict(module.named_buffers())}


def _is_averaged(tensor: Tensor) -> bool:
    return isinstance(tensor, nn.Parameter) and tensor.is_floating_point()


def _shadow(tensor: Tensor) -> Tensor:
    copy = tensor.detach().clone()
    return copy.float() if _is_averaged(tensor) else copy

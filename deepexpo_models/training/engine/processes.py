"""Several processes as one: what accelerate wrapped, and batches gathered with their gradient."""

import torch
from accelerate.optimizer import AcceleratedOptimizer
from torch import Tensor
from torch.nn.parallel import DistributedDataParallel


def unwrap(thing):
    """A module or optimizer as it was before `Engine.prepare`."""
    if isinstance(thing, DistributedDataParallel):
        return thing.module
    return thing.optimizer if isinstance(thing, AcceleratedOptimizer) else thing


def gather_with_grad(tensor: Tensor) -> Tensor:
    """(B, ...) of each process -> (processes * B, ...) in their order, with gradient; one process: the tensor itself.

    Backward sums what all processes want of a row. A loss over gathered rows, averaged by DDP over the processes, so has
    the gradient that one process has on the whole batch. Every process brings the same shape.
    """
    if not (torch.distributed.is_available() and torch.distributed.is_initialized()):
        return tensor
    return _Gather.apply(tensor)


class _Gather(torch.autograd.Function):
    @staticmethod
    def forward(ctx, tensor: Tensor) -> Tensor:
        parts = [torch.empty_like(tensor) for _ in range(torch.distributed.get_world_size())]
        torch.distributed.all_gather(parts, tensor.contiguous())
        return torch.cat(parts)

    @staticmethod
    def backward(ctx, gradient: Tensor) -> Tensor:
        gradient = gradient.clone(memory_format=torch.contiguous_format)  # all_reduce writes into it
        torch.distributed.all_reduce(gradient)
        return gradient.chunk(torch.distributed.get_world_size())[torch.distributed.get_rank()]

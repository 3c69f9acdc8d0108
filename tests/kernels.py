"""What a computation costs by count, which no other work on the machine changes."""

import torch
from torch.utils._python_dispatch import TorchDispatchMode

FREE = ("_unsafe_view", "expand", "new_full", "empty", "lift_fresh")


class Kernels(TorchDispatchMode):
    """Counts the aten calls that do work, and the bytes that they read and write."""

    def __init__(self):
        super().__init__()
        self.count, self.bytes = 0, 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        if not (function.is_view or function.overloadpacket.__name__ in FREE):
            self.count += 1
            outputs = result if isinstance(result, tuple | list) else [result]
            tensors = [x for x in (*args, *(kwargs or {}).values(), *outputs) if torch.is_tensor(x)]
            self.bytes += sum(stored(x) for x in tensors)
        return result


def stored(x: torch.Tensor) -> int:
    """Bytes behind a tensor: dimensions that repeat take none."""
    return x.element_size() * torch.Size([n for n, stride in zip(x.shape, x.stride()) if stride]).numel()

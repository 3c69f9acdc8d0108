"""FSDP: each process keeps a slice of every weight, of its optimizer state and of its average; a state holds them whole.

Asked for by accelerate's own config file (`accelerate launch --config_file`), which reaches us as environment variables.
Without FSDP every function here gives back what it is given.
"""

import os
from collections.abc import Mapping
from typing import cast

import torch
from accelerate import Accelerator, DistributedType, FullyShardedDataParallelPlugin
from torch import Tensor, nn
from torch.distributed.tensor import DTensor, distribute_tensor
from torch.nn.utils import parametrize

WHOLE_STEP = "MEAF's parts are used across modules, so it is gathered as one; write fsdp_auto_wrap_policy: NO_WRAP"
REFUSED = {  # what a config file can ask for -> why not, and what to write instead
    ("ACCELERATE_USE_DEEPSPEED", "true"): "DeepSpeed keeps states that this engine cannot write; use distributed_type: FSDP",
    ("FSDP_VERSION", "1"): "FSDP's first version is superseded; write fsdp_version: 2",
    ("FSDP_AUTO_WRAP_POLICY", "SIZE_BASED_WRAP"): WHOLE_STEP,
    ("FSDP_AUTO_WRAP_POLICY", "TRANSFORMER_BASED_WRAP"): WHOLE_STEP,
}


def check_launch(shards: bool) -> None:
    """Raise ValueError for a launcher's config that this run cannot follow. shards: whether its trainer knows FSDP."""
    for (name, value), sentence in REFUSED.items():
        if os.environ.get(name, "").lower() == value.lower():
            raise ValueError(f"{sentence} in accelerate's config file")
    if _requested() and not shards:
        raise ValueError("FSDP is for the training of MEAF; launch this one with distributed_type: MULTI_GPU")


def shard(accelerator: Accelerator) -> bool:
    """Whether this run is cut into slices. On CPUs, where accelerate 1.15 leaves FSDP out, it is switched on here."""
    state = accelerator.state
    if _requested() and state.distributed_type is DistributedType.MULTI_CPU:
        state.fsdp_plugin, state.distributed_type = FullyShardedDataParallelPlugin(), DistributedType.FSDP
        if accelerator.mixed_precision != "no":
            state.fsdp_plugin.set_mixed_precision(accelerator.mixed_precision)
    return state.distributed_type is DistributedType.FSDP


def without_scalars(module: nn.Module) -> nn.Module:
    """The module with its parameters of shape () kept as (1,), the least that FSDP can cut; it computes with the same."""
    for part in list(module.modules()):
        for name, parameter in list(part.named_parameters(recurse=False)):
            if parameter.ndim == 0:
                parametrize.register_parametrization(part, name, _Scalar())
    return module


def whole(value, keep: bool = True):
    """A tree of tensors with every slice gathered on the CPU; all processes call it. keep: or this process drops it."""
    if isinstance(value, DTensor):
        full = cast(DTensor, value.detach()).full_tensor()
        return full.cpu() if keep else full.new_empty(0)
    if isinstance(value, Mapping):
        return {key: whole(item, keep) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(whole(item, keep) for item in value)
    return value


def state_of(thing, keep: bool = True) -> dict:
    """thing.state_dict() in whole tensors, with the names and shapes they have without FSDP; all processes call it."""
    state = whole(thing.state_dict(), keep)
    return {plain_name(name): value.reshape(()) if _is_scalar(name) and keep else value for name, value in state.items()}


def shapes_of(module: nn.Module) -> dict[str, tuple[int, ...]]:
    """Name -> shape of the tensors of `state_of`, without gathering them."""
    tensors = {name: tensor for name, tensor in module.state_dict().items() if isinstance(tensor, Tensor)}
    return {plain_name(name): () if _is_scalar(name) else tuple(tensor.shape) for name, tensor in tensors.items()}


def parameters_named(end: str, module: nn.Module) -> list[nn.Parameter]:
    """The parameters whose names without FSDP end so; this process's slices of them."""
    return [parameter for name, parameter in module.named_parameters() if plain_name(name).endswith(end)]


def plain_name(name: str) -> str:
    """streams.a.parametrizations.gate.original -> streams.a.gate; other names as they are."""
    return name.replace("parametrizations.", "").removesuffix(".original") if _is_scalar(name) else name


def load_into(thing, state: Mapping) -> None:
    """Undo `state_of`: every process brings the whole state and keeps its slices. Errors are the thing's own."""
    cut = _cut_optimizer if isinstance(thing, torch.optim.Optimizer) else _cut_weights
    thing.load_state_dict(cut(thing, state))


class _Scalar(nn.Module):
    def forward(self, kept: Tensor) -> Tensor:
        return kept.squeeze(0)

    def right_inverse(self, scalar: Tensor) -> Tensor:
        return scalar.unsqueeze(0)


def _requested() -> bool:
    return os.environ.get("ACCELERATE_USE_FSDP", "").lower() == "true"


def _is_scalar(name: str) -> bool:
    return "parametrizations." in name


def _cut_weights(thing, state: Mapping) -> dict:
    here = thing.state_dict()
    names = {plain_name(name): name for name in here}
    return {names.get(name, name): _cut(value, here.get(names.get(name))) for name, value in state.items()}


def _cut_optimizer(optimizer: torch.optim.Optimizer, state: Mapping) -> dict:
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    slices = {
        index: {name: value if name == "step" else _cut(value, parameters[index]) for name, value in kept.items()}
        for index, kept in state["state"].items()
    }
    return {**state, "state": slices}


def _cut(value, like):
    """The slice of a whole tensor that this process keeps, as it keeps `like`; a single number may be () or (1,)."""
    if isinstance(value, Tensor) and isinstance(like, Tensor) and value.numel() == like.numel() == 1:
        value = value.reshape(like.shape)
    return distribute_tensor(value.to(like.device), like.device_mesh, like.placements) if isinstance(like, DTensor) else value

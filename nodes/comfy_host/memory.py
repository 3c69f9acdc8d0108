"""DSID and MEAF under ComfyUI's memory management: it loads, offloads and casts them like any other model."""

from collections.abc import Callable
from dataclasses import dataclass, field

import comfy.model_management
import comfy.ops
import comfy.utils
import torch
from comfy.model_patcher import ModelPatcher
from torch import Tensor, nn

from ...deepexpo_models.dsid import DSID, DSIDConfig, EncoderId, load_dsid
from ...deepexpo_models.dsid.readout import ReadOut
from ...deepexpo_models.meaf import MEAF, MEAFConfig
from ...deepexpo_models.weights import trained_on_words
from .folders import weight_path

PICTURES_PER_BATCH = 16
BYTES_PER_PIXEL = 4 * 512  # activations of the encoders and the generator in float32, rounded up


@dataclass(frozen=True, eq=False)
class LoadedDSID:
    """What a DEEPEXPO_DSID socket carries: the model and its patcher."""

    patcher: ModelPatcher

    @property
    def model(self) -> DSID:
        return self.patcher.model

    @property
    def config(self) -> DSIDConfig:
        return self.model.config

    @property
    def encoder(self) -> EncoderId:
        return self.model.encoder

    @property
    def readout(self) -> ReadOut | None:
        return self.model.readout

    @property
    def described(self) -> str:
        """For people: what it is and from which pictures it learned."""
        return f"{self.encoder}, {trained_on_words(self.model.trained_on)}"


@dataclass(frozen=True, eq=False)
class LoadedMEAF:
    """What a DEEPEXPO_MEAF socket carries: the model and its patcher; lora: of a public adapter, the tensors of a LoRA file."""

    patcher: ModelPatcher
    lora: dict[str, Tensor] = field(default_factory=dict)

    @property
    def model(self) -> MEAF:
        return self.patcher.model

    @property
    def config(self) -> MEAFConfig:
        return self.model.config

    @property
    def described(self) -> str:
        """For people: what it is and from which pictures it learned."""
        return f"MEAF {self.config.name!r} for {self.config.base}, {trained_on_words(self.model.trained_on)}"


def open_dsid(name: str) -> LoadedDSID:
    """Read a DSID file of the model folders. Raises ValueError in one sentence for any other file."""
    return LoadedDSID(managed(load_dsid(weight_path(name), comfy.ops.manual_cast)))


def run_in_batches(dsid: LoadedDSID, call: Callable[..., dict[str, Tensor]], *inputs: Tensor) -> dict[str, Tensor]:
    """Load DSID, run `call(model, *inputs)` over the rows in batches, return its tensors, joined, on ComfyUI's
    intermediate device. Weights keep their dtype; the computation is float32, so that codes do not depend on it.
    """
    device, rows = dsid.patcher.load_device, len(inputs[0])
    views = 2 if dsid.model.averaging else 1  # of each picture, at once
    memory = views * min(rows, PICTURES_PER_BATCH) * dsid.config.image_size**2 * BYTES_PER_PIXEL
    comfy.model_management.load_models_gpu([dsid.patcher], memory_required=memory)
    progress, parts = comfy.utils.ProgressBar(rows), []
    for start in range(0, rows, PICTURES_PER_BATCH):
        comfy.model_management.throw_exception_if_processing_interrupted()
        batch = [x[start : start + PICTURES_PER_BATCH].to(device, torch.float32) for x in inputs]
        parts.append(call(dsid.model, *batch))
        progress.update(len(batch[0]))
    home = comfy.model_management.intermediate_device()
    return {key: torch.cat([part[key] for part in parts]).to(home) for key in parts[0]}


def managed(model: nn.Module) -> ModelPatcher:
    """A model on the CPU, given to ComfyUI to load and offload."""
    management = comfy.model_management
    return ModelPatcher(model, load_device=management.get_torch_device(), offload_device=management.unet_offload_device())

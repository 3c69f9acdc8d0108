"""The LoRA inside a public adapter, as ordinary weight patches that can be taken off a clone again.

A LoRA belongs to the weights, so it acts in the whole picture and in every step; it is on a model as long as a stream of its
MEAF is there with a strength, and once for any number of people.
"""

import uuid
from dataclasses import dataclass

import comfy.lora
from comfy.model_patcher import ModelPatcher

from ...deepexpo_models.meaf import MEAF
from .memory import LoadedMEAF
from .patch import KEY

LORAS = "deepexpo.lora"


@dataclass(frozen=True, eq=False)
class AppliedLora:
    """patches: weight -> the patch that ComfyUI made of the LoRA, for that weight of this model."""

    patches: dict
    strength: float


def apply_lora(model: ModelPatcher, meaf: LoadedMEAF, strength: float) -> ModelPatcher:
    """Put a MEAF's LoRA on a clone that `apply_meaf` made of a model, whose streams decide which LoRAs stay. The last strength
    of a MEAF counts."""
    earlier: dict[MEAF, AppliedLora] = model.get_attachment(LORAS) or {}
    if not (earlier or meaf.lora):
        return model
    _take_off(model, earlier)
    now = {**earlier, meaf.model: AppliedLora(_patches(model, meaf.lora), strength)}
    acting = {stream.meaf for stream in model.get_attachment(KEY).streams if stream.settings.strength != 0}
    kept = {owner: lora for owner, lora in now.items() if owner in acting and lora.patches and lora.strength != 0}
    for lora in kept.values():
        model.add_patches(lora.patches, lora.strength)
    model.set_attachments(LORAS, kept)
    return model


def _patches(model: ModelPatcher, lora: dict) -> dict:
    return comfy.lora.load_lora(dict(lora), comfy.lora.model_lora_keys_unet(model.model, {})) if lora else {}


def _take_off(model: ModelPatcher, applied: dict[MEAF, AppliedLora]) -> None:
    ours = {id(patch) for lora in applied.values() for patch in lora.patches.values()}
    for name, patches in list(model.patches.items()):
        model.patches[name] = [patch for patch in patches if id(patch[1]) not in ours]
        if not model.patches[name]:
            del model.patches[name]
    model.patches_uuid = uuid.uuid4()

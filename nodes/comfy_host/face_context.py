"""Face tokens as the context of a ControlNet that was trained with them instead of the text: InstantID's.

ComfyUI hands every ControlNet of a conditioning the same context. A control that is applied already is wrapped, so that it
alone sees the tokens and those chained to it keep the text; where none is, all that follow see them, by ComfyUI's own
`crossattn_controlnet`. The tokens travel with the conditioning (`model_conds`), so batches, areas, masks and context windows
treat them as they treat the text.
"""

import logging

import comfy.conds
import comfy.model_management
import torch
from comfy.controlnet import ControlBase
from torch import Tensor

from ...deepexpo_models.dsid import Identity
from ...deepexpo_models.meaf import stream_codes
from .memory import LoadedMEAF

logger = logging.getLogger(__name__)
ALL = "crossattn_controlnet"  # ComfyUI's name of the context that ControlNets prefer to the text
ONE = "deepexpo_face_context_{}"
STREAM = "identity"


def identity_to_controlnet(positive: list, negative: list, meaf: LoadedMEAF, identity: Identity) -> tuple[list, list]:
    """Conditionings whose ControlNet sees the identity's tokens, on the negative side those of no face. The inputs are
    untouched.

    Raises ValueError, in one sentence, for a MEAF without identity tokens as wide as its text, codes that are not its, and
    a ControlNet of another base family.
    """
    tokens, null = face_tokens(meaf, identity)
    extras = [extra for _, extra in (*positive, *negative)]
    name = ALL
    bound: dict = {}
    if any("control" in extra for extra in extras):
        taken = {name for extra in extras for name in extra.get("model_conds", {})}
        name = next(name for number in range(len(taken) + 1) if (name := ONE.format(number)) not in taken)
        for control in (extra["control"] for extra in extras if "control" in extra):
            _require_width(control, meaf, tokens.shape[-1])
            bound[control] = bound.get(control) or FaceControl(control, name)
    both = [
        [[text, _with_context(extra, name, shown, bound)] for text, extra in side]
        for side, shown in ((positive, tokens), (negative, null))
    ]
    return both[0], both[1]


@torch.no_grad()
def face_tokens(meaf: LoadedMEAF, identity: Identity) -> tuple[Tensor, Tensor]:
    """The tokens (B, N, width) of an identity and those (1, N, width) of no face, float32, on the intermediate device."""
    config = meaf.config
    stream = config.streams.get(STREAM)
    if stream is None or stream.token_width != config.unet.context_width:
        raise ValueError(
            f"MEAF {config.name!r} makes no identity tokens that can stand in the text's place; load one such as InstantID"
        )
    code = stream_codes(config, identity, None)[STREAM]
    comfy.model_management.load_models_gpu([meaf.patcher])
    code, home = code.to(meaf.patcher.load_device, torch.float32), comfy.model_management.intermediate_device()
    return meaf.model.tokens(STREAM, code).float().to(home), meaf.model.null_tokens(STREAM, code).float().to(home)


class FaceTokens(comfy.conds.CONDCrossAttn):
    """Tokens (1 or latents, N, width) in a conditioning."""

    def process_cond(self, batch_size, **kwargs):
        if len(self.cond) not in (1, batch_size):
            raise ValueError(
                f"Identity to ControlNet got {len(self.cond)} identities for {batch_size} latents; connect one, or set the "
                f"batch size of the latent to {len(self.cond)}"
            )
        return super().process_cond(batch_size, **kwargs)


class FaceControl(ControlBase):
    """A control that sees the tokens of one name; what was chained before it keeps its own context."""

    def __init__(self, control: ControlBase, name: str):
        super().__init__()
        self.inner, self.name, self.warned = getattr(control, "inner", control).copy(), name, False
        self.set_previous_controlnet(control.previous_controlnet)

    def get_control(self, x_noisy, t, cond, batched_number, transformer_options):
        call = (batched_number, transformer_options)
        previous = self.previous_controlnet and self.previous_controlnet.get_control(x_noisy, t, cond, *call)
        own = self.inner.get_control(x_noisy, t, self._seen(cond), *call)
        return previous if own is None else self.control_merge(own, previous, None)

    def _seen(self, cond: dict) -> dict:
        if self.name in cond:
            return {**cond, ALL: cond[self.name]}
        if not self.warned:
            logger.warning("a ControlNet of Identity to ControlNet got a conditioning that did not pass it, and sees the text")
            self.warned = True
        return cond

    def pre_run(self, model, percent_to_timestep_function):
        super().pre_run(model, percent_to_timestep_function)
        self.inner.pre_run(model, percent_to_timestep_function)

    def cleanup(self):
        super().cleanup()
        self.inner.cleanup()

    def get_models(self):
        return super().get_models() + self.inner.get_models()

    def get_extra_hooks(self):
        return super().get_extra_hooks() + self.inner.get_extra_hooks()

    def inference_memory_requirements(self, dtype):
        return super().inference_memory_requirements(dtype) + self.inner.inference_memory_requirements(dtype)

    def copy(self):
        return FaceControl(self.inner, self.name)

    def deepclone_multigpu(self, load_device, autoregister=False):
        """Of ComfyUI 0.33: the same on another device."""
        clone = FaceControl(self.inner.deepclone_multigpu(load_device), self.name)
        if autoregister:
            self.multigpu_clones[load_device] = clone
        return clone


def _with_context(extra: dict, name: str, tokens: Tensor, bound: dict) -> dict:
    context = {"model_conds": {**extra.get("model_conds", {}), name: FaceTokens(tokens)}}
    return {**extra, **context, **({"control": bound[extra["control"]]} if "control" in extra else {})}


def _require_width(control: ControlBase, meaf: LoadedMEAF, width: int) -> None:
    network = getattr(control, "control_model", None)
    named = network.named_parameters() if isinstance(network, torch.nn.Module) else ()
    read = next((weight.shape[1] for name, weight in named if name.endswith("attn2.to_k.weight")), width)
    if read != width:
        raise ValueError(
            f"the ControlNet reads tokens of {read} numbers, those of MEAF {meaf.config.name!r} have {width}: they are for "
            f"different base families; load the ControlNet that belongs to {meaf.config.base}"
        )

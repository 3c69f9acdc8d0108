from comfy_api.latest import io

from ..deepexpo_models.meaf import DEFAULT_SETTINGS, StreamSettings
from . import sockets
from .comfy_host.lora import apply_lora
from .comfy_host.patch import apply_meaf
from .sockets import folded, schema

LORA_STRENGTH = 0.6  # the likeness is full at 1, as published, where the LoRA also changes the look of most checkpoints
WHAT = {"identity": "who the person is", "expression": "the expression", "pose": "the head pose"}
WINDOW = {"start": "When MEAF begins to act on", "end": "When MEAF stops acting on"}


def _strength(stream: str) -> io.Float.Input:
    return io.Float.Input(
        f"{stream}_strength",
        default=DEFAULT_SETTINGS[stream].strength,
        min=0.0,
        max=3.0,
        step=0.05,
        tooltip=f"How strongly {WHAT[stream]} acts. 0 is off, 1 is as trained.",
    )


def _percent(stream: str, end: str) -> io.Float.Input:
    return io.Float.Input(
        f"{stream}_{end}_percent",
        default=getattr(DEFAULT_SETTINGS[stream], f"{end}_percent"),
        min=0.0,
        max=1.0,
        step=0.01,
        tooltip=f"{WINDOW[end]} {WHAT[stream]}, as a share of the sampling: 0 is the first step, 1 the last.",
    )


class ApplyMEAF(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return schema(
            node_id="DeepExPoApplyMEAF",
            display_name="Apply MEAF (Face, Expression, Pose)",
            description="Gives a checkpoint an identity, an expression and a head pose. Works with any sampler, LoRA, "
            "ControlNet and guidance, in any order. For two people use it twice, with a mask each.",
            inputs=[
                io.Model.Input(
                    "model", tooltip="The checkpoint's model (SD1.5, SD2.x or SDXL), also with LoRAs or other patches."
                ),
                sockets.MEAF.Input("meaf", tooltip="The streams for this base family, from Load MEAF."),
                sockets.Identity.Input(
                    "identity", optional=True, tooltip="Who it is. Leave open to change only expression and pose."
                ),
                sockets.Semantics.Input(
                    "semantics",
                    optional=True,
                    tooltip="Expression and head pose. Leave open to change only the identity.",
                ),
                *(_strength(stream) for stream in DEFAULT_SETTINGS),
                *(folded(_percent(stream, end)) for stream in DEFAULT_SETTINGS for end in ("start", "end")),
                io.Mask.Input(
                    "mask",
                    optional=True,
                    tooltip="Where MEAF acts: white is on, black is off. A batch of masks is one per latent.",
                ),
                io.Float.Input(
                    "lora_strength",
                    default=LORA_STRENGTH,
                    min=0.0,
                    max=2.0,
                    step=0.05,
                    optional=True,
                    tooltip="Of the LoRA that IP-Adapter FaceID files have inside; others have none. 1 is as published, "
                    "less keeps more of the checkpoint's own look.",
                ),
            ],
            outputs=[
                io.Model.Output("patched_model", display_name="MODEL", tooltip="Connect to a sampler or to more model patches.")
            ],
        )

    @classmethod
    def execute(
        cls, model, meaf, identity=None, semantics=None, mask=None, lora_strength=LORA_STRENGTH, **values
    ) -> io.NodeOutput:
        settings = {
            stream: StreamSettings(*(values[f"{stream}_{field}"] for field in ("strength", "start_percent", "end_percent")))
            for stream in DEFAULT_SETTINGS
        }
        return io.NodeOutput(apply_lora(apply_meaf(model, meaf, identity, semantics, settings, mask), meaf, lora_strength))


NODES = (ApplyMEAF,)

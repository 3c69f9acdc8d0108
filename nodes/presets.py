from comfy_api.latest import io

from ..deepexpo_models.dsid.presets import preset_semantics
from ..deepexpo_models.head.expressions import PRESETS, REST
from . import sockets
from .sockets import schema


class ExpressionPresets(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return schema(
            node_id="DeepExPoExpressionPresets",
            display_name="Expression Presets (Emotions, Batch)",
            description="Named expressions as a batch of codes, one each: one person with many expressions in one run. They "
            "look at the camera; Combine Semantics gives them another head pose.",
            inputs=[
                io.String.Input(
                    "expressions",
                    default=", ".join((REST, *PRESETS)),
                    multiline=True,
                    tooltip=f"Names, separated by commas or lines, each as often as you like: {', '.join(PRESETS)}. {REST} is "
                    "a resting face.",
                ),
                io.Float.Input(
                    "strength", default=1.0, min=0.0, max=1.5, step=0.05, tooltip="0 is a resting face, above 1 exaggerates."
                ),
            ],
            outputs=[
                sockets.Semantics.Output(
                    "semantics", display_name="SEMANTICS", tooltip="One code per name, for Draw Face Control."
                ),
                io.Int.Output("count", display_name="count", tooltip="How many. Connect to the latent's batch_size."),
            ],
        )

    @classmethod
    def execute(cls, expressions, strength) -> io.NodeOutput:
        semantics = preset_semantics(expressions, strength)
        return io.NodeOutput(semantics, len(semantics.expression))


NODES = (ExpressionPresets,)

from comfy_api.latest import io

from ..deepexpo_models.dsid import blend_identities, blend_semantics, combine_semantics
from . import sockets
from .sockets import schema


class CombineSemantics(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return schema(
            node_id="DeepExPoCombineSemantics",
            display_name="Combine Semantics (Expression + Head Pose)",
            description="Takes the expression of one photo and the head pose of another.",
            inputs=[
                sockets.Semantics.Input("expression_from", tooltip="The expression is taken from these codes."),
                sockets.Semantics.Input(
                    "pose_from", tooltip="The head pose is taken from these codes. One code, or as many as expressions."
                ),
            ],
            outputs=[sockets.Semantics.Output("semantics", display_name="SEMANTICS", tooltip="Expression and pose, joined.")],
        )

    @classmethod
    def execute(cls, expression_from, pose_from) -> io.NodeOutput:
        return io.NodeOutput(combine_semantics(expression_from, pose_from))


class BlendSemantics(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return schema(
            node_id="DeepExPoBlendSemantics",
            display_name="Blend Semantics (Expression, Head Pose)",
            description="Moves from one expression and head pose towards another. Beyond 0 to 1 it exaggerates.",
            inputs=[
                sockets.Semantics.Input("a", tooltip="Where the blend starts (factor 0)."),
                sockets.Semantics.Input("b", tooltip="Where the blend goes (factor 1)."),
                io.Float.Input(
                    "factor",
                    default=0.5,
                    min=-2.0,
                    max=3.0,
                    step=0.05,
                    tooltip="0 is a, 1 is b, above 1 exaggerates b, below 0 goes the other way.",
                ),
                sockets.Semantics.Input(
                    "neutral",
                    optional=True,
                    tooltip="b's own resting face. If connected, only b's change from it is added to a, "
                    "which keeps more of a's own face.",
                ),
            ],
            outputs=[sockets.Semantics.Output("semantics", display_name="SEMANTICS", tooltip="The blended codes.")],
        )

    @classmethod
    def execute(cls, a, b, factor, neutral=None) -> io.NodeOutput:
        return io.NodeOutput(blend_semantics(a, b, factor, neutral))


class BlendIdentities(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return schema(
            node_id="DeepExPoBlendIdentities",
            display_name="Blend Identities (Two People)",
            description="A person between two people.",
            inputs=[
                sockets.Identity.Input("a", tooltip="The person at factor 0."),
                sockets.Identity.Input("b", tooltip="The person at factor 1."),
                io.Float.Input("factor", default=0.5, min=0.0, max=1.0, step=0.05, tooltip="0 is a, 1 is b."),
            ],
            outputs=[sockets.Identity.Output("identity", display_name="IDENTITY", tooltip="The person in between.")],
        )

    @classmethod
    def execute(cls, a, b, factor) -> io.NodeOutput:
        return io.NodeOutput(blend_identities(a, b, factor))


NODES = (CombineSemantics, BlendSemantics, BlendIdentities)

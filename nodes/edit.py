from comfy_api.latest import io

from ..deepexpo_models.dsid import ANGLES, TAKE, Edit, blend_identities, blend_semantics, combine_semantics, edit_semantics
from ..deepexpo_models.dsid.edit import readout_for
from ..deepexpo_models.dsid.preview import expression_note, head_picture, live_head
from ..deepexpo_models.head import load_basis
from ..deepexpo_models.head.expressions import GROUPS, PRESETS, REST, SINGLE_UNITS, SLIDERS
from . import sockets
from .sockets import folded, schema

TURNS = {  # degrees, added to the head's own
    "yaw": (90.0, "Turns the head. Up: to the picture's right. Dragging the head does the same."),
    "pitch": (60.0, "Up: the head looks up. Dragging the head does the same."),
    "roll": (90.0, "Up: the head leans clockwise in the picture. Dragging with Shift does the same."),
}
GROUPED = sorted(SLIDERS, key=lambda name: list(GROUPS).index(SLIDERS[name].group))


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


def _slider(name: str, limit: float, tooltip: str, **more) -> io.Float.Input:
    step = 1.0 if limit > 1 else 0.01
    slider = io.NumberDisplay.slider
    return io.Float.Input(name, default=0.0, min=-limit, max=limit, step=step, tooltip=tooltip, display_mode=slider, **more)


def _shown(name: str) -> str:
    """mouth_open -> mouth: open, left_eye -> eyes: left eye."""
    group = SLIDERS[name].group
    return f"{group}: {name.removeprefix(f'{group}_').removeprefix(f'{group[:-1]}_').replace('_', ' ')}"


class EditSemantics(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return schema(
            node_id="DeepExPoEditSemantics",
            display_name="Edit Semantics (Expression Editor, Head Pose)",
            description="Changes an expression and head pose by sliders and presets, or makes them from nothing: with nothing "
            "connected a resting face is changed. The head on the node follows at once, without a run; drag it to turn it.",
            has_intermediate_output=True,  # a graph that is opened again and has nothing to run shows its head too
            inputs=[
                sockets.Semantics.Input(
                    "semantics",
                    optional=True,
                    tooltip="The expression and head pose to change: of landmarks, or of a DSID. Open: a resting face. A batch "
                    "is changed code by code; the head shows the first.",
                ),
                sockets.Identity.Input(
                    "identity",
                    optional=True,
                    tooltip="The person, encoded with landmarks: after a run the head on the node has this face's shape. Open: "
                    "an average face.",
                ),
                sockets.DSID.Input(
                    "dsid", optional=True, tooltip="Only for semantics that a DSID made: the same one. Not for landmarks."
                ),
                sockets.Semantics.Input(
                    "onto",
                    optional=True,
                    tooltip="Where what is not taken comes from: with take = mouth, the mouth comes from semantics and all "
                    "else from here. Open: a resting face.",
                ),
                *(_slider(name, limit, f"{what} In degrees.") for name, (limit, what) in TURNS.items()),
                io.Combo.Input(
                    "preset",
                    options=[REST, *PRESETS],
                    default=REST,
                    tooltip="An expression by name, made of FACS' action units. The sliders add to it.",
                ),
                io.Float.Input(
                    "preset_strength",
                    default=1.0,
                    min=0.0,
                    max=1.0,
                    step=0.05,
                    tooltip="How far the expression goes to the preset: 0 stays as it came, 1 is the preset alone.",
                ),
                io.Combo.Input(
                    "take",
                    options=list(TAKE),
                    default="everything",
                    tooltip="What is taken from the connected semantics: everything, the expression, one part of the face, or "
                    "the head's rotation alone.",
                ),
                io.Float.Input(
                    "exaggerate",
                    default=1.0,
                    min=0.0,
                    max=3.0,
                    step=0.05,
                    tooltip="Of the connected expression: 0 neutral, 1 as it is, 2 twice as strong.",
                ),
                *(
                    _slider(
                        name,
                        1.0,
                        SLIDERS[name].what,
                        optional=True,
                        display_name=_shown(name),
                    )
                    for name in GROUPED
                ),
                *(
                    folded(_slider(name, 1.0, f"ARKit's {name} alone, added to what the sliders make.", optional=True))
                    for name in SINGLE_UNITS
                ),
            ],
            outputs=[
                sockets.Semantics.Output(
                    "edited", display_name="SEMANTICS", tooltip="The changed codes, of the encoder that came in."
                ),
                io.Image.Output("image", display_name="IMAGE", tooltip="The head, one picture per code."),
            ],
        )

    @classmethod
    def execute(
        cls, preset, preset_strength, take, exaggerate, semantics=None, identity=None, dsid=None, onto=None, **numbers
    ) -> io.NodeOutput:
        basis, readout = load_basis(), readout_for(dsid, semantics, onto)
        turns = {name: numbers.pop(name) for name in ANGLES}
        edit = Edit(take, exaggerate, preset, preset_strength, numbers, **turns)
        edited = edit_semantics(semantics, edit, onto, readout)
        shown = {"deepexpo_head": [live_head(identity, semantics, onto, readout, edit)]}
        note = expression_note(edited, readout)
        picture = head_picture(identity, edited, basis, readout)
        return io.NodeOutput(edited, picture, ui={**shown, "text": [note] if note else []})


NODES = (EditSemantics, CombineSemantics, BlendSemantics, BlendIdentities)

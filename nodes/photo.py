from comfy_api.latest import io

from ..deepexpo_models.dsid.edit import readout_for
from ..deepexpo_models.dsid.mesh import Framing, Strengths, face_points
from ..deepexpo_models.faces.landmarks import landmarks_line
from ..deepexpo_models.head import load_basis
from ..deepexpo_models.head.control import STYLES, draw_control, draw_mask, draw_over, pose_keypoints
from . import sockets
from .comfy_host.face_context import identity_to_controlnet
from .comfy_host.landmarks import landmarks_of
from .sockets import folded, schema

PARTS = {
    "mouth": "How much of the mouth's and the jaw's expression is drawn. 0: at rest.",
    "eyes": "How much of lids and gaze is drawn.",
    "brows": "How much of the brows is drawn.",
    "cheeks": "How much of cheeks and nose is drawn.",
    "pose": "How far the head turns. 0: it looks at the camera.",
}


class FindLandmarks(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return schema(
            node_id="DeepExPoFindLandmarks",
            display_name="Find Landmarks (Face Mesh)",
            description="Finds 478 points and ARKit's 52 expression numbers of every face: by ComfyUI's own landmarker where "
            "it has one (0.23 and newer), else by MediaPipe's package. Detect Face Landmarks may stand in its place.",
            inputs=[
                io.Image.Input("image", tooltip="Photographs, or the frames of a clip. Drawings are often not found."),
                io.Int.Input("faces", default=4, min=1, max=16, tooltip="How many faces of a picture are looked for."),
                folded(
                    io.Float.Input(
                        "confidence",
                        default=0.5,
                        min=0.05,
                        max=0.95,
                        step=0.05,
                        tooltip="How sure the landmarker must be of a face. Lower it for dark or small faces.",
                    )
                ),
            ],
            outputs=[
                sockets.Landmarks.Output(
                    "landmarks",
                    display_name="FACE_LANDMARKS",
                    tooltip="Connect to Encode Identity (the person) or Encode Semantics (expression and head pose).",
                )
            ],
        )

    @classmethod
    def execute(cls, image, faces, confidence) -> io.NodeOutput:
        found = landmarks_of(image, faces, confidence)
        return io.NodeOutput(found, ui={"text": [landmarks_line(found)]})


class DrawFaceControl(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return schema(
            node_id="DeepExPoDrawFaceControl",
            display_name="Draw Face Control (Pose, Expression Map)",
            description="Draws expression and head pose as a picture that a ControlNet understands, on the proportions of the "
            "connected person: nothing of the reference person's face is in it. Goes into Apply ControlNet.",
            inputs=[
                sockets.Semantics.Input(
                    "semantics", tooltip="Expression and head pose. A batch of codes gives a batch of maps."
                ),
                io.Combo.Input(
                    "style",
                    options=list(STYLES),
                    tooltip="What the ControlNet was trained on. " + "; ".join(f"{k}: {s.for_whom}" for k, s in STYLES.items()),
                ),
                io.Int.Input("width", default=512, min=64, max=4096, step=8, tooltip="Of the map: the latent's width times 8."),
                io.Int.Input(
                    "height", default=512, min=64, max=4096, step=8, tooltip="Of the map: the latent's height times 8."
                ),
                io.Float.Input(
                    "face_height",
                    default=0.4,
                    min=0.02,
                    max=2.0,
                    step=0.01,
                    tooltip="From forehead to chin, as a share of the picture's height: 0.6 a close-up, 0.4 a portrait, 0.15 "
                    "from the waist up. It must fit what the prompt asks for.",
                ),
                io.Float.Input("x", default=0.5, min=0.0, max=1.0, step=0.01, tooltip="Middle of the face. 0 left, 1 right."),
                io.Float.Input("y", default=0.45, min=0.0, max=1.0, step=0.01, tooltip="Middle of the face. 0 top, 1 bottom."),
                sockets.Identity.Input(
                    "identity",
                    optional=True,
                    tooltip="The person, encoded with landmarks: the map gets this face's proportions. Open: an average face.",
                ),
                sockets.DSID.Input(
                    "dsid", optional=True, tooltip="Only for semantics that a DSID made: the same one. Not for landmarks."
                ),
                io.Image.Input(
                    "over", optional=True, tooltip="An earlier map that this head is drawn into, for several people."
                ),
                *(
                    folded(
                        io.Float.Input(
                            part, default=1.0, min=0.0, max=2.0, step=0.05, optional=True, tooltip=f"{words} 2: exaggerated."
                        )
                    )
                    for part, words in PARTS.items()
                ),
            ],
            outputs=[
                io.Image.Output("image", display_name="IMAGE", tooltip="The map, for Apply ControlNet."),
                io.Mask.Output(
                    "mask", display_name="MASK", tooltip="Where the face is, for Apply MEAF or a masked ControlNet."
                ),
                sockets.PoseKeypoint.Output(
                    "pose_keypoint", display_name="POSE_KEYPOINT", tooltip="The head for nodes and editors of openpose."
                ),
            ],
        )

    @classmethod
    def execute(
        cls, semantics, style, width, height, face_height, x, y, identity=None, dsid=None, over=None, **parts
    ) -> io.NodeOutput:
        basis, size, readout = load_basis(), (height, width), readout_for(dsid, semantics)
        framing, strengths = Framing(face_height, x, y), Strengths(**parts)
        points = face_points(identity, semantics, basis, size, framing, strengths, readout)
        drawn = draw_over(over, draw_control(points, size, style, basis), style)
        return io.NodeOutput(drawn, draw_mask(points, size), pose_keypoints(points, size), ui=sockets.shown(drawn, cls))


class IdentityToControlNet(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return schema(
            node_id="DeepExPoIdentityToControlNet",
            display_name="Identity to ControlNet (InstantID)",
            description="InstantID's ControlNet was trained to read the face's tokens where others read the prompt. Connect "
            "this behind its Apply ControlNet: that ControlNet then sees the face, every other one keeps the prompt.",
            inputs=[
                io.Conditioning.Input("positive", tooltip="From the Apply ControlNet of InstantID's ControlNet."),
                io.Conditioning.Input(
                    "negative", tooltip="From the same Apply ControlNet. Its ControlNet sees the tokens of no face."
                ),
                sockets.MEAF.Input("meaf", tooltip="The adapter that belongs to the ControlNet, InstantID's, from Load MEAF."),
                sockets.Identity.Input(
                    "identity", tooltip="The face that Apply MEAF has, too. One, or as many as there are latents."
                ),
            ],
            outputs=[
                io.Conditioning.Output(
                    "positive_out", display_name="positive", tooltip="To the sampler, or to the next Apply ControlNet."
                ),
                io.Conditioning.Output(
                    "negative_out", display_name="negative", tooltip="To the sampler, or to the next Apply ControlNet."
                ),
            ],
        )

    @classmethod
    def execute(cls, positive, negative, meaf, identity) -> io.NodeOutput:
        return io.NodeOutput(*identity_to_controlnet(positive, negative, meaf, identity))


NODES = (FindLandmarks, DrawFaceControl, IdentityToControlNet)

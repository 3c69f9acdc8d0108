from comfy_api.latest import io

from ..deepexpo_models.dsid.words import identity_line, semantics_line
from ..deepexpo_models.faces import GAPS, RECOGNISERS
from . import sockets
from .comfy_host.codes import (
    CLIP,
    encode_identity,
    encode_semantics,
    recognise_identity,
    reenact,
    semantics_from,
    with_face_shape,
)
from .sockets import schema

OWN = "dsid"


def _said(code, *lines: str) -> io.NodeOutput:
    """A code, and what the node shows of it."""
    return io.NodeOutput(code, ui={"text": [line for line in lines if line]})


class EncodeIdentity(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return schema(
            node_id="DeepExPoEncodeIdentity",
            display_name="Encode Identity (Face ID)",
            description="Turns face crops of one person into an identity code: who it is, not how they look right now. "
            "A batch of photos of the same person is averaged into one, better code.",
            inputs=[
                sockets.DSID.Input(
                    "dsid", optional=True, tooltip=f"{sockets.DSID_TOOLTIP} Leave open with a recogniser other than dsid."
                ),
                io.Image.Input("image", tooltip="Face crops of one person, from Crop Face. Several photos are averaged."),
                io.Combo.Input(
                    "recogniser",
                    options=[OWN, *RECOGNISERS, CLIP],
                    default=OWN,
                    optional=True,
                    tooltip="Whose codes: dsid is the connected DSID. buffalo_l and antelopev2 are insightface's model packs, "
                    f"{CLIP} is the connected CLIP Vision: public adapters expect one of them, and Apply MEAF names it.",
                ),
                io.ClipVision.Input(
                    "clip_vision",
                    optional=True,
                    tooltip="CLIP ViT-H/14, from Load CLIP Vision: for public adapters that look at the face, FaceID-Plus and "
                    f"PlusV2 beside its vector, Plus-Face and Full-Face (recogniser {CLIP}) alone.",
                ),
                sockets.Landmarks.Input(
                    "landmarks",
                    optional=True,
                    tooltip="Of photos of this person, smiling ones too: adds the resting face's shape, on which Draw Face "
                    "Control draws. From Detect Face Landmarks or Find Landmarks.",
                ),
            ],
            outputs=[
                sockets.Identity.Output(
                    "identity", display_name="IDENTITY", tooltip="One identity code. Connect to Apply MEAF."
                )
            ],
        )

    @classmethod
    def execute(cls, image, dsid=None, recogniser=OWN, clip_vision=None, landmarks=None) -> io.NodeOutput:
        if recogniser == OWN and dsid is None:
            raise ValueError("no DSID is connected to Encode Identity; connect one from Load DSID, or choose a recogniser")
        code = encode_identity(dsid, image) if recogniser == OWN else recognise_identity(recogniser, image, clip_vision)
        identity, note = with_face_shape(code, landmarks)
        return _said(identity, identity_line(identity, len(image)), note)


class EncodeSemantics(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return schema(
            node_id="DeepExPoEncodeSemantics",
            display_name="Encode Semantics (Expression, Head Pose)",
            description="Turns face crops into semantic codes: expression and head pose, without who it is. "
            "A batch gives one code per picture.",
            inputs=[
                sockets.DSID.Input("dsid", optional=True, tooltip=f"{sockets.DSID_TOOLTIP} Not needed with landmarks."),
                io.Image.Input(
                    "image",
                    optional=True,
                    tooltip="Face crops from Crop Face. Each picture gives its own code, in order. Not needed with landmarks.",
                ),
                sockets.Landmarks.Input(
                    "landmarks",
                    optional=True,
                    tooltip="Instead of a DSID and pictures: ARKit's 52 numbers and the head's turn, one code per frame. From "
                    "Detect Face Landmarks or Find Landmarks.",
                ),
                io.Int.Input(
                    "face_index",
                    default=0,
                    min=0,
                    max=15,
                    optional=True,
                    tooltip="Which face of the landmarks, counted from 0, the largest first.",
                ),
                io.Combo.Input(
                    "gaps",
                    options=list(GAPS),
                    default=GAPS[0],
                    optional=True,
                    tooltip="Frames of a clip without a face: refuse them, fill them from the frames around, hold the last "
                    "face, or skip them. What was filled is said on the node.",
                ),
            ],
            outputs=[
                sockets.Semantics.Output(
                    "semantics",
                    display_name="SEMANTICS",
                    tooltip="One code per picture. For several, set the latent's batch size to their number.",
                )
            ],
        )

    @classmethod
    def execute(cls, dsid=None, image=None, landmarks=None, face_index=0, gaps=GAPS[0]) -> io.NodeOutput:
        if landmarks is not None:
            semantics, note = semantics_from(landmarks, face_index, gaps)
            return _said(semantics, semantics_line(semantics), note)
        if dsid is None or image is None:
            raise ValueError("nothing to encode: connect landmarks, or a DSID and an image, to Encode Semantics")
        semantics = encode_semantics(dsid, image)
        return _said(semantics, semantics_line(semantics))


class Reenact(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return schema(
            node_id="DeepExPoReenact",
            display_name="Reenact (Face Preview)",
            description="Draws a face from codes alone with DSID's own generator: a preview in milliseconds of what the "
            "codes hold, and reenactment of a clip (one identity, a batch of semantics).",
            inputs=[
                sockets.DSID.Input("dsid", tooltip=sockets.DSID_TOOLTIP),
                sockets.Identity.Input("identity", tooltip="Who to draw. One code, or as many as there are semantics."),
                sockets.Semantics.Input("semantics", tooltip="Expression and head pose. One picture per code."),
            ],
            outputs=[io.Image.Output("image", display_name="IMAGE", tooltip="Face crops at DSID's own size.")],
        )

    @classmethod
    def execute(cls, dsid, identity, semantics) -> io.NodeOutput:
        return io.NodeOutput(reenact(dsid, identity, semantics))


NODES = (EncodeIdentity, EncodeSemantics, Reenact)

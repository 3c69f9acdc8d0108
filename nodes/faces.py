import logging

from comfy_api.latest import io

from ..deepexpo_models.faces import CHOICES, GAPS, LANDMARKS, ORDERS, bounding_boxes, crop_faces
from ..deepexpo_models.faces.crop import SCALE, SIZE
from . import sockets
from .comfy_host.detectors import face_detector
from .sockets import schema

logger = logging.getLogger(__name__)


class CropFace(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return schema(
            node_id="DeepExPoCropFace",
            display_name="Crop Face",
            has_intermediate_output=True,
            description="Finds a face and cuts out a square around it, as the encoders expect it.",
            inputs=[
                io.Image.Input("image", tooltip="One photo or a batch of photos."),
                io.Combo.Input(
                    "detector",
                    options=[*CHOICES, LANDMARKS],
                    tooltip="auto: connected landmarks, else the best detector installed. landmarks: these alone. none: no "
                    "detection, the mask's box or the whole picture is the face (for pictures that are face crops).",
                ),
                io.Int.Input("face_index", default=0, min=0, max=99, tooltip="Which face, counted from 0 in the order below."),
                io.Combo.Input("order", options=list(ORDERS), tooltip="How faces are counted when there are several."),
                io.Float.Input(
                    "scale",
                    default=SCALE,
                    min=0.5,
                    max=4.0,
                    step=0.05,
                    tooltip="Side of the crop in face sizes. Use the same for identity and reference photos.",
                ),
                io.Mask.Input(
                    "mask",
                    optional=True,
                    tooltip="Only faces whose centre is white here count; if none is found, the white part is the face.",
                ),
                sockets.Landmarks.Input(
                    "landmarks",
                    optional=True,
                    tooltip="Of the same pictures, from Detect Face Landmarks or Find Landmarks: its faces come first, so that "
                    "all nodes mean the same one.",
                ),
                io.Combo.Input(
                    "gaps",
                    options=list(GAPS),
                    default=GAPS[0],
                    optional=True,
                    tooltip="Pictures of a clip without a face: refuse them, crop where the face should be (interpolate: "
                    "between the frames around; hold: where it was last), or skip them. Which ones is said on the node.",
                ),
            ],
            outputs=[
                io.Image.Output("crop", display_name="crop", tooltip=f"{SIZE} x {SIZE} crops, one per photo."),
                io.Mask.Output("face_mask", display_name="mask", tooltip="Where the face is in the photo."),
                io.Int.Output(
                    "faces_found",
                    display_name="faces found",
                    tooltip="Number of faces; for a batch, the smallest number in any photo.",
                ),
                sockets.BoundingBox.Output(
                    "boxes", display_name="BOUNDING_BOX", tooltip="The chosen face's box in each photo, in pixels."
                ),
            ],
        )

    @classmethod
    def execute(cls, image, detector, face_index, order, scale, mask=None, landmarks=None, gaps=GAPS[0]) -> io.NodeOutput:
        found = crop_faces(
            image, detector, face_index, order, scale, SIZE, mask, None, landmarks, gaps, open_choice=face_detector
        )
        for note in found.notes:
            logger.info("DeepExPo: %s", note)
        boxes = bounding_boxes(found.faces)
        return io.NodeOutput(
            found.crops, found.masks, min(found.counts), boxes, ui=sockets.shown(found.crops, cls, found.summary())
        )


NODES = (CropFace,)

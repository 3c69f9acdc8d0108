import logging

from comfy_api.latest import io

from ..deepexpo_models.faces import CHOICES, ORDERS, crop_faces
from ..deepexpo_models.faces.crop import SCALE, SIZE
from .comfy_host.folders import insightface_roots
from .sockets import schema

logger = logging.getLogger(__name__)


class CropFace(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return schema(
            node_id="DeepExPoCropFace",
            display_name="Crop Face",
            description="Finds a face and cuts out a square around it, as the encoders expect it.",
            inputs=[
                io.Image.Input("image", tooltip="One photo or a batch of photos."),
                io.Combo.Input(
                    "detector",
                    options=list(CHOICES),
                    tooltip="auto: the best one installed. none: no detection, the mask's box or the whole picture is the face "
                    "(for drawings).",
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
            ],
            outputs=[
                io.Image.Output("crop", display_name="crop", tooltip=f"{SIZE} x {SIZE} crops, one per photo."),
                io.Mask.Output("face_mask", display_name="mask", tooltip="Where the face is in the photo."),
                io.Int.Output(
                    "faces_found",
                    display_name="faces found",
                    tooltip="Number of faces; for a batch, the smallest number in any photo.",
                ),
            ],
        )

    @classmethod
    def execute(cls, image, detector, face_index, order, scale, mask=None) -> io.NodeOutput:
        found = crop_faces(image, detector, face_index, order, scale, SIZE, mask, insightface_roots())
        for note in found.notes:
            logger.info("DeepExPo: %s", note)
        return io.NodeOutput(found.crops, found.masks, min(found.counts), ui={"text": list(found.notes)})


NODES = (CropFace,)

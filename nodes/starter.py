from comfy_api.latest import io

from . import sockets
from .comfy_host.folders import weight_fingerprint
from .comfy_host.samples import CHOICES, sample_faces
from .comfy_host.starter import FILE, open_starter
from .sockets import schema


class LoadStarter(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return schema(
            node_id="DeepExPoLoadStarter",
            display_name="Load Starter (Small Model)",
            description="Loads the small text-to-image model that comes with the pack, so that every node can be tried without "
            "a download and without a GPU. It draws heads of 128 x 128, as if painted; heads-meaf and photo-dsid go with it, "
            "and person and reference may be photographs.",
            inputs=[],
            outputs=[
                io.Model.Output(
                    "model", display_name="MODEL", tooltip="Connect to Apply MEAF or a sampler; 128 x 128 is its size."
                ),
                io.Clip.Output("clip", display_name="CLIP", tooltip="Connect to CLIP Text Encode."),
                io.Vae.Output("vae", display_name="VAE", tooltip="Connect to VAE Decode and VAE Encode."),
            ],
        )

    @classmethod
    def fingerprint_inputs(cls) -> str:
        return weight_fingerprint(FILE)

    @classmethod
    def execute(cls) -> io.NodeOutput:
        return io.NodeOutput(*open_starter())


class SampleFace(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return schema(
            node_id="DeepExPoSampleFace",
            display_name="Sample Face",
            has_intermediate_output=True,
            description="A face that comes with the pack, so that its workflows run at once, on any machine. "
            "Put Load Image in its place for a picture of your own.",
            inputs=[
                io.Combo.Input(
                    "which",
                    options=list(CHOICES),
                    tooltip="A person, photographed or rendered, or another one with an expression or a head pose. Those that "
                    "begin with all give a batch, clip the frames of a clip.",
                ),
            ],
            outputs=[io.Image.Output("image", display_name="IMAGE", tooltip="256 x 256, cropped as the encoders expect it.")],
        )

    @classmethod
    def execute(cls, which) -> io.NodeOutput:
        faces = sample_faces(which)
        return io.NodeOutput(faces, ui=sockets.shown(faces, cls))


NODES = (LoadStarter, SampleFace)

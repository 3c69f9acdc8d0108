from comfy_api.latest import io

from . import sockets
from .comfy_host.starter import open_starter


class LoadStarter(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="DeepExPoLoadStarter",
            display_name="Load Starter",
            category=sockets.CATEGORY,
            description="Loads the small text-to-image model that comes with the pack. It draws 128 x 128 cartoon faces and "
            "takes the starter's MEAF, so that every node can be tried without a download and without a GPU.",
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
    def execute(cls) -> io.NodeOutput:
        return io.NodeOutput(*open_starter())


NODES = (LoadStarter,)

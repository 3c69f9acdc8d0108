"""Public files that the photo templates load, and where they go."""

from dataclasses import dataclass

HUGGING_FACE = "https://huggingface.co"


@dataclass(frozen=True)
class File:
    name: str
    directory: str  # below models/
    source: str  # on Hugging Face: repository, then the path in it

    @property
    def link(self) -> list[dict]:
        """For the frontend's download dialog."""
        repository, path = self.source.split(":")
        return [{"name": self.name, "url": f"{HUGGING_FACE}/{repository}/resolve/main/{path}", "directory": self.directory}]

    @property
    def line(self) -> str:
        """For a template's note."""
        repository, path = self.source.split(":")
        renamed = "" if path.split("/")[-1] == self.name else f" (there `{path}`)"
        return f"- `{self.name}` in models/{self.directory}, of [{repository}]({HUGGING_FACE}/{repository}){renamed}"


SD15 = File(
    "v1-5-pruned-emaonly-fp16.safetensors",
    "checkpoints",
    "Comfy-Org/stable-diffusion-v1-5-archive:v1-5-pruned-emaonly-fp16.safetensors",
)
SDXL = File("sd_xl_base_1.0.safetensors", "checkpoints", "stabilityai/stable-diffusion-xl-base-1.0:sd_xl_base_1.0.safetensors")
FACEID = File("ip-adapter-faceid_sd15.bin", "ipadapter", "h94/IP-Adapter-FaceID:ip-adapter-faceid_sd15.bin")
INSTANTID = File("ip-adapter.bin", "instantid", "InstantX/InstantID:ip-adapter.bin")
INSTANTID_CONTROLNET = File(
    "instantid-controlnet.safetensors", "controlnet", "InstantX/InstantID:ControlNetModel/diffusion_pytorch_model.safetensors"
)
FACE_CONTROLNET = File(
    "control_v2p_sd15_mediapipe_face.safetensors",
    "controlnet",
    "CrucibleAI/ControlNetMediaPipeFace:control_v2p_sd15_mediapipe_face.safetensors",
)
UNION_CONTROLNET = File(
    "controlnet-union-sdxl-promax.safetensors",
    "controlnet",
    "xinsir/controlnet-union-sdxl-1.0:diffusion_pytorch_model_promax.safetensors",
)
LANDMARKER = File(
    "mediapipe_face_fp32.safetensors", "detection", "Comfy-Org/mediapipe:detection/mediapipe_face_fp32.safetensors"
)
OLD_LANDMARKER = (
    "before ComfyUI 0.23: `face_landmarker.task` in models/mediapipe, of "
    "storage.googleapis.com/mediapipe-models, and `pip install mediapipe`"
)

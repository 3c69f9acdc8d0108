from comfy_api.latest import io

from . import sockets
from .comfy_host.folders import validate_weight, weight_fingerprint, weight_names
from .comfy_host.memory import open_dsid, open_meaf
from .sockets import schema


class LoadDSID(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return schema(
            node_id="DeepExPoLoadDSID",
            display_name="Load DSID (Face Encoder)",
            description="Loads the encoders that turn a face into an identity code and a semantic code "
            "(expression and head pose).",
            inputs=[
                io.Combo.Input(
                    "dsid_name",
                    options=weight_names("dsid"),
                    tooltip="A DSID file in models/deepexpo, or one that came with the pack. DSID files are listed first.",
                ),
            ],
            outputs=[sockets.DSID.Output("dsid", display_name="DSID", tooltip="Connect to the encode nodes.")],
        )

    @classmethod
    def validate_inputs(cls, dsid_name=None) -> bool | str:
        return validate_weight(dsid_name)

    @classmethod
    def fingerprint_inputs(cls, dsid_name=None) -> str:
        return weight_fingerprint(dsid_name)

    @classmethod
    def execute(cls, dsid_name) -> io.NodeOutput:
        dsid = open_dsid(dsid_name)
        return io.NodeOutput(dsid, ui={"text": [dsid.described]})


class LoadMEAF(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return schema(
            node_id="DeepExPoLoadMEAF",
            display_name="Load MEAF (Face Adapter)",
            description="Loads the attention streams that bring identity, expression and head pose into a checkpoint. "
            "A MEAF belongs to one base family (SD1.5, SD2.x or SDXL) and to one DSID or face recogniser.",
            inputs=[
                io.Combo.Input(
                    "meaf_name",
                    options=weight_names("meaf"),
                    tooltip="A MEAF file in models/deepexpo, or one that came with the pack. MEAF files are listed first. "
                    "Public adapters (FaceID, InstantID) become MEAF files with python -m deepexpo_models.importers.",
                ),
            ],
            outputs=[sockets.MEAF.Output("meaf", display_name="MEAF", tooltip="Connect to Apply MEAF.")],
        )

    @classmethod
    def validate_inputs(cls, meaf_name=None) -> bool | str:
        return validate_weight(meaf_name)

    @classmethod
    def fingerprint_inputs(cls, meaf_name=None) -> str:
        return weight_fingerprint(meaf_name)

    @classmethod
    def execute(cls, meaf_name) -> io.NodeOutput:
        meaf = open_meaf(meaf_name)
        return io.NodeOutput(meaf, ui={"text": [meaf.described]})


NODES = (LoadDSID, LoadMEAF)

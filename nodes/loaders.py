from comfy_api.latest import io

from . import sockets
from .comfy_host.adapters import AUTO, CHOICES, meaf_fingerprint, meaf_names, open_meaf, validate_meaf
from .comfy_host.folders import validate_weight, weight_fingerprint, weight_names
from .comfy_host.memory import open_dsid
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
                    tooltip="A DSID file in models/deepexpo, or one that came with the pack.",
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
            "A MEAF belongs to one base family (SD1.5, SD2.x or SDXL) and to one DSID or face recogniser. Public face adapters "
            "(IP-Adapter FaceID, Plus-Face, InstantID) are read where they lie.",
            inputs=[
                io.Combo.Input(
                    "meaf_name",
                    options=meaf_names(),
                    tooltip="A MEAF file in models/deepexpo, or one that came with the pack; then "
                    "public adapters: those in models/ipadapter and models/instantid.",
                ),
                io.Combo.Input(
                    "kind",
                    options=list(CHOICES),
                    default=AUTO,
                    optional=True,
                    tooltip="Leave it at auto. Only FaceID-Plus and FaceID-PlusV2 for SD1.5 cannot be told apart by content: "
                    "choose which one it is.",
                ),
            ],
            outputs=[sockets.MEAF.Output("meaf", display_name="MEAF", tooltip="Connect to Apply MEAF.")],
        )

    @classmethod
    def validate_inputs(cls, meaf_name=None) -> bool | str:
        return validate_meaf(meaf_name)

    @classmethod
    def fingerprint_inputs(cls, meaf_name=None, kind=AUTO) -> str:
        return meaf_fingerprint(meaf_name)

    @classmethod
    def execute(cls, meaf_name, kind=AUTO) -> io.NodeOutput:
        meaf = open_meaf(meaf_name, kind)
        return io.NodeOutput(meaf, ui={"text": [meaf.described]})


NODES = (LoadDSID, LoadMEAF)

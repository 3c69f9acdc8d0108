"""The pack as an artist has it: its nodes by id, called with the defaults that their widgets show."""

from __future__ import annotations

import functools
from dataclasses import dataclass
from pathlib import Path

import random_weights
from deepexpo_models.dsid import EncoderId
from deepexpo_models.meaf import BranchConfig, UNetShape

from .families import TIME_IDS, TINY, Widths, describe
from .host import LoadedPack, base_directory, extra_nodes, load_pack

DSID_CONFIG = "photo-generator"
EXTRAS = {  # modules of comfy_extras -> their nodes that the templates have
    "nodes_mask": ("SolidMask", "MaskComposite", "GrowMask"),
    "nodes_controlnet": ("SetUnionControlNetType",),
    "nodes_video": ("LoadVideo", "GetVideoComponents", "CreateVideo", "SaveVideo"),
}


def tiny_shape(family: str) -> UNetShape:
    """The U-Net shape of models.tiny_model(family)."""
    blocks = describe(family).blocks
    layers = blocks["num_res_blocks"][0]
    return UNetShape(
        channels=tuple(TINY.channels * factor for factor in blocks["channel_mult"]),
        layers=layers,
        depth=tuple(blocks["transformer_depth"][::layers]),
        mid_depth=blocks["transformer_depth_middle"],
        context_width=TINY.context,
    )


def branch_of(family: str, size: str, widths: Widths = TINY, light_too: bool = False) -> BranchConfig:
    """Of a copy of a family's model at these widths."""
    kind = describe(family)
    channels = [widths.channels * factor for factor in kind.blocks["channel_mult"]]
    heads = [kind.heads or width // widths.head_channels for width in channels]
    return BranchConfig(size, heads, kind.linear, 4, widths.pooled + TIME_IDS if kind.pooled else 0, light_too=light_too)


@functools.cache
def weights_folder() -> Path:
    """models/deepexpo of the in-process ComfyUI, with a random DSID and a random MEAF of each size per tiny family."""
    folder = base_directory() / "models" / "deepexpo"
    encoder = write_dsid(folder)
    for family in ("sd15", "sd2", "sdxl"):
        for branch in (None, branch_of(family, "control"), branch_of(family, "full", light_too=True)):
            random_weights.write_meaf(folder, f"tiny-{family}", DSID_CONFIG, encoder, tiny_shape(family), branch)
    return folder


def write_dsid(folder: Path) -> EncoderId:
    return random_weights.write_dsid(folder, DSID_CONFIG)


@dataclass(frozen=True)
class Pack:
    loaded: LoadedPack

    def run(self, node_id: str, **inputs):
        """Execute a node: its one output, or the tuple of its outputs."""
        node = self.loaded.nodes[node_id]
        outputs = node.execute(**{**widget_defaults(node), **inputs}).args
        return outputs[0] if len(outputs) == 1 else outputs

    def dsid(self):
        weights_folder()
        return self.run("DeepExPoLoadDSID", dsid_name=random_weights.DSID_FILE.format(DSID_CONFIG))

    def meaf(self, family: str, size: str = "light"):
        weights_folder()
        return self.run("DeepExPoLoadMEAF", meaf_name=random_weights.MEAF_FILE.format(f"tiny-{family}", size))

    def module(self, name: str):
        return self.loaded.submodule(name)


def widget_defaults(node) -> dict:
    """What the widgets of a node show at first."""
    widgets = [widget for widget in node.GET_SCHEMA().inputs if hasattr(widget, "default")]
    return {widget.id: widget.default for widget in widgets if widget.default is not None}


@functools.cache
def the_pack() -> Pack:
    pack = Pack(load_pack())
    pack.module("nodes.comfy_host.folders").register_folder()
    return pack


def node_definitions() -> dict[str, type]:
    """Node type -> class: ComfyUI's own nodes that are always there, and ours."""
    import nodes

    extras = {name: getattr(extra_nodes(module), name) for module, names in EXTRAS.items() for name in names}
    extras["ContextWindowsManual"] = extra_nodes("nodes_context_windows").ContextWindowsManualNode
    return {**nodes.NODE_CLASS_MAPPINGS, **extras, **the_pack().loaded.nodes}

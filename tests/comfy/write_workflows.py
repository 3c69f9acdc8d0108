#!/usr/bin/env python
"""Templates that run on the starter, from the table below: `python tests/comfy/write_workflows.py`.

Each becomes workflows/<name>.json (what the frontend opens) and workflows/api/<name>.json (the same for the HTTP API). Node
types, sockets and widgets are asked of the running ComfyUI's definitions, so the files fit the nodes as they are.
"""

import json
import sys
import uuid
from dataclasses import dataclass, field
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path += [str(HERE), str(HERE.parent), str(HERE.parents[1])]  # last: `nodes` is ComfyUI's module first

from rig import host
from rig.layout import Box, frontend_graph

WORKFLOWS = host.PACK / "workflows"
POSITIVE, NEGATIVE = {"color": "#232", "bgcolor": "#353"}, {"color": "#322", "bgcolor": "#533"}
NO_DOWNLOAD = "Everything here comes with the pack: press **Run**."
PHOTOS = (
    "The starter knows cartoon faces of 128 pixels: it shows what the nodes do. For photographs open the photo templates, "
    "and put *Load Image* and *Crop Face* where *Sample Face* stands."
)


@dataclass
class Template:
    """columns: one list of (width, boxes) from left to right; a box's inputs name other boxes by their key."""

    note: str
    columns: list[tuple[int, dict[str, Box]]] = field(default_factory=list)

    @property
    def boxes(self) -> dict[str, Box]:
        return {key: box for _, boxes in self.columns for key, box in boxes.items()}


def face(title: str, which: str) -> Box:
    return Box("DeepExPoSampleFace", {"which": which}, title, height=270)


def identity(image: str) -> Box:
    return Box("DeepExPoEncodeIdentity", {"dsid": ("dsid", 0), "image": (image, 0), "recogniser": "dsid"}, "Encode Identity")


def semantics(image: str) -> Box:
    return Box("DeepExPoEncodeSemantics", {"dsid": ("dsid", 0), "image": (image, 0)}, "Encode Semantics")


def apply(model: str, person: str, code: str, title: str = "Apply MEAF", **more) -> Box:
    given = {"model": (model, 0), "meaf": ("meaf", 0), "identity": (person, 0), "semantics": (code, 0), **more}
    return Box("DeepExPoApplyMEAF", given, title)


def loaders() -> dict[str, Box]:
    return {
        "base": Box("DeepExPoLoadStarter", {}, "Load Starter"),
        "meaf": Box("DeepExPoLoadMEAF", {"meaf_name": "starter-meaf.safetensors"}, "Load MEAF"),
    }


def dsid() -> Box:
    return Box("DeepExPoLoadDSID", {"dsid_name": "starter-dsid.safetensors"}, "Load DSID")


def prompt(text: str, title: str = "Prompt", **colours) -> Box:
    return Box("CLIPTextEncode", {"text": text, "clip": ("base", 1)}, title, 110, colours or POSITIVE)


def negative() -> Box:
    return Box("CLIPTextEncode", {"text": "", "clip": ("base", 1)}, "Negative prompt", 80, NEGATIVE)


def size(batch: int, width: int = 128) -> Box:
    return Box("EmptyLatentImage", {"width": width, "height": 128, "batch_size": batch}, "Size")


def sampler(model: str, positive: str = "prompt", seed: int = 0) -> dict[str, Box]:
    given = {"seed": seed, "steps": 25, "cfg": 3.0, "sampler_name": "euler", "scheduler": "normal", "denoise": 1.0}
    sockets = {"model": (model, 0), "positive": (positive, 0), "negative": ("negative", 0), "latent_image": ("size", 0)}
    return {
        "sampler": Box("KSampler", {**given, **sockets}, "KSampler"),
        "decode": Box("VAEDecode", {"samples": ("sampler", 0), "vae": ("base", 2)}, "VAE Decode"),
    }


def save(name: str) -> Box:
    return Box("SaveImage", {"filename_prefix": f"DeepExPo/{name}", "images": ("decode", 0)}, "Save Image", 340)


def starter() -> Template:
    return Template(
        f"**Starter**: a prompt, a person, a reference. {NO_DOWNLOAD}\n\nThe four pictures show the *person*, with the "
        f"*reference*'s expression and head pose, in the prompt's context. {PHOTOS}",
        [
            (220, {"person": face("Person", "person_1"), "reference": face("Reference", "winking")}),
            (250, {"dsid": dsid(), "identity": identity("person"), "semantics": semantics("reference")}),
            (270, {**loaders(), "apply": apply("base", "identity", "semantics")}),
            (290, {
                "prompt": prompt("a portrait of a person, blue striped background, red clothes, wearing a scarf"),
                "negative": negative(),
                "size": size(4),
            }),
            (270, sampler("apply")),
            (320, {"save": save("starter")}),
        ],
    )  # fmt: skip


def expression_and_pose() -> Template:
    return Template(
        f"**Expression of one picture, head pose of another.** {NO_DOWNLOAD}\n\n*Combine Semantics* joins them; *Apply MEAF* "
        f"gives the person both. {PHOTOS}",
        [
            (200, {"person": face("Person", "person_2"), "expression": face("Expression", "surprised")}),
            (200, {"pose": face("Head pose", "turned"), "dsid": dsid()}),
            (250, {
                "identity": identity("person"),
                "expression code": semantics("expression"),
                "pose code": semantics("pose"),
                "combine": Box(
                    "DeepExPoCombineSemantics", {"expression_from": ("expression code", 0), "pose_from": ("pose code", 0)},
                    "Combine Semantics",
                ),
            }),
            (270, {**loaders(), "apply": apply("base", "identity", "combine")}),
            (290, {
                "prompt": prompt("a portrait of a person, green background, yellow clothes"),
                "negative": negative(),
                "size": size(4),
            }),
            (270, sampler("apply")),
            (320, {"save": save("expression_and_pose")}),
        ],
    )  # fmt: skip


def reference_batch() -> Template:
    return Template(
        f"**One person, many expressions, in one run.** {NO_DOWNLOAD}\n\nFive references are a batch of five codes: one for "
        "each latent, so *batch_size* is their number. Several photos become a batch by *Batch Images*.",
        [
            (220, {"person": face("Person", "person_3"), "references": face("References", "all references")}),
            (250, {"dsid": dsid(), "identity": identity("person"), "semantics": semantics("references")}),
            (270, {**loaders(), "apply": apply("base", "identity", "semantics")}),
            (290, {
                "prompt": prompt("a portrait of a person, white background, blue clothes"),
                "negative": negative(),
                "size": size(5),
            }),
            (270, sampler("apply")),
            (320, {"save": save("references")}),
        ],
    )  # fmt: skip


def half(name: str, x: int, title: str) -> dict[str, Box]:
    """The mask of one half of a 256 x 128 picture."""
    return {
        name: Box(
            "MaskComposite",
            {"destination": ("black", 0), "source": ("white", 0), "x": x, "y": 0, "operation": "add"},
            title,
        )
    }


def area(text: str, x: int) -> Box:
    return Box(
        "ConditioningSetArea", {"conditioning": (text, 0), "width": 128, "height": 128, "x": x, "y": 0, "strength": 1.0}, "Area"
    )


def two_people() -> Template:
    return Template(
        f"**Two people in one picture.** {NO_DOWNLOAD}\n\nEach person has an *Apply MEAF* with a mask, one after the other; "
        "each prompt has its area. The masks keep either face in its half.",
        [
            (190, {"left person": face("Left person", "person_2"), "right person": face("Right person", "person_1")}),
            (190, {"left face": face("Left reference", "winking"), "right face": face("Right reference", "laughing")}),
            (230, {
                "dsid": dsid(), "left id": identity("left person"), "left code": semantics("left face"),
                "right id": identity("right person"), "right code": semantics("right face"),
            }),
            (230, {
                "black": Box("SolidMask", {"value": 0.0, "width": 256, "height": 128}, "Black"),
                "white": Box("SolidMask", {"value": 1.0, "width": 128, "height": 128}, "White"),
                **half("left half", 0, "Left half"), **half("right half", 128, "Right half"),
            }),
            (250, {**loaders(), "left": apply("base", "left id", "left code", "Left", mask=("left half", 0))}),
            (250, {
                "right": apply("left", "right id", "right code", "Right", mask=("right half", 0)),
                "size": size(1, 256),
            }),
            (250, {
                "left text": prompt("a portrait of a person, yellow background, green clothes", "Left prompt"),
                "left area": area("left text", 0),
                "right text": prompt("a portrait of a person, yellow background, purple clothes", "Right prompt"),
                "right area": area("right text", 128),
            }),
            (250, {
                "prompt": Box(
                    "ConditioningCombine", {"conditioning_1": ("left area", 0), "conditioning_2": ("right area", 0)}, "Both"
                ),
                "negative": negative(), **sampler("right"),
            }),
            (320, {"save": save("two_people")}),
        ],
    )  # fmt: skip


def exaggerate() -> Template:
    return Template(
        f"**Exaggerate an expression, and keep it.** {NO_DOWNLOAD}\n\n*Blend Semantics* goes from the resting face to the "
        "surprised one and beyond (factor 1.4). The two *Save* nodes keep the codes in output/deepexpo; *Load Identity* and "
        "*Load Semantics* list them in any workflow.",
        [
            (220, {"person": face("Person", "person_3"), "resting": face("At rest", "resting")}),
            (220, {"surprised": face("Surprised", "surprised"), "dsid": dsid()}),
            (250, {
                "identity": identity("person"), "from": semantics("resting"), "to": semantics("surprised"),
                "blend": Box(
                    "DeepExPoBlendSemantics", {"a": ("from", 0), "b": ("to", 0), "factor": 1.4}, "Blend Semantics"
                ),
                "save identity": Box(
                    "DeepExPoSaveIdentity",
                    {"identity": ("identity", 0), "filename_prefix": "deepexpo/identity"},
                    "Save Identity",
                ),
                "save semantics": Box(
                    "DeepExPoSaveSemantics", {"semantics": ("blend", 0), "filename_prefix": "deepexpo/surprised"},
                    "Save Semantics",
                ),
            }),
            (270, {**loaders(), "apply": apply("base", "identity", "blend")}),
            (290, {
                "prompt": prompt("a portrait of a person, grey background, orange clothes"),
                "negative": negative(),
                "size": size(4),
            }),
            (270, sampler("apply")),
            (320, {"save": save("exaggerate")}),
        ],
    )  # fmt: skip


HUGGING_FACE = "https://huggingface.co"
CHECKPOINT = "v1-5-pruned-emaonly-fp16.safetensors"
FACEID = "ip-adapter-faceid_sd15.bin"
FACE_CONTROLNET = "control_v2p_sd15_mediapipe_face.safetensors"


def file(name: str, folder: str, directory: str) -> list[dict]:
    """For the frontend's download dialog."""
    return [{"name": name, "url": f"{HUGGING_FACE}/{folder}/resolve/main/{name}", "directory": directory}]


def photo(title: str, name: str) -> Box:
    return Box("LoadImage", {"image": name}, title, height=310)


def landmarks(image: str) -> Box:
    return Box("DeepExPoFindLandmarks", {"image": (image, 0), "faces": 1}, "Find Landmarks")


def photo_sd15() -> Template:
    identity = {"image": ("person", 0), "recogniser": "buffalo_l", "landmarks": ("person landmarks", 0)}
    controlled = {"positive": ("prompt", 0), "negative": ("negative", 0), "control_net": ("controlnet", 0), "image": ("map", 0)}
    return Template(
        "**Two photographs**: this *person*, with the *reference*'s expression and head pose, in the prompt's context.\n\n"
        f"Files: `{CHECKPOINT}` or any SD1.5 in models/checkpoints; `{FACEID}` in models/ipadapter; `{FACE_CONTROLNET}` in "
        "models/controlnet; insightface's pack in models/insightface/models/buffalo_l (non-commercial research); "
        "`face_landmarker.task` in models/mediapipe and `pip install mediapipe` (ComfyUI 0.23 and newer: put core's *Detect "
        "Face Landmarks* where *Find Landmarks* stands). Not tried with the real weights by its authors.",
        [
            (230, {"person": photo("Person", "person.png"), "reference": photo("Reference", "reference.png")}),
            (240, {"person landmarks": landmarks("person"), "reference landmarks": landmarks("reference")}),
            (270, {
                "identity": Box("DeepExPoEncodeIdentity", identity, "Encode Identity"),
                "semantics": Box("DeepExPoEncodeSemantics", {"landmarks": ("reference landmarks", 0)}, "Encode Semantics"),
                "map": Box(
                    "DeepExPoDrawFaceControl", {"semantics": ("semantics", 0), "identity": ("identity", 0)},
                    "Draw Face Control", 560,
                ),
            }),
            (300, {
                "base": Box("CheckpointLoaderSimple", {"ckpt_name": CHECKPOINT}, "Load Checkpoint",
                            models=file(CHECKPOINT, "Comfy-Org/stable-diffusion-v1-5-archive", "checkpoints")),
                "meaf": Box("DeepExPoLoadMEAF", {"meaf_name": f"ipadapter/{FACEID}"}, "Load MEAF",
                            models=file(FACEID, "h94/IP-Adapter-FaceID", "ipadapter")),
                "apply": Box("DeepExPoApplyMEAF", {"model": ("base", 0), "meaf": ("meaf", 0), "identity": ("identity", 0)},
                             "Apply MEAF"),
            }),
            (300, {
                "prompt": prompt("photo of a person in a park, golden hour, portrait, detailed face"),
                "negative": prompt("blurry, deformed, cropped", "Negative prompt", **NEGATIVE),
                "controlnet": Box("ControlNetLoader", {"control_net_name": FACE_CONTROLNET}, "Load ControlNet",
                                  models=file(FACE_CONTROLNET, "CrucibleAI/ControlNetMediaPipeFace", "controlnet")),
                "control": Box("ControlNetApplyAdvanced", {**controlled, "strength": 0.9, "end_percent": 0.75},
                               "Apply ControlNet"),
                "size": Box("EmptyLatentImage", {"width": 512, "height": 512, "batch_size": 1}, "Size"),
            }),
            (280, {
                "sampler": Box("KSampler", {
                    "seed": 0, "steps": 25, "cfg": 6.0, "sampler_name": "dpmpp_2m", "scheduler": "karras", "denoise": 1.0,
                    "model": ("apply", 0), "positive": ("control", 0), "negative": ("control", 1), "latent_image": ("size", 0),
                }, "KSampler"),
                "decode": Box("VAEDecode", {"samples": ("sampler", 0), "vae": ("base", 2)}, "VAE Decode"),
            }),
            (360, {"save": save("photo_sd15")}),
        ],
    )  # fmt: skip


TEMPLATES = {
    "1_starter": starter,
    "3_photo_sd15": photo_sd15,
    "7_expression_and_pose": expression_and_pose,
    "8_reference_batch": reference_batch,
    "9_two_people": two_people,
    "10_exaggerate": exaggerate,
}


def main() -> None:
    reason = host.start()
    if reason:
        sys.exit(reason)
    from rig.pack import node_definitions

    definitions = node_definitions()
    for name, build in TEMPLATES.items():
        template = build()
        ids = {key: str(number) for number, key in enumerate(template.boxes, start=1)}
        api = {ids[key]: box.api(ids, definitions) for key, box in template.boxes.items()}
        columns = [(width, [ids[key] for key in boxes]) for width, boxes in template.columns]
        boxes = {ids[key]: box for key, box in template.boxes.items()}
        drawn = frontend_graph(api, boxes, columns, template.note, definitions)
        drawn["id"] = str(uuid.uuid5(uuid.NAMESPACE_URL, f"deepexpo/{name}"))
        write(WORKFLOWS / f"{name}.json", drawn)
        write(WORKFLOWS / "api" / f"{name}.json", api)


def write(path: Path, content: dict) -> None:
    path.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()

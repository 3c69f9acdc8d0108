"""Identity alone, by a public adapter."""

from rig.layout import Box

from . import files
from .boxes import Blueprint, Template, negative, prompt, sampler, save, size
from .photos import UNTRIED, adapter, apply, checkpoint, insightface, photo


def faceid_portrait() -> Template:
    sampling = sampler("apply", cfg=6.5, sampler_name="dpmpp_2m", scheduler="karras")
    identity = {"image": ("crop", 0), "recogniser": "buffalo_l"}
    return Template(
        "**The person of one photograph** in the prompt's context; expression and pose are left to the prompt. The LoRA that "
        f"FaceID has inside acts by *lora_strength*.\n\n{files.SD15.line}, or any SD1.5\n{files.FACEID.line}\n"
        f"{insightface('buffalo_l')}\n\n{UNTRIED}",
        [
            (250, {
                "person": photo("Person", "person.png"),
                "crop": Box("DeepExPoCropFace", {"image": ("person", 0)}, "Crop Face"),
            }),
            (270, {
                "identity": Box("DeepExPoEncodeIdentity", identity, "Encode Identity"),
                "base": checkpoint(files.SD15), "meaf": adapter(files.FACEID),
            }),
            (270, {"apply": apply(), "size": size(1, 512, 512)}),
            (290, {
                "prompt": prompt("portrait photo of a person reading in an old library, warm light"),
                "negative": negative("blurry, deformed, watermark"), **sampling,
            }),
            (330, {"save": save("faceid", 420)}),
        ],
        note_height=240,
        blueprint=Blueprint(
            "Portrait from One Photo (SD1.5, DeepExPo)",
            "The person of one photo in the prompt's context, by IP-Adapter FaceID; expression and pose are the prompt's.",
            [
                ("prompt", "text"), ("negative", "text"), ("sampler", "seed"), ("sampler", "steps"), ("base", "ckpt_name"),
                ("meaf", "meaf_name"), ("apply", "identity_strength"), ("apply", "lora_strength"),
            ],
        ),
    )  # fmt: skip

"""Templates on the starter: everything in them comes with the pack."""

from rig.layout import Box

from .boxes import Blueprint, Template, negative, prompt, sampler, save
from .boxes import size as sized

NO_DOWNLOAD = "Everything here comes with the pack: press **Run**."
OWN_PHOTOS = "**Your own photos**: put *Load Image* and *Crop Face* where *Sample Face* stands."
LIKENESS = "This small model shows what the nodes do; for a likeness open the photo templates."

OWN = "For any model with MEAF streams and a DSID of its own, as the starter; photos need *Crop Face* before it."
BASE = {"model": ("base", 0), "clip": ("base", 1), "vae": ("base", 2)}
LATENT = {"latent": ("size", 0)}
PROMPT_WIDGETS = [("prompt", "text"), ("sampler", "seed"), ("sampler", "steps")]
FILE_WIDGETS = [("meaf", "meaf_name"), ("dsid", "dsid_name")]
CFG, CFG_OF_TWO = 5.0, 3.0
STRENGTHS = ["identity_strength", "expression_strength", "pose_strength"]
WIDGETS = [*PROMPT_WIDGETS, *FILE_WIDGETS, *(("apply", name) for name in STRENGTHS)]


def face(title: str, which: str) -> Box:
    return Box("DeepExPoSampleFace", {"which": which}, title, height=300)


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
        "meaf": Box("DeepExPoLoadMEAF", {"meaf_name": "heads-meaf.safetensors"}, "Load MEAF"),
    }


def dsid() -> Box:
    return Box("DeepExPoLoadDSID", {"dsid_name": "photo-dsid.safetensors"}, "Load DSID")


def size(batch: int, width: int = 128) -> Box:
    return sized(batch, width, 128)


def starter() -> Template:
    return Template(
        f"**Starter**: a prompt, a person, a reference. {NO_DOWNLOAD}\n\nThe four pictures show the *person*, with the "
        "*reference*'s expression and head pose, in the prompt's context: heads of 128 pixels, soft as if painted, by a small "
        f"model. For a likeness open *02_photo_sd15*.\n\n{OWN_PHOTOS}",
        [
            (220, {"person": face("Person", "photograph"), "reference": face("Reference", "surprised")}),
            (300, {"dsid": dsid(), "identity": identity("person"), "semantics": semantics("reference")}),
            (300, {**loaders(), "apply": apply("base", "identity", "semantics")}),
            (290, {
                "prompt": prompt("a photo of a woman, plain teal background, red clothes"),
                "negative": negative(),
                "size": size(4),
            }),
            (270, sampler("apply", seed=8, cfg=CFG)),
            (320, {"save": save("starter")}),
        ],
        note_height=230,
        blueprint=Blueprint(
            "Portrait from Two Faces (DeepExPo)",
            f"This person, with the reference's expression and head pose, in the prompt's context. {OWN}",
            WIDGETS,
            inputs=BASE | LATENT,
        ),
    )  # fmt: skip


def expression_and_pose() -> Template:
    return Template(
        f"**Expression of one picture, head pose of another.** {NO_DOWNLOAD}\n\n*Combine Semantics* joins them; *Apply MEAF* "
        f"gives the person both. {OWN_PHOTOS}",
        [
            (200, {"person": face("Person", "photograph"), "expression": face("Expression", "surprised")}),
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
            (300, {**loaders(), "apply": apply("base", "identity", "combine")}),
            (290, {
                "prompt": prompt("a photo of a woman, plain green background, yellow clothes"),
                "negative": negative(),
                "size": size(4),
            }),
            (270, sampler("apply", cfg=CFG)),
            (320, {"save": save("expression_and_pose")}),
        ],
        blueprint=Blueprint(
            "Portrait with Expression and Pose from Two Faces (DeepExPo)",
            f"This person, with one picture's expression and another's head pose, in the prompt's context. {OWN}",
            WIDGETS,
            inputs=BASE | LATENT,
        ),
    )  # fmt: skip


def reference_batch() -> Template:
    return Template(
        f"**One person, many expressions, in one run.** {NO_DOWNLOAD}\n\nFive references are a batch of five codes: one for "
        "each latent, so *batch_size* is their number. Several photos become a batch by *Batch Images*.",
        [
            (220, {"person": face("Person", "photograph"), "references": face("References", "all references")}),
            (300, {"dsid": dsid(), "identity": identity("person"), "semantics": semantics("references")}),
            (300, {**loaders(), "apply": apply("base", "identity", "semantics")}),
            (290, {
                "prompt": prompt("a photo of a woman, plain grey background, blue clothes"),
                "negative": negative(),
                "size": size(5),
            }),
            (270, sampler("apply", cfg=CFG)),
            (320, {"save": save("references")}),
        ],
        blueprint=Blueprint(
            "One Person, One Picture per Reference (DeepExPo)",
            "This person once for each reference of a batch, in one run; the latent's batch size is the number of references. "
            f"{OWN}",
            WIDGETS,
            inputs=BASE | LATENT,
        ),
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
            (190, {"left person": face("Left person", "photograph"), "right person": face("Right person", "person_1")}),
            (190, {"left face": face("Left reference", "turned"), "right face": face("Right reference", "laughing")}),
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
                "left text": prompt("a photo of a woman, plain yellow background, green clothes", "Left prompt"),
                "left area": area("left text", 0),
                "right text": prompt("a photo of a man, plain yellow background, purple clothes", "Right prompt"),
                "right area": area("right text", 128),
            }),
            (250, {
                "prompt": Box(
                    "ConditioningCombine", {"conditioning_1": ("left area", 0), "conditioning_2": ("right area", 0)}, "Both"
                ),
                "negative": negative(), **sampler("right", cfg=CFG_OF_TWO),
            }),
            (320, {"save": save("two_people")}),
        ],
        blueprint=Blueprint(
            "Two People in One Picture (DeepExPo)",
            "Two people, each with the expression and head pose of a reference, each where a mask is white; the positive "
            f"prompt may have an area for either. {OWN}",
            [("sampler", "seed"), ("sampler", "steps"), ("sampler", "cfg"), *FILE_WIDGETS],
            inputs={
                "left mask": ("left half", 0), "right mask": ("right half", 0), "model": ("base", 0), "vae": ("base", 2),
                "positive": ("prompt", 0), "negative": ("negative", 0), **LATENT,
            },
        ),
    )  # fmt: skip


def exaggerate() -> Template:
    return Template(
        f"**Exaggerate an expression, and keep it.** {NO_DOWNLOAD}\n\n*Blend Semantics* goes from the resting face to the "
        "surprised one and beyond (factor 1.4). The two *Save* nodes keep the codes in output/deepexpo; *Load Identity* and "
        "*Load Semantics* list them in any workflow.",
        [
            (220, {"person": face("Person", "photograph"), "resting": face("At rest", "resting")}),
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
            (300, {**loaders(), "apply": apply("base", "identity", "blend")}),
            (290, {
                "prompt": prompt("a photo of a woman, plain grey background, orange clothes"),
                "negative": negative(),
                "size": size(4),
            }),
            (270, sampler("apply", cfg=CFG)),
            (320, {"save": save("exaggerate")}),
        ],
        blueprint=Blueprint(
            "Exaggerated Expression (DeepExPo)",
            "This person with an expression that goes beyond a reference: factor 0 is the face at rest, 1 the expression, more "
            f"exaggerates it. {OWN}",
            [("blend", "factor"), *PROMPT_WIDGETS, *FILE_WIDGETS, ("apply", "identity_strength"), ("apply", "pose_strength")],
            {"image": ("decode", 0), "semantics": ("blend", 0), "identity": ("identity", 0)},
            {"expression": ("surprised", 0), **BASE, **LATENT},
        ),
    )  # fmt: skip

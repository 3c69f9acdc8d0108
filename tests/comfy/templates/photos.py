"""Templates on photographs, with public weights: identity by an adapter, expression and head pose by a control map."""

from rig.layout import Box

from . import files
from .boxes import Blueprint, Template, negative, prompt, sampler, save, size
from .files import File

UNTRIED = "Its authors had none of these weights: the graph runs on random files of the same layout, nothing more was tried."
PROMPT = "photo of a person in a park, golden hour, portrait, detailed face"
NEGATIVE = "blurry, deformed, cropped"
SD15_FILES = (files.SD15, files.FACEID, files.FACE_CONTROLNET)
SDXL_FILES = (files.SDXL, files.INSTANTID, files.INSTANTID_CONTROLNET, files.UNION_CONTROLNET)
PORTRAIT_WIDGETS = [
    ("prompt", "text"), ("negative", "text"), ("sampler", "seed"), ("sampler", "steps"), ("sampler", "cfg"),
    ("base", "ckpt_name"), ("meaf", "meaf_name"),
]  # fmt: skip
SD15_WIDGETS = [
    *PORTRAIT_WIDGETS, ("controlnet", "control_net_name"), ("apply", "identity_strength"), ("control", "strength"),
    ("map", "face_height"), ("map", "x"), ("map", "y"),
]  # fmt: skip


def note(first: str, tips: str, needed: tuple[File, ...], pack: str = "", tried: str = UNTRIED) -> str:
    """What it does, what to download and where to, and what was tried."""
    lines = [*(file.line for file in (*needed, files.LANDMARKER)), f"- {files.OLD_LANDMARKER}"]
    lines += [insightface(pack)] if pack else []
    return "\n\n".join((f"{first} {tips}", "\n".join(lines), tried))


def insightface(pack: str) -> str:
    place = f"- insightface's pack `{pack}` in models/insightface/models/{pack} (non-commercial research)"
    return f"{place}, and pip install insightface onnxruntime"


def photo(title: str, name: str, height: int = 315) -> Box:
    return Box("LoadImage", {"image": name}, title, height)


def landmarks(images: tuple[str, int], title: str = "Find Landmarks") -> Box:
    return Box("DeepExPoFindLandmarks", {"image": images, "faces": 1}, title, models=files.LANDMARKER.link)


def identity(recogniser: str) -> Box:
    given = {"image": ("person", 0), "recogniser": recogniser, "landmarks": ("person landmarks", 0)}
    return Box("DeepExPoEncodeIdentity", given, "Encode Identity")


def semantics(found: str, title: str = "Encode Semantics", gaps: str = "refuse") -> Box:
    return Box("DeepExPoEncodeSemantics", {"landmarks": (found, 0), "gaps": gaps}, title)


def face_map(code: str, style: str, side: int, title: str = "Draw Face Control", height: int = 560, **more) -> Box:
    given = {"semantics": (code, 0), "identity": ("identity", 0), "style": style, "width": side, "height": side, **more}
    return Box("DeepExPoDrawFaceControl", given, title, height)


def checkpoint(file: File) -> Box:
    return Box("CheckpointLoaderSimple", {"ckpt_name": file.name}, "Load Checkpoint", models=file.link)


def adapter(file: File) -> Box:
    return Box("DeepExPoLoadMEAF", {"meaf_name": f"{file.directory}/{file.name}"}, "Load MEAF", models=file.link)


def apply() -> Box:
    return Box("DeepExPoApplyMEAF", {"model": ("base", 0), "meaf": ("meaf", 0), "identity": ("identity", 0)}, "Apply MEAF")


def controlnet(file: File, title: str = "Load ControlNet") -> Box:
    return Box("ControlNetLoader", {"control_net_name": file.name}, title, models=file.link)


def control(net: str, image: str, strength: float, end: float, conditioned=(("prompt", 0), ("negative", 0)),
            title: str = "Apply ControlNet") -> Box:  # fmt: skip
    positive, negative = conditioned
    given = {"positive": positive, "negative": negative, "control_net": (net, 0), "image": (image, 0)}
    return Box("ControlNetApplyAdvanced", {**given, "strength": strength, "end_percent": end}, title)


def sd15_columns(code: str, batch: int | tuple = 1, text: str = PROMPT) -> list[tuple[int, dict[str, Box]]]:
    """From the codes to decoded pictures: FaceID for who it is, the MediaPipe-face ControlNet for expression and pose."""
    sampling = sampler("apply", ("control", 0), ("control", 1), cfg=6.0, sampler_name="dpmpp_2m", scheduler="karras")
    return [
        (270, {"base": checkpoint(files.SD15), "meaf": adapter(files.FACEID), "map": face_map(code, "mediapipe face", 512)}),
        (270, {
            "apply": apply(), "controlnet": controlnet(files.FACE_CONTROLNET),
            "control": control("controlnet", "map", 0.9, 0.75), "size": size(batch, 512, 512),
        }),
        (290, {"prompt": prompt(text), "negative": negative(NEGATIVE), **sampling}),
    ]  # fmt: skip


def photo_sd15() -> Template:
    return Template(
        note(
            "**Two photographs**: this *person*, with the *reference*'s expression and head pose, in the prompt's context; "
            "the map is drawn on the person's own proportions.",
            "*face_height*, *x* and *y* place the face where the prompt wants it. Less of *strength* and *end_percent* in "
            "Apply ControlNet gives more likeness.",
            SD15_FILES,
            "buffalo_l",
        ),
        [
            (220, {"person": photo("Person", "person.png"), "reference": photo("Reference", "reference.png")}),
            (250, {
                "person landmarks": landmarks(("person", 0), "Landmarks of the person"), "identity": identity("buffalo_l"),
                "reference landmarks": landmarks(("reference", 0), "Landmarks of the reference"),
                "semantics": semantics("reference landmarks"),
            }),
            *sd15_columns("semantics"),
            (330, {"save": save("photo_sd15", 420)}),
        ],
        note_height=290,
        models=files.LANDMARKER.link,
        blueprint=Blueprint(
            "Portrait from Two Photos (SD1.5, DeepExPo)",
            "This person, with another's expression and head pose, in the prompt's context: IP-Adapter FaceID and a MediaPipe-"
            "face ControlNet, whose map is drawn on the person's own proportions.",
            SD15_WIDGETS,
            {"map": ("map", 0)},
        ),
    )  # fmt: skip


def expression_and_pose_from_two_photos() -> Template:
    return Template(
        note(
            "**Expression of one photograph, head pose of another**, on a third person's face.",
            "*Combine Semantics* joins them. *Edit Semantics* behind it changes either by hand.",
            SD15_FILES,
            "buffalo_l",
        ),
        [
            (220, {"person": photo("Person", "person.png"), "expression": photo("Expression", "expression.png")}),
            (220, {
                "pose": photo("Head pose", "pose.png"),
                "person landmarks": landmarks(("person", 0), "Landmarks of the person"),
                "expression landmarks": landmarks(("expression", 0), "Landmarks of the expression"),
                "pose landmarks": landmarks(("pose", 0), "Landmarks of the pose"),
            }),
            (240, {
                "identity": identity("buffalo_l"), "expression code": semantics("expression landmarks", "Expression"),
                "pose code": semantics("pose landmarks", "Head pose"),
                "semantics": Box(
                    "DeepExPoCombineSemantics", {"expression_from": ("expression code", 0), "pose_from": ("pose code", 0)},
                    "Combine Semantics",
                ),
            }),
            *sd15_columns("semantics"),
            (330, {"save": save("expression_and_pose_from_two_photos", 420)}),
        ],
        note_below=(0, 2),
        note_height=250,
        models=files.LANDMARKER.link,
        blueprint=Blueprint(
            "Portrait with Expression and Pose from Two Photos (SD1.5, DeepExPo)",
            "This person, with one photo's expression and another's head pose, in the prompt's context.",
            SD15_WIDGETS,
            {"map": ("map", 0)},
        ),
    )  # fmt: skip


def one_person_many_expressions() -> Template:
    return Template(
        note(
            "**One person, many expressions**, one picture each in one run: name them in *Expression Presets*.",
            "A head pose for all of them: *Combine Semantics* with a photo's, as in the template before this one.",
            SD15_FILES,
            "buffalo_l",
        ),
        [
            (220, {"person": photo("Person", "person.png")}),
            (250, {
                "person landmarks": landmarks(("person", 0), "Landmarks of the person"), "identity": identity("buffalo_l"),
                "presets": Box(
                    "DeepExPoExpressionPresets", {"expressions": "happy, sad, angry, surprised"}, "Expression Presets", 150
                ),
            }),
            *sd15_columns("presets", ("presets", 1), "studio portrait, grey wall"),
            (330, {"save": save("one_person_many_expressions", 420)}),
        ],
        note_height=290,
        models=files.LANDMARKER.link,
        blueprint=Blueprint(
            "One Person, Many Expressions (SD1.5, DeepExPo)",
            "One picture of this person for each named expression, in one run.",
            [("presets", "expressions"), ("presets", "strength"), *SD15_WIDGETS],
            {"maps": ("map", 0)},
        ),
    )  # fmt: skip


def photo_sdxl() -> Template:
    points = ("points", 0), ("points", 1)
    face = ("face", 0), ("face", 1)
    given = {"positive": points[0], "negative": points[1], "meaf": ("meaf", 0), "identity": ("identity", 0)}
    sampling = sampler("apply", ("control", 0), ("control", 1), cfg=4.5, sampler_name="dpmpp_2m", scheduler="karras")
    return Template(
        note(
            "**Two photographs, on SDXL**: this *person*, with the *reference*'s expression and head pose.",
            "InstantID gives the person and the place of five points; a depth map of the person's own head, through a union "
            "ControlNet, the expression. Both maps must have the same place and size.",
            SDXL_FILES,
            "antelopev2",
        ),
        [
            (220, {"person": photo("Person", "person.png"), "reference": photo("Reference", "reference.png")}),
            (250, {
                "person landmarks": landmarks(("person", 0), "Landmarks of the person"), "identity": identity("antelopev2"),
                "reference landmarks": landmarks(("reference", 0), "Landmarks of the reference"),
                "semantics": semantics("reference landmarks"),
            }),
            (260, {
                "base": checkpoint(files.SDXL), "meaf": adapter(files.INSTANTID), "apply": apply(),
                "union file": controlnet(files.UNION_CONTROLNET, "Load union ControlNet"),
            }),
            (260, {
                "five points": face_map("semantics", "instantid points", 1024, "Five points", 400),
                "depth": face_map("semantics", "depth", 1024, "Depth of the head", 400),
            }),
            (260, {
                "instantid file": controlnet(files.INSTANTID_CONTROLNET, "Load InstantID's ControlNet"),
                "points": control("instantid file", "five points", 0.8, 1.0, title="Apply InstantID's ControlNet"),
                "face": Box("DeepExPoIdentityToControlNet", given, "Identity to ControlNet"),
                "union": Box("SetUnionControlNetType", {"control_net": ("union file", 0), "type": "depth"}, "Union type"),
                "control": control("union", "depth", 0.45, 0.6, face, "Apply union ControlNet"),
            }),
            (260, {
                "prompt": prompt(PROMPT), "negative": negative(NEGATIVE), "size": size(1, 1024, 1024), **sampling,
            }),
            (320, {"save": save("photo_sdxl", 420)}),
        ],
        note_height=330,
        models=files.LANDMARKER.link,
        blueprint=Blueprint(
            "Portrait from Two Photos (SDXL, DeepExPo)",
            "This person, with another's expression and head pose, in the prompt's context: InstantID and a union ControlNet "
            "on a depth map of the person's own head.",
            [
                *PORTRAIT_WIDGETS, ("instantid file", "control_net_name"), ("union file", "control_net_name"),
                ("apply", "identity_strength"), ("points", "strength"), ("control", "strength"),
            ],
            {"depth": ("depth", 0)},
        ),
    )  # fmt: skip


def clip_to_maps() -> Template:
    video = {"video": ("create", 0), "filename_prefix": "video/deepexpo/maps"}
    return Template(
        note(
            "**A clip becomes control maps**: expression and head pose of every frame, on this person's proportions, for any "
            "video model or frame-by-frame run with a ControlNet.",
            "*style* is what your ControlNet was trained on. Frames without a face are filled from those around them.",
            (),
            tried="Tried on filmed faces, with MediaPipe's package; with no ControlNet and no video model.",
        ),
        [
            (220, {
                "clip": Box("LoadVideo", {"file": "clip.mp4"}, "Clip", 315),
                "person": photo("Person", "person.png"),
            }),
            (250, {
                "frames": Box("GetVideoComponents", {"video": ("clip", 0)}, "Frames of the clip"),
                "clip landmarks": landmarks(("frames", 0), "Landmarks of every frame"),
                "semantics": semantics("clip landmarks", gaps="interpolate"),
                "person landmarks": landmarks(("person", 0), "Landmarks of the person"),
            }),
            (250, {
                "crop": Box("DeepExPoCropFace", {"image": ("person", 0)}, "Crop Face"),
                "dsid": Box("DeepExPoLoadDSID", {"dsid_name": "photo-dsid.safetensors"}, "Load DSID"),
                "identity": Box("DeepExPoEncodeIdentity", {
                    "dsid": ("dsid", 0), "image": ("crop", 0), "recogniser": "dsid", "landmarks": ("person landmarks", 0),
                }, "Encode Identity"),
            }),
            (290, {"map": face_map("semantics", "mediapipe face", 512, height=640)}),
            (260, {"create": Box(
                "CreateVideo", {"images": ("map", 0), "audio": ("frames", 1), "fps": ("frames", 2)}, "Create Video"
            )}),
            (330, {"save": Box("SaveVideo", video, "Save Video", 420)}),
        ],
        note_height=200,
        models=files.LANDMARKER.link,
        blueprint=Blueprint(
            "Clip to Face Control Maps (DeepExPo)",
            "Expression and head pose of every frame of a clip as control maps, on the proportions of the person in the photo.",
            [("map", name) for name in ("style", "width", "height", "face_height", "x", "y")],
            {"maps": ("map", 0), "face mask": ("map", 1)},
        ),
    )  # fmt: skip

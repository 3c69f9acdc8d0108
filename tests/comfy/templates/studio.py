"""Sheets, clips and several people."""

from dataclasses import replace

from rig.layout import Box

from . import files, photos
from .boxes import Blueprint, Template, negative, prompt, sampler, save
from .boxes import size as sized
from .starter import (
    BASE,
    CFG,
    FILE_WIDGETS,
    LIKENESS,
    NO_DOWNLOAD,
    OWN,
    PROMPT_WIDGETS,
    dsid,
    face,
    identity,
    loaders,
    semantics,
)

FRAMES = 16  # of the clip that comes with the pack
RATE = 12.0  # frames a second of the clip that comes with the pack
WINDOW = {
    "context_length": 8, "context_overlap": 2, "context_schedule": "standard_static", "context_stride": 1,
    "closed_loop": False, "fuse_method": "pyramid", "dim": 0,
}  # fmt: skip
NEWER = {  # inputs that later versions of ComfyUI require of Context Windows
    "freenoise": False, "cond_retain_index_list": "", "split_conds_to_windows": False, "latent_retain_index_list": "",
    "causal_window_fix": True,
}  # fmt: skip
LEFT, RIGHT = 0.28, 0.72  # middles of two faces in a picture


def apply(model: str, identity: tuple, semantics: tuple | None, title: str = "Apply MEAF", **more) -> Box:
    code = {} if semantics is None else {"semantics": semantics}
    return Box("DeepExPoApplyMEAF", {"model": (model, 0), "meaf": ("meaf", 0), "identity": identity, **code, **more}, title)


def windows(model: str) -> Box:
    return Box("ContextWindowsManual", {"model": (model, 0), **WINDOW}, "Context Windows", newer=NEWER)


def video(images: str, rate: float | tuple, name: str, **audio) -> dict[str, Box]:
    return {
        "create": Box("CreateVideo", {"images": (images, 0), "fps": rate, **audio}, "Create Video"),
        "video": Box("SaveVideo", {"video": ("create", 0), "filename_prefix": f"video/DeepExPo/{name}", "format": "mp4",
                                   "codec": "h264"}, "Save Video", 340),
    }  # fmt: skip


def smooth(code: str, rate: float | tuple) -> Box:
    given = {"semantics": (code, 0), "strength": 0.5, "frames_per_second": rate}
    return Box("DeepExPoSmoothSemantics", given, "Smooth Semantics", 330)


def pair_sheet() -> Template:
    pairs = {"identity": ("left id", 0), "columns": "references", "semantics": ("looks", 0), "identity_2": ("right id", 0)}
    measured = {
        "image": ("decode", 0), "identity_judge": "heads", "expression_judge": "heads", "identity": ("people", 0),
        "reference": ("references", 0), "sheet": ("pairs", 4),
    }  # fmt: skip
    saved = Box("SaveImage", {"filename_prefix": "DeepExPo/pair_sheet", "images": ("sheet", 0)}, "Save Image", 340)
    sheet = {"image": ("decode", 0), "sheet": ("pairs", 4), "cell": 256}
    return Template(
        f"**Every person with every expression**, as a labelled sheet, and measured. {NO_DOWNLOAD}\n\n*columns* in Pair Sheet "
        "takes presets or a slider's steps, for codes of face landmarks. *Measure* says how much of the person is kept, how "
        f"much of the reference leaked in, and how near expression and pose are: tune Apply MEAF's strengths by it. {LIKENESS}",
        [
            (210, {"left": face("Person 1", "photograph"), "right": face("Person 2", "person_1")}),
            (210, {"references": face("References", "all references"), "dsid": dsid()}),
            (230, {
                "left id": identity("left"), "right id": identity("right"), "looks": semantics("references"),
                "people": Box("ImageBatch", {"image1": ("left", 0), "image2": ("right", 0)}, "Batch Images"),
            }),
            (260, {"pairs": Box("DeepExPoPairSheet", pairs, "Pair Sheet")}),
            (260, {**loaders(), "apply": apply("base", ("pairs", 0), ("pairs", 1))}),
            (260, {
                "prompt": prompt("a photo of a person, plain grey background, blue clothes"), "negative": negative(),
                "size": sized(("pairs", 2), 128, 128), **sampler("apply", cfg=CFG),
            }),
            (420, {
                "sheet": Box("DeepExPoDrawSheet", sheet, "Draw Sheet", 300),
                "measure": Box("DeepExPoMeasure", measured, "Measure Likeness", 560),
            }),
            (360, {"save": saved}),
        ],
        blueprint=Blueprint(
            "Sheet of Two People and Every Expression (DeepExPo)",
            "Either person with every reference's expression and head pose, as a labelled sheet; pictures and pairs go to "
            f"Measure Likeness. {OWN}",
            [*PROMPT_WIDGETS, *FILE_WIDGETS, ("size", "width"), ("size", "height"), ("sheet", "cell")],
            {"sheet": ("sheet", 0), "pictures": ("decode", 0), "pairs": ("pairs", 4)},
            BASE,
        ),
    )  # fmt: skip


def clip() -> Template:
    return Template(
        f"**A clip**: one code per frame, without jitter, and a person who moves like it. {NO_DOWNLOAD}\n\nFor a video of your "
        "own put *Load Video*, *Get Video Components* and *Crop Face* where *Sample Face* stands, and connect fps. "
        "*Context Windows* keep memory small however long the clip is; ComfyUI 0.3.64's need as many steps as frames less one, "
        "later ones take any. Every frame is drawn from noise of its own, so clothes and background change: for a steady "
        f"picture use the maps with a video model. {LIKENESS}",
        [
            (210, {"person": face("Person", "person_1"), "clip": face("Clip", "clip")}),
            (230, {"dsid": dsid(), "identity": identity("person"), "codes": semantics("clip")}),
            (380, {"smooth": smooth("codes", RATE)}),
            (260, {**loaders(), "apply": apply("base", ("identity", 0), ("smooth", 0))}),
            (260, {
                "windows": windows("apply"), "prompt": prompt("a photo of a person, plain grey background, red clothes"),
                "negative": negative(), "size": sized(("smooth", 2), 128, 128),
            }),
            (260, sampler("windows", steps=FRAMES - 1, cfg=CFG)),
            (360, video("decode", RATE, "clip")),
        ],
        blueprint=Blueprint(
            "Person Moving as in a Clip (DeepExPo)",
            "A picture of this person for each frame of a clip, with its expression and head pose, without jitter; any length, "
            f"by context windows. {OWN}",
            [*PROMPT_WIDGETS, *FILE_WIDGETS, ("smooth", "strength"), ("smooth", "frames_per_second"), ("size", "width"),
             ("size", "height")],
            {"pictures": ("decode", 0)},
            {"frames": ("clip", 0), **BASE},
        ),
        note_below=(0, 2),
    )  # fmt: skip


def clip_on_photos() -> Template:
    """A person of a photograph who moves like the one in a video."""
    return Template(
        photos.note(
            "**A video and a photograph**: this *person*, moving as in the video: a code per frame, smoothed, drawn as maps.",
            "Frames without a face are filled from those around them. Every frame is drawn from noise of its own: put a motion "
            "module or a video model behind Apply MEAF for a steady picture, and *Context Windows* for a long one.",
            photos.SD15_FILES,
            "buffalo_l",
        ),
        [
            (220, {
                "video in": Box("LoadVideo", {"file": "clip.mp4"}, "Video", 315),
                "person": photos.photo("Person", "person.png"),
            }),
            (250, {
                "frames": Box("GetVideoComponents", {"video": ("video in", 0)}, "Get Video Components"),
                "clip landmarks": photos.landmarks(("frames", 0), "Landmarks of the video"),
                "codes": photos.semantics("clip landmarks", gaps="interpolate"),
                "person landmarks": photos.landmarks(("person", 0), "Landmarks of the person"),
                "identity": photos.identity("buffalo_l"),
            }),
            (380, {"smooth": smooth("codes", ("frames", 2))}),
            *photos.sd15_columns("smooth", ("smooth", 2)),
            (360, video("decode", ("frames", 2), "clip_on_photos", audio=("frames", 1))),
        ],
        blueprint=Blueprint(
            "Photo Moving as in a Video (SD1.5, DeepExPo)",
            "This person, moving as in a video, with its sound: IP-Adapter FaceID and a map per frame, drawn on the person's "
            "own proportions, for a MediaPipe-face ControlNet.",
            [
                ("prompt", "text"), ("negative", "text"), ("sampler", "seed"), ("base", "ckpt_name"), ("meaf", "meaf_name"),
                ("controlnet", "control_net_name"), ("smooth", "strength"), ("map", "face_height"),
            ],
            {"video": ("create", 0), "pictures": ("decode", 0), "maps": ("map", 0)},
            inside=("frames", "create"),
        ),
        note_below=(0, 2),
        note_height=290,
        models=files.LANDMARKER.link,
    )  # fmt: skip


def one_head(key: str, who: str, expression: str, x: float, over: str | None) -> dict[str, Box]:
    """An expression of the library and its head in the map."""
    earlier = {} if over is None else {"over": (f"{over} map", 0)}
    given = {"semantics": (f"{key} look", 0), "style": "mediapipe face", "width": 768, "height": 512, "face_height": 0.36,
             "x": x, "y": 0.42, **earlier}  # fmt: skip
    name = {"name": f"expressions/{expression}.safetensors [pack]"}
    return {
        f"{key} look": Box("DeepExPoLoadSemantics", name, f"{who}'s expression", 330),
        f"{key} map": Box("DeepExPoDrawFaceControl", given, f"{who}'s head", 560),
    }


def two_people_with_maps() -> Template:
    def person(key: str, title: str) -> dict[str, Box]:
        return {
            f"{key} id": Box("DeepExPoEncodeIdentity", {"image": (key, 0), "recogniser": "buffalo_l"}, f"{title}'s identity"),
            f"{key} region": Box(
                "GrowMask", {"mask": (f"{key} map", 1), "expand": 32, "tapered_corners": True}, f"{title}'s region"
            ),
        }

    sampling = sampler("right apply", ("control", 0), ("control", 1), cfg=6.0, sampler_name="dpmpp_2m", scheduler="karras")
    return Template(
        "**Two people, an expression each**: one map with both heads, and every face in its own region.\n\n*over* draws the "
        "second head into the first one's map; each head's mask, grown a little, keeps its person in place. The expressions "
        "are of the library: choose others by their pictures. Connect landmarks to Encode Identity, and the identities to Draw "
        "Face Control, for each person's own proportions.\n\n"
        f"{files.SD15.line}\n{files.FACEID.line}\n{files.FACE_CONTROLNET.line}\n{photos.insightface('buffalo_l')}\n\n{photos.UNTRIED}",
        [
            (220, {"left": photos.photo("Left person", "left.png"), "right": photos.photo("Right person", "right.png")}),
            (270, one_head("left", "Left", "laughing", LEFT, None)),
            (270, one_head("right", "Right", "surprised", RIGHT, "left")),
            (250, {**person("left", "Left"), **person("right", "Right")}),
            (270, {
                "base": photos.checkpoint(files.SD15), "meaf": photos.adapter(files.FACEID),
                "left apply": apply("base", ("left id", 0), None, "Apply MEAF, left", mask=("left region", 0)),
            }),
            (270, {
                "right apply": apply("left apply", ("right id", 0), None, "Apply MEAF, right", mask=("right region", 0)),
                "size": sized(1, 768, 512),
            }),
            (280, {
                "prompt": prompt("photo of two people in a park, golden hour, portrait, detailed faces"),
                "negative": negative(photos.NEGATIVE), "controlnet": photos.controlnet(files.FACE_CONTROLNET),
                "control": photos.control("controlnet", "right map", 0.9, 0.75),
            }),
            (280, sampling),
            (360, {"save": save("two_people_with_maps", 340)}),
        ],
        blueprint=Blueprint(
            "Two People with an Expression Each (SD1.5, DeepExPo)",
            "Two photographed people in one picture, each with an expression of the library and a region of their own: IP-"
            "Adapter FaceID and one map with both heads for a MediaPipe-face ControlNet.",
            [
                ("left look", "name"), ("right look", "name"), ("prompt", "text"), ("negative", "text"), ("sampler", "seed"),
                ("base", "ckpt_name"), ("meaf", "meaf_name"), ("controlnet", "control_net_name"),
            ],
            {"map": ("right map", 0)},
        ),
        note_below=(3, 4),
        note_height=330,
    )  # fmt: skip


def photo_sd15_app() -> Template:
    """The main job as an app: the few things that change, and the picture."""
    graph = photos.photo_sd15()
    inputs = [
        ("person", "image"), ("reference", "image"), ("prompt", "text"), ("apply", "identity_strength"), ("map", "face_height"),
        ("control", "strength"), ("sampler", "seed"),
    ]  # fmt: skip
    return replace(graph, note=f"{graph.note}\n\nOpens as an app where the frontend has App mode.", blueprint=None,
                   app_inputs=inputs, app_outputs=["save"])  # fmt: skip

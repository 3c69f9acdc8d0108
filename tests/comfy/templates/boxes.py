"""What templates are made of, and the boxes that several of them have."""

from dataclasses import dataclass, field

from rig.layout import Box

POSITIVE, NEGATIVE = {"color": "#232", "bgcolor": "#353"}, {"color": "#322", "bgcolor": "#533"}


@dataclass
class Blueprint:
    """A template's core as one node: what the boxes that save or show need, but for those that load. outputs: label -> (box,
    output), behind what else boxes outside take; widgets: (box, widget) that the node shows; inputs: label -> (box, output)
    where the core begins, beside loaded pictures and clips, which have their box's title; inside: video boxes that it has."""

    name: str
    description: str
    widgets: list[tuple[str, str]]
    outputs: dict[str, tuple[str, int]] = field(default_factory=dict)
    inputs: dict[str, tuple[str, int]] = field(default_factory=dict)
    inside: tuple[str, ...] = ()


@dataclass
class Template:
    """columns: one list of (width, boxes) from left to right; a box's inputs name other boxes by their key. The note stands
    below the columns named by `note_below`, first and last."""

    note: str
    columns: list[tuple[int, dict[str, Box]]] = field(default_factory=list)
    note_below: tuple[int, int] = (0, 1)
    note_height: int = 190
    models: list[dict] = field(default_factory=list)  # files that no widget names
    blueprint: Blueprint | None = None
    app_inputs: list[tuple[str, str]] = field(default_factory=list)  # (box, widget) that App mode shows
    app_outputs: list[str] = field(default_factory=list)  # boxes whose pictures App mode shows

    @property
    def boxes(self) -> dict[str, Box]:
        return {key: box for _, boxes in self.columns for key, box in boxes.items()}


def prompt(text: str, title: str = "Prompt", height: int = 110, **colours) -> Box:
    return Box("CLIPTextEncode", {"text": text, "clip": ("base", 1)}, title, height, colours or POSITIVE)


def negative(text: str = "", height: int = 80) -> Box:
    return prompt(text, "Negative prompt", height, **NEGATIVE)


def size(batch: int | tuple, width: int, height: int) -> Box:
    return Box("EmptyLatentImage", {"width": width, "height": height, "batch_size": batch}, "Size")


def sampler(model: str, positive=("prompt", 0), negative=("negative", 0), **settings) -> dict[str, Box]:
    given = {"seed": 0, "steps": 25, "cfg": 3.0, "sampler_name": "euler", "scheduler": "normal", "denoise": 1.0, **settings}
    sockets = {"model": (model, 0), "positive": positive, "negative": negative, "latent_image": ("size", 0)}
    return {
        "sampler": Box("KSampler", {**given, **sockets}, "KSampler"),
        "decode": Box("VAEDecode", {"samples": ("sampler", 0), "vae": ("base", 2)}, "VAE Decode"),
    }


def save(name: str, height: int = 340) -> Box:
    return Box("SaveImage", {"filename_prefix": f"deepexpo/{name}", "images": ("decode", 0)}, "Save Image", height)

"""Pictures and sentences that the starter learns from: rendered heads, or a folder of pictures with captions."""

import re
from collections import Counter
from dataclasses import dataclass

import torch
from torch import Generator, Tensor

from ...data.clips.labels import read_caption
from ...data.clips.read import read_picture, square_frame
from ...data.clips.stills import index_stills
from ...data.heads import captions as head_captions
from ...data.heads.regions import face_of, region_of
from ...data.heads.shards import HeadStore
from ...image import bytes_to_model
from ...starter.factors import true_factors

KNOWN_WORDS = 1500  # of a folder's captions, the most frequent ones, get a token of their own
SHOWN = 4  # prompts in the sample pictures


@dataclass(frozen=True)
class Frames:
    """images (B, 3, S, S) in [-1, 1]; region of eyes, brows and mouth, and face (B, 1, S, S) in [0, 1]: zeros and ones where
    nothing is known."""

    images: Tensor
    region: Tensor
    face: Tensor


class HeadPictures:
    """Shards of rendered heads; their captions are made anew each time. Raises ValueError for heads of another size."""

    starter = "heads"  # name of what learns from them
    words = head_captions.CAPTION_WORDS
    shown = (
        "a photo of a young woman with long brown hair, smiling, red wall behind, blue clothes",
        "a portrait of an old man, in a blurred green room, white striped clothes, wearing glasses",
        "a young man with short black hair, with an open mouth, grey background, orange clothes",
        "a photo of a girl, looking to the left, yellow gradient background, purple clothes, wearing a hat",
    )

    def __init__(self, folder: str, size: int):
        self.store = HeadStore(folder)
        if self.store.size != size:
            raise ValueError(
                f"{folder} holds heads of {self.store.size} pixels, the starter makes {size}; "
                f"render some with python -m deepexpo_models.data.heads.generate --size {size}"
            )

    def __len__(self) -> int:
        return len(self.store)

    def worth_drawing(self) -> Tensor:
        """Rows (M,) of the pictures that a base shall learn to draw: without occluders, blur and noise."""
        return self.store.unspoilt()

    def calm(self) -> Tensor:
        """Rows (M,) of those with a plain background."""
        return self.store.calm()

    def images(self, rows: Tensor) -> Tensor:
        """rows (B,) -> (B, 3, S, S) in [-1, 1]."""
        return self.store.images(rows)

    def factors(self, rows: Tensor) -> Tensor:
        """rows (B,) -> their true factors, see `starter.factors`."""
        return true_factors(self.store.heads(rows))

    def frames(self, rows: Tensor) -> Frames:
        heads = self.store.heads(rows)
        size = self.store.size
        return Frames(heads.images, region_of(heads.five, size), face_of(heads.surface, size))

    def captions(self, rows: Tensor, generator: Generator) -> list[str]:
        return head_captions.captions(self.store.heads(rows), generator)


class CaptionedPictures:
    """All pictures below a folder, cut to their middle square; name.txt beside name.png is what it shows, else "".

    Raises ValueError for a folder without readable pictures, and one without any caption.
    """

    starter = "starter"

    def __init__(self, folder: str, size: int, say=print):
        report = index_stills(folder)
        say(report.summary())
        self.size = size
        self.paths = [path for clip in report.clips for path in clip.frames]
        self.sentences = [read_caption(path.with_suffix(".txt")) for path in self.paths]
        told = [sentence for sentence in self.sentences if sentence]
        if not told:
            raise ValueError(f"none of the {len(self.paths)} pictures in {folder} has a caption; put name.txt beside name.png")
        counts = Counter(word for sentence in told for word in re.findall(r"[^\W\d_]+", sentence.lower()))
        self.words = tuple(word for word, _ in counts.most_common(KNOWN_WORDS))
        self.shown = tuple(dict.fromkeys(told[-SHOWN:]))

    def __len__(self) -> int:
        return len(self.paths)

    def worth_drawing(self) -> Tensor:
        """Rows (M,) of the pictures that a base shall learn to draw."""
        return torch.arange(len(self))

    def images(self, rows: Tensor) -> Tensor:
        """rows (B,) -> (B, 3, S, S) in [-1, 1]."""
        frames = [square_frame(read_picture(self.paths[row]), self.size) for row in rows.tolist()]
        return bytes_to_model(torch.stack(frames))

    def frames(self, rows: Tensor) -> Frames:
        images = self.images(rows)
        return Frames(images, torch.zeros_like(images[:, :1]), torch.ones_like(images[:, :1]))

    def captions(self, rows: Tensor, generator: Generator) -> list[str]:
        return [self.sentences[row] for row in rows.tolist()]

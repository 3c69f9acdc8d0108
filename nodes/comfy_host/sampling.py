"""What one sampling run knows: whose each conditioning is, which streams act now, and what they are at each layer.

It lives in the guider's model options, made by the OUTER_SAMPLE wrapper, and is dropped with the run. What is kept grows with
the latents of one U-Net call (a context window), not with the clip.
"""

import logging
from dataclasses import dataclass, replace
from typing import Any, cast

import torch
from torch import Tensor

from ...deepexpo_models.meaf import MEAF, LayerStreams, SiteTokens, StreamSettings, lay_out, resize_mask
from .rows import Batch, Conditioning, Row, read_conditioning, window_latents

logger = logging.getLogger(__name__)
NEGATIVE_NAMES = (
    "neg",
    "uncond",
    "empty",
)  # guiders name their conditionings freely: negative, empty_negative_prompt, ...
Code = tuple[str, int] | None  # side and number of the code; None: the stream leaves this row alone


@dataclass(frozen=True, eq=False)
class PatchStream:
    """One stream of a MEAF as applied: its codes (B, width), settings, mask (M, H, W) or None.

    region: identifies the mask's content, "" for the whole picture. A later application of the same stream to the same
    region replaces an earlier one.
    """

    meaf: MEAF
    name: str
    codes: Tensor
    settings: StreamSettings
    mask: Tensor | None
    region: str

    def __deepcopy__(self, memo):
        return self

    @property
    def per_latent(self) -> bool:
        return len(self.codes) > 1 or (self.mask is not None and len(self.mask) > 1)

    def code(self, row: Row) -> Code:
        """What this stream gives to a row, as far as the row is known."""
        if row.side is None or (self.per_latent and row.latent is None) or (self.mask is not None and row.area is None):
            return None
        return row.side, cast(int, row.latent) if row.side == "cond" and len(self.codes) > 1 else 0


def check_batch(streams: tuple[PatchStream, ...], latents: int) -> None:
    """Raise ValueError unless each stream has one code (and mask), or one per latent."""
    for stream in streams:
        for what, count in (
            ("codes", len(stream.codes)),
            ("masks", len(stream.mask) if stream.mask is not None else 1),
        ):
            if count not in (1, latents):
                raise ValueError(
                    f"the {stream.name} stream has {count} {what} for {latents} latents; "
                    f"connect one, or set the batch size of the latent to {count}"
                )


def sides_by_uuid(conds: dict[str, list[dict]]) -> dict:
    """uuid of each conditioning -> "cond" or "uncond", by the name its guider gave it."""
    return {
        cond["uuid"]: "uncond" if any(word in name for word in NEGATIVE_NAMES) else "cond"
        for name, group in conds.items()
        for cond in group
        if "uuid" in cond
    }


class SamplingRun:
    """State of one run. Not copied with model options: ComfyUI clones them per step."""

    def __init__(self, streams: tuple[PatchStream, ...], model_sampling, sides: dict):
        self.streams = streams
        self.sides = sides
        self.active: tuple[PatchStream, ...] | None = None  # None: no step has begun
        self.pictures: Tensor | None = None  # the step's latents, all of them
        self.patterns: dict[tuple[int, int], tuple[int | None, ...]] = {}  # see attention.Watch
        self._sigmas = {
            stream: (
                model_sampling.percent_to_sigma(stream.settings.end_percent),
                model_sampling.percent_to_sigma(stream.settings.start_percent),
            )
            for stream in streams
        }
        self.conds: list[dict] = []  # the guider's, for callers that go around calc_cond_batch
        self._size: tuple[int, int] | None = None  # of the latents
        self._kept: dict[tuple, Any] = {}  # what serves any call
        self._recent: dict[tuple[Row, ...], dict] = {}  # what serves calls of these rows only
        self._warned: set[str] = set()

    def __deepcopy__(self, memo):
        return self

    @property
    def places(self) -> bool:
        """Whether it matters which latent a row is, or what part of the picture."""
        return any(stream.per_latent or stream.mask is not None for stream in self.streams)

    def at_sigma(self, sigma: float) -> tuple[PatchStream, ...]:
        """The streams that act at this noise level."""
        return tuple(
            stream
            for stream in self.streams
            if stream.settings.strength != 0 and self._sigmas[stream][0] <= sigma <= self._sigmas[stream][1]
        )

    def batch(self, conds: list[list[dict] | None], x: Tensor, options: dict) -> Batch:
        """Of a calc_cond_batch call. The first conditioning tells a list's side: copies that ComfyUI appends to balance
        areas carry the other side's uuid."""
        found, self._size = [], (x.shape[-2], x.shape[-1])
        for position, group in enumerate(conds):
            default = "cond" if position == 0 else "uncond"
            side = self.sides.get(group[0].get("uuid"), default) if group else default
            found += [read_conditioning(cond, position, side, self._size) for cond in group or ()]
        full = x if self.pictures is None else self.pictures
        latents = window_latents(options, x, full) if self.places else (None,) * len(x)
        return Batch(tuple(found), x, latents)

    def batch_of_call(self, options: dict, x: Tensor) -> Batch:
        """For a call that did not come through calc_cond_batch: whose texts there are, the guider knows; without a guider,
        ComfyUI's positions are all that is said, 0 being positive."""
        positions = options.get("cond_or_uncond") or ()
        pictures = x[: max(1, len(x) // max(1, len(positions)))] if self.pictures is None else self.pictures
        self._size = (pictures.shape[-2], pictures.shape[-1])
        found = [read_conditioning(cond, None, self.sides.get(cond.get("uuid")), self._size) for cond in self.conds]
        if not found:
            found = [Conditioning(i, None, "uncond" if i else "cond", None, None) for i in sorted(set(positions))]
        return Batch(tuple(found), pictures, tuple(range(len(pictures))))

    def layer(
        self,
        streams: tuple[PatchStream, ...],
        rows: tuple[Row, ...],
        site: str,
        heads: int,
        size: tuple[int, int],
        like: Tensor,
        acting: tuple[PatchStream, ...] | None = None,
    ) -> LayerStreams:
        """What the streams (of one fusion) are at a layer of a call with these rows.

        size: height and width of the layer; like: a tensor of its device and dtype; acting: those that act now, the others
        being laid out with values of zero, so that a compiled layer keeps its shape; None: all act, and shapes may change.
        """
        kept = self._kept
        if any(stream.per_latent for stream in streams):
            kept = self._recent_of(rows)
        else:  # the same whichever latents a window shows
            rows = tuple(replace(row, latent=None) for row in rows)
        codes = tuple(tuple(stream.code(row) for stream in streams) for row in rows)
        key = ("layer", streams, acting, codes, site, heads, like.device, like.dtype)
        if key not in kept:
            kept[key] = self._lay_out(streams, codes, site, heads, like, acting, kept)
        gate = self._gate(streams, rows, size, like, kept, steady=acting is not None)
        return kept[key].with_gate(gate)

    def _recent_of(self, rows: tuple[Row, ...]) -> dict:
        """What is kept for calls of these rows, and of the rows before them (positive and negative may be called apart)."""
        kept = self._recent.pop(rows, {})
        while len(self._recent) > 1:
            del self._recent[next(iter(self._recent))]
        self._recent[rows] = kept
        return kept

    def _lay_out(self, streams, codes: tuple[tuple[Code, ...], ...], site: str, heads: int, like: Tensor, acting, kept: dict):
        variants = list(dict.fromkeys(codes))
        groups: list[list[int]] = []
        for row in codes:
            number = variants.index(row)
            if groups and groups[-1][1] == number:
                groups[-1][0] += 1
            else:
                groups.append([1, number])
        tokens = []
        for number, stream in enumerate(streams):
            strength = stream.settings.strength if acting is None or stream in acting else 0.0
            tokens.append(self._tokens(stream, [variant[number] for variant in variants], strength, site, like, kept))
        fusion = streams[0].meaf.config.fusion
        kind = None if fusion == "tokens" else fusion
        return lay_out(tokens, tuple((count, number) for count, number in groups), heads, None, kind)

    def _tokens(
        self, stream: PatchStream, codes: list[Code], strength: float, site: str, like: Tensor, kept: dict
    ) -> SiteTokens:
        """(len(codes), N, C), the values times strength, and zero for a row that is left alone."""
        numbers = sorted({code[1] for code in codes if code is not None and code[0] == "cond"})
        parts = {("uncond", 0): self._project(stream, site, "uncond", None, like, kept)}
        if numbers:
            own = tuple(numbers) if len(stream.codes) > 1 else None
            projected = self._project(stream, site, "cond", own, like, kept)
            for place, number in enumerate(numbers):
                keys, values = (x[place : place + 1] for x in (projected.key, projected.value))
                parts["cond", number] = SiteTokens(keys, values, projected.null_logit)
        null = parts["uncond", 0]
        chosen = [parts[code] if code is not None else null for code in codes]
        scale = [strength if code is not None else 0.0 for code in codes]
        return SiteTokens(
            torch.cat([part.key for part in chosen]),
            torch.cat([part.value * times for part, times in zip(chosen, scale)]),
            null.null_logit,
        )

    def _project(self, stream: PatchStream, site: str, side: str, numbers: tuple[int, ...] | None, like: Tensor, kept: dict):
        """Of the null code, the one code, or these codes; the last are not kept beyond their layer."""
        key = ("site", stream, site, side, like.device, like.dtype)
        if numbers is None and key in self._kept:
            return self._kept[key]
        projected = stream.meaf.project(stream.name, site, self._codes(stream, side, numbers, like, kept))
        if numbers is None:
            self._kept[key] = projected
        return projected

    def _codes(self, stream: PatchStream, side: str, numbers: tuple[int, ...] | None, like: Tensor, kept: dict) -> Tensor:
        key = ("tokens", stream, side, numbers, like.device, like.dtype)
        kept = self._kept if numbers is None else kept
        if key not in kept:
            make = stream.meaf.tokens if side == "cond" else stream.meaf.null_tokens
            codes = stream.codes if numbers is None else stream.codes[list(numbers)]
            kept[key] = make(stream.name, codes.to(like)).to(like)
        return kept[key]

    def _gate(self, streams, rows: tuple[Row, ...], size: tuple[int, int], like: Tensor, kept: dict, steady: bool):
        """(B, L, S): masks, cropped to what each row shows; None where no stream has one."""
        if not steady and all(stream.mask is None for stream in streams):
            return None
        key = ("gate", streams, rows, size, like.device, like.dtype)
        if key not in kept:
            gates = [resize_mask(self.mask(stream, rows, like), *size) for stream in streams]
            kept[key] = torch.cat([gate.expand(len(rows), size[0] * size[1], 1) for gate in gates], dim=-1).to(like.dtype)
        return kept[key]

    def mask(self, stream: PatchStream, rows: tuple[Row, ...], like: Tensor) -> Tensor:
        """(B, H, W) in [0, 1], float32: the part of the stream's mask that each row shows; zero where that is not known."""
        if stream.mask is None:
            return torch.tensor([float(stream.code(row) is not None) for row in rows], device=like.device)[:, None, None]
        masks, shown = stream.mask.to(like.device, torch.float32), []
        whole = max((row.area for row in rows if row.area), default=None)
        for row in rows:
            if stream.code(row) is None:
                shown.append(torch.zeros_like(masks[:1]))
                continue
            mask = masks[row.latent or 0 : (row.latent or 0) + 1] if len(masks) > 1 else masks
            shown.append(self._crop(mask, row.area))
        return _same_size(shown, whole)

    def _crop(self, mask: Tensor, area) -> Tensor:
        """The part (1, h, w) of a mask (1, H, W) of the whole picture; at the latents' size where the picture is cropped."""
        full = self._size
        height, width, top, left = area
        if full is None or (height, width) == full:
            return mask
        small = resize_mask(mask, *full).mT.unflatten(2, full)[:, 0]
        return small[:, top : top + height, left : left + width]

    def kept_bytes(self) -> int:
        """Of the tensors that the run keeps, for tests and benchmarks."""
        return sum(_bytes(thing) for kept in (self._kept, *self._recent.values()) for thing in kept.values())

    def warn_once(self, sentence: str) -> None:
        if sentence not in self._warned:
            logger.warning(sentence)
        self._warned.add(sentence)


def _bytes(thing) -> int:
    if torch.is_tensor(thing):
        return thing.nbytes
    parts = (part for value in vars(thing).values() for part in (value if isinstance(value, tuple) else (value,)))
    return sum(part.nbytes for part in parts if torch.is_tensor(part))


def _same_size(masks: list[Tensor], area) -> Tensor:
    """One (B, H, W) of masks (1, h, w) of several sizes: those of cropped rows are all of one, blank ones of any."""
    sizes = {tuple(mask.shape[-2:]) for mask in masks}
    if len(sizes) == 1:
        return torch.cat(masks)
    size = area[:2]
    return torch.cat([resize_mask(mask, *size).mT.unflatten(2, size)[:, 0] for mask in masks])


@dataclass(frozen=True, eq=False)
class StreamCall:
    """One call of the U-Net: the streams that act, and what each row is."""

    run: SamplingRun
    active: tuple[PatchStream, ...]
    rows: tuple[Row, ...]

    def mask(self, stream: PatchStream, like: Tensor) -> Tensor | None:
        """(B, H, W) in [0, 1], None for all of the picture of all rows."""
        if stream.mask is None and all(stream.code(row) is not None for row in self.rows):
            return None
        return self.run.mask(stream, self.rows, like)

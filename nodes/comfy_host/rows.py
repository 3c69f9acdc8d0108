"""What each row of a U-Net call is: its side (positive or negative), the latent that it shows, and the part of the picture.

ComfyUI batches conditionings in calc_cond_batch; other packs repeat, reorder, split or crop that batch around the model. Order
and count prove nothing. What the host states (list positions, uuids, context windows) stands while no row contradicts it; rows
that it does not explain are recognised by their text and their pixels, bit by bit. What stays open is None, never a guess.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

Area = tuple[int, int, int, int]  # height, width, top, left, in latent pixels
Pair = tuple[int, int]  # number of a conditioning in a batch, number of a picture
BITS = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}
MIX = (-7046029254386353131, -4658895280553007687)  # odd 64-bit constants (splitmix64, Steele et al. 2014)


@dataclass(frozen=True)
class Row:
    """side: "cond" or "uncond"; latent: index in the run's batch; area: what it shows. None where it is not known."""

    side: str | None
    latent: int | None
    area: Area | None


@dataclass(frozen=True, eq=False)
class Conditioning:
    """One conditioning of a batch. position: of its list, None when not known; area: of the picture, None for all of it;
    text (1 or n, N, D), None when not known."""

    position: int | None
    uuid: object
    side: str | None
    area: Area | None
    text: Tensor | None


@dataclass(frozen=True, eq=False)
class Batch:
    """What calc_cond_batch was called with: conditionings, pictures (n, C, H, W), and the latent that each picture is."""

    conditionings: tuple[Conditioning, ...]
    pictures: Tensor
    latents: tuple[int | None, ...]

    def area(self, number: int) -> Area:
        return self.conditionings[number].area or (*self.pictures.shape[-2:], 0, 0)


def read_conditioning(cond: dict, position: int | None, side: str | None, size: tuple[int, int]) -> Conditioning:
    """From ComfyUI's dictionary; size: height and width of the latents. Areas are cut at the edge as ComfyUI cuts them."""
    text = cond.get("model_conds", {}).get("c_crossattn")
    text = cond.get("cross_attn") if text is None else text.cond
    area = None if isinstance((cond.get("area") or [0])[0], str) else cond.get("area")
    if area is not None:
        half = len(area) // 2
        (height, width), (top, left) = area[half - 2 : half], area[-2:]
        area = (min(height, size[0] - top), min(width, size[1] - left), top, left)
    return Conditioning(position, cond.get("uuid"), side, area, text)


def read_rows(batch: Batch, options: dict, x: Tensor, text: Tensor | None, places: bool) -> tuple[Row, ...]:
    """x (B, C, h, w) and text (B, N, D) of a U-Net call, with its transformer options -> what each row is.

    places: whether it matters which latent a row is and what part of it; else pixels are not looked at.
    """
    every = {(c, r) for c in range(len(batch.conditionings)) for r in range(len(batch.pictures))}
    stated = _stated(batch, options, len(x))
    by_text = _by_text(batch, text, len(x))
    by_pixels = _by_pixels(batch, x) if places else [None] * len(x)
    seen = [_both(every, *found) for found in zip(by_text, by_pixels)]
    if stated is not None and all(said & shown for said, shown in zip(stated, seen)):
        seen = [said & shown for said, shown in zip(stated, seen)]
    return tuple(_row(batch, pairs, x[number], places) for number, pairs in enumerate(seen))


def window_latents(options: dict, x: Tensor, full: Tensor) -> tuple[int | None, ...]:
    """Which of the run's latents `full` (n, C, H, W) each picture of x (B, C, H, W) is: context windows (ComfyUI's,
    AnimateDiff's) see a part of them, and put others before, between and after."""
    window = _stated_window(options)
    claim = range(len(full)) if window is None else window
    claims = list(claim) if len(claim) == len(x) else [None] * len(x)
    names = torch.cat([fingerprints(full), fingerprints(x)]).tolist() if full.shape[1:] == x.shape[1:] else []
    known: dict[int, set[int]] = {}
    for number, name in enumerate(names[: len(full)]):
        known.setdefault(name, set()).add(number)
    found = [known.get(name, set()) for name in names[len(full) :]] or [set() for _ in claims]
    return tuple(_agreed(claim, matches) for claim, matches in zip(claims, found))


def fingerprints(rows: Tensor) -> Tensor:
    """rows (B, ...) -> (B,) int64: equal for rows of equal bits, different (but for one chance in 2^64) for others."""
    bits = rows.detach().contiguous().flatten(1).view(BITS[rows.element_size()]).long()
    weights = torch.arange(1, bits.shape[1] + 1, device=rows.device) * MIX[0]
    weights = (weights ^ (weights >> 31)) * MIX[1]
    return (bits * (weights | 1)).sum(1)


def _agreed(claim: int | None, matches: set[int]) -> int | None:
    """A picture that matches no latent was changed on the way (self-attention guidance blurs it): the statement stands."""
    if claim in matches or not matches:
        return claim
    return next(iter(matches)) if len(matches) == 1 else None


def _stated_window(options: dict) -> list[int] | None:
    window = options.get("context_window")
    if window is not None and getattr(window, "dim", 0) == 0:
        anchor = getattr(window, "causal_anchor_index", None)  # put before the window, ComfyUI 0.33
        before = [anchor] if anchor is not None and anchor >= 0 else []
        guides = [window.total_frames + guide for guide in getattr(window, "guide_frames_indices", ())]
        return [*before, *window.index_list, *guides]
    indices = (options.get("ad_params") or {}).get("sub_idxs")
    return None if indices is None else list(indices)


def _stated(batch: Batch, options: dict, rows: int) -> list[set[Pair]] | None:
    """What the host says each row is: chunk after chunk, one row per picture; None where it says nothing that fits."""
    positions, uuids = options.get("cond_or_uncond"), options.get("uuids")
    if not positions or rows != len(positions) * len(batch.pictures):
        return None
    uuids = uuids if uuids is not None and len(uuids) == len(positions) else [None] * len(positions)
    chunks = [
        [
            number
            for number, cond in enumerate(batch.conditionings)
            if cond.position in (position, None) and (uuid is None or cond.uuid in (uuid, None))
        ]
        for position, uuid in zip(positions, uuids)
    ]
    return [{(c, r) for c in chunk} for chunk in chunks for r in range(len(batch.pictures))]


def _by_text(batch: Batch, text: Tensor | None, rows: int) -> list[set[Pair] | None]:
    """Pairs whose text a row begins with (packs append tokens, ComfyUI repeats short texts); the longest such text counts.
    None for a text that is nobody's."""
    known = [(c, cond.text) for c, cond in enumerate(batch.conditionings) if cond.text is not None]
    if text is None or not known:
        return [None] * rows
    known = [(c, x) for c, x in known if x.shape[1] <= text.shape[1] and x.shape[2] == text.shape[2]]
    found: list[set[Pair] | None] = [None] * rows
    for length in sorted({x.shape[1] for _, x in known}, reverse=True):
        here = [(c, x.to(text)) for c, x in known if x.shape[1] == length]
        names = torch.cat([fingerprints(text[:, :length]), *(fingerprints(x) for _, x in here)]).tolist()
        shown, start = names[:rows], rows
        owners: dict[int, set[Pair]] = {}
        for c, x in here:
            for r in range(len(batch.pictures)):
                owners.setdefault(names[start + r % len(x)], set()).add((c, r))
            start += len(x)
        found = [already or owners.get(name) for already, name in zip(found, shown)]
    return found


def _by_pixels(batch: Batch, x: Tensor) -> list[set[Pair] | None]:
    """Pairs whose part of the picture a row shows; None for pixels that are nobody's."""
    areas: dict[Area, list[int]] = {}
    for c in range(len(batch.conditionings)):
        areas.setdefault(batch.area(c), []).append(c)
    fitting = [area for area in areas if area[:2] == tuple(x.shape[-2:])]
    if not fitting or batch.pictures.shape[1] != x.shape[1]:
        return [None] * len(x)
    crops = [fingerprints(_crop(batch.pictures, area).to(x)) for area in fitting]
    names = torch.cat([fingerprints(x), *crops]).tolist()
    owners: dict[int, set[Pair]] = {}
    for number, area in enumerate(fitting):
        for r in range(len(batch.pictures)):
            pairs = {(c, r) for c in areas[area]}
            owners.setdefault(names[len(x) + number * len(batch.pictures) + r], set()).update(pairs)
    return [owners.get(name) for name in names[: len(x)]]


def _both(every: set[Pair], by_text: set[Pair] | None, by_pixels: set[Pair] | None) -> set[Pair]:
    shown = every if by_text is None else by_text
    return shown if by_pixels is None else shown & by_pixels


def _row(batch: Batch, pairs: set[Pair], x: Tensor, places: bool) -> Row:
    side = _only({batch.conditionings[c].side for c, _ in pairs})
    if not places:
        return Row(side, None, None)
    latent, area = _only({batch.latents[r] for _, r in pairs}), _only({batch.area(c) for c, _ in pairs})
    if area is None or area[:2] == tuple(x.shape[-2:]):
        return Row(side, latent, area)
    tile = _find_tile(batch, {r for _, r in pairs}, x)
    return Row(side, None, None) if tile is None else Row(side, batch.latents[tile[0]], tile[1])


def _find_tile(batch: Batch, pictures: set[int], x: Tensor) -> tuple[int, Area] | None:
    """Where a picture holds the crop x (C, h, w), as packs that draw in tiles send it: (number of the picture, area)."""
    height, width = x.shape[-2:]
    whole = batch.pictures.to(x)
    rows, columns = whole.shape[-2] - height + 1, whole.shape[-1] - width + 1
    if rows < 1 or columns < 1 or len(x) != whole.shape[1]:
        return None
    corners = (whole[..., :rows, :columns] == x[:, :1, :1]).all(1).nonzero().tolist()
    found = [
        (r, (height, width, top, left))
        for r, top, left in corners
        if r in pictures and torch.equal(whole[r, :, top : top + height, left : left + width], x)
    ]
    return _only(set(found))


def _crop(pictures: Tensor, area: Area) -> Tensor:
    height, width, top, left = area
    return pictures[..., top : top + height, left : left + width]


def _only(values: set):
    """The one value, or None."""
    return next(iter(values)) if len(values) == 1 else None

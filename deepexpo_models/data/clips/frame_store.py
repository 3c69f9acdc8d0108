"""Random access to the frames of real clips and stills, and the pairs that a training draws from them."""

import hashlib
import warnings
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Generator, Tensor

from ...image import bytes_to_model
from .index import SHORTEST, Clip, read_frames
from .labels import PARTS, UNKNOWN, points_in_square
from .read import Unreadable, read_picture, square_frame

LONGEST = 3000  # frames of a video kept in memory; of longer ones every second, third ... is
GAP_SPREAD = 4  # near frames are one to this many gaps apart
TRIES = 8  # other frames tried for a row before a training stops


@dataclass(frozen=True)
class FrameBatch:
    """first, second (B, 3, S, S) in [-1, 1]: two frames of one clip, or two stills of one person; person (B,): equal numbers
    are one person. points (B, 5, 2) in crop coordinates and euler (B, 3), yaw, pitch, roll in degrees, are NaN where unknown.
    second_units (B, 52): ARKit's numbers, NaN where unknown. still (B,) bool: the person has one picture only, first is
    second. second_caption: B sentences, "" where nothing is told.
    """

    first: Tensor
    second: Tensor
    person: Tensor
    first_points: Tensor
    second_points: Tensor
    second_euler: Tensor
    second_units: Tensor
    still: Tensor
    second_caption: list[str]


@dataclass(frozen=True, eq=False)
class _Film:
    """A video in memory: frames (N, 3, S, S) uint8, their numbers in the file, height and width there."""

    frames: Tensor
    numbers: tuple[int, ...]
    shape: tuple[int, int]


class FrameStore:
    """Clips and stills as `index_clips` and `index_stills` find them, at a size in pixels.

    Frame folders are read frame by frame. A video is decoded when it is first needed, and kept while the kept ones fit
    into cache_bytes: for many videos prepare frame folders (deepexpo_models.data.prepare). Raises ValueError for no clips.
    """

    def __init__(self, clips: Sequence[Clip], size: int, cache_bytes: int = 2**30):
        if not clips:
            raise ValueError("there are no clips to take frames from; give a folder that holds some")
        self.clips, self.size, self.cache_bytes = tuple(clips), size, cache_bytes
        self._people = {key: number for number, key in enumerate(sorted({_key(clip) for clip in self.clips}))}
        self._pools = {still: self._by_person(still) for still in (False, True)}
        self._films: OrderedDict[Clip, _Film] = OrderedDict()
        self._reported: set[Clip] = set()
        self._broken: dict[Clip, str] = {}  # videos that are not decoded a second time

    @property
    def people(self) -> int:
        return len(self._people)

    def sample_pairs(
        self,
        count: int,
        generator: Generator,
        min_gap_seconds: float = 0.4,
        far: float = 0.2,
        consecutive: bool = False,
        stills_share: float = 0.3,
    ) -> FrameBatch:
        """count pairs of different people, as far as there are that many; stills in stills_share of the rows where the store
        holds both kinds.

        Frames of a clip are min_gap_seconds to GAP_SPREAD times that apart, in `far` of the rows any distance above it, and
        consecutive ones are neighbours; all as far as the clip is long enough. A clip that breaks when it is read is
        told once, and another drawn. Raises ValueError after TRIES such clips in a row.
        """
        kinds = self._kinds(count, generator, stills_share)
        orders = {still: torch.randperm(len(pool), generator=generator).tolist() for still, pool in self._pools.items()}
        used, rows = {False: 0, True: 0}, []
        for still in kinds:
            person = orders[still][used[still] % len(orders[still])]
            used[still] += 1
            rows.append(self._row(still, person, generator, min_gap_seconds, far, consecutive))
        *columns, captions = zip(*rows)
        fields: list[Any] = [*map(torch.stack, columns), list(captions)]
        return FrameBatch(*fields)

    def frame(self, clip: Clip, index: int) -> tuple[Tensor, ...]:
        """The frame (3, S, S) in [-1, 1], points (5, 2) in crop coordinates, euler (3,), ARKit's numbers (52,). Raises
        Unreadable.
        """
        if clip.frames:
            picture = read_picture(clip.frames[index])
            pixels, number, shape = square_frame(picture, self.size), index, picture.shape[:2]
        else:
            film = self._film(clip)
            pixels, number, shape = film.frames[index], film.numbers[index], film.shape
        points, *known = torch.tensor(clip.labels.get(number, UNKNOWN), dtype=torch.float32).split(PARTS)
        return bytes_to_model(pixels), points_in_square(points.unflatten(0, (5, 2)), *shape), *known

    def _kinds(self, count: int, generator: Generator, stills_share: float) -> list[bool]:
        draws = torch.rand(count, generator=generator)
        if all(self._pools.values()):
            return (draws < stills_share).tolist()
        return [bool(self._pools[True])] * count

    def _row(self, still: bool, person: int, generator: Generator, *how) -> tuple:
        pool = self._pools[still]
        for _ in range(TRIES):
            clip = pool[person][_draw(len(pool[person]), generator)]
            try:
                return self._pair(clip, generator, *how)
            except Unreadable as error:
                reason = error
                self._tell(clip, reason)
                person = _draw(len(pool), generator)
        raise ValueError(f"{TRIES} clips in a row cannot be read, the last was {clip.path}: {reason}; repair or remove them")

    def _pair(self, clip: Clip, generator: Generator, gap_seconds: float, far: float, consecutive: bool) -> tuple:
        count, fps, times = self._extent(clip)
        if clip.still:
            order = torch.randperm(count, generator=generator)[:2].tolist()
            first, second = order[0], order[-1]
        elif times and not consecutive:
            first, second = _draw_timed(times, gap_seconds, far, generator)
        else:
            first, second = _draw_pair(count, max(1, round(gap_seconds * fps)), far, consecutive, generator)
        (a, a_points, *_), (b, b_points, *labels) = self.frame(clip, first), self.frame(clip, second)
        person, still = torch.tensor(self._people[_key(clip)]), torch.tensor(first == second)
        return a, b, person, a_points, b_points, *labels, still, clip.caption(second)

    def _extent(self, clip: Clip) -> tuple[int, float, tuple[float, ...]]:
        """Frames that can be asked for, frames a second among them, and their times where the rate varies."""
        if clip.frames:
            return clip.count, clip.fps, clip.times
        film = self._film(clip)
        known = film.numbers[-1] < len(clip.times)
        times = tuple(clip.times[number] for number in film.numbers) if known else ()
        return len(film.frames), clip.fps / max(1, film.numbers[1] - film.numbers[0]), times

    def _film(self, clip: Clip) -> _Film:
        if clip not in self._films:
            self._films[clip] = self._decoded(clip)
            while len(self._films) > 1 and sum(film.frames.numel() for film in self._films.values()) > self.cache_bytes:
                self._films.popitem(last=False)
        self._films.move_to_end(clip)
        return self._films[clip]

    def _decoded(self, clip: Clip) -> _Film:
        if clip in self._broken:
            raise Unreadable(self._broken[clip])
        try:
            return _decode(clip, self.size)
        except Unreadable as reason:
            self._broken[clip] = str(reason)
            raise

    def _by_person(self, still: bool) -> list[list[Clip]]:
        people: dict[str, list[Clip]] = {}
        for clip in self.clips:
            if clip.still == still:
                people.setdefault(clip.person, []).append(clip)
        return [people[person] for person in sorted(people)]

    def _tell(self, clip: Clip, reason: Exception) -> None:
        if clip not in self._reported:
            self._reported.add(clip)
            warnings.warn(f"{clip.path} is left out: {reason}", stacklevel=2)


def split_people(clips: Sequence[Clip], share: float = 0.1) -> tuple[list[Clip], list[Clip]]:
    """Clips for training and clips of the people held out for tests: a share of them by a hash of their ids, so that a person
    stays where they are when others join; at least one on either side. Raises ValueError for fewer than two people.
    """
    places = {clip.person: _place(clip.person) for clip in clips}
    if len(places) < 2:
        raise ValueError(f"the clips show {len(places)} person; training needs two at least, one of them held out to test on")
    ranked = sorted(places, key=places.__getitem__)
    below = sum(place < share for place in places.values())
    held = set(ranked[: min(max(below, 1), len(ranked) - 1)])
    return [clip for clip in clips if clip.person not in held], [clip for clip in clips if clip.person in held]


def _place(person: str) -> float:
    """A number in [0, 1) for a name."""
    return int.from_bytes(hashlib.sha256(person.encode()).digest()[:6], "big") / 2**48


def _key(clip: Clip) -> tuple[bool, str]:
    """Stills and clips of different collections may share names such as 00001: they count as different people."""
    return clip.still, clip.person


def _decode(clip: Clip, size: int) -> _Film:
    step = 1 + clip.count // LONGEST
    frames, numbers, shape = [], [], (0, 0)
    for number, frame in enumerate(read_frames(clip)):
        shape = (frame.shape[0], frame.shape[1]) if number == 0 else shape
        if number % step == 0:
            frames.append(square_frame(frame, size))
            numbers.append(number)
    if len(frames) < SHORTEST:
        raise Unreadable(f"only {len(frames)} frames of it can be read")
    return _Film(torch.stack(frames), tuple(numbers), shape)


def _draw_pair(count: int, gap: int, far: float, consecutive: bool, generator: Generator) -> tuple[int, int]:
    """Two different frames of count, in either order."""
    low, high = (1, 1) if consecutive else (gap, count - 1 if _chance(generator) < far else GAP_SPREAD * gap)
    low, high = min(low, count - 1), min(high, count - 1)
    distance = low + _draw(high - low + 1, generator)
    first = _draw(count - distance, generator)
    pair = (first, first + distance)
    return pair if _chance(generator) < 0.5 else pair[::-1]


def _draw_timed(times: tuple[float, ...], gap: float, far: float, generator: Generator) -> tuple[int, int]:
    """Two frames, in either order, drawn evenly from those that are gap to GAP_SPREAD * gap seconds apart (or, far, any time
    above gap); where no two are, the first and the last."""
    seconds = torch.tensor(times, dtype=torch.float64)
    longest = float("inf") if _chance(generator) < far else GAP_SPREAD * gap
    begin = torch.searchsorted(seconds, seconds + gap)
    counts = (torch.searchsorted(seconds, seconds + longest, right=True) - begin).clamp(min=0)
    ends, pair = counts.cumsum(0), (0, len(times) - 1)
    if ends[-1]:
        drawn = _draw(int(ends[-1]), generator)
        first = int(torch.searchsorted(ends, drawn, right=True))
        pair = (first, int(begin[first] + drawn - (ends[first] - counts[first])))
    return pair if _chance(generator) < 0.5 else pair[::-1]


def _draw(limit: int, generator: Generator) -> int:
    return int(torch.randint(limit, (), generator=generator))


def _chance(generator: Generator) -> float:
    return float(torch.rand((), generator=generator))

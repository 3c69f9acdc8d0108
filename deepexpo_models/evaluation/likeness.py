"""How alike pictures are to a person and to a reference: numbers per picture, whoever the judge is.

With e the judge's embeddings (unit length), x its expression numbers, R its rotations, for a made picture m of the person p
with the expression and head pose of the reference r:

    identity kept        cos(e_m, e_p)                                      1: the same photo
    identity leaked      (cos(e_m, e_r) - cos(e_p, e_r)) / (1 - cos(e_p, e_r))   0: nobody else, 1: the reference's person
    expression distance  sqrt(mean (x_m - x_r)^2)                           0: the same expression
    pose distance        the angle between R_m and R_r, in degrees          0: the same head pose

`start` is what the person's own photo has instead of m: a distance is good where it lies far below it.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields

import torch
import torch.nn.functional as F
from torch import Tensor

from ..dsid.pairs import Sheet
from ..dsid.rotation import geodesic_angle, rotation_to_matrix
from ..panels import Strip, draw_strips

SAME_PERSON = 0.999  # cosine of person and reference above which a leak cannot be told


@dataclass(frozen=True, eq=False)
class Seen:
    """What judges read off B pictures; a row is NaN where they found no face. None: not judged."""

    identity: Tensor | None = None  # (B, D)
    expression: Tensor | None = None  # (B, E)
    rotation: Tensor | None = None  # (B, 6)

    @property
    def count(self) -> int:
        """Of pictures; 0 where nothing was judged."""
        parts = (getattr(self, field.name) for field in fields(self))
        return max((len(part) for part in parts if part is not None), default=0)

    def rows(self, index: Sequence[int]) -> "Seen":
        """These rows, in this order."""
        parts = {field.name: getattr(self, field.name) for field in fields(self)}
        return Seen(**{name: None if value is None else value[list(index)] for name, value in parts.items()})

    def person(self) -> "Seen":
        """All rows as photos of one person -> their mean, one row; the rotation of the first."""
        means = {name: _mean(getattr(self, name)) for name in ("identity", "expression")}
        return Seen(**means, rotation=None if self.rotation is None else self.rotation[:1])


@dataclass(frozen=True, eq=False)
class Figure:
    """One quantity: a value for each picture (NaN: no face, or not judged), and the person's own photo's."""

    name: str
    unit: str
    judge: str
    values: Tensor  # (B,)
    start: float
    high: float  # of its axis, at least

    @property
    def mean(self) -> float:
        """Over the pictures with a face; NaN where there is none."""
        return self.values.nanmean().item()

    def sentence(self) -> str:
        if self.values.isnan().all():
            return f"{self.name}: not known"
        start = f", the identity photo itself {self.start:.2f}" if self.start == self.start else ""
        missing = int(self.values.isnan().sum())
        lost = f", no face in {missing} of {len(self.values)} pictures" if missing else ""
        return f"{self.name}: {self.mean:.2f}{self.unit} ({self.judge}{start}{lost})"


def compare(made: Seen, person: Seen, reference: Seen, judges: tuple[str, str]) -> tuple[Figure, ...]:
    """B made pictures, and of person and reference 1 or B rows each -> the four figures. judges: of identity, and of
    expression and pose."""
    leak = _leak(made.identity, person.identity, reference.identity)
    expression, start = _rms(made.expression, reference.expression), _rms(person.expression, reference.expression)
    turn, first = _turn(made.rotation, reference.rotation), _turn(person.rotation, reference.rotation)
    unknown = torch.full((made.count,), torch.nan)
    rows = (
        ("identity kept", "", judges[0], _cosine(made.identity, person.identity), None, 1.0),
        ("identity leaked", "", judges[0], leak, None, 1.0),
        ("expression distance", "", judges[1], expression, start, 0.1),
        ("pose distance", " degrees", judges[1], turn, first, 10.0),
    )
    return tuple(
        Figure(name, unit, judge, unknown if values is None else values, _start(own), high)
        for name, unit, judge, values, own, high in rows
    )


def compare_pictures(seen: Mapping[str, Seen], judges: tuple[str, str], sheet: Sheet | None = None) -> tuple[Figure, ...]:
    """What is seen of `made`, and, where they are there, of `identity` and `reference` -> the four figures.

    Without a sheet the identity's pictures are photos of one person, and references are one, or one for each made picture.
    With one there is an identity for each row and a reference for each column. Raises ValueError for other numbers.
    """
    made, person, reference = (seen.get(role, Seen()) for role in ("made", "identity", "reference"))
    count = made.count
    if sheet is None:
        if reference.count not in (0, 1, count):
            raise ValueError(
                f"{reference.count} references cannot be compared with {count} pictures; give one, or one for each"
            )
        return compare(made, person.person(), reference, judges)
    rows, columns = len(sheet.rows), len(sheet.columns)
    for what, found, wanted in (
        ("pictures", count, sheet.count),
        ("people", person.count, rows),
        ("references", reference.count, columns),
    ):
        if found not in (0, wanted):
            raise ValueError(f"the sheet has {wanted} {what}, but {found} are connected to Measure; connect as many")
    places = [divmod(number, columns) for number in range(count)]
    return compare(made, person.rows([row for row, _ in places]), reference.rows([column for _, column in places]), judges)


def report(figures: Sequence[Figure]) -> str:
    """One line each."""
    return "\n".join(figure.sentence() for figure in figures)


def plot(figures: Sequence[Figure]) -> Tensor:
    """One strip of bars each, one bar per picture -> (1, H, W, 3) in [0, 1]."""
    return draw_strips([
        Strip(figure.sentence(), (figure.values.tolist(),), 0.0, _top(figure), figure.start, bars=True) for figure in figures
    ])  # fmt: skip


def _start(own: Tensor | None) -> float:
    return float("nan") if own is None else own.nanmean().item()


def _top(figure: Figure) -> float:
    return max([figure.high, *(value for value in (*figure.values.tolist(), figure.start) if value == value)])


def _cosine(a: Tensor | None, b: Tensor | None) -> Tensor | None:
    return None if a is None or b is None else _similarity(a, b)


def _similarity(a: Tensor, b: Tensor) -> Tensor:
    return F.cosine_similarity(a.float(), b.float(), dim=-1)


def _leak(made: Tensor | None, person: Tensor | None, reference: Tensor | None) -> Tensor | None:
    if made is None or person is None or reference is None:
        return None
    alike = _similarity(person, reference)
    leak = (_similarity(made, reference) - alike) / (1 - alike)
    return torch.where(alike < SAME_PERSON, leak, torch.nan)


def _rms(a: Tensor | None, b: Tensor | None) -> Tensor | None:
    return None if a is None or b is None else (a.float() - b.float()).square().mean(-1).sqrt()


def _turn(a: Tensor | None, b: Tensor | None) -> Tensor | None:
    if a is None or b is None:
        return None
    return torch.rad2deg(geodesic_angle(*torch.broadcast_tensors(rotation_to_matrix(a.float()), rotation_to_matrix(b.float()))))


def _mean(rows: Tensor | None) -> Tensor | None:
    return None if rows is None else rows.nanmean(0, keepdim=True)

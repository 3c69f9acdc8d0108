"""The head that the editor shows: a picture of edited codes, and what a browser needs to draw the same edits by itself."""

from dataclasses import fields

from torch import Tensor

from ..head.basis import HeadBasis
from ..head.control import draw_control
from .codes import Identity, Semantics
from .edit import ARKIT, Edit, ReadOut, arkit_numbers, arkit_semantics
from .mesh import Framing, face_points
from .rotation import matrix_to_euler, rotation_to_matrix

STYLE = "shaded"
FRAMING = Framing(height=0.72, x=0.5, y=0.52)
DECIMALS = 6  # of cm, ARKit numbers and degrees on their way to the browser


def head_picture(
    identity: Identity | None,
    semantics: Semantics,
    basis: HeadBasis,
    readout: ReadOut | None = None,
    side: int = 512,
    framing: Framing = FRAMING,
) -> Tensor:
    """Codes on the identity's face shape, or on an average face -> pictures (F, side, side, 3) in [0, 1].

    Codes without named numbers are drawn as a resting face with their turn; `expression_note` says so.
    """
    if expression_note(semantics, readout):
        semantics = _resting(semantics)
    shaped = identity if identity is not None and identity.face_shape is not None else None
    points = face_points(shaped, semantics, basis, (side, side), framing, readout=readout)
    return draw_control(points, (side, side), STYLE, basis)


def expression_note(semantics: Semantics | None, readout: ReadOut | None) -> str:
    """One sentence where the expression of a code cannot be shown, else nothing."""
    if semantics is None or semantics.encoder == ARKIT or readout is not None:
        return ""
    return f"the expression of {semantics.encoder} has no named numbers: this head shows the turn alone"


def live_head(
    identity: Identity | None, semantics: Semantics | None, onto: Semantics | None, readout: ReadOut | None, edit: Edit
) -> dict:
    """What `web/js/head.js` draws, as JSON: of the first row the resting face (1434 numbers in cm, None for the average one),
    the incoming code and the one that it is put onto; the edit by the names of the node's widgets."""
    shape = None if identity is None else identity.face_shape
    named = {field.name: getattr(edit, field.name) for field in fields(edit) if field.name != "sliders"}
    return {
        "rest": None if shape is None else _row(shape),
        "source": _code(semantics, readout),
        "onto": _code(onto, readout),
        "settings": {**named, **edit.sliders},
    }


def _code(semantics: Semantics | None, readout: ReadOut | None) -> dict | None:
    """numbers (52), angles (3) in degrees, openings (7) or None, of the first row."""
    if semantics is None:
        return None
    named = _resting(semantics) if expression_note(semantics, readout) else semantics
    return {
        "numbers": _row(arkit_numbers(named, readout)),
        "angles": _row(matrix_to_euler(rotation_to_matrix(semantics.rotation.float()))),
        "openings": None if named.openings is None else _row(named.openings),
    }


def _resting(semantics: Semantics) -> Semantics:
    """A resting face with the codes' turn, as arkit52."""
    angles = matrix_to_euler(rotation_to_matrix(semantics.rotation.float()))
    return arkit_semantics(angles.new_zeros(len(angles), 52), angles)


def _row(values: Tensor) -> list[float]:
    return [round(value, DECIMALS) for value in values[0].float().tolist()]

"""What codes hold, in a line for people."""

from ..head import ARKIT52
from .codes import Identity, Semantics
from .edit import ARKIT
from .rotation import matrix_to_euler, rotation_to_matrix

STRONGEST = 3  # expression numbers that a line names
AT_REST = 0.1  # a number below is not worth a word


def identity_line(identity: Identity, pictures: int) -> str:
    """As: 1 identity from 3 pictures, by DSID 'photo' (1a2b3c4d), with the face's shape."""
    shape = "" if identity.face_shape is None else ", with the face's shape"
    people, photos = _count(len(identity.embedding), "identity", "identities"), _count(pictures, "picture")
    return f"{people} from {photos}, by {identity.encoder}{shape}"


def semantics_line(semantics: Semantics) -> str:
    """How many codes, whose, how the head of the first is turned and, of ARKit's numbers, what it does most."""
    total = len(semantics.expression)
    yaw, pitch, roll = matrix_to_euler(rotation_to_matrix(semantics.rotation[:1].float()))[0].tolist()
    line = f"{_count(total, 'code')} by {semantics.encoder}; {'the first: ' if total > 1 else ''}"
    line += f"yaw {yaw:.0f}, pitch {pitch:.0f}, roll {roll:.0f} degrees"
    if semantics.encoder == ARKIT:
        values = sorted(zip(semantics.expression[0].tolist(), ARKIT52), reverse=True)[:STRONGEST]
        moved = ", ".join(f"{name} {value:.2f}" for value, name in values if value >= AT_REST)
        line += f"; {moved or 'at rest'}"
    return line


def _count(number: int, one: str, many: str = "") -> str:
    return f"{number} {one if number == 1 else many or one + 's'}"

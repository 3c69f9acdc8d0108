"""Single photographs as training data: `person/...` folders or `id#...` names tell who it is, else each is a person."""

from pathlib import Path

from .index import Clip, IndexReport, person_of, usable_report, visible_files
from .labels import read_caption, read_labels
from .read import PICTURES, Unreadable, read_picture


def index_stills(folder: str | Path) -> IndexReport:
    """All pictures below a folder, one `Clip` of stills per person; unreadable ones are skipped and told.

    `name.json` beside `name.png` may tell its points, pose and blendshapes, as frame "0"; `name.txt` what it shows. Raises
    ValueError when none is left.
    """
    root = Path(folder)
    if not root.is_dir():
        raise ValueError(f"{root} is not a folder; give one that holds pictures")
    people: dict[str, list[Path]] = {}
    skipped: list[tuple[Path, str]] = []
    for path in visible_files(root):
        if path.suffix.lower() not in PICTURES:
            continue
        try:
            _require_picture(path)
            people.setdefault(person_of(path, root, path.stem), []).append(path)
        except Unreadable as reason:
            skipped.append((path, str(reason)))
    clips = [_person(root, name, paths, skipped) for name, paths in people.items()]
    return usable_report(root, clips, skipped, f"pictures ({', '.join(PICTURES)})")


def _require_picture(path: Path) -> None:
    if not path.stat().st_size:
        raise Unreadable("empty file")
    read_picture(path)


def _person(root: Path, person: str, paths: list[Path], skipped: list) -> Clip:
    found = [read_labels(path.with_suffix(".json"), skipped)[0].get(0) for path in paths]
    labels = {index: label for index, label in enumerate(found) if label}
    captions = tuple(read_caption(path.with_suffix(".txt")) for path in paths)
    return Clip(root / person, person, len(paths), frames=tuple(paths), labels=labels, still=True, captions=captions)

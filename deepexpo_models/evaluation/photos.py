"""A table of figures for pictures in folders, e.g. what a workflow in ComfyUI saved:

    python -m deepexpo_models.evaluation.photos --made MADE --identity PEOPLE --reference REFERENCES --judges insightface,clip

Pictures belong together by name: made/anna-3.png was made from identity/anna-3.jpg and reference/anna-3.webp. A face that a
judge does not find counts as the worst value and is told as a failure.
"""

import argparse
import json
from collections.abc import Callable, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor

from ..data.clips.read import PICTURES, Unreadable, read_picture
from ..image import comfy_to_model
from ..whole_files import write_text
from .judges.photos import JUDGES, JudgeFiles, PhotoJudge, open_judge
from .metrics import agreement, copy_paste, csim, fid, id_distance, kid, missing, pose_errors, semchg, sim
from .tables import as_json, markdown

PAIRED = ("identity", "reference", "other")  # folders with a picture for every one in `made`
Found = dict[str, Tensor]  # role -> one feature of its pictures


def identity_figures(found: Found) -> dict[str, float]:
    made, person = found["made"], found["identity"]
    copied = {"CopyPaste": copy_paste(made, person, found["other"])} if "other" in found else {}
    return {"CSIM": csim(made, person), "ID": id_distance(made, person), **copied}


def blendshape_figures(found: Found) -> dict[str, float]:
    made, reference = found["made"], found["reference"]
    spans = torch.ones(made.shape[1])
    return {"SIM": sim(made, reference, spans), "SEMCHG": semchg(made, found["identity"], reference)}


def emotion_figures(found: Found) -> dict[str, float]:
    return {"EXP": agreement(found["made"], found["reference"])}


def pose_figures(found: Found) -> dict[str, float]:
    return pose_errors(found["made"], found["reference"])


def clip_figures(found: Found) -> dict[str, float]:
    """CLIP-T: mean cosine of pictures and their prompts."""
    if "prompts" not in found:
        return {}
    return {"CLIP-T": F.cosine_similarity(found["made"], found["prompts"], dim=1).mean().item()}


def inception_figures(found: Found) -> dict[str, float]:
    """KID, and FID where there are enough pictures for it."""
    if "real" not in found:
        return {}
    made, real = found["made"], found["real"]
    enough = min(len(made), len(real)) > made.shape[1]
    return {**({"FID": fid(made, real)} if enough else {}), "KID": kid(made, real)}


FIGURES: dict[str, tuple[tuple[str, ...], Callable[[Found], dict[str, float]]]] = {  # feature -> roles it needs, figures
    "identity": (("identity", "other"), identity_figures),
    "blendshapes": (("identity", "reference"), blendshape_figures),
    "emotion": (("reference",), emotion_figures),
    "pose": (("reference",), pose_figures),
    "clip": (("prompts",), clip_figures),
    "inception": (("real",), inception_figures),
}


def photo_table(judges: Sequence[PhotoJudge], pictures: dict[str, list[Path]], prompts: Sequence[str] = ()) -> list[dict]:
    """One row per judge. pictures: role -> files, as `pair_pictures` lists them, and `real`, any; prompts: one for each made
    picture, or none.
    """
    return [judge_row(judge, pictures, list(prompts)) for judge in judges]


def judge_row(judge: PhotoJudge, pictures: dict[str, list[Path]], prompts: list[str]) -> dict:
    """N, failures by role (pictures without a face) and the figures of every feature the judge measures."""
    features = {"made": measure_files(judge, pictures["made"])}
    wanted = {role for feature in features["made"] for role in FIGURES[feature][0]}
    for role in sorted(wanted & pictures.keys()):
        features[role] = measure_files(judge, pictures[role])
    if "prompts" in wanted and prompts:
        features["prompts"] = {"clip": cast(Any, judge).read(prompts)}
    failures = {role: failure_count(found) for role, found in features.items()}
    row = {"judge": judge.name, "N": len(pictures["made"]), "failures": failures.pop("made")}
    row |= {f"failures in {role}": count for role, count in failures.items() if count}
    for feature, (_, figures) in FIGURES.items():
        if feature in features["made"]:
            row |= figures({role: found[feature] for role, found in features.items() if feature in found})
    return row


def measure_files(judge: PhotoJudge, paths: list[Path]) -> dict[str, Tensor]:
    """All features, a picture at a time since sizes differ. Raises ValueError for a file that is no picture."""
    parts = [judge.measure(load_picture(path)) for path in paths]
    return {name: torch.cat([part[name] for part in parts]).float() for name in parts[0]}


def failure_count(found: dict[str, Tensor]) -> int:
    """Pictures in which some feature could not be measured."""
    return max(round(missing(values) * len(values)) for values in found.values())


def load_picture(path: Path) -> Tensor:
    """(1, 3, H, W) in [-1, 1]."""
    try:
        return comfy_to_model(torch.from_numpy(read_picture(path))[None])
    except Unreadable as reason:
        raise ValueError(f"{path}: {reason}") from reason


def pair_pictures(folders: dict[str, Path]) -> dict[str, list[Path]]:
    """Role -> its pictures in the order of those made. Raises ValueError for an empty folder, and names what has no partner."""
    found = {role: by_name(folder) for role, folder in folders.items()}
    for role, pictures in found.items():
        lacking = [name for name in found["made"] if name not in pictures]
        if lacking:
            raise ValueError(
                f"{folders[role]} has no picture for {len(lacking)} of those made, the first is {lacking[0]!r}; "
                f"give it the same name there"
            )
    return {role: [pictures[name] for name in found["made"]] for role, pictures in found.items()}


def by_name(folder: Path) -> dict[str, Path]:
    """Name without suffix -> picture. Raises ValueError when there is none, or two of one name."""
    paths = [path for path in sorted(Path(folder).glob("*")) if path.suffix.lower() in PICTURES]
    if not paths:
        raise ValueError(f"{folder} holds no pictures ({', '.join(PICTURES)}); give a folder that does")
    found = {path.stem: path for path in paths}
    if len(found) < len(paths):
        twice = next(path.stem for path in paths if found[path.stem] != path)
        raise ValueError(f"{folder} holds two pictures named {twice!r}; keep one of them")
    return found


def read_prompts(path: Path, made: list[Path]) -> list[str]:
    """A JSON file {name of the made picture: its prompt} -> one prompt each. Raises ValueError for one that lacks."""
    try:
        table = json.loads(Path(path).read_text(encoding="utf-8"))
        return [table[picture.stem] for picture in made]
    except (OSError, ValueError, TypeError) as error:
        raise ValueError(f"{path} cannot be read as prompts ({error}); write JSON, {{name: prompt}}") from error
    except KeyError as error:
        raise ValueError(f"{path} has no prompt for {error.args[0]!r}; add it") from error


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--made", type=Path, required=True, help="folder of the pictures to judge")
    parser.add_argument("--identity", type=Path, required=True, help="folder of the people's photos")
    parser.add_argument("--reference", type=Path, required=True, help="folder of the photos with expression and pose")
    parser.add_argument("--other", type=Path, help="folder of other photos of the same people: CopyPaste")
    parser.add_argument("--real", type=Path, help="folder of any real pictures: FID and KID")
    parser.add_argument("--prompts", type=Path, help="JSON file, {name: prompt}: CLIP-T")
    parser.add_argument("--judges", required=True, help=f"comma-separated, of {', '.join(JUDGES)}")
    parser.add_argument("--note", default="", help="steps, sampler, CFG, seeds, hardware: printed with the table")
    parser.add_argument("--out", type=Path, help="folder for photos.json and photos.md")
    for field in fields(JudgeFiles):
        parser.add_argument(f"--{field.name}-path", type=Path, help=f"file or folder of the judge {field.name}")
    options = parser.parse_args(argv)
    try:
        rows = run(options)
    except ValueError as error:
        parser.error(str(error))
    text = "\n\n".join(part for part in (options.note, markdown(rows)) if part)
    print(text)
    if options.out:
        options.out.mkdir(parents=True, exist_ok=True)
        write_text(options.out / "photos.md", text)
        write_text(options.out / "photos.json", as_json({"note": options.note, "rows": rows}))


def run(options: argparse.Namespace) -> list[dict]:
    files = JudgeFiles(**{field.name: getattr(options, f"{field.name}_path") for field in fields(JudgeFiles)})
    judges = [open_judge(name.strip(), files) for name in options.judges.split(",")]
    folders = {role: getattr(options, role) for role in ("made", *PAIRED) if getattr(options, role)}
    pictures = pair_pictures(folders)
    prompts = read_prompts(options.prompts, pictures["made"]) if options.prompts else []
    real = {"real": list(by_name(options.real).values())} if options.real else {}
    return photo_table(judges, {**pictures, **real}, prompts)


if __name__ == "__main__":
    main()

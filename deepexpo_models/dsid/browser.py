"""The head for the browser, `web/head.safetensors`: `python -m deepexpo_models.dsid.browser` writes it from the pack's own.

It holds the basis, how skin follows lips and lids, what of the face is drawn how, and in its metadata under `tables` the
presets, sliders and parts of a face in ARKit's numbers, so that `web/js/head.js` edits and moves it as Python does.
"""

import json
from pathlib import Path

import torch
from torch import Tensor

from ..head import ARKIT52, HeadBasis, load_basis
from ..head.expressions import GROUPS, PRESETS, REST, SINGLE_UNITS, SLIDERS, group_mask, preset_units, units
from ..head.landmarks import EYE_RINGS, FEATURES, IRISES, MOUTH_RING, OVAL
from ..head.openings import ALMOST_CLOSED, OPENINGS, rims_of
from ..head.raster import lip_share, skin
from ..head.retarget import average_face
from ..weights import save_whole
from .edit import ANGLES, STRONGEST, TAKE, WIDEST_YAW

FILE = Path(__file__).parents[2] / "web" / "head.safetensors"
BROWS = ("left brow", "right brow")


def browser_tensors(basis: HeadBasis) -> dict[str, Tensor]:
    """offsets (52, 478, 3) are halves as in the basis' own file; influence (23, 478) and form (23) are those of the pairs of
    points across lips and lids; brows (478) are 1 along their upper edges and -1 along the lower ones."""
    rims = [rims_of(kind, basis) for kind in OPENINGS]
    brows = torch.zeros(len(basis.points))
    for lower, upper in (FEATURES[brow] for brow in BROWS):
        brows[list(upper)], brows[list(lower)] = 1.0, -1.0
    triangles = torch.from_numpy(skin(basis))
    in_brows = (brows[triangles] != 0).all(1)
    return {
        "rest": average_face(basis),
        "offsets": basis.offsets.half(),
        "influence": torch.cat([rim.influence for rim in rims]),
        "form": torch.cat([rim.form for rim in rims]),
        "skin": triangles[~in_brows].short(),
        "brow_skin": triangles[in_brows].short(),
        "lips": torch.from_numpy(lip_share(basis)).float(),
        "brows": brows,
    }


def browser_tables() -> dict:
    return {
        "units": ARKIT52,
        "angles": ANGLES,
        "rest": REST,
        "strongest": STRONGEST,
        "widest_yaw": WIDEST_YAW,
        "almost_closed": ALMOST_CLOSED,
        "groups": {group: group_mask((group,)).int().tolist() for group in GROUPS},
        "take": TAKE,
        "presets": {name: _shares(preset_units(name)) for name in PRESETS},
        "sliders": {
            **{name: [_shares(units(slider.plus)), _shares(units(slider.minus))] for name, slider in SLIDERS.items()},
            **{name: [_shares(units({name: 1})), _shares(units({name: -1}))] for name in SINGLE_UNITS},
        },
        "openings": [
            {"pairs": opening.pairs, "corners": opening.corners, "widest": opening.widest} for opening in OPENINGS.values()
        ],
        "irises": IRISES,
        "eye_rings": EYE_RINGS,
        "mouth_ring": MOUTH_RING,
        "oval": OVAL,
    }


def write_browser_head(path: Path = FILE) -> None:
    tables = json.dumps(browser_tables(), separators=(",", ":"))
    tensors = {name: tensor.contiguous() for name, tensor in browser_tensors(load_basis()).items()}
    save_whole(path, tensors, {"tables": tables})


def _shares(vector: Tensor) -> dict[str, float]:
    return {name: round(value, 6) for name, value in zip(ARKIT52, vector.tolist()) if value}


if __name__ == "__main__":
    write_browser_head()
    print(f"wrote {FILE}")

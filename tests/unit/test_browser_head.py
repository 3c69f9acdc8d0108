"""The head in the browser equals the one in Python; `node` runs the browser's module."""

import json
import os
import re
import shutil
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file

from deepexpo_models.dsid import Edit, Identity, arkit_semantics, edit_semantics, public_encoder, rotation_to_matrix
from deepexpo_models.dsid.browser import FILE, browser_tensors, write_browser_head
from deepexpo_models.dsid.preview import live_head
from deepexpo_models.head import load_basis
from deepexpo_models.head.retarget import average_face, from_canonical, retarget

ROOT = Path(__file__).parents[2]
NODE = os.environ.get("NODE") or shutil.which("node")
SCRIPT = """
import { readFileSync } from "node:fs";
import { editCode, parseHead, rotationOf, shapeOf, turned } from "./head.js";
const [file, states] = process.argv.slice(2);
const bytes = readFileSync(file);
const head = parseHead(bytes.buffer.slice(bytes.byteOffset, bytes.byteOffset + bytes.length));
const results = JSON.parse(readFileSync(states)).map((state) => {
  const code = editCode(head, state, state.settings);
  return [...turned(shapeOf(head, state.rest, code), rotationOf(code.angles))];
});
process.stdout.write(JSON.stringify(results));
"""
EDITS = [
    {},
    {"sliders": {"smile": 0.7, "mouth_open": 0.5}, "yaw": 25.0, "pitch": -10.0, "roll": 6.0},
    {"preset": "happy"},
    {"preset": "wink", "preset_strength": 0.6, "sliders": {"left_eye": -0.4, "look_sideways": 0.8, "look_up": -1.0}},
    {"preset": "shout", "exaggerate": 2.0, "yaw": 88.0},
    {"exaggerate": 0.0, "sliders": {"jawLeft": 0.8, "mouthSmileLeft": -0.3}},
    {"exaggerate": 1.7, "sliders": {"smile": -1.0, "round_lips": 1.0, "brows_up": 1.0}},
    *({"take": take, "yaw": 5.0} for take in ("expression", "mouth", "eyes", "brows", "cheeks", "rotation")),
]


def code(seed: int, openings: bool = False):
    draw = torch.Generator().manual_seed(seed)
    numbers = torch.rand(1, 52, generator=draw) * (torch.rand(1, 52, generator=draw) < 0.3)
    made = arkit_semantics(numbers, torch.randn(1, 3, generator=draw) * 15)
    return replace(made, openings=torch.randn(1, 7, generator=draw) * 0.05) if openings else made


def person() -> Identity:
    draw = torch.Generator().manual_seed(9)
    shape = load_basis().points * torch.tensor([1.1, 0.95, 1.0]) + 0.02 * torch.randn(478, 3, generator=draw)
    return Identity(torch.eye(1, 4), public_encoder("none"), face_shape=shape.flatten()[None])


SOURCES = {  # identity, semantics, onto
    "from nothing": (None, None, None),
    "a code": (None, code(1), None),
    "a code with openings on a person": (person(), code(2, openings=True), None),
    "onto another": (person(), code(3), code(4)),
    "onto alone": (None, None, code(5)),
}


def expected(identity, semantics, onto, edit: Edit) -> torch.Tensor:
    basis = load_basis()
    edited = edit_semantics(semantics, edit, onto)
    rest = average_face(basis) if identity is None else identity.face_shape.unflatten(-1, (478, 3))[0]
    shape = retarget(rest, edited.expression, basis, edited.openings)
    return from_canonical(shape, rotation_to_matrix(edited.rotation), torch.ones(1), torch.zeros(1, 3))[0]


@pytest.mark.skipif(NODE is None, reason="no node (NODE or on the PATH): the browser's head was not compared with Python's")
def test_vertices_equal_pythons(tmp_path):
    shutil.copyfile(ROOT / "web" / "js" / "head.js", tmp_path / "head.js")
    (tmp_path / "package.json").write_text('{"type": "module"}')
    (tmp_path / "run.js").write_text(SCRIPT)
    pairs = [(source, edit) for source in SOURCES.values() for edit in EDITS]
    states = [live_head(*source, None, Edit(**edit)) for source, edit in pairs]
    (tmp_path / "states.json").write_text(json.dumps(states))
    ran = subprocess.run([NODE, "run.js", FILE, "states.json"], cwd=tmp_path, capture_output=True, check=True)
    made = torch.tensor(json.loads(ran.stdout)).view(len(pairs), 478, 3)
    wanted = torch.stack([expected(*source, Edit(**edit)) for source, edit in pairs])
    off = (made - wanted).abs().amax((1, 2))
    assert off.max() < 1e-4, [(round(value, 6), pairs[i]) for i, value in enumerate(off.tolist()) if value >= 1e-4]
    assert wanted.std(0).max() > 1


def test_the_file_is_what_the_basis_and_the_tables_make(tmp_path):
    write_browser_head(tmp_path / "head.safetensors")
    made, shipped = load_file(tmp_path / "head.safetensors"), load_file(FILE)
    same = made.keys() == shipped.keys() and all(torch.allclose(made[name], shipped[name], atol=1e-5) for name in made)
    assert same, "web/head.safetensors is out of date; run `python -m deepexpo_models.dsid.browser`"
    headers = [safe_open(path, "pt").metadata() for path in (tmp_path / "head.safetensors", FILE)]
    assert headers[0] == headers[1]


def test_what_is_drawn_of_the_face():
    tensors = browser_tensors(load_basis())
    assert tensors["brows"].sum() == 0 and tensors["brows"].abs().sum() == 20 and 20 < tensors["lips"].sum() < 100
    assert 0 <= tensors["skin"].min() and tensors["skin"].max() < 478
    assert len(tensors["brow_skin"]) == 16 and 800 < len(tensors["skin"]) + 16 < 898


def test_modules_export_what_others_import():
    texts = {path.name: path.read_text(encoding="utf-8") for path in (ROOT / "web" / "js").glob("*.js")}
    given = {name for text in texts.values() for name in re.findall(r"^export (?:function|class|const) (\w+)", text, re.M)}
    taken = {name for text in texts.values() for names in re.findall(r"^import \{ ([\w, ]+) \} from \"\./", text, re.M)
             for name in names.split(", ")}  # fmt: skip
    assert given == taken

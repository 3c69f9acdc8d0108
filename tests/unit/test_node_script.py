"""web/js/nodes.js in Node, on a stand-in of the frontend: wires get their colours, nodes say what the run said."""

import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SCRIPT = ROOT / "web" / "js" / "nodes.js"
NODE = shutil.which("node")
STAND_IN = """
export const extensions = [];
export class Canvas {
  default_connection_color_byType = { MODEL: "#b39ddb", DEEPEXPO_MEAF: "" };
  static link_type_colors = { DEEPEXPO_DSID: "#123456" };
}
export const app = { canvas: new Canvas(), registerExtension: (extension) => extensions.push(extension) };
globalThis.document = {
  head: { sheets: [], append(sheet) { this.sheets.push(sheet.textContent); } },
  createElement: () => ({ style: {} }),
};
"""
RUN = """
import { app, Canvas, extensions } from "./scripts/app.js";
await import("./extensions/pack/js/nodes.js");
const [extension] = extensions;
extension.setup();
const drawn = app.canvas.default_connection_color_byType, links = Canvas.link_type_colors;
const before = { ...drawn };
Object.assign(drawn, Object.fromEntries(Object.keys(drawn).map((type) => [type, ""])), { MODEL: "#111111" });
class Node {
  widgets = [];
  calls = 0;
  onExecuted() { this.calls += 1; }
  addDOMWidget(name, kind, element, options) {
    const widget = { name, element, options };
    this.widgets.push(widget);
    return widget;
  }
}
class Other extends Node { onExecuted() {} }
extension.beforeRegisterNodeDef(Node, { name: "DeepExPoCropFace" });
extension.beforeRegisterNodeDef(Other, { name: "KSampler" });
const node = new Node(), other = new Other(), said = [];
for (const output of [{ images: [] }, { text: ["one face", ""] }, { text: ["two faces", "one mask"] }, {}]) {
  node.onExecuted(output);
  said.push([node.widgets.length, node.widgets[0]?.element.textContent ?? null]);
}
other.onExecuted({ text: ["not ours"] });
const [widget] = node.widgets;
console.log(JSON.stringify({
  before, after: { ...drawn }, links: { ...links }, sheets: document.head.sheets, said, calls: node.calls,
  saved: [widget.serialize, widget.options.serialize], other: other.widgets.length,
}));
"""


@pytest.fixture(scope="module")
def seen(tmp_path_factory) -> dict:
    if NODE is None:
        pytest.skip("Node is not installed")
    folder = tmp_path_factory.mktemp("frontend")
    for name, text in (("scripts/app.js", STAND_IN), ("extensions/pack/js/nodes.js", SCRIPT.read_text()), ("run.mjs", RUN)):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    (folder / "package.json").write_text('{"type": "module"}')
    return json.loads(subprocess.run([NODE, "run.mjs"], cwd=folder, capture_output=True, text=True, check=True).stdout)


def socket_types() -> set[str]:
    """Those of nodes/sockets.py that a wire can have and core gives no colour."""
    return set(re.findall(r'io\.Custom\("([A-Z_]+)"\)', (ROOT / "nodes" / "sockets.py").read_text(encoding="utf-8")))


def test_every_socket_type_of_ours_has_a_colour_of_its_own(seen):
    ours = {kind: seen["before"][kind] for kind in socket_types()}
    assert len(set(ours.values())) == len(ours) and all(re.fullmatch(r"#[0-9a-f]{6}", value) for value in ours.values())
    (sheet,) = seen["sheets"]
    assert all(f"--color-datatype-{kind}: {value};" in sheet for kind, value in ours.items())


def test_a_palette_that_is_loaded_later_leaves_them_and_one_that_names_them_wins(seen):
    assert seen["after"] == {**seen["before"], "MODEL": "#111111"}
    assert seen["before"]["MODEL"] == "#b39ddb" and seen["links"]["DEEPEXPO_DSID"] == "#123456"


def test_a_node_shows_the_lines_of_its_last_run_and_saves_none_of_them(seen):
    assert seen["said"] == [[0, None], [1, "one face"], [1, "two faces\none mask"], [1, ""]]
    assert seen["calls"] == 4 and seen["saved"] == [False, False]


def test_nodes_of_others_are_left_alone(seen):
    assert seen["other"] == 0

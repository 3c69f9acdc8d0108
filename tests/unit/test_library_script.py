"""web/js/library.js in Node, on a stand-in of the frontend and its page: tiles are built once, refusals are shown."""

import json
import shutil
import subprocess
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / "web" / "js" / "library.js"
NODE = shutil.which("node")
APP = """
export const extensions = [];
export const app = { registerExtension: (extension) => extensions.push(extension) };
export const page = { made: 0 };
class Element {
  constructor(tag) {
    Object.assign(this, { tag, children: [], dataset: {}, listeners: {}, classes: new Set(), value: "", hidden: false });
    this.classList = { toggle: (name, on) => (on ? this.classes.add(name) : this.classes.delete(name)) };
    page.made += 1;
  }
  append(...children) { this.children.push(...children); }
  replaceChildren(...children) { this.children = children; }
  addEventListener(kind, then) { this.listeners[kind] = then; }
  click() { this.clicked = true; return (this.onclick ?? this.listeners.click)?.(); }
}
globalThis.document = { head: new Element("head"), createElement: (tag) => new Element(tag) };
"""
API = """
export const answers = { next: null };
export const api = {
  apiURL: (path) => path,
  async fetchApi(path, options) {
    if (answers.next instanceof Error) throw answers.next;
    const { ok = true, status = 200, statusText = "", text = "", seen } = answers.next(path, options);
    return { ok, status, statusText, json: async () => JSON.parse(text), blob: async () => text };
  },
};
"""
RUN = """
import { app, extensions, page } from "./scripts/app.js";
import { answers } from "./scripts/api.js";
await import("./extensions/pack/js/library.js");
const about = { count: 1, encoder: "e", encoder_sha256: "0".repeat(64), has_picture: true };
const entry = (name, tags) => ({ name, title: name, tags, ...about });
const entries = [entry("ann", ["friend"]), entry("bea", []), entry("cat", ["friend"])];
const listed = () => ({ text: JSON.stringify(entries) });
const settled = () => new Promise((done) => setTimeout(done, 5));
answers.next = listed;
const shown = {};
const widget = { name: "name", value: "bea", options: { values: ["ann"] } };
const node = {
  comfyClass: "DeepExPoLoadIdentity", widgets: [widget], size: [200, 100], setSize() {},
  addDOMWidget: (name, kind, root) => Object.assign(shown, { root }),
};
extensions[0].nodeCreated(node);
await settled();
const [bar, grid, said, file] = shown.root.children, [search, again, out] = bar.children;
const seen = () => grid.children.filter((tile) => !tile.hidden).map((tile) => tile.dataset.name);
const results = { first: [seen(), said.textContent], offered: widget.options.values, made: [] };
const built = page.made;
results.found = ["FRIEND", "friend cat", "nobody", ""].map((words) => {
  search.value = words;
  search.listeners.input();
  return [seen(), said.textContent];
});
results.made.push(page.made - built);
grid.children[2].click();
results.chosen = [widget.value, grid.children.map((tile) => tile.classes.has("chosen"))];
results.made.push(page.made - built);
const refusals = {
  sentence: () => ({ ok: false, status: 413, text: JSON.stringify({ error: "the archive is too large; split it" }) }),
  page: () => ({ ok: false, status: 502, statusText: "Bad Gateway", text: "<html>" }),
  silence: new Error("Failed to fetch"),
};
const works = {
  load: () => again.click(), export: () => out.click(),
  import: () => { file.files = [{}]; return file.listeners.change(); },
};
results.refused = {};
for (const [kind, answer] of Object.entries(refusals)) {
  for (const [name, work] of Object.entries(works)) {
    said.textContent = "";
    answers.next = answer;
    work();
    await settled();
    results.refused[`${name}, ${kind}`] = [said.textContent, grid.children.length];
  }
}
answers.next = (path) => (path.includes("import") ? { text: JSON.stringify({ names: ["x", "y"] }) } : listed());
works.import();
await settled();
results.imported = said.textContent;
console.log(JSON.stringify(results));
"""


@pytest.fixture(scope="module")
def seen(tmp_path_factory) -> dict:
    if NODE is None:
        pytest.skip("Node is not installed")
    folder = tmp_path_factory.mktemp("frontend")
    files = {
        "scripts/app.js": APP,
        "scripts/api.js": API,
        "extensions/pack/js/library.js": SCRIPT.read_text("utf-8"),
        "run.mjs": RUN,
    }
    for name, text in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text, "utf-8")
    (folder / "package.json").write_text('{"type": "module"}')
    return json.loads(subprocess.run([NODE, "run.mjs"], cwd=folder, capture_output=True, text=True, check=True).stdout)


def test_words_show_and_hide_tiles_that_are_built_once(seen):
    assert seen["first"] == [["ann", "bea", "cat"], "3 of 3"] and seen["offered"] == ["ann", "bea", "cat"]
    assert [names for names, _ in seen["found"]] == [["ann", "cat"], ["cat"], [], ["ann", "bea", "cat"]]
    assert [said for _, said in seen["found"]] == ["2 of 3", "1 of 3", "0 of 3", "3 of 3"]
    assert seen["made"] == [0, 0], "elements that a search or a choice made"


def test_the_chosen_tile_is_marked(seen):
    assert seen["chosen"] == ["cat", [False, False, True]]


@pytest.mark.parametrize("work", ["load", "export", "import"])
@pytest.mark.parametrize(
    "kind, words",
    [
        ("sentence", "the archive is too large; split it"),
        ("page", "the server refused (502 Bad Gateway)"),
        ("silence", "Failed to fetch"),
    ],
)
def test_whatever_refuses_is_shown_and_the_tiles_stay(seen, work, kind, words):
    assert seen["refused"][f"{work}, {kind}"] == [words, 3]


def test_an_import_says_how_many_came(seen):
    assert seen["imported"] == "2 imported"

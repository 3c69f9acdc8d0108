"""The nodes and templates in the real frontend, in a headless Chromium: what artists see and do.

`COMFYUI_PATH` and `DEEPEXPO_FRONTEND` choose the host and the frontend; `DEEPEXPO_SCREENSHOTS` keeps pictures.
"""

import json
from collections.abc import Collection

import pytest

from rig.browser import APP_MODE, PATIENCE, no_browser, open_frontend, server_arguments
from rig.graphs import WORKFLOWS, read_workflow
from rig.host import PACK
from rig.server import running_server
from templates import BLUEPRINTS, TEMPLATES

pytestmark = pytest.mark.skipif(bool(no_browser()), reason=no_browser() or "-")
NEWER = {"LoadVideo": {"video-preview"}, "CreateVideo": {"bit_depth"}}  # than 0.3.64
APP = "16_photo_sd15_app"
EMPTY = {"nodes": [], "links": [], "version": 0.4, "last_node_id": 0, "last_link_id": 0}
EDITOR = """async () => {
    const node = window.LiteGraph.createNode('DeepExPoEditSemantics');
    node.pos = [60, 60];
    window.app.graph.add(node);
    window.editor = node;
    await new Promise((done) => setTimeout(done, 1500));
    Object.assign(window.app.canvas.ds, { scale: 0.8, offset: [300, 40] });
    window.app.graph.setDirtyCanvas(true, true);
    await new Promise((done) => setTimeout(done, 2000));
    return window.editor.size[1];
}"""
HEAD = "canvas[title^=Drag]"
PIXELS = """() => {
    const pixels = document.querySelector('canvas[title^=Drag]').getContext('2d').getImageData(0, 0, 448, 448).data;
    return Array.from({ length: 3136 }, (_, i) => pixels[4 * ((8 * Math.floor(i / 56)) * 448 + 8 * (i % 56))]);
}"""
VALUES = "() => Object.fromEntries(window.editor.widgets.filter((w) => w.options?.max).map((w) => [w.name, w.value]))"
SLIDER = """(name) => {
    const node = window.editor, widget = node.widgets.find((w) => w.name === name), { scale, offset } = window.app.canvas.ds;
    const box = document.querySelector('#graph-canvas').getBoundingClientRect();
    const [x, y] = [node.pos[0] + 0.8 * node.size[0], node.pos[1] + (widget.last_y ?? widget.y) + 10];
    return [box.left + (x + offset[0]) * scale, box.top + (y + offset[1]) * scale];
}"""
CONNECTED_RUN = """async () => {
    const [loader, shown] = ['DeepExPoLoadSemantics', 'PreviewImage'].map((type) => window.LiteGraph.createNode(type));
    for (const node of [loader, shown]) window.app.graph.add(node);
    [loader.pos, shown.pos] = [[-340, 60], [560, 60]];
    const widget = loader.widgets.find(({ name }) => name === 'name');
    widget.value = widget.options.values.find((name) => name.includes('surprised')) ?? widget.value;
    loader.connect(0, window.editor, 0);
    window.editor.connect(1, shown, 0);
    await window.app.queuePrompt(0, 1);
    return widget.value;
}"""
LOADER = """async () => {
    const node = window.LiteGraph.createNode('DeepExPoLoadSemantics');
    node.pos = [60, 60];
    window.app.graph.add(node);
    window.loader = node;
    Object.assign(window.app.canvas.ds, { scale: 1, offset: [300, 40] });
    window.app.graph.setDirtyCanvas(true, true);
    await new Promise((done) => setTimeout(done, 1500));
}"""
DRAWING = """async () => {
    const folder = new URL('/extensions/ComfyUI-DeepExPo/js/', location), load = (file) => import(new URL(file, folder));
    const modules = await Promise.all(['head.js', 'bust.js', 'shade.js'].map(load));
    const { parseHead, editCode, shapeOf, bust, Picture } = Object.assign({}, ...modules);
    const head = parseHead(await (await fetch(new URL('../head.safetensors', folder))).arrayBuffer());
    const picture = new Picture(448), times = [];
    const settings = { take: 'everything', exaggerate: 1, preset: 'happy', preset_strength: 1 };
    for (let frame = 0; frame < 90; frame++) {
        const start = performance.now(), code = editCode(head, {}, { ...settings, yaw: frame - 45 });
        picture.draw(bust(head, head.rest, shapeOf(head, null, code), code.angles));
        times.push(performance.now() - start);
    }
    return times.sort((a, b) => a - b);
}"""
RUN = """async () => {
    const { app } = window;
    for (const node of app.graph.nodes) {
        for (const widget of node.widgets ?? []) if (['steps', 'batch_size'].includes(widget.name)) widget.value = 1;
    }
    window.pictures = [];
    const { api } = await import('/scripts/api.js');
    api.addEventListener('executed', ({ detail }) => window.pictures.push(...(detail.output?.images ?? [])));
    await app.queuePrompt(0, 1);
}"""


@pytest.fixture(scope="module")
def served(tmp_path_factory):
    with running_server(tmp_path_factory.mktemp("comfyui"), arguments=server_arguments()) as server:
        yield server


@pytest.fixture(scope="module")
def frontend(served):
    with open_frontend(served.url) as page:
        yield page


@pytest.fixture(scope="module")
def known(served) -> dict[str, set[str]]:
    """Node type -> names of its inputs on this ComfyUI."""
    return {kind: {name for part in told["input"].values() for name in part} for kind, told in served.object_info().items()}


@pytest.fixture(params=["canvas", "nodes 2.0"])
def drawn_by(request, frontend):
    """Both ways in which frontends draw nodes."""
    if not frontend.nodes_2(request.param == "nodes 2.0"):
        pytest.skip(f"this frontend has no {request.param}")
    return request.param


@pytest.fixture
def editor(drawn_by, frontend):
    frontend.open(EMPTY)
    assert 700 < frontend.page.evaluate(EDITOR) < 1500, "numbers that are meant to be folded are not"
    return frontend.page


def difference(a: list, b: list) -> float:
    return sum(abs(x - y) for x, y in zip(a, b)) / len(a)


def template(name: str) -> dict:
    return json.loads((WORKFLOWS / f"{name}.json").read_text(encoding="utf-8"))


def comparable(graph: dict, known: dict, outside: Collection[str] = ()) -> dict:
    """Node id -> its type and those inputs that this ComfyUI and the oldest one have; none that comes from `outside`."""

    def inputs(node: dict) -> dict:
        given = node["inputs"] | {name.split(".")[-1]: value for name, value in node["inputs"].items() if "." in name}
        both = known[node["class_type"]] - NEWER.get(node["class_type"], set())
        return {name: v for name, v in given.items() if name in both and not (isinstance(v, list) and v[0] in outside)}

    return {key: (node["class_type"], inputs(node)) for key, node in graph.items()}


@pytest.mark.parametrize("name", TEMPLATES)
def test_template_opens_and_sends_its_api_twin(drawn_by, frontend, known, name):
    found = frontend.open(template(name))
    frontend.fit()
    frontend.keep(f"template {name}, {drawn_by}")
    assert found["missing"] == [] and not frontend.errors
    assert comparable(found["api"], known) == comparable(read_workflow(name), known)
    if drawn_by == "nodes 2.0" and name != APP:
        assert frontend.page.locator("[data-node-id]").count() == found["nodes"]


@pytest.mark.parametrize("name", BLUEPRINTS)
def test_blueprint_opens_and_sends_the_core_of_its_template(drawn_by, frontend, known, name):
    found = frontend.open(json.loads((PACK / "subgraphs" / f"{BLUEPRINTS[name].name}.json").read_text(encoding="utf-8")))
    frontend.fit()
    frontend.keep(f"blueprint {BLUEPRINTS[name].name}, {drawn_by}")
    assert found["missing"] == [] and not frontend.errors
    sent = comparable(unfolded(found["api"]), known)
    twin = read_workflow(name)
    expected = comparable({key: twin[key] for key in sent}, known, outside=twin.keys() - sent.keys())
    for key, (_, inputs) in expected.items():  # what comes from outside is a widget's own value, or nothing
        assert (sent[key][0], {name: sent[key][1][name] for name in inputs}) == expected[key]


def unfolded(api: dict) -> dict:
    """A subgraph's nodes by the ids that they have in it."""
    inside = {key: key.split(":")[-1] for key in api}
    return {
        inside[key]: {
            **node,
            "inputs": {name: [inside[v[0]], v[1]] if isinstance(v, list) else v for name, v in node["inputs"].items()},
        }
        for key, node in api.items()
    }


def test_the_app_template_opens_as_an_app(frontend):
    if not frontend.has(APP_MODE):
        pytest.skip("this frontend has no App mode")
    workflow = template(APP)
    frontend.open(workflow)
    frontend.page.get_by_test_id("linear-run-button").wait_for()
    frontend.keep("app")
    assert frontend.page.get_by_test_id("app-mode-widget-item").count() == len(workflow["extra"]["linearData"]["inputs"])
    frontend.open(template("02_photo_sd15"))
    assert frontend.page.get_by_test_id("app-mode-widget-item").count() == 0 and not frontend.errors


def test_a_slider_moves_the_head(editor, drawn_by, frontend):
    resting = editor.evaluate(PIXELS)
    assert max(resting) - min(resting) > 100, "a head in light on a dark ground"
    if drawn_by == "canvas":
        editor.mouse.click(*editor.evaluate(SLIDER, "smile"))
    else:
        slider = editor.locator("[role=slider]").nth(3)  # after yaw, pitch, roll
        slider.focus()
        for _ in range(30):
            slider.press("ArrowRight")
    editor.wait_for_timeout(2000)
    frontend.keep(f"editor smiling, {drawn_by}")
    assert editor.evaluate(VALUES)["smile"] > 0.2
    smiling = editor.evaluate(PIXELS)
    assert difference(smiling[len(smiling) // 2 :], resting[len(resting) // 2 :]) > 0.1, "the mouth moves"


def test_a_drag_turns_the_head(editor, drawn_by, frontend):
    before, place = editor.evaluate(PIXELS), editor.evaluate("() => [...window.editor.pos]")
    box = editor.locator(HEAD).bounding_box()
    x, y = box["x"] + box["width"] / 2, box["y"] + min(box["height"], 1000 - box["y"]) / 2
    editor.mouse.move(x, y)
    editor.mouse.down()
    editor.mouse.move(x + 40, y - 20, steps=4)
    editor.mouse.up()
    editor.wait_for_timeout(2000)
    values = editor.evaluate(VALUES)
    frontend.keep(f"editor turned, {drawn_by}")
    assert values["yaw"] > 5 and values["pitch"] > 2 and values["roll"] == 0
    assert difference(before, editor.evaluate(PIXELS)) > 3
    assert editor.evaluate("() => [...window.editor.pos]") == place, "the node stays where it is"


def test_after_a_run_the_head_shows_what_is_connected(editor, drawn_by, frontend):
    resting = editor.evaluate(PIXELS)
    name = editor.evaluate(CONNECTED_RUN)
    for _ in range(PATIENCE // 1000):
        editor.wait_for_timeout(1000)
        if difference(resting, editor.evaluate(PIXELS)) > 0.5:
            break
    frontend.keep(f"editor after a run, {drawn_by}")
    assert difference(resting, editor.evaluate(PIXELS)) > 0.5, name
    editor.evaluate("() => window.editor.disconnectInput(0)")
    editor.wait_for_timeout(2000)
    assert difference(resting, editor.evaluate(PIXELS)) == 0


def test_a_head_is_drawn_thirty_times_a_second(frontend):
    """By the time that the page's thread computes: what else the machine does is not ours."""
    clock = frontend.page.context.new_cdp_session(frontend.page)
    clock.send("Performance.enable", {"timeDomain": "threadTicks"})

    def seconds() -> float:
        return {m["name"]: m["value"] for m in clock.send("Performance.getMetrics")["metrics"]}["TaskDuration"]

    start = seconds()
    times = frontend.page.evaluate(DRAWING)
    frame = 1000 * (seconds() - start) / len(times)
    print(f"a head takes {frame:.1f} ms of computing, {times[0]:.1f} ms of the clock at best, {times[45]:.1f} at the median")
    assert 1 < frame < 1000 / 30


def test_run_gives_a_picture(frontend):
    frontend.open(template("01_starter"))
    frontend.page.evaluate(RUN)
    frontend.page.wait_for_function("() => window.pictures.some(({ type }) => type === 'output')")
    frontend.page.wait_for_timeout(3000)
    frontend.fit()
    frontend.keep("starter after a run")
    assert not frontend.errors
    assert frontend.page.get_by_text("deepexpo_said").count() == 0, "what a node says is a line, not a field with a name"


def test_a_word_finds_the_node(frontend):
    frontend.open(EMPTY)
    page = frontend.page
    page.mouse.dblclick(700, 500)
    page.wait_for_timeout(2500)
    page.keyboard.type("expression editor", delay=30)
    page.wait_for_timeout(3000)
    frontend.keep("search")
    assert page.get_by_text("Edit Semantics", exact=False).count() > 0
    page.keyboard.press("Escape")


def test_a_library_entry_is_chosen_by_its_thumbnail(drawn_by, frontend):
    frontend.open(EMPTY)
    page = frontend.page
    page.evaluate(LOADER)
    tile = page.locator(".deepexpo-library .tile:has(img)").nth(2)
    tile.wait_for()
    assert tile.locator("img").evaluate("(img) => img.decode().then(() => img.naturalWidth)") > 32
    tile.click()
    page.wait_for_timeout(500)
    frontend.keep(f"library, {drawn_by}")
    name = tile.get_attribute("data-name")
    assert page.evaluate("() => window.loader.widgets.find((w) => w.name === 'name').value") == name

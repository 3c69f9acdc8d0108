"""ComfyUI's frontend in a headless Chromium, by playwright.

CHROMIUM: the browser, where it is not on the PATH. DEEPEXPO_FRONTEND: the static folder of another frontend than the one that
is installed. DEEPEXPO_SCREENSHOTS: a folder that keeps what the tests saw.
"""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Iterator
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path

FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-component-update", "--disable-sync"]
CHROMIUM = (
    os.environ.get("CHROMIUM") or shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
)
PATIENCE = 240_000  # ms; frontends are slow on a busy machine
READY = "() => window.app?.graph && window.LiteGraph?.registered_node_types?.DeepExPoEditSemantics"
NODES_2 = (1, 30)  # the first with it; 1.27.10's is an experiment that one has to ask for; 1.58.1's was tried
APP_MODE = (1, 42)  # the first that opens a workflow as an app
VERSION = "() => window.__COMFYUI_FRONTEND_VERSION__ ?? '0.0'"
SET_NODES_2 = """async (on) => {
    const { setting } = window.app.extensionManager;
    try { await setting.set('Comfy.VueNodes.Enabled', on); } catch { return false; }
    return Boolean(window.LiteGraph.vueNodesMode) === on;
}"""
OPEN = """async (workflow) => {
    await window.app.loadGraphData(workflow);
    await new Promise((done) => setTimeout(done, 1500));
    const known = window.LiteGraph.registered_node_types;
    const all = ({ nodes }) => nodes.flatMap((node) => [node, ...(node.subgraph ? all(node.subgraph) : [])]);
    const missing = all(window.app.graph).map((node) => node.type).filter((type) => !(type in known));
    const { output } = await window.app.graphToPrompt();
    return { missing, nodes: window.app.graph.nodes.length, api: output };
}"""
FIT = """async () => {
    window.app.canvas.ds.scale = 1;
    await window.app.extensionManager.command.execute('Comfy.Canvas.FitView');
    await new Promise((done) => setTimeout(done, 1200));
}"""
DIALOGS = """() => [...document.querySelectorAll('[role=dialog], .p-dialog, .comfy-modal')]
    .some((element) => element.checkVisibility())"""


def no_browser() -> str:
    """Why there is none, or nothing."""
    if CHROMIUM is None or not Path(CHROMIUM).is_file():
        return "no Chromium (CHROMIUM or on the PATH): nothing was tried in a browser"
    return "" if find_spec("playwright") else "playwright is not installed: nothing was tried in a browser"


def server_arguments() -> tuple[str, ...]:
    folder = os.environ.get("DEEPEXPO_FRONTEND")
    return ("--front-end-root", folder) if folder else ()


@dataclass
class Frontend:
    page: object  # of playwright
    errors: list[str] = field(default_factory=list)  # the page's own exceptions since a workflow was opened

    def open(self, workflow: dict) -> dict:
        """A workflow in the frontend's format -> its missing node types, in subgraphs too, how many nodes it shows, and its API
        format. What the frontend then says, of models to download for one, is put away."""
        self.errors.clear()
        found = self.page.evaluate(OPEN, workflow)
        for _ in range(8):
            if not self.page.evaluate(DIALOGS):
                break
            self.page.keyboard.press("Escape")
            self.page.wait_for_timeout(800)
        return found

    def fit(self) -> None:
        self.page.evaluate(FIT)

    def has(self, feature: tuple[int, int]) -> bool:
        """NODES_2 or APP_MODE."""
        return tuple(map(int, self.page.evaluate(VERSION).split(".")[:2])) >= feature

    def nodes_2(self, on: bool) -> bool:
        """Whether nodes are now drawn that way; frontends before Nodes 2.0 cannot."""
        return False if on and not self.has(NODES_2) else self.page.evaluate(SET_NODES_2, on)

    def keep(self, name: str) -> None:
        if folder := os.environ.get("DEEPEXPO_SCREENSHOTS"):
            Path(folder).mkdir(parents=True, exist_ok=True)
            self.page.screenshot(path=Path(folder) / f"{name}.png")


@contextlib.contextmanager
def open_frontend(url: str) -> Iterator[Frontend]:
    """The frontend of a running server, its first dialogs closed."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        page = browser.new_page(viewport={"width": 1920, "height": 1080})
        page.set_default_timeout(PATIENCE)
        frontend = Frontend(page)
        page.goto(url)
        page.wait_for_function(READY)
        page.wait_for_timeout(3000)  # its own default workflow and first dialogs
        page.keyboard.press("Escape")
        page.on("pageerror", lambda error: frontend.errors.append(error.stack or str(error)))
        yield frontend
        browser.close()

"""Fixtures on a real ComfyUI. Without one, every test here is reported as skipped, with the reason."""

import ast
import sys
from pathlib import Path

import pytest

sys.path.append(str(Path(__file__).parent))  # for `rig`; at the end, so that it hides nothing

from rig import host
from rig.browser import no_browser
from rig.server import running_server

REASON = host.start()


class TestOnComfyUI(pytest.Item):
    def runtest(self):
        pytest.skip(REASON)


class ModuleWithoutComfyUI(pytest.Module):
    """Not imported, since a test module may import comfy at its top; its tests are read from the source."""

    def collect(self):
        for node in ast.walk(ast.parse(self.path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.FunctionDef) and node.name.startswith("test_"):
                yield TestOnComfyUI.from_parent(self, name=node.name)


def pytest_pycollect_makemodule(module_path, parent):
    return ModuleWithoutComfyUI.from_parent(parent, path=module_path) if REASON else None


def pytest_terminal_summary(terminalreporter):
    tell_skipped(terminalreporter, "tests/comfy/", REASON, "no ComfyUI", "on a real ComfyUI")
    tell_skipped(terminalreporter, "tests/comfy/test_browser.py", no_browser(), "no browser", "in a browser")


def tell_skipped(terminalreporter, below: str, reason: str | None, title: str, where: str) -> None:
    skipped = [report for report in terminalreporter.stats.get("skipped", []) if below in report.nodeid]
    if reason and skipped:
        terminalreporter.section(title, red=True)
        terminalreporter.write_line(f"{len(skipped)} tests {where} skipped: {reason}", red=True)


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item):
    if not REASON:
        host.first_on_path()  # whatever other tests put there: `nodes` is ComfyUI's module here


@pytest.fixture(scope="session")
def pack():
    """This pack, loaded in this process as ComfyUI loads it: .module, .nodes by id, .submodule(name)."""
    return host.load_pack()


@pytest.fixture(scope="session")
def server(tmp_path_factory):
    """A ComfyUI server with this pack as its only custom node."""
    with running_server(tmp_path_factory.mktemp("comfyui")) as started:
        yield started

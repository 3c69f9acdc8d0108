"""Templates and blueprints in the real frontend, in Chromium: no node is missing, and what it would send is the API twin.

Needs node, Chromium, and PLAYWRIGHT_CORE: a folder with node_modules/playwright-core (npm install playwright-core).
"""

import json
import os
import shutil
import subprocess
from pathlib import Path

import pytest

from rig.graphs import WORKFLOWS, read_workflow
from rig.host import PACK

NAMES = sorted(path.stem for path in WORKFLOWS.glob("*.json"))
BLUEPRINTS = sorted(path.stem for path in (PACK / "subgraphs").glob("*.json"))
OURS = Path(__file__).parent / "rig" / "frontend.mjs"
NEWER = {"LoadVideo": {"video-preview"}, "CreateVideo": {"bit_depth"}, "SaveVideo": {"format.codec"}}  # than 0.3.64
READY = (
    shutil.which("node")
    and Path(os.environ.get("CHROMIUM", "/usr/bin/chromium")).is_file()
    and Path(os.environ.get("PLAYWRIGHT_CORE", "nowhere"), "node_modules").is_dir()
)
pytestmark = pytest.mark.skipif(not READY, reason="needs node, Chromium and PLAYWRIGHT_CORE")


@pytest.fixture(scope="module")
def opened(server, tmp_path_factory):
    """Name -> what the frontend found, and the API format that it would send."""
    folder = tmp_path_factory.mktemp("frontend")
    files = [*(WORKFLOWS / f"{name}.json" for name in NAMES), *(PACK / "subgraphs" / f"{name}.json" for name in BLUEPRINTS)]
    subprocess.run(["node", OURS, server.url, folder, *files], check=True, timeout=900)
    read = {}
    for name in (*NAMES, *BLUEPRINTS):
        read[name] = tuple(json.loads((folder / name / file).read_text()) for file in ("report.json", "api.json"))
    return read


@pytest.mark.parametrize("name", [*NAMES, *BLUEPRINTS])
def test_nothing_is_missing(opened, name):
    report, api = opened[name]
    assert not report["missing"] and not report["dialogs"] and api


@pytest.mark.parametrize("name", NAMES)
def test_what_it_sends_is_the_api_twin(opened, name):
    _, sent = opened[name]
    twin = read_workflow(name)
    assert {key: plain(node) for key, node in sent.items()} == {key: plain(node) for key, node in twin.items()}


def plain(node: dict) -> tuple[str, dict]:
    newer = NEWER.get(node["class_type"], set())
    return node["class_type"], {name: value for name, value in node["inputs"].items() if name not in newer}

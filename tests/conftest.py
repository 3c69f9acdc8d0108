"""For all tests: torchvision where it is installed, working or not, and who shares a process."""

from pathlib import Path

import pytest

from rig import torchvision_stand_in

torchvision_stand_in.install()
# Gigabytes each: one after the other, first those whose models are a server's, which gives its memory back when it ends.
FULL_SIZE = ("test_workflows", "test_full_size", "test_imported_full_size", "test_cost")


def pytest_collection_modifyitems(config, items):
    """With pytest-xdist: a file's tests in one process, as they share its fixtures; the longest first."""
    if not config.pluginmanager.hasplugin("xdist"):
        return
    for item in items:
        stem = item.path.stem
        item.add_marker(pytest.mark.xdist_group("full size" if stem in FULL_SIZE else str(Path(*item.path.parts[-2:]))))
    order = {stem: place for place, stem in enumerate(FULL_SIZE)}
    items.sort(key=lambda item: order.get(item.path.stem, len(FULL_SIZE)))

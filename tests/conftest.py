"""For all tests: torchvision where it is installed, working or not, and who shares a process."""

from pathlib import Path

import pytest

from rig import torchvision_stand_in

torchvision_stand_in.install()
# Gigabytes each: one after the other, first those whose models are a server's, which gives its memory back when it ends.
FULL_SIZE = ("test_workflows", "test_full_size", "test_imported_full_size", "test_cost")
FOLDERS = ("comfy", "training", "unit")  # the longest first


def pytest_collection_modifyitems(items):
    items.sort(key=lambda item: (rank(FULL_SIZE, item.path.stem), rank(FOLDERS, item.path.parent.name)))


def rank(names: tuple[str, ...], name: str) -> int:
    return names.index(name) if name in names else len(names)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config, log):
    """With pytest-xdist: a file's tests in one process, as they share its fixtures, and the full-size ones all in one."""
    from xdist.scheduler import LoadScopeScheduling

    class ByFile(LoadScopeScheduling):
        def _split_scope(self, nodeid):
            path = nodeid.split("::")[0]
            return "full size" if Path(path).stem in FULL_SIZE else path

    config.option.loadscopereorder = False  # the order is that of the items
    return ByFile(config, log)

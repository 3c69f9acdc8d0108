"""Lets ComfyUI start where torchvision's compiled operators do not load, e.g. CPU torch beside a CUDA torchvision.

torchvision then fails on import, since `torchvision._meta_registrations` describes operators that do not exist.
ComfyUI uses none of them. Where the operators load, this changes nothing.
"""

import importlib.abc
import importlib.machinery
import sys

NAME = "torchvision._meta_registrations"


class MetaRegistrations(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    def find_spec(self, fullname, path=None, target=None):
        if fullname != NAME or sys.modules["torchvision.extension"]._has_ops():
            return None
        return importlib.machinery.ModuleSpec(fullname, self)

    def create_module(self, spec):
        return None

    def exec_module(self, module):
        """The empty module is all that is needed."""


def install() -> None:
    if not any(isinstance(finder, MetaRegistrations) for finder in sys.meta_path):
        sys.meta_path.insert(0, MetaRegistrations())

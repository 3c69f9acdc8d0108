"""Lets ComfyUI start where torchvision's compiled operators do not load, e.g. CPU torch beside a CUDA torchvision, and where
there is no torchaudio for this torch.

torchvision then fails on import, since `torchvision._meta_registrations` describes operators that do not exist; ComfyUI uses
none of them. ComfyUI of 2026 imports torchaudio at its start, and uses it for sound alone. Where both load, this changes
nothing.
"""

import importlib.abc
import importlib.machinery
import sys

NAME = "torchvision._meta_registrations"
SOUND = "torchaudio"


class MetaRegistrations(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    def find_spec(self, fullname, path=None, target=None):
        if fullname != NAME or sys.modules["torchvision.extension"]._has_ops():
            return None
        return importlib.machinery.ModuleSpec(fullname, self)

    def create_module(self, spec):
        return None

    def exec_module(self, module):
        """The empty module is all that is needed."""


class NoSound(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    def find_spec(self, fullname, path=None, target=None):
        return importlib.machinery.ModuleSpec(fullname, self, is_package=True) if fullname.split(".")[0] == SOUND else None

    def create_module(self, spec):
        return None

    def exec_module(self, module):
        """Empty: what needs sound says so when it is run."""


def install() -> None:
    if not any(isinstance(finder, MetaRegistrations) for finder in sys.meta_path):
        sys.meta_path.insert(0, MetaRegistrations())
        sys.meta_path.append(NoSound())  # last: asked only where there is no torchaudio

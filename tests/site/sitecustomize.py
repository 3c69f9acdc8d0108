"""What tests/conftest.py does, for processes that tests start with this folder on their PYTHONPATH."""

import sys
from pathlib import Path

sys.path.append(str(Path(__file__).parents[1] / "comfy"))

from rig import torchvision_stand_in

torchvision_stand_in.install()

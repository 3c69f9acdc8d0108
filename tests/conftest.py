"""For all tests: diffusers and transformers import torchvision where it is installed, working or not."""

from rig import torchvision_stand_in

torchvision_stand_in.install()

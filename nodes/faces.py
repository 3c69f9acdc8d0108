from comfy_api.latest import io, ui

from ..deepexpo_models.faces import DETECTORS, ORDERS, crop_faces
from . import sockets
from .comfy_host.folders import insightface_root

CROP_SIZE = 512  # the encoders scale down; a user also looks at the crop
NODES = ()

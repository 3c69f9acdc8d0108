"""Faces in photographs: which are there (`find_faces`), which is meant (`select_face`), its crop (`crop_faces`)."""

from .crop import LANDMARKS, CropTransform, FaceCrops, bounding_boxes, crop_face, crop_faces, points_in_crop
from .detectors import DETECTORS, DetectorUnavailable, Face
from .find import CHOICES, ORDERS, FoundFaces, find_faces, order_faces, select_face
from .gaps import GAPS
from .recognisers import RECOGNISERS, open_recogniser

__all__ = [
    "CHOICES",
    "DETECTORS",
    "GAPS",
    "LANDMARKS",
    "ORDERS",
    "RECOGNISERS",
    "CropTransform",
    "DetectorUnavailable",
    "Face",
    "FaceCrops",
    "FoundFaces",
    "bounding_boxes",
    "crop_face",
    "crop_faces",
    "find_faces",
    "open_recogniser",
    "order_faces",
    "points_in_crop",
    "select_face",
]

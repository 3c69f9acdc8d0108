"""The table of templates: workflows/<name>.json, in the order in which they are listed."""

from . import faceid, photos, starter, studio
from .boxes import Blueprint, Template

TEMPLATES = {
    "01_starter": starter.starter,
    "02_photo_sd15": photos.photo_sd15,
    "03_photo_sdxl": photos.photo_sdxl,
    "04_expression_and_pose_from_two_photos": photos.expression_and_pose_from_two_photos,
    "05_one_person_many_expressions": photos.one_person_many_expressions,
    "06_clip_to_maps": photos.clip_to_maps,
    "07_faceid_portrait": faceid.faceid_portrait,
    "08_expression_and_pose": starter.expression_and_pose,
    "09_reference_batch": starter.reference_batch,
    "10_two_people": starter.two_people,
    "11_exaggerate": starter.exaggerate,
    "12_pair_sheet": studio.pair_sheet,
    "13_clip": studio.clip,
    "14_clip_on_photos": studio.clip_on_photos,
    "15_two_people_with_maps": studio.two_people_with_maps,
    "16_photo_sd15_app": studio.photo_sd15_app,
}
BLUEPRINTS = {name: made for name, build in TEMPLATES.items() if (made := build().blueprint)}  # by the name of the template

__all__ = ["BLUEPRINTS", "TEMPLATES", "Blueprint", "Template"]

"""Several people in one picture: maps of several heads, regions, and how little of one reaches the other."""

import pytest
import torch

import region_leak
from rig.pack import the_pack

SIZE = {"width": 256, "height": 128, "face_height": 0.7, "y": 0.5, "style": "mediapipe face"}
LOOKS = {0.25: "laughing", 0.75: "surprised"}  # middle of the face -> expression
LEAK = 0.6  # of the change in the own half that may reach the other: about 1 without masks
LEAK_STEPS = 6


@pytest.fixture(scope="module")
def pack():
    return the_pack()


def look(pack, name: str):
    return pack.run("DeepExPoLoadSemantics", name=f"expressions/{name}.safetensors [pack]")


def test_maps_of_several_heads_stand_in_one_picture(pack):
    """The composed map is the sum of the two alone where they do not meet, and each mask covers its own head."""
    alone = {x: pack.run("DeepExPoDrawFaceControl", semantics=look(pack, name), x=x, **SIZE) for x, name in LOOKS.items()}
    earlier = alone[0.25][0]
    both = pack.run("DeepExPoDrawFaceControl", semantics=look(pack, "surprised"), x=0.75, over=earlier, **SIZE)
    assert torch.equal(both[0], alone[0.25][0] + alone[0.75][0]) and torch.equal(both[1], alone[0.75][1])
    left, right = (alone[x][1] for x in LOOKS)
    assert not (left * right).any() and left[..., :128].sum() == left.sum() and right[..., 128:].sum() == right.sum()
    assert (earlier == alone[0.25][0]).all(), "the earlier map is left as it is"


def test_a_map_of_another_size_is_refused(pack):
    with pytest.raises(ValueError, match=r"the earlier map is .* draw both at one size"):
        pack.run("DeepExPoDrawFaceControl", semantics=look(pack, "happy"), x=0.5, over=torch.zeros(1, 64, 64, 3), **SIZE)


def test_masks_keep_a_person_in_their_region(pack):
    """docs/regions.md has the figures of 8 seeds and 25 steps."""
    left, right = region_leak.changes(pack, True, 0, LEAK_STEPS)
    print(f"change of the other's half {left:.2f}, of the own half {right:.2f} levels: leak {left / right:.3f}")
    assert right > 1 and left < LEAK * right

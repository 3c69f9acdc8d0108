"""Shared workflows go on working: no node changes incompatibly against the snapshot."""

import copy

import pytest

from write_schemas import incompatible, schemas, snapshot

NODE = "DeepExPoApplyMEAF"


def test_nothing_that_shared_workflows_rely_on_has_changed():
    assert not incompatible(snapshot(), schemas())


def test_the_snapshot_is_of_these_nodes():
    """Else: python tests/comfy/write_schemas.py"""
    assert snapshot() == schemas()


def test_additions_are_compatible():
    old, new = snapshot(), snapshot()
    new["DeepExPoNew"] = new[NODE]
    new[NODE]["inputs"]["more"] = {"type": "FLOAT", "required": False, "min": 0.0, "max": 1.0}
    new[NODE]["outputs"].append("MASK")
    new["DeepExPoCropFace"]["inputs"]["order"]["options"].append("oldest")
    new[NODE]["inputs"]["identity_strength"]["max"] = 9.0
    assert new != old and not incompatible(old, new)


def change(what):
    """A copy of the snapshot in which `what` has changed the node."""
    new = copy.deepcopy(snapshot())
    what(new[NODE])
    return new


def moved_to_the_front(node: dict) -> None:
    node["inputs"] = {"more": {"type": "INT", "required": False}, **node["inputs"]}


@pytest.mark.parametrize(
    "what, words",
    [
        (lambda node: node["inputs"].pop("meaf"), "the input meaf is gone"),
        (lambda node: node["inputs"]["mask"].update(type="IMAGE"), "the input mask was of type MASK, not IMAGE"),
        (lambda node: node["inputs"]["mask"].update(required=True), "the input mask was optional"),
        (lambda node: node["inputs"].update(more={"type": "INT", "required": True}), "the new input more is required"),
        (lambda node: node["inputs"]["identity_strength"].update(max=1.0), "the input identity_strength has a narrower range"),
        (moved_to_the_front, "its widgets stand in another order"),
        (lambda node: node.update(outputs=["MASK", "MODEL"]), "its outputs were MODEL"),
        (lambda node: node.update(outputs=[]), "its outputs were MODEL"),
    ],
)
def test_incompatible_changes_are_named(what, words):
    (broken,) = incompatible(snapshot(), change(what))
    assert broken.startswith(f"{NODE}: ") and words in broken


def test_a_node_or_a_choice_that_is_gone_is_named():
    new = copy.deepcopy(snapshot())
    del new["DeepExPoReenact"]
    new["DeepExPoCropFace"]["inputs"]["order"]["options"].pop(0)
    gone, choice = sorted(incompatible(snapshot(), new), reverse=True)
    assert gone == "DeepExPoReenact is gone" and "the input order no longer has" in choice

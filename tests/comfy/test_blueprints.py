"""Blueprints as files: the core of a template, as one node whose inside is the template's own graph."""

import json

import pytest

from rig.blueprint import INSIDE, OUTSIDE
from rig.graphs import WORKFLOWS, read_workflow
from rig.host import PACK
from templates import BLUEPRINTS as MADE
from templates import TEMPLATES

FOLDER = PACK / "subgraphs"


def read(name: str) -> tuple[dict, dict]:
    """The node that stands in a workflow, and the graph inside it."""
    file = json.loads((FOLDER / f"{MADE[name].name}.json").read_text(encoding="utf-8"))
    (outer,), (inner,) = file["nodes"], file["definitions"]["subgraphs"]
    return outer, inner


def test_every_template_but_an_app_has_a_blueprint():
    assert list(MADE) == [name for name, build in TEMPLATES.items() if not build().app_outputs]
    assert sorted(made.name for made in MADE.values()) == sorted(path.stem for path in FOLDER.glob("*.json"))


@pytest.mark.parametrize("name", MADE)
def test_inside_is_the_templates_graph(name):
    outer, inner = read(name)
    twin, drawn = read_workflow(name), json.loads((WORKFLOWS / f"{name}.json").read_text(encoding="utf-8"))
    assert outer["type"] == inner["id"] and inner["name"] == MADE[name].name and inner["description"]
    links = {link["id"]: link for link in inner["links"]}
    inside = {node["id"] for node in inner["nodes"]}
    known = {node["id"]: node for node in drawn["nodes"]}
    for node in inner["nodes"]:
        assert node["widgets_values"] == known[node["id"]]["widgets_values"]
        for socket in node["inputs"]:
            given = twin[str(node["id"])]["inputs"].get(socket["name"])
            if not isinstance(given, list):
                assert socket["link"] is None
                continue
            link = links[socket["link"]]
            origin = [str(link["origin_id"]), link["origin_slot"]]
            assert origin == given if int(given[0]) in inside else link["origin_id"] == INSIDE


@pytest.mark.parametrize("name", MADE)
def test_ports_and_widgets_exist(name):
    outer, inner = read(name)
    links = {link["id"]: link for link in inner["links"]}
    nodes = {node["id"]: node for node in inner["nodes"]}
    for side, end in (("inputs", ("origin_id", INSIDE)), ("outputs", ("target_id", OUTSIDE))):
        assert [port["name"] for port in inner[side]] == [port["name"] for port in outer[side]]
        assert len({port["name"] for port in inner[side]}) == len(inner[side]) > 0
        assert getattr(MADE[name], side).keys() <= {port["name"] for port in inner[side]}
        for port in inner[side]:
            assert port["linkIds"] and all(links[number][end[0]] == end[1] for number in port["linkIds"])
            assert {links[number]["type"] for number in port["linkIds"]} == {port["type"]}
    for node, widget in outer["properties"]["proxyWidgets"]:
        assert widget in [socket["name"] for socket in nodes[int(node)]["inputs"] if "widget" in socket]

"""A part of a template as one node: the file of a subgraph blueprint, as ComfyUI's core ships them (subgraphs/<name>.json)."""

import uuid
from typing import NamedTuple

INSIDE, OUTSIDE = -10, -20  # ids of the node of a subgraph's inputs and of that of its outputs
CATEGORY = "DeepExPo"


class Port(NamedTuple):
    name: str
    type: str
    origin: tuple[int, int]  # node and slot that the link comes from, in the graph
    targets: tuple[tuple[int, int], ...]


def blueprint(
    drawn: dict, titles: dict[int, str], inside: set[int], given: dict[tuple[int, int], str],
    named: dict[str, tuple[int, int]], widgets, head: dict,
) -> dict:  # fmt: skip
    """drawn: a template as the frontend opens it. inside: ids of the nodes that become one. titles: of nodes, which name the
    inputs that `given` does not. named: outputs behind those that only nodes outside take. widgets: (node, widget) shown on the
    node. head: its name and description."""
    nodes = {node["id"]: node for node in drawn["nodes"]}
    links = [tuple(link[1:]) for link in drawn["links"]]
    inputs = _inputs(links, inside, titles, given)
    outputs = _outputs(links, inside, nodes, named)
    numbered = _inner_links(links, inside, inputs, outputs)
    identity = str(uuid.uuid5(uuid.NAMESPACE_URL, f"deepexpo/subgraph/{head['name']}"))
    graph = {
        "id": identity, "version": 1, "revision": 0, "config": {}, **head, "category": CATEGORY,
        "state": {"lastGroupId": 0, "lastNodeId": max(nodes), "lastLinkId": len(numbered), "lastRerouteId": 0},
        "inputNode": {"id": INSIDE, "bounding": [_left(nodes, inside) - 240, 0, 140, 40 + 20 * len(inputs)]},
        "outputNode": {"id": OUTSIDE, "bounding": [_right(nodes, inside) + 100, 0, 140, 40 + 20 * len(outputs)]},
        "inputs": _ports(identity, "input", inputs, numbered), "outputs": _ports(identity, "output", outputs, numbered),
        "widgets": [], "groups": [], "extra": {"workflowRendererVersion": "LG"},
        "nodes": [_inner(nodes[key], numbered) for key in sorted(inside)],
        "links": [{"id": number, "origin_id": a, "origin_slot": b, "target_id": c, "target_slot": d, "type": kind}
                  for number, (a, b, c, d, kind) in numbered.items()],
    }  # fmt: skip
    outer = {
        "id": 1, "type": identity, "title": head["name"], "pos": [0, 0], "flags": {}, "order": 0, "mode": 0,
        "size": [330, 60 + 20 * max(len(inputs), len(outputs)) + 26 * len(widgets)],
        "inputs": [{"localized_name": port.name, "name": port.name, "type": port.type, "link": None} for port in inputs],
        "outputs": [{"localized_name": port.name, "name": port.name, "type": port.type, "links": []} for port in outputs],
        "properties": {"proxyWidgets": [[str(node), widget] for node, widget in widgets]}, "widgets_values": [],
    }  # fmt: skip
    return {
        "revision": 0, "last_node_id": 1, "last_link_id": 0, "nodes": [outer], "links": [], "version": 0.4,
        "definitions": {"subgraphs": [graph]}, "extra": {},
    }  # fmt: skip


def _inputs(links: list, inside: set[int], titles: dict[int, str], given: dict[tuple[int, int], str]) -> list[Port]:
    """One for each output of a node outside that nodes inside take."""
    taken = {}
    for a, b, c, d, kind in links:
        if a not in inside and c in inside:
            taken.setdefault((a, b, kind), []).append((c, d))
    return [Port(given.get((a, b), titles[a].lower()), kind, (a, b), tuple(targets)) for (a, b, kind), targets in taken.items()]


def _outputs(links: list, inside: set[int], nodes: dict, named: dict[str, tuple[int, int]]) -> list[Port]:
    given = {(a, b): nodes[a]["outputs"][b]["type"].lower() for a, b, c, _, _ in links if a in inside and c not in inside}
    given = {end: name for end, name in given.items() if end not in named.values()} | {end: name for name, end in named.items()}
    return [Port(name, nodes[a]["outputs"][b]["type"], (a, b), ()) for (a, b), name in given.items()]


def _inner_links(links: list, inside: set[int], inputs: list[Port], outputs: list[Port]) -> dict[int, tuple]:
    whole = [link for link in links if link[0] in inside and link[2] in inside]
    whole += [(INSIDE, slot, *end, port.type) for slot, port in enumerate(inputs) for end in port.targets]
    whole += [(*port.origin, OUTSIDE, slot, port.type) for slot, port in enumerate(outputs)]
    return dict(enumerate(whole, start=1))


def _inner(node: dict, numbered: dict[int, tuple]) -> dict:
    into = {(c, d): number for number, (_, _, c, d, _) in numbered.items()}
    out = {}
    for number, (a, b, *_) in numbered.items():
        out.setdefault((a, b), []).append(number)
    key = node["id"]
    return {
        **node,
        "inputs": [{**socket, "link": into.get((key, slot))} for slot, socket in enumerate(node["inputs"])],
        "outputs": [{**socket, "links": out.get((key, slot))} for slot, socket in enumerate(node["outputs"])],
    }


def _ports(identity: str, side: str, ports: list[Port], numbered: dict[int, tuple]) -> list[dict]:
    here = {"input": (INSIDE, 0, 1), "output": (OUTSIDE, 2, 3)}[side]
    return [
        {
            "id": str(uuid.uuid5(uuid.UUID(identity), f"{side}/{port.name}")), "name": port.name, "type": port.type,
            "linkIds": [number for number, link in numbered.items() if (link[here[1]], link[here[2]]) == (here[0], slot)],
            "localized_name": port.name, "pos": [0, 20 * slot],
        }
        for slot, port in enumerate(ports)
    ]  # fmt: skip


def _left(nodes: dict, inside: set[int]) -> int:
    return min(nodes[key]["pos"][0] for key in inside)


def _right(nodes: dict, inside: set[int]) -> int:
    return max(nodes[key]["pos"][0] + nodes[key]["size"][0] for key in inside)

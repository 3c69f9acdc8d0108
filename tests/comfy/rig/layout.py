"""A graph as the frontend opens it: boxes in columns, sized as the frontend sizes them, in one screen where possible."""

from __future__ import annotations

import functools
from dataclasses import dataclass, field

try:
    import tomllib
except ImportError:  # Python 3.10
    import tomli as tomllib

from .host import PACK

TITLE, SLOT, WIDGET, GAP, BETWEEN = 30, 20, 24, 20, 40
SCREEN, LARGEST, CORNER = 1600, 0.8, [105, 160]  # pixels across, zoom at the opening, room for the frontend's bars
WIDGETS = {"INT", "FLOAT", "STRING", "BOOLEAN", "COMBO"}
SAYING = 44  # height of the lines that these nodes have at their foot after a run, see web/js/nodes.js
SAYS = {
    "DeepExPoLoadDSID", "DeepExPoLoadMEAF", "DeepExPoEncodeIdentity", "DeepExPoEncodeSemantics", "DeepExPoFindLandmarks",
    "DeepExPoSaveIdentity", "DeepExPoSaveSemantics",
}  # fmt: skip
CORE = {"cnr_id": "comfy-core", "ver": "0.3.64"}  # the oldest ComfyUI that the pack runs on
EXTRA = {
    "control_after_generate": ("fixed", 1),
    "image_upload": ("image", 1),
    "video_upload": ("image", 1),
}  # option -> value and rows that follow the widget


@dataclass
class Box:
    """A node: its type, inputs (values, or (node, output)), title; height where it shows a picture or text; colours."""

    type: str
    inputs: dict
    title: str
    height: int = 0
    colours: dict = field(default_factory=dict)
    models: list[dict] = field(default_factory=list)  # files that it loads: name, url, directory
    newer: dict = field(default_factory=dict)  # inputs that later versions of ComfyUI require, for the HTTP API

    def api(self, ids: dict[str, str], definitions: dict[str, type]) -> dict:
        """The API format, every widget with a value; `ids` maps names of nodes to their ids."""
        defaults = {name: value for name, kind, options, _ in declared(definitions[self.type]) if is_widget(kind, options)
                    for value in [default(kind, options)] if value is not None}  # fmt: skip
        given = {name: [ids[value[0]], value[1]] if isinstance(value, tuple) else value for name, value in self.inputs.items()}
        return {"class_type": self.type, "inputs": {**self.newer, **defaults, **given}, "_meta": {"title": self.title}}


def declared(definition: type) -> list[tuple[str, object, dict, bool]]:
    """(name, type, options, optional) of each input, in the order of the widgets."""
    parts = definition.INPUT_TYPES()
    return [
        (name, spec[0], spec[1] if len(spec) > 1 else {}, part == "optional")
        for part in ("required", "optional")
        for name, spec in parts.get(part, {}).items()
    ]


def is_widget(kind, options: dict) -> bool:
    return (isinstance(kind, list) or kind in WIDGETS) and not options.get("forceInput")


def default(kind, options: dict):
    choices = kind if isinstance(kind, list) else options.get("options")
    return options.get("default", choices[0] if choices else None)


Columns = list[tuple[int, list[str]]]  # width and node ids, from left to right


@dataclass(frozen=True)
class Note:
    text: str
    below: tuple[int, int]  # the first and the last of the columns above it
    height: int


def frontend_graph(api: dict, boxes: dict[str, Box], columns: Columns, note: Note, definitions) -> dict:
    """The file that the frontend opens."""
    places, bottoms = _places(boxes, columns, definitions)
    links, ends = _links(api, definitions)
    nodes = [_node(key, api[key], boxes[key], places[key], ends, definitions) for key in api]
    first, last = note.below
    left, right = (sum(width + BETWEEN for width, _ in columns[:number]) for number in (first, last + 1))
    top = max(bottoms[first : last + 1]) + TITLE + GAP
    nodes.append({
        "id": len(api) + 1, "type": "MarkdownNote", "pos": [left, top], "size": [right - left - BETWEEN, note.height],
        "flags": {}, "order": 0, "mode": 0, "inputs": [], "outputs": [], "title": "Note", "properties": {},
        "widgets_values": [note.text], "color": "#432", "bgcolor": "#653",
    })  # fmt: skip
    return {
        "id": "", "revision": 0, "last_node_id": len(nodes), "last_link_id": len(links), "nodes": nodes, "links": links,
        "groups": [], "config": {}, "extra": {"ds": _view(columns), "workflowRendererVersion": "LG"}, "version": 0.4,
    }  # fmt: skip


def _view(columns: Columns) -> dict:
    """All columns on a screen, and not larger than is pleasant; text is drawn from a zoom of 0.6 on."""
    width = sum(width + BETWEEN for width, _ in columns)
    return {"scale": min(LARGEST, int(100 * SCREEN / (width + CORNER[0])) / 100), "offset": CORNER}


def _places(boxes: dict[str, Box], columns: Columns, definitions) -> tuple[dict, list[int]]:
    """Key -> [x, y, width, height], and where each column ends."""
    places, bottoms, x = {}, [], 0
    for width, keys in columns:
        y = 0
        for key in keys:
            height = _height(boxes[key], definitions)
            places[key] = [x, y, width, height]
            y += height + TITLE + GAP
        bottoms.append(y - TITLE - GAP)
        x += width + BETWEEN
    return places, bottoms


def _height(box: Box, definitions) -> int:
    if box.height:
        return box.height
    definition = definitions[box.type]
    inputs = declared(definition)
    sockets = sum(not is_widget(kind, options) for _, kind, options, _ in inputs)
    rows = sum(1 + sum(EXTRA[name][1] for name in EXTRA if options.get(name))
               for _, kind, options, _ in inputs if is_widget(kind, options))  # fmt: skip
    return max(sockets, len(definition.RETURN_TYPES)) * SLOT + rows * WIDGET + 12 + SAYING * (box.type in SAYS)


def _links(api: dict, definitions) -> tuple[list[list], dict]:
    """The file's links, and (target, input name) -> link number, (origin, output) -> link numbers."""
    links, ends = [], {}
    for target, node in api.items():
        slots = [name for name, *_ in _sockets(definitions[node["class_type"]])]
        for name in slots:
            value = node["inputs"].get(name)
            if not isinstance(value, list):
                continue
            origin, output = value
            kind = definitions[api[origin]["class_type"]].RETURN_TYPES[output]
            links.append([len(links) + 1, int(origin), output, int(target), slots.index(name), kind])
            ends[target, name] = len(links)
            ends.setdefault((origin, output), []).append(len(links))
    return links, ends


def _sockets(definition: type) -> list[tuple[str, object, dict, bool]]:
    """As the frontend puts them: sockets first, required ones before optional ones, then widgets."""
    inputs = declared(definition)
    plain = [entry for entry in inputs if not is_widget(entry[1], entry[2])]
    return plain + [entry for entry in inputs if is_widget(entry[1], entry[2])]


def _node(key: str, node: dict, box: Box, place: list[int], ends: dict, definitions) -> dict:
    definition, x, y, width, height = definitions[box.type], *place
    names = getattr(definition, "RETURN_NAMES", None) or definition.RETURN_TYPES
    return {
        "id": int(key), "type": box.type, "pos": [x, y], "size": [width, height], "flags": {}, "order": int(key) - 1, "mode": 0,
        "inputs": [_input(key, *entry, ends) for entry in _sockets(definition)],
        "outputs": [
            {"localized_name": name, "name": name, "type": kind, "links": ends.get((key, slot))}
            for slot, (name, kind) in enumerate(zip(names, definition.RETURN_TYPES))
        ],
        "title": box.title,
        "properties": {
            **(ours() if box.type.startswith("DeepExPo") else CORE), "Node name for S&R": box.type,
            **({"models": box.models} if box.models else {}),
        },
        "widgets_values": _values(node["inputs"], definition),
        **box.colours,
    }  # fmt: skip


def _input(key: str, name: str, kind, options: dict, optional: bool, ends: dict) -> dict:
    socket = {"localized_name": name, "name": name}
    if optional:
        socket["shape"] = 7
    socket["type"] = "COMBO" if isinstance(kind, list) else kind
    if is_widget(kind, options):
        socket["widget"] = {"name": name}
    return {**socket, "link": ends.get((key, name))}


def _values(inputs: dict, definition: type) -> list:
    values = []
    for name, kind, options, _ in declared(definition):
        if is_widget(kind, options):
            values += [inputs[name], *(EXTRA[extra][0] for extra in EXTRA if options.get(extra))]
    return values


@functools.cache
def ours() -> dict[str, str]:
    """What a node says of its pack in a shared workflow: the registry's name and the version."""
    project = tomllib.loads((PACK / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    return {"cnr_id": project["name"], "ver": project["version"]}

#!/usr/bin/env python
"""A snapshot of every node's sockets and widgets, which shared workflows rely on: `python tests/comfy/write_schemas.py`.

tests/comfy/schemas.json is written only when nothing that stands in it has changed incompatibly; --force writes it anyway.
"""

import argparse
import json
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path += [str(HERE), str(HERE.parent), str(HERE.parents[1])]  # last: `nodes` is ComfyUI's module first

from rig import host
from rig.layout import WIDGETS

BIG = 1e18  # beyond any widget's range
SNAPSHOT = HERE / "schemas.json"
FILES = {("DeepExPoLoadDSID", "dsid_name"), ("DeepExPoLoadMEAF", "meaf_name"), ("DeepExPoLoadIdentity", "name"),
         ("DeepExPoLoadSemantics", "name")}  # lists of files: other ones on every machine  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--force", action="store_true", help="also when shared workflows break")
    force = parser.parse_args().force
    if reason := host.start():
        sys.exit(reason)
    now = schemas()
    if SNAPSHOT.exists() and (broken := incompatible(snapshot(), now)) and not force:
        sys.exit("\n".join(broken))
    SNAPSHOT.write_text(json.dumps(now, indent=1) + "\n", encoding="utf-8")


def snapshot() -> dict:
    return json.loads(SNAPSHOT.read_text(encoding="utf-8"))


def schemas() -> dict:
    """Node id -> its inputs in the order of the widgets, and its outputs in theirs."""
    from rig.pack import the_pack

    return {node_id: {"inputs": _inputs(node_id, node), "outputs": list(node.RETURN_TYPES)}
            for node_id, node in sorted(the_pack().loaded.nodes.items())}  # fmt: skip


def _inputs(node_id: str, node) -> dict:
    found, parts = {}, node.INPUT_TYPES()
    for part in ("required", "optional"):
        for name, spec in parts.get(part, {}).items():
            options = spec[1] if len(spec) > 1 else {}
            choices = spec[0] if isinstance(spec[0], list) else options.get("options")
            entry = {"type": "COMBO" if choices is not None else spec[0], "required": part == "required"}
            if choices is not None and (node_id, name) not in FILES:
                entry["options"] = list(choices)
            entry |= {key: options[key] for key in ("min", "max") if key in options}
            found[name] = entry
    return found


def incompatible(old: dict, new: dict) -> list[str]:
    """What a workflow saved with `old` meets in `new`: one sentence for each thing that breaks it."""
    broken = [f"{node_id} is gone" for node_id in old if node_id not in new]
    for node_id in old.keys() & new.keys():
        broken += [f"{node_id}: {what}" for what in _changes(old[node_id], new[node_id])]
    return sorted(broken)


def _changes(old: dict, new: dict) -> list[str]:
    before, after = old["inputs"], new["inputs"]
    found = [f"the input {name} is gone" for name in before if name not in after]
    found += [f"the new input {name} is required" for name in after if name not in before and after[name]["required"]]
    for name in before.keys() & after.keys():
        found += [f"the input {name} {what}" for what in _input_changes(before[name], after[name])]
    widgets = [[name for name, entry in inputs.items() if entry["type"] in WIDGETS] for inputs in (before, after)]
    if not found and widgets[1][: len(widgets[0])] != widgets[0]:
        found.append("its widgets stand in another order, and values are saved by their place: add new ones at the end")
    if new["outputs"][: len(old["outputs"])] != old["outputs"]:
        found.append(f"its outputs were {', '.join(old['outputs'])}")
    return found


def _input_changes(before: dict, after: dict) -> list[str]:
    found = []
    if not set(before["type"].split(",")) <= set(after["type"].split(",")):
        found.append(f"was of type {before['type']}, not {after['type']}")
    if after["required"] and not before["required"]:
        found.append("was optional")
    if missing := set(before.get("options", ())) - set(after.get("options", before.get("options", ()))):
        found.append(f"no longer has {', '.join(sorted(missing))}")
    if after.get("min", -BIG) > before.get("min", -BIG) or after.get("max", BIG) < before.get("max", BIG):
        found.append("has a narrower range")
    return found


if __name__ == "__main__":
    main()

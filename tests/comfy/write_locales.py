#!/usr/bin/env python
"""What the browser shows of the nodes in other languages: `python tests/comfy/write_locales.py`.

locales/<language>/nodeDefs.json, in the form that ComfyUI's frontend reads, from the nodes' own schemas and the table
tests/comfy/translations.json: {"texts": {English: {language: text}}, "names": {word: {language: word}}}. In a text, {} stands
for any words, which are looked up themselves. What the table lacks stays English and is listed.
"""

import json
import re
import sys
from functools import cache
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path += [str(HERE), str(HERE.parent), str(HERE.parents[1])]  # last: `nodes` is ComfyUI's module first

from rig import host

LOCALES, TABLE = host.PACK / "locales", HERE / "translations.json"
LANGUAGES = ("en", "zh", "ja")


def main() -> None:
    if reason := host.start():
        sys.exit(reason)
    for language in LANGUAGES:
        definitions, missing = node_definitions(language)
        path = LOCALES / language / "nodeDefs.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(definitions, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
        for text in missing:
            print(f"{language}: not translated: {text}")


def node_definitions(language: str) -> tuple[dict, list[str]]:
    """What nodeDefs.json holds, and the English texts that the table lacks."""
    from rig.pack import the_pack

    missing: list[str] = []

    def text(english: str) -> str:
        found = english if language == "en" else translated(english, language)
        if found is None:
            missing.append(english)
        return found or english

    def label(socket) -> str:
        return (socket.display_name or socket.id) if language == "en" else named(socket.id, language)

    definitions = {}
    for node_id, node in sorted(the_pack().loaded.nodes.items()):
        schema = node.GET_SCHEMA()
        definitions[node_id] = {
            "display_name": text(schema.display_name),
            "description": text(schema.description),
            "inputs": {socket.id: {"name": label(socket), "tooltip": text(socket.tooltip)} for socket in schema.inputs},
            "outputs": {
                str(slot): {"name": output_name(socket, text), "tooltip": text(socket.tooltip)}
                for slot, socket in enumerate(schema.outputs)
            },
        }
    return definitions, list(dict.fromkeys(missing))


def output_name(socket, text) -> str:
    """Types in capitals are the same in every language."""
    name = socket.display_name or socket.id
    return name if name.isupper() else text(name)


def translated(english: str, language: str) -> str | None:
    """By the table's text itself, or by one with {} in place of some words."""
    texts = table()["texts"]
    if english in texts:
        return texts[english][language]
    for pattern, entry in texts.items():
        found = "{}" in pattern and re.fullmatch(re.escape(pattern).replace(r"\{\}", "(.+)"), english, re.S)
        if found:
            return entry[language].format(translated(found[1], language) or found[1])
    return None


def named(name: str, language: str) -> str:
    """An input's name, word by word: identity_2 -> the word for identity, 2; the name itself where a word is not known."""
    names = table()["names"]
    if name in names:
        return names[name][language]
    words = name.split("_")
    if not all(word in names or word.isdigit() for word in words):
        return name
    between = " " if any(word.isdigit() for word in words) else ""
    return between.join(names[word][language] if word in names else word for word in words)


@cache
def table() -> dict:
    return json.loads(TABLE.read_text(encoding="utf-8"))


if __name__ == "__main__":
    main()

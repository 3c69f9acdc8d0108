"""The nodes in other languages: the files are what the command makes of the schemas, and nearly all is translated."""

import json

import pytest

import write_locales
from write_locales import LANGUAGES, LOCALES, node_definitions

UNTRANSLATED = 0.05  # share of texts: a node that is new may still speak English


def stored(language: str) -> dict:
    return json.loads((LOCALES / language / "nodeDefs.json").read_text(encoding="utf-8"))


@pytest.mark.parametrize("language", LANGUAGES)
def test_keys_are_those_of_the_schemas(language):
    """Else: python tests/comfy/write_locales.py"""
    made, _ = node_definitions(language)
    kept = stored(language)
    assert kept.keys() == made.keys()
    for node_id, node in made.items():
        assert kept[node_id]["inputs"].keys() == node["inputs"].keys(), node_id
        assert kept[node_id]["outputs"].keys() == node["outputs"].keys(), node_id


@pytest.mark.parametrize("language", LANGUAGES)
def test_texts_are_those_of_the_schemas_and_the_table(language):
    assert stored(language) == node_definitions(language)[0]


@pytest.mark.parametrize("language", LANGUAGES[1:])
def test_nearly_all_is_translated(language):
    english, missing = stored("en"), node_definitions(language)[1]
    texts = {text for node in english.values() for part in (*node["inputs"].values(), *node["outputs"].values(), node)
             for key, text in part.items() if key in ("tooltip", "description", "display_name")}  # fmt: skip
    assert len(missing) <= UNTRANSLATED * len(texts), missing


def test_the_table_translates_into_every_language_and_keeps_its_places():
    for english, entry in write_locales.table()["texts"].items():
        assert entry.keys() == set(LANGUAGES[1:]), english
        assert all(text.strip() and text.count("{}") == english.count("{}") for text in entry.values()), english


def test_wildcards_are_filled_with_translated_words():
    assert write_locales.translated("How strongly the head pose acts. 0 is off, 1 is as trained.", "zh").startswith(
        "头部姿态的"
    )
    assert "jawOpen" in write_locales.translated("ARKit's jawOpen alone, added to what the sliders make.", "ja")
    assert write_locales.translated("A sentence that nobody wrote.", "ja") is None
    assert write_locales.named("identity_2", "zh") == "身份 2" and write_locales.named("browDownLeft", "zh") == "browDownLeft"

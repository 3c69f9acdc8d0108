"""What is told of errors is one line, whatever they say."""

import re
from pathlib import Path

import pytest

from deepexpo_models.errors import first_line, sentence

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("text", ["", "\n", " \n \n", "no face\nin 3 lines\n", "\nbelow an empty line"])
@pytest.mark.parametrize("kind", [ValueError, RuntimeError, OSError])
def test_one_line_that_says_something(kind, text):
    for said in (first_line(kind(text)), sentence(kind(text)), sentence(kind(text), (OSError,))):
        assert said and "\n" not in said and said == said.strip()


def test_our_own_sentences_are_told_whole_and_others_with_their_kind():
    long = "this judge " + 100 * "very "
    assert sentence(ValueError(long)) == long.strip() and sentence(OSError("gone")) == "OSError: gone"
    assert sentence(OSError("gone"), OSError) == "gone" and len(first_line(ValueError(long), 20)) == len("ValueError: ") + 20


def test_nothing_else_takes_the_first_line_of_an_error():
    """An empty text has none: who takes it by hand fails on it."""
    own = ROOT / "deepexpo_models" / "errors.py"
    files = [path for part in ("deepexpo_models", "nodes") for path in (ROOT / part).rglob("*.py") if path != own]
    found = [path for path in files if re.search(r"str\(\w*err\w*\)\)?[.\w()]*splitlines", path.read_text(encoding="utf-8"))]
    assert [path.name for path in found] == []

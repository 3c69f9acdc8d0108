"""The head model and a renderer for tests, where DEEPEXPO_HEAD_MODEL names a file and EGL is there."""

import os
from pathlib import Path

import pytest

HEAD_MODEL = os.environ.get("DEEPEXPO_HEAD_MODEL", "")
SKIP = pytest.mark.skipif(not Path(HEAD_MODEL).is_file(), reason="DEEPEXPO_HEAD_MODEL names no head model: no head is rendered")


@pytest.fixture(scope="session")
def head_model():
    from deepexpo_models.data.heads.model import HeadModel

    return HeadModel(HEAD_MODEL)


@pytest.fixture(scope="session")
def renderer(head_model):
    from deepexpo_models.data.heads.render import HeadRenderer

    try:
        return HeadRenderer(head_model, 64)
    except ValueError as error:
        pytest.skip(str(error))

#!/usr/bin/env bash
# The one test command: makes .venv beside the clone if it is not there, installs what the tests need, runs them.
# A ComfyUI at COMFYUI_PATH or ~/ComfyUI is used if present; without one its tests are skipped, and the summary says so.
set -euo pipefail
cd "$(dirname "$0")/.."
comfyui=${COMFYUI_PATH:-$HOME/ComfyUI}

[ -x .venv/bin/python ] || "${PYTHON:-python3}" -m venv .venv
pip() { .venv/bin/python -m pip install --quiet --disable-pip-version-check "$@"; }
.venv/bin/python -c "import torch" 2>/dev/null || pip torch==2.13.0
pip ".[test]"
if [ -f "$comfyui/requirements.txt" ]; then
    # torchvision's registry builds want CUDA and their own torch; alone it serves beside any torch (see tests/conftest.py).
    .venv/bin/python -c "import importlib.util as i, sys; sys.exit(i.find_spec('torchvision') is None)" ||
        pip --no-deps torchvision==0.28.0
    torch=$(.venv/bin/python -c "from importlib.metadata import version; print(version('torch'))")
    pip -c <(echo "torch==$torch") -r <(grep -vE '^torch(vision|audio)?$' "$comfyui/requirements.txt")
fi
.venv/bin/python -m ruff check .
exec .venv/bin/python -m pytest "$@"

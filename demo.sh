#!/usr/bin/env bash
# The main job on the starter's weights, without ComfyUI: makes .venv-demo beside the clone if it is not there, installs what it
# needs, draws a contact sheet (people down, references across, a prompt per column) and prints what a judge measures in it.
set -euo pipefail
cd "$(dirname "$0")"
[ -x .venv-demo/bin/python ] || "${PYTHON:-python3}" -m venv .venv-demo
python=.venv-demo/bin/python
$python -c "import torch" 2>/dev/null || $python -m pip install --quiet --disable-pip-version-check torch==2.13.0
$python -c "import diffusers, transformers, einops, PIL" 2>/dev/null ||
    $python -m pip install --quiet --disable-pip-version-check diffusers "transformers>=4.37.2" safetensors einops numpy Pillow
exec $python -m deepexpo_models.evaluation.sheet --out sheet.png "$@"

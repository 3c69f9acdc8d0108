"""Adds OpenCV where there is none: python install.py

ComfyUI-Manager and comfy-cli run this after requirements.txt. OpenCV comes under four names that write into one folder
(opencv-python, -headless, -contrib-python, -contrib-python-headless), so a requirement could break another pack's. Where cv2
can be imported, nothing is done. Standard library alone.
"""

import importlib.util
import subprocess
import sys

NAMES = ("opencv-python", "opencv-python-headless", "opencv-contrib-python", "opencv-contrib-python-headless")


def main() -> int:
    if imports("cv2"):
        return 0
    found = [name for name in NAMES if installed(name)]
    if found:
        print(f"DeepExPo: {' and '.join(found)} is installed and cannot be imported; it is left as it is, see docs/install.md")
        return 1
    pip("install", "opencv-python")
    if not imports("cv2"):  # a server without a screen's libraries
        pip("uninstall", "--yes", "opencv-python")
        pip("install", "opencv-python-headless")
    return 0 if imports("cv2") else 1


def imports(module: str) -> bool:
    """In a new process, as what is installed meanwhile is not seen by this one."""
    return subprocess.run([sys.executable, "-c", f"import {module}"], capture_output=True).returncode == 0


def installed(name: str) -> bool:
    asked = f"import importlib.metadata as m; m.version({name!r})"
    return subprocess.run([sys.executable, "-c", asked], capture_output=True).returncode == 0


def pip(*words: str) -> None:
    """By pip, or by uv where an environment has no pip of its own. Raises CalledProcessError."""
    if importlib.util.find_spec("pip"):
        command = [sys.executable, "-m", "pip"]
    else:
        command, words = ["uv", "pip"], (words[0], "--python", sys.executable, *[word for word in words[1:] if word != "--yes"])
    subprocess.run([*command, *words], check=True)


if __name__ == "__main__":
    try:
        sys.exit(main())
    except (subprocess.CalledProcessError, OSError) as error:
        sys.exit(f"DeepExPo: OpenCV could not be installed ({error}); pip install opencv-python")

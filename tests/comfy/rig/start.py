"""Start ComfyUI as its own launcher does: `python start.py <ComfyUI folder> <ComfyUI's arguments>`."""

import runpy
import sys
from pathlib import Path

import torchvision_stand_in  # the folder of a script is the first place Python looks


def main() -> None:
    comfyui, *arguments = sys.argv[1:]
    torchvision_stand_in.install()
    sys.path[0] = comfyui
    if Path(comfyui, "nodes.py").is_file():
        sys.argv = [str(Path(comfyui, "main.py")), *arguments]
        runpy.run_path(sys.argv[0], run_name="__main__")
    else:  # ComfyUI as an installable package (the LTS fork); its main.py is deprecated and resets the folders
        sys.argv = ["comfyui", *arguments]
        runpy.run_module("comfy.cmd.main", run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main()

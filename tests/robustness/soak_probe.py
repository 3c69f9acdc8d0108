"""A custom node for soak.py: mishaps in the middle of a sampling, and what the server's process holds."""

import gc
import os
import threading
from pathlib import Path

import comfy.model_management
import torch
from aiohttp import web
from server import PromptServer

OUT_OF_MEMORY = comfy.model_management.OOM_EXCEPTION


class SoakError(Exception):
    pass


class SoakFault:
    """A model whose U-Net fails at a call: with an error of its own, or out of memory."""

    RETURN_TYPES, FUNCTION, CATEGORY = ("MODEL",), "patched", "soak"

    @classmethod
    def INPUT_TYPES(cls):
        numbers = {name: ("INT", {"default": 0, "max": 2**31}) for name in ("call", "nonce")}
        return {"required": {"model": ("MODEL",), "kind": (["error", "memory"],), **numbers}}

    def patched(self, model, kind, call, nonce):
        model, calls = model.clone(), []

        def fail(apply_model, args):
            calls.append(1)
            if len(calls) == call:
                error = SoakError if kind == "error" or OUT_OF_MEMORY is Exception else OUT_OF_MEMORY
                raise error("of the soak")
            return apply_model(args["input"], args["timestep"], **args["c"])

        model.set_model_unet_function_wrapper(fail)
        return (model,)


@PromptServer.instance.routes.get("/soak/state")
async def soak_state(request):
    gc.collect()
    tensors, runs, hooks = 0, 0, 0
    for thing in gc.get_objects():
        if type(thing).__name__ == "SamplingRun":
            runs += 1
        elif isinstance(thing, torch.Tensor):
            tensors += thing.nbytes
        elif isinstance(thing, torch.nn.Module):
            hooks += len(thing._forward_hooks) + len(thing._forward_pre_hooks)
    rss = int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    held = {"rss": rss, "files": len(os.listdir("/proc/self/fd")), "threads": threading.active_count()}
    return web.json_response({**held, "tensors": tensors, "runs": runs, "hooks": hooks})


NODE_CLASS_MAPPINGS = {"SoakFault": SoakFault}

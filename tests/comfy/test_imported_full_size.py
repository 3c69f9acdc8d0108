"""Public adapters at their published sizes through a real server: file, command, Load MEAF, Encode Identity, picture."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from insightface_pack import write_pack
from rig.adapters import red_face, write_adapter
from rig.checkpoints import random_value, write_checkpoint
from rig.graphs import decode, png
from rig.server import running_server

SIZE, STEPS = 64, 2
KINDS = ("faceid", "faceid-plusv2")


def write_clip_vision(path: Path) -> None:
    """CLIP ViT-H/14 at random weights."""
    import comfy.clip_model
    import comfy.clip_vision
    import comfy.ops

    config = json.loads(Path(comfy.clip_vision.__file__).with_name("clip_vision_config_h.json").read_text())
    described = comfy.clip_model.CLIPVisionModelProjection(config, torch.float16, torch.device("meta"), comfy.ops.manual_cast)
    generator = torch.Generator().manual_seed(0)
    tensors = {name: random_value(name, x.shape, generator).half() for name, x in described.state_dict().items()}
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file(tensors, path)


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    base = tmp_path_factory.mktemp("comfyui")
    models = base / "models"
    write_checkpoint(models / "checkpoints" / "sd15.safetensors", "sd15")
    write_clip_vision(models / "clip_vision" / "vit-h.safetensors")
    write_pack(models / "insightface", "buffalo_l")
    for kind in KINDS:
        write_adapter(models, f"{kind}-sd15.safetensors")
    with running_server(base) as started:
        for seed in (1, 2):
            started.upload_image(png(red_face(seed)), f"face{seed}.png")
        yield started


def graph(kind: str, face: int = 1, lora: float = 0.0, **apply) -> dict:
    nodes = {
        "1": ("CheckpointLoaderSimple", {"ckpt_name": "sd15.safetensors"}),
        "2": ("LoraLoaderModelOnly", {"model": ["1", 0], "lora_name": f"{kind}-sd15.safetensors", "strength_model": lora}),
        "3": ("DeepExPoLoadMEAF", {"meaf_name": f"{kind}-sd15.safetensors"}),
        "4": ("LoadImage", {"image": f"face{face}.png"}),
        "5": ("CLIPVisionLoader", {"clip_name": "vit-h.safetensors"}),
        "6": ("DeepExPoEncodeIdentity", {"image": ["4", 0], "recogniser": "buffalo_l"}),
        "7": ("DeepExPoApplyMEAF", {"model": ["2", 0], "meaf": ["3", 0], "identity": ["6", 0], **SETTINGS, **apply}),
        "8": ("CLIPTextEncode", {"clip": ["1", 1], "text": "a portrait"}),
        "9": ("EmptyLatentImage", {"width": SIZE, "height": SIZE, "batch_size": 1}),
        "10": ("KSampler", {"model": ["7", 0], "positive": ["8", 0], "negative": ["8", 0], "latent_image": ["9", 0], "seed": 1,
                            "steps": STEPS, "cfg": 4.0, "sampler_name": "euler", "scheduler": "normal", "denoise": 1.0}),
        "11": ("VAEDecode", {"samples": ["10", 0], "vae": ["1", 2]}),
        "12": ("SaveImage", {"images": ["11", 0], "filename_prefix": "imported"}),
    }  # fmt: skip
    if kind == "faceid-plusv2":
        nodes["6"][1]["clip_vision"] = ["5", 0]
    return {key: {"class_type": name, "inputs": inputs} for key, (name, inputs) in nodes.items()}


SETTINGS = {
    f"{stream}_{name}": value
    for stream in ("identity", "expression", "pose")
    for name, value in (("strength", 1.0), ("start_percent", 0.0), ("end_percent", 1.0))
}


def picture(server, given: dict) -> np.ndarray:
    (found,) = server.pictures(server.post_prompt(given, timeout=900))
    return decode(found)


@pytest.mark.parametrize("kind", KINDS)
def test_the_face_reaches_the_picture(server, kind):
    off = picture(server, graph(kind, identity_strength=0.0))
    plain = graph(kind)
    plain["10"]["inputs"]["model"] = ["1", 0]
    assert np.array_equal(off, picture(server, plain)), "strength 0 is the checkpoint's own picture"
    first, second, with_lora = (picture(server, given) for given in (graph(kind), graph(kind, face=2), graph(kind, lora=0.6)))
    for name, other in (("off", off), ("another face", second), ("its LoRA", with_lora)):
        difference = np.abs(first.astype(int) - other).mean()
        print(f"{kind}: mean difference to {name}: {difference:.1f} of 255 levels")
        assert difference > 0.3
    assert first.std() > 1


def test_what_is_missing_is_said_in_one_sentence(server):
    without_clip = graph("faceid-plusv2")
    del without_clip["6"]["inputs"]["clip_vision"]
    with pytest.raises(RuntimeError, match="needs more of this identity, its picture: connect a CLIP Vision model"):
        server.post_prompt(without_clip)
    other = graph("faceid")
    other["6"]["inputs"]["recogniser"] = "antelopev2"
    with pytest.raises(RuntimeError, match="recogniser antelopev2 cannot be used: the model pack antelopev2 is not in"):
        server.post_prompt(other)
    with_dsid = graph("faceid")
    with_dsid["13"] = {"class_type": "DeepExPoLoadDSID", "inputs": {"dsid_name": "photo-dsid.safetensors"}}
    with_dsid["6"]["inputs"] = {"image": ["4", 0], "dsid": ["13", 0]}  # as graphs from before the recognisers are
    with pytest.raises(RuntimeError, match=r"encoded by DSID .*'faceid-sd15' was trained on the public encoder 'buffalo_l'"):
        server.post_prompt(with_dsid)

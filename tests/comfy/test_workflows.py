"""Every workflow, and the main job, through the HTTP API of a real server, on full-size random checkpoints."""

import os
import shutil
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest

import main_job
from insightface_pack import installed_packs
from rig import host
from rig.graphs import (
    WORKFLOWS,
    decode,
    read_graph,
    read_workflow,
    recognisers,
    small,
    upload_photos,
    values,
    with_inputs,
    write_models,
)
from rig.server import running_server

NAMES = sorted(path.stem for path in (WORKFLOWS / "api").glob("*.json"))
LANDMARKER = Path(os.environ.get("DEEPEXPO_LANDMARKER", ""))  # MediaPipe's face_landmarker.task, which no package has
NO_LANDMARKER = "" if LANDMARKER.is_file() and find_spec("mediapipe") else (
    "give face_landmarker.task as DEEPEXPO_LANDMARKER, and install mediapipe"
)  # fmt: skip
SIZE, STEPS = 64, 1
MAP = 256  # pixels of previews and maps
INSTANTID_ON_SDXL = {
    "CheckpointLoaderSimple": {"ckpt_name": "sd_xl_base_1.0.safetensors"},
    "LoraLoader": {"strength_model": 0.0, "strength_clip": 0.0},  # it has none
    "DeepExPoLoadMEAF": {"meaf_name": "instantid-sdxl.safetensors"},
    "DeepExPoEncodeIdentity": {"recogniser": "antelopev2"},
}


def instantid_on_sdxl() -> dict:
    graph = small(read_workflow("2_faceid_portrait"), SIZE, STEPS)
    for class_type, inputs in INSTANTID_ON_SDXL.items():
        graph = with_inputs(graph, class_type, **inputs)
    return graph


def needs_landmarker(graph: dict) -> bool:
    return bool(values(graph, "DeepExPoFindLandmarks", "faces"))


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    base = tmp_path_factory.mktemp("comfyui")
    graphs = [graph for graph in map(read_workflow, NAMES) if not (needs_landmarker(graph) and NO_LANDMARKER)]
    if not NO_LANDMARKER:
        (base / "models" / "mediapipe").mkdir(parents=True)
        shutil.copyfile(LANDMARKER, base / "models" / "mediapipe" / "face_landmarker.task")
    write_models(base, [*graphs, read_graph("sd15_portrait"), instantid_on_sdxl()])
    with running_server(base) as started:
        yield started


def test_there_are_at_least_five():
    assert len(NAMES) >= 5


@pytest.mark.parametrize("name", NAMES)
def test_workflow_runs(server, name):
    graph = with_inputs(read_workflow(name), "KSampler", steps=STEPS)
    if needs_landmarker(graph) and NO_LANDMARKER:
        pytest.skip(NO_LANDMARKER)
    if values(graph, "CheckpointLoaderSimple", "ckpt_name"):  # the starter's are small as they are
        graph = with_inputs(small(graph, SIZE, STEPS), "DeepExPoDrawFaceControl", width=MAP, height=MAP)
    upload_photos(server, graph)
    server.free_memory()
    with installed_packs(server.base / "models" / "insightface", recognisers(graph)):
        pictures = [decode(picture) for picture in server.pictures(server.post_prompt(graph, timeout=900))]
    latents = sum(values(graph, "EmptyLatentImage", "batch_size"))
    previews = sum(picture.shape[:2] == (MAP, MAP) for picture in pictures)
    assert len(pictures) - previews == latents
    assert all(picture.std() > 1 for picture in pictures if picture.shape[:2] != (MAP, MAP))
    assert latents or previews


def test_instantid_reaches_the_picture_on_sdxl(server):
    graph = instantid_on_sdxl()
    upload_photos(server, graph)
    server.free_memory()
    with installed_packs(server.base / "models" / "insightface", recognisers(graph)):
        on, off = (
            decode(server.pictures(server.post_prompt(given, timeout=900))[0])
            for given in (graph, with_inputs(graph, "DeepExPoApplyMEAF", identity_strength=0.0))
        )
    difference = np.abs(on.astype(int) - off).mean()
    print(f"InstantID: mean difference to strength 0: {difference:.1f} of 255 levels")
    assert difference > 0.3 and on.std() > 1


def test_main_job(server):
    graph = small(read_graph("sd15_portrait"), main_job.SIZE, main_job.STEPS)
    upload_photos(server, graph)
    pictures = {case: main_job.timed(server, case, changed) for case, changed in main_job.cases(graph).items()}
    assert main_job.report(main_job.check(pictures))


def test_an_error_is_one_sentence_on_the_node(server):
    graph = small(read_graph("sd15_portrait"), SIZE, STEPS)
    upload_photos(server, graph)
    for node in graph.values():
        if node["class_type"] == "DeepExPoLoadMEAF":
            node["inputs"]["meaf_name"] = "deepexpo_meaf_sdxl_light.safetensors"
    sentence = "MEAF 'random-sdxl' is for sdxl models, the connected model is sd15; connect a sdxl checkpoint"
    with pytest.raises(RuntimeError, match=sentence) as caught:
        server.post_prompt(graph, timeout=300)
    if not host.is_installable_package(host.comfyui_folder()):  # the fork's history names no node
        assert "(DeepExPoApplyMEAF): ValueError: MEAF" in str(caught.value)

"""Every workflow (SDXL where DEEPEXPO_LARGE_TESTS is set) and the main job through the HTTP API, on full-size random files."""

import copy
import json
import os
import shutil
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest

import main_job
from insightface_pack import installed_packs
from landmark_sets import SIZE as SEEN
from landmark_sets import face, scores
from rig import host, made_up_landmarks
from rig.graphs import (
    WORKFLOWS,
    decode,
    has,
    read_clip,
    read_graph,
    read_workflow,
    recognisers,
    small,
    upload_photos,
    values,
    with_inputs,
    write_models,
)
from rig.landmarker import FILE, write_core_landmarker
from rig.server import running_server

NAMES = sorted(path.stem for path in (WORKFLOWS / "api").glob("*.json"))
LANDMARKER = Path(os.environ.get("DEEPEXPO_LANDMARKER", ""))  # MediaPipe's face_landmarker.task, which no package has
REAL = LANDMARKER.is_file() and find_spec("mediapipe")
CORE = find_spec("comfy_extras.nodes_mediapipe")  # in ComfyUI from 0.23 on
FACES = [face(scores(jawOpen=0.4, mouthSmile=0.6), angles=(20.0, 5.0, 0.0)), face(scores(browInnerUp=0.8))]
SIZE, STEPS = 64, 1
MAP = 256  # pixels of maps
CLIP, SAMPLE_CLIP = 4, 16  # frames of the clip that is uploaded, of the one that comes with the pack
SDXL = "03_photo_sdxl"
LARGE = "DEEPEXPO_LARGE_TESTS"  # set: SDXL runs too, in full size: 20 GB of memory, minutes
TO_RUN = [name for name in NAMES if name != SDXL or os.environ.get(LARGE)]


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    base = tmp_path_factory.mktemp("comfyui")
    prepare_landmarks(base)
    write_models(base, [*map(read_workflow, TO_RUN), read_graph("sd15_portrait")])
    with running_server(base) as started:
        yield started


def prepare_landmarks(base: Path) -> None:
    """MediaPipe's own landmarker where its file was given; else a made-up face, by core's nodes where ComfyUI has them."""
    if REAL:
        (base / "models" / "mediapipe").mkdir(parents=True)
        shutil.copyfile(LANDMARKER, base / "models" / "mediapipe" / "face_landmarker.task")
    elif CORE:
        write_core_landmarker(base / "models" / "detection" / FILE, FACES[0], SEEN)
    else:
        for folder in (base / "custom_nodes" / "made_up_landmarks", base / "input"):
            folder.mkdir(parents=True)
        shutil.copyfile(made_up_landmarks.__file__, base / "custom_nodes" / "made_up_landmarks" / "__init__.py")
        known = json.dumps(FACES, default=lambda array: array.tolist())
        (base / "input" / "made_up_landmarks.json").write_text(known)


def for_cpu(graph: dict) -> dict:
    """The template at a size for a CPU; the starter's are small as they are."""
    graph = with_inputs(graph, "KSampler", steps=STEPS)
    if values(graph, "CheckpointLoaderSimple", "ckpt_name"):
        graph = small(graph, SIZE, STEPS)
    graph = with_inputs(graph, "DeepExPoDrawFaceControl", width=MAP, height=MAP)
    if has(graph, "ContextWindowsManual"):  # ComfyUI 0.3.64 compares the list of sigmas with the frames: as many of both
        graph = with_inputs(graph, "KSampler", steps=SAMPLE_CLIP - 1)
    return graph if REAL or CORE else with_made_up_landmarks(graph)


def with_made_up_landmarks(graph: dict) -> dict:
    graph = copy.deepcopy(graph)
    for node in graph.values():
        if node["class_type"] == "DeepExPoFindLandmarks":
            node.update(class_type="MadeUpLandmarks", inputs={"image": node["inputs"]["image"]})
    return graph


@pytest.mark.parametrize("name", NAMES)
def test_workflow_runs(server, name):
    if name not in TO_RUN:
        pytest.skip(f"{name} is large; set {LARGE}=1 to run it")
    graph = for_cpu(read_workflow(name))
    if name == SDXL:  # seven gigabytes on a CPU: once with InstantID, and once without
        without = with_inputs(graph, "DeepExPoApplyMEAF", identity_strength=0.0)
        on, off = (run(server, changed)[-1] for changed in (graph, without))
        difference = np.abs(on.astype(int) - off).mean()
        print(f"InstantID: mean difference to strength 0: {difference:.1f} of 255 levels")
        assert difference > 0.3 and on.std() > 1
        return
    pictures = run(server, graph)
    assert len(pictures) == saved_pictures(graph)
    assert all(picture.std() > 1 for picture in pictures)


def saved_pictures(graph: dict) -> int:
    """How many pictures, or frames of clips, the graph saves."""
    if has(graph, "SaveVideo"):
        return CLIP if has(graph, "LoadVideo") else SAMPLE_CLIP
    if has(graph, "DeepExPoDrawSheet"):
        return 1
    named = values(graph, "DeepExPoExpressionPresets", "expressions")
    return len(named[0].split(",")) if named else sum(values(graph, "EmptyLatentImage", "batch_size"))


def run(server, graph: dict) -> list[np.ndarray]:
    """Every picture that the graph saves, and every frame of its clips."""
    upload_photos(server, graph)
    server.free_memory()
    saving = {key for key, node in graph.items() if node["class_type"] in ("SaveImage", "SaveVideo")}
    with installed_packs(server.base / "models" / "insightface", recognisers(graph)):
        shown = server.pictures(server.post_prompt(graph, timeout=900), saving)
    return [picture for data in shown for picture in (read_clip(data) if data[4:8] == b"ftyp" else [decode(data)])]


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

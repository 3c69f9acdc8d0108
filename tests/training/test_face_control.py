"""A ControlNet in the pipeline: what it is shown, what it does to the picture, and what is refused."""

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from diffusers import ControlNetModel, EulerDiscreteScheduler, StableDiffusionControlNetPipeline
from PIL import Image

from deepexpo_models.dsid.codes import EncoderId, Identity
from deepexpo_models.dsid.edit import ARKIT
from deepexpo_models.faces.landmarks import read_landmarks
from deepexpo_models.head import ARKIT52
from deepexpo_models.pipeline import Pipeline, face_control
from deepexpo_models.pipeline.__main__ import main
from deepexpo_models.pipeline.face_control import FaceControl
from landmark_sets import face, landmarks, scores
from test_bases import folders, tiny_families  # noqa: F401

FACES = {
    40: face(scores(jawOpen=0.8), angles=(25.0, 0.0, 0.0)),
    200: face(scores(mouthSmileLeft=0.7, mouthSmileRight=0.7)),
}


@pytest.fixture
def seen(monkeypatch, tmp_path):
    """Photos of one level each, in which a landmarker finds the face of that level, behind it another one, which is small and
    comes first; and a landmarker's file."""

    def detect(image):
        known = FACES[round(image.mean().item() * 255)]
        return read_landmarks(landmarks([face(scores(), scale=5.0), known]))[0][0]

    monkeypatch.setattr(face_control, "open_landmarker", lambda task, faces=1: lambda image: detect(image)[: faces or None])
    for level in FACES:
        Image.fromarray(np.full((64, 64 + level, 3), level, np.uint8)).save(tmp_path / f"{level}.png")
    return tmp_path


@pytest.fixture
def net(folders, tmp_path):  # noqa: F811
    """A ControlNet of the tiny base, whose joins are no zeros."""
    base = Pipeline.load(folders["sd15"], device="cpu").base
    torch.manual_seed(1)
    made = ControlNetModel.from_unet(base.unet)
    for parameter in made.parameters():
        torch.nn.init.normal_(parameter, std=0.12)
    made.save_pretrained(tmp_path / "net")
    return tmp_path / "net"


@pytest.fixture
def pipeline(folders, net, seen):  # noqa: F811
    made = Pipeline.load(folders["sd15"], device="cpu", steps=2, landmarker="face_landmarker.task")
    made.control = FaceControl.load(net, made.base, style="mediapipe face")
    return made


def pixels(picture):
    return np.array(picture).astype(int)


def test_references_of_any_size_become_codes_and_move_the_picture(pipeline, seen):
    semantics = pipeline.semantics([seen / "40.png", seen / "200.png"])
    assert semantics.encoder == ARKIT and semantics.expression[0, ARKIT52.index("jawOpen")] == pytest.approx(0.8)
    both = pipeline("a face", reference=semantics, seed=1)
    (alone,) = pipeline("a face", reference=[seen / "200.png"], seed=1)
    assert len(both) == 2 and np.abs(pixels(both[1]) - pixels(alone)).max() <= 1
    assert np.abs(pixels(both[0]) - pixels(both[1])).max() > 2
    pipeline.control.strength = 0.0
    off = pipeline("a face", reference=[seen / "200.png"], seed=1)
    pipeline.control = None
    assert np.array_equal(pixels(off[0]), pixels(pipeline("a face", seed=1)[0]))


def test_the_map_has_the_persons_proportions(pipeline, seen):
    semantics = pipeline.semantics([seen / "40.png"])
    shape = pipeline.landmarks.face_shape([seen / "200.png", seen / "200.png"])
    assert shape.shape == (1, 478 * 3)
    wide = shape.unflatten(-1, (478, 3)) * torch.tensor([1.3, 1.0, 1.0])
    code = torch.nn.functional.normalize(torch.ones(1, 4), dim=-1)
    maps = [
        pipeline.maps(Identity(code, ARKIT, face_shape=own.flatten(1)), semantics, pipeline.noise(0)) for own in (shape, wide)
    ]
    widths = [(drawn[0].sum((0, -1)) > 0).sum().item() for drawn in maps]
    assert maps[0].shape == (1, 128, 128, 3) and widths[1] > widths[0] + 2


def test_it_draws_what_diffusers_own_pipeline_draws(pipeline, folders, net, seen):  # noqa: F811
    """Zhang et al. 2023 as diffusers has it: the same map, noise, sampler and guidance."""
    semantics, noise = pipeline.semantics([seen / "40.png"]), pipeline.noise(3)
    maps = pipeline.maps(None, semantics, noise)
    found = pipeline.draw(["a face"], {}, noise, negative="a", maps=maps)
    scheduler = EulerDiscreteScheduler.from_config(pipeline.base.schedule.config, timestep_spacing="linspace")
    theirs = StableDiffusionControlNetPipeline.from_pretrained(
        folders["sd15"], controlnet=ControlNetModel.from_pretrained(net), scheduler=scheduler, safety_checker=None
    )
    theirs.set_progress_bar_config(disable=True)
    (expected,) = theirs(
        "a face", maps.movedim(-1, 1), num_inference_steps=2, guidance_scale=pipeline.cfg, negative_prompt="a",
        latents=noise, controlnet_conditioning_scale=pipeline.control.strength, output_type="pt",
    ).images  # fmt: skip
    torch.testing.assert_close((found[0] + 1) / 2, expected, atol=2e-3, rtol=0)


def test_codes_of_another_dsid_are_not_read_by_the_given_one(pipeline, seen):
    pipeline.dsid = SimpleNamespace(encoder=EncoderId("one", "a" * 64), readout=None)
    codes = replace(pipeline.semantics([seen / "40.png"]), encoder=EncoderId("other", "b" * 64))
    with pytest.raises(ValueError, match=r"different encoders, DSID 'one' .* and DSID 'other' .*; encode both with one"):
        pipeline("a face", reference=codes, seed=1)


def test_the_command_takes_a_controlnet(folders, net, seen, tmp_path):  # noqa: F811
    job = ["--prompt", "a face", "--base", str(folders["sd15"]), "--device", "cpu", "--steps", "1"]
    control = ["--controlnet", str(net), "--landmarker", "face_landmarker.task"]
    main([*job, *control, "--reference", str(seen / "40.png"), "--out", str(tmp_path / "one.png")])
    assert Image.open(tmp_path / "one.png").size == (128, 128)


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (["--control-style", "instantid points"], "unknown --control-style"),
        ([], "give a reference"),
        (["--face-height", "0", "--reference", "40.png"], "face's height"),
    ],
)
def test_what_cannot_be_done_is_one_sentence(folders, net, seen, capsys, monkeypatch, options, sentence):  # noqa: F811
    monkeypatch.chdir(seen)
    job = ["--prompt", "a face", "--base", str(folders["sd15"]), "--device", "cpu", "--controlnet", str(net)]
    with pytest.raises(SystemExit):
        main([*job, *options])
    assert sentence in capsys.readouterr().err


def test_a_controlnet_of_another_family_is_refused(folders, net):  # noqa: F811
    with pytest.raises(ValueError, match="reads text of width 32, the base's has 64"):
        FaceControl.load(net, Pipeline.load(folders["sdxl"], device="cpu").base)
    with pytest.raises(ValueError, match="there is no ControlNet at"):
        FaceControl.load("nowhere", Pipeline.load(folders["sd15"], device="cpu").base)


def test_landmarks_need_their_file(pipeline, seen):
    pipeline.landmarks = None
    with pytest.raises(ValueError, match="give face_landmarker"):
        pipeline.semantics([seen / "40.png"])

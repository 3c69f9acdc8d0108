"""The reports from end to end at tiny random weights: their structure, what nobody can measure, and the base alone."""

import json
import math
from dataclasses import fields, replace
from functools import partial
from itertools import pairwise

import pytest
import torch

from deepexpo_models.data.synthetic import CAPTION_WORDS, CONTEXT, EXPRESSION, POSE, sample_scenes
from deepexpo_models.dsid import CONFIGS, DSID, load_dsid, save_dsid
from deepexpo_models.dsid.rotation import euler_to_matrix, matrix_to_rotation
from deepexpo_models.evaluation import dsid_report, meaf_report, probes, run, sheet
from deepexpo_models.evaluation.dsid_report import VIEWS, encoded_pose_error, factor_groups, linear_pose_error, measure_dsid
from deepexpo_models.evaluation.judges.judge import Judge, JudgeConfig, Judgement, judged, load_judge, save_judge
from deepexpo_models.evaluation.judges.kinds import DRAWN, KINDS, shown_in_scene
from deepexpo_models.evaluation.meaf_report import closeness, draw, figures, measure_meaf, requested_codes
from deepexpo_models.evaluation.requests import DrawnPhotos, caption_of, drawn_requests, make_request
from deepexpo_models.evaluation.tables import as_json, flattened
from deepexpo_models.meaf import DEFAULT_SETTINGS, MEAF, default_config, save_meaf
from deepexpo_models.pipeline import sampling
from deepexpo_models.pipeline.generate import Pipeline
from deepexpo_models.pipeline.sampling import acts
from deepexpo_models.starter.config import STARTER
from deepexpo_models.starter.diffusers_host import build_starter, encode_prompts, load_starter, save_starter
from deepexpo_models.starter.vocabulary import build_vocabulary

TINY_DSID = replace(
    CONFIGS["starter"], name="tiny", image_size=32, expression_size=16, identity_width=16, expression_width=8,
    identity_channels=(16, 16), expression_channels=(16, 16), pose_channels=(16, 16),
    generator_channels=(16, 16, 16, 16), style_width=16, discriminator_channels=(16, 16, 16, 16),
)  # fmt: skip
TINY_BASE = replace(
    STARTER, name="tiny", image_size=32, vae_channels=(32, 32), unet_channels=(32, 32), text_width=32, text_layers=1, heads=2,
    tokens=24, merges=build_vocabulary(CAPTION_WORDS),
)  # fmt: skip
TINY_JUDGE = JudgeConfig(32, 32, 32, (16, 16), (16, 16), 16)


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """Option -> file; gates open, so that the streams show; the judge sees a face in some pictures."""
    folder = tmp_path_factory.mktemp("weights")
    found = {name: folder / f"{name}.safetensors" for name in (*run.STARTER, "judge")}
    torch.manual_seed(0)
    encoder = save_dsid(found["dsid"], DSID(TINY_DSID))
    save_starter(found["base"], build_starter(TINY_BASE))
    config = default_config("tiny", "tiny", TINY_DSID, encoder, TINY_BASE.unet_shape, expression_width=16, pose_width=16)
    meaf = MEAF(config)
    with torch.no_grad():
        for name, parameter in meaf.named_parameters():
            if name.endswith(".gate"):
                parameter.fill_(1.0)
            elif name.endswith(".to_v.weight"):
                parameter.normal_(std=0.5)
    save_meaf(found["meaf"], meaf)
    judge = Judge(TINY_JUDGE)
    with torch.no_grad():
        judge.readers["face"].head.bias.fill_(20.0)
    judge.errors = {"steps": 1, "pictures": {"smile mae": 0.25}, "degraded pictures": {"smile mae": 0.5}}
    save_judge(found["judge"], judge)
    return found


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    """Two strengths a sweep, few swaps, and a short training of the small network that reads the codes."""
    monkeypatch.setattr(run, "SWEEP", (0.0, 1.0))
    monkeypatch.setattr(meaf_report, "SWEEP", (0.0, 1.0))
    monkeypatch.setattr(dsid_report, "swap_figures", partial(dsid_report.swap_figures, groups=3))
    monkeypatch.setattr(probes, "MLP_STEPS", 3)


@pytest.fixture
def pipeline(files) -> Pipeline:
    return Pipeline.load(files["base"], files["meaf"], files["dsid"], device="cpu", steps=2)


@pytest.fixture
def judge(files) -> Judge:
    return load_judge(files["judge"])


def options(files) -> list[str]:
    return [part for name, path in files.items() for part in (f"--{name}", str(path))]


def strict(text: str):
    """JSON as the standard has it: without NaN."""
    return json.loads(text, parse_constant=lambda name: pytest.fail(f"{name} is no JSON"))


def test_run_writes_tables_and_pictures(files, tmp_path, capsys):
    pytest.importorskip("matplotlib")
    run.main(["--out", str(tmp_path), *options(files), "--people", "8", "--count", "3", "--steps", "2"])
    found = strict((tmp_path / "results.json").read_text())
    assert found.keys() == {"pictures", "dsid", "meaf", "judge", "seconds"} and found["pictures"] == DRAWN
    rows = found["meaf"]["rows"]
    assert list(rows) == ["one photo", "two photos", "own photo", "extreme poses", "base alone", "judge on true pictures"]
    assert all("TIME" in row for name, row in rows.items() if name != "judge on true pictures")
    for row in rows.values():
        assert row["pictures"] == 3 and "KID to true pictures" in row and 0 <= row["EXP"] <= 1 and 0 <= row["no face"] <= 1
        assert list(row["expression correlation"]) == [factor.name for factor in EXPRESSION]
        assert list(row["context"]) == [factor.name for factor in CONTEXT]
    settings = found["meaf"]["settings"]
    assert settings["steps"] == 2 and settings["cfg"] == 3.0 and {"sampler", "seed", "hardware"} < settings.keys()
    for stream, sweep in found["meaf"]["strengths"].items():
        assert stream in meaf_report.STREAMS and sweep.keys() == {"closeness", "monotonic", "rise", "side effect"}
        assert all(len(line) == 2 for line in sweep["closeness"].values())
    assert found["judge"]["pictures"] == {"smile mae": 0.25}
    assert found["dsid"]["people"] == 8 and found["dsid"]["pictures"] == 8 * VIEWS
    names = {"leak", "expression", *(f"strength-{s}" for s in meaf_report.STREAMS), *(n.replace(" ", "-") for n in rows)}
    assert {path.stem for path in tmp_path.glob("*.png") if path.stat().st_size > 200} == names
    text = (tmp_path / "results.md").read_text()
    assert "| one photo | 3 |" in text and "| smile mae | 0.250 | 0.500 |" in text and "nan" not in text.lower()
    seen = capsys.readouterr()
    assert text in seen.out
    told = [line.split("s  ")[1] for line in seen.err.splitlines() if " s  " in line]
    assert told[:2] == ["measuring the DSID", "drawing 3 pictures: one photo"]
    assert told[-1] == "drawing 3 pictures: pose at 1.0" and len(told) == 1 + 5 + 3 * 2, "it shows how far it is"


def test_classes_of_expression():
    """The words of the captions: the first that fits, none of them, no face."""
    names = [factor.name for factor in EXPRESSION]
    faces = torch.zeros(5, len(EXPRESSION))
    faces[0, names.index("smile")], faces[1, names.index("smile")] = 0.8, -0.8
    faces[2, [names.index("smile"), names.index("jaw_open")]] = torch.tensor([0.8, 0.9])
    faces[4] = torch.nan
    classes = meaf_report.face_class(faces, KINDS[DRAWN])
    assert classes[:4].tolist() == [0, 1, 0, 4] and classes[4].isnan()


def test_where_no_face_is_seen_the_report_still_stands(files, pipeline, judge, tmp_path):
    with torch.no_grad():
        judge.readers["face"].head.bias.fill_(-1e3)
    found = measure_meaf(pipeline, judge, drawn_requests(2))
    for row in found["rows"].values():
        assert row["no face"] == 1 and row["POSE"] == 180 and row["SIM"] == 1 and row["ID"] == 2
        assert row["identity top-1"] == 0 and row["context, mean"] == 0 and row["expression correlation, main"] == 0
        assert row["SEMCHG"] == 0
    for sweep in found["strengths"].values():
        assert sweep["monotonic"] and sweep["rise"] == 0
        assert {line[0] for line in sweep["closeness"].values()} == {-1, 0}
    strict(as_json({name: found[name] for name in ("rows", "strengths", "settings")}))


def test_without_strength_there_is_the_base_alone(pipeline, judge):
    request = make_request(3, seed=2)
    alone = draw(replace(pipeline, meaf=None), request)
    off = draw(pipeline, request, dict.fromkeys(meaf_report.STREAMS, 0.0))
    torch.testing.assert_close(off, alone, atol=1e-5, rtol=0)
    rows = [flattened(figures(request, judged(judge, pictures), judge)) for pictures in (off, alone)]
    assert rows[0] == pytest.approx(rows[1], abs=1e-3)
    assert (draw(pipeline, request) - alone).abs().max() > 1e-3, "at the defaults the streams show"
    assert torch.equal(draw(pipeline, request), draw(pipeline, request))


def test_guidance_gives_the_negative_half_null_tokens(pipeline, monkeypatch):
    """The sampler's batch is negative first; at cfg 1 the negative half, and so its tokens, cannot matter."""
    request, seen = make_request(2, seed=3), []
    condition = sampling.AttachedMEAF.condition

    def record(self, tokens, strengths=None, masks=None, latents=None):
        seen.append((tokens, strengths))
        condition(self, tokens, strengths, masks, latents)

    monkeypatch.setattr(sampling.AttachedMEAF, "condition", record)
    draw(pipeline, request)
    codes = requested_codes(pipeline, request)
    windows = [
        tuple(acts(DEFAULT_SETTINGS[name], step / pipeline.steps, pipeline.steps) for name in meaf_report.STREAMS)
        for step in range(pipeline.steps)
    ]
    assert len(seen) == 1 + sum(a != b for a, b in pairwise(windows)), "laid out once for each set of acting streams"
    for name, tokens in seen[0][0].items():
        assert torch.equal(tokens[:2], pipeline.meaf.null_tokens(name).expand(2, -1, -1))
        torch.testing.assert_close(tokens[2:], pipeline.meaf.tokens(name, codes[name]))
    assert codes.keys() == pipeline.meaf.config.streams.keys()


def test_each_stream_reads_what_was_requested_of_it(pipeline):
    """Identity from the person alone, expression and pose from their own photos."""
    request = make_request(3, seed=4, separate=True)
    codes = requested_codes(pipeline, request)
    for changed, streams in (("person", {"identity"}), ("expression", {"expression"}), ("pose", {"pose"})):
        other = replace(request, **{changed: DrawnPhotos(sample_scenes(3, torch.Generator().manual_seed(9)))})
        moved = {name for name, code in requested_codes(pipeline, other).items() if not torch.equal(code, codes[name])}
        assert moved == streams


def test_windows_are_those_of_the_sampling():
    """Of 11 steps the first is at 0 and the last at 1; the pose acts until 0.6, the expression until 0.9."""
    open_at = {name: [acts(DEFAULT_SETTINGS[name], i / 11, 11) for i in range(11)] for name in meaf_report.STREAMS}
    assert {name: sum(steps) for name, steps in open_at.items()} == {"identity": 11, "expression": 10, "pose": 7}
    assert all(steps == sorted(steps, reverse=True) for steps in open_at.values())
    assert acts(DEFAULT_SETTINGS["pose"], 0.0, 1)


def test_requests_are_held_out_and_described_by_their_captions():
    request = make_request(6, seed=1)
    again = make_request(6, seed=1)
    assert request.captions == again.captions and torch.equal(request.person.scene.identity, again.person.scene.identity)
    apart = make_request(2, 1, separate=True)
    assert request.expression.scene is request.pose.scene and apart.expression.scene is not apart.pose.scene
    names = {factor.name: factor.choices[int(value)] for factor, value in zip(CONTEXT, request.context[0])}
    for word in (names["background"], f"{names['clothing']} clothes"):
        assert word in request.captions[0]
    assert ("hat" in caption_of(request.context[0])) == (names["hat"] == "yes")
    shown, person = request.true.shown, request.person.shown
    assert torch.equal(shown.pose[:, :3], request.pose.shown.pose[:, :3])
    assert torch.equal(shown.pose[:, 3:], person.pose[:, 3:]) and torch.equal(shown.looks, person.looks)
    assert torch.equal(shown.expression, request.expression.shown.expression) and torch.equal(shown.context, request.context)


class Oracle:
    """A judge that knows the answer: of a picture drawn from `truth`, in request."""

    config, kind = TINY_JUDGE, KINDS[DRAWN]

    def __init__(self, truth):
        self.truth = truth

    def __call__(self, images):
        return seen_of(self.truth[: len(images)])


def seen_of(scene) -> Judgement:
    identity = torch.nn.functional.normalize(scene.identity - scene.identity.mean(0), dim=1)
    return Judgement(**vars(shown_in_scene(scene)), face=torch.ones(len(scene)), identity=identity)


def test_a_picture_as_ordered_has_the_best_figures_and_the_person_s_own_the_worst():
    request = make_request(20, seed=6)
    row = figures(request, seen_of(request.true.scene), Oracle(request.person.scene))
    best = {"no face": 0, "POSE": 0, "yaw": 0, "SIM": 0, "SEMCHG": 1, "ID": 0, "identity top-1": 1, "context, mean": 1}
    assert {name: row[name] for name in best} == pytest.approx(best, abs=1e-4)
    assert all(value == pytest.approx(1) for value in row["expression correlation"].values())
    kept = figures(request, seen_of(request.person.scene), Oracle(request.person.scene))
    assert kept["SEMCHG"] == 0 and kept["ID"] == pytest.approx(0, abs=1e-5) and kept["POSE"] > 10
    assert abs(kept["expression correlation, main"]) < 0.4


def test_main_factors_are_read_from_their_own_columns():
    """Wrong in the smile alone: no other correlation falls."""
    request = make_request(20, seed=6)
    scene = request.true.scene
    row = figures(request, seen_of(scene.with_factor("smile", -scene.expression[:, 0])), Oracle(request.person.scene))
    assert row["expression correlation"]["smile"] == pytest.approx(-1)
    assert all(value == pytest.approx(1) for name, value in row["expression correlation"].items() if name != "smile")
    assert row["expression correlation, main"] == pytest.approx((-1 + 5) / 6)


def test_closeness():
    request = make_request(20, seed=6)
    seen = seen_of(request.true.scene)
    assert closeness(request, seen, seen.identity, KINDS[DRAWN]) == pytest.approx([1, 1, 1], abs=1e-4)
    nothing = replace(seen, **{f.name: torch.full_like(getattr(seen, f.name), math.nan) for f in fields(seen)})
    assert closeness(request, nothing, seen.identity, KINDS[DRAWN]) == pytest.approx([-1, 0, -1])


class TrueDSID:
    """What a perfect encoder would give."""

    def __init__(self, scene):
        self.pose = matrix_to_rotation(euler_to_matrix(scene.pose[:, :3]))


def test_pose_errors_of_a_perfect_code():
    scene = sample_scenes(60, torch.Generator().manual_seed(0))
    code, person = TrueDSID(scene).pose, torch.arange(60)
    assert encoded_pose_error(code, scene) == pytest.approx(0, abs=0.05)
    turn = torch.linalg.qr(torch.randn(6, 6, generator=torch.Generator().manual_seed(1)))[0]
    assert encoded_pose_error(code @ turn, scene) > 10 > 1 > linear_pose_error(code @ turn, scene, person)


def test_dsid_report_alone(files, tmp_path):
    pytest.importorskip("matplotlib")
    run.main(["--out", str(tmp_path), *options(files), "--only", "dsid", "--people", "7"])
    results = strict((tmp_path / "results.json").read_text())
    assert results.keys() == {"pictures", "dsid", "seconds"}
    found = results["dsid"]
    assert list(found["leak"]) == ["identity", "expression", "pose"]
    assert list(found["leak"]["pose"]) == list(factor_groups(sample_scenes(1, torch.Generator())))
    assert list(found["expression R2"]) == [factor.name for factor in EXPRESSION]
    assert {f"{metric} {kind}" for metric in ("PSNR", "SSIM") for kind in ("self", "swap")} < found.keys()
    assert {"ICC identity", "ICC expression", "ICC pose"} < found.keys() and len(POSE) == 6
    again = measure_dsid(load_dsid(files["dsid"]).float().eval(), people=7)
    assert found == strict(as_json(again)), "the same seed gives the same figures"


def test_sheet_measures_every_cell(files, tmp_path, capsys):
    out = tmp_path / "sheet.png"
    sheet.main(["--out", str(out), *options(files), "--people", "2", "--references", "2", "--steps", "1"])
    image = pytest.importorskip("PIL.Image")
    with image.open(out) as picture:
        assert picture.size == (3 * 132, 3 * (132 + 36))
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 5 and all("identity" in line and "pose" in line for line in lines[:4])
    persons, examples, request = sheet.grid_request(2, 3, seed=1)
    assert torch.equal(request.person.scene.identity[3:], persons.identity[1:].expand(3, -1))
    assert torch.equal(request.expression.scene.pose[:3], examples.pose) and request.captions[:3] == request.captions[3:]


def test_sheet_says_where_there_is_no_face(judge):
    with torch.no_grad():
        judge.readers["face"].head.bias.fill_(-1e3)
    request = make_request(2, seed=1)
    assert sheet.measured(request, request.person.images(32), judge) == ["no face", "no face"]


def test_captions_fit_the_text_encoder(files):
    """No request's caption is cut off."""
    texts = make_request(20, seed=8).captions
    parts = load_starter(files["base"])
    ids = parts.tokenizer(texts).input_ids
    assert max(map(len, ids)) <= TINY_BASE.tokens
    assert encode_prompts(parts, texts[:1]).shape == (1, TINY_BASE.tokens, TINY_BASE.text_width)

"""The reports from end to end at tiny random weights: their structure, what nobody can measure, and the base alone."""

import json
import math
from dataclasses import fields, replace
from itertools import pairwise

import pytest
import torch

from deepexpo_models.data.heads.captions import CAPTION_WORDS
from deepexpo_models.data.heads.shards import FRAMES, HeadStore
from deepexpo_models.dsid import CONFIGS, DSID, save_dsid
from deepexpo_models.evaluation import meaf_report, run
from deepexpo_models.evaluation.factors import FACTORS, MAIN
from deepexpo_models.evaluation.judges.judge import Judge, JudgeConfig, Judgement, judged, load_judge, save_judge
from deepexpo_models.evaluation.judges.kinds import HEADS, RENDERED
from deepexpo_models.evaluation.meaf_report import STREAMS, closeness, draw, figures, measure_meaf, requested_codes
from deepexpo_models.evaluation.requests import Photos, Request, Requests, make_requests
from deepexpo_models.evaluation.tables import as_json, flattened
from deepexpo_models.meaf import DEFAULT_SETTINGS, MEAF, default_config, save_meaf
from deepexpo_models.pipeline import sampling
from deepexpo_models.pipeline.generate import Pipeline
from deepexpo_models.pipeline.sampling import acts
from deepexpo_models.starter.config import STARTER
from deepexpo_models.starter.diffusers_host import build_starter, encode_prompts, load_starter, save_starter
from deepexpo_models.starter.vocabulary import build_vocabulary
from fake_heads import write_fake_heads

TINY_DSID = replace(
    CONFIGS["photo-generator"], name="tiny", image_size=32, expression_size=32, identity_width=16, expression_width=8,
    identity_channels=(16, 16), expression_channels=(16, 16), pose_channels=(16, 16),
    generator_channels=(16, 16, 16, 16), style_width=16, discriminator_channels=(16, 16, 16, 16),
)  # fmt: skip
TINY_BASE = replace(
    STARTER, name="tiny", image_size=32, vae_channels=(32, 32), unet_channels=(32, 32), text_width=32, text_layers=1, heads=2,
    tokens=40, merges=build_vocabulary(CAPTION_WORDS),
)  # fmt: skip
TINY_JUDGE = JudgeConfig(32, 32, 32, (16, 16), (16, 16), 16)


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """Option -> file; gates open, so that the streams show; the judge sees a face in some pictures."""
    folder = tmp_path_factory.mktemp("weights")
    found = {name: folder / f"{name}.safetensors" for name in run.FILES}
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
    judge.errors = {"steps": 1, "pictures": {"jaw mae": 0.25}, "degraded pictures": {"jaw mae": 0.5}}
    save_judge(found["judge"], judge)
    return found


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_fake_heads(tmp_path_factory.mktemp("heads"), shards=2, size=32, split="test")


@pytest.fixture(scope="module")
def requests(folder) -> Requests:
    return make_requests(HeadStore(folder), count=6)


@pytest.fixture
def two_photos(requests) -> Request:
    """Expression and pose of two others, and the true picture."""
    return requests.rows["two photos"]


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    """Two strengths a sweep."""
    monkeypatch.setattr(run, "SWEEP", (0.0, 1.0))
    monkeypatch.setattr(meaf_report, "SWEEP", (0.0, 1.0))


@pytest.fixture
def pipeline(files) -> Pipeline:
    return Pipeline.load(files["base"], files["meaf"], files["dsid"], device="cpu", steps=2)


@pytest.fixture
def judge(files) -> Judge:
    return load_judge(files["judge"])


def options(files, folder) -> list[str]:
    return [part for name, path in {"heads": folder, **files}.items() for part in (f"--{name}", str(path))]


def strict(text: str):
    """JSON as the standard has it: without NaN."""
    return json.loads(text, parse_constant=lambda name: pytest.fail(f"{name} is no JSON"))


def test_run_writes_tables_and_pictures(files, folder, tmp_path, capsys):
    pytest.importorskip("matplotlib")
    run.main(["--out", str(tmp_path), *options(files, folder), "--count", "3", "--steps", "2"])
    found = strict((tmp_path / "results.json").read_text())
    assert found.keys() == {"pictures", "dsid", "meaf", "judge", "seconds"} and found["pictures"] == RENDERED
    assert found["dsid"].keys() == {"rotation", "expression", "leak", "pictures"}
    rows = found["meaf"]["rows"]
    assert list(rows) == ["one photo", "two photos", "own photo", "extreme poses", "base alone", "judge on true pictures"]
    assert all("TIME" in row for name, row in rows.items() if name != "judge on true pictures")
    for row in rows.values():
        assert row["pictures"] == 3 and "KID to true pictures" in row and 0 <= row["EXP"] <= 1 and 0 <= row["no face"] <= 1
        assert list(row["expression correlation"]) == list(FACTORS)
        assert list(row["context"]) == [factor.name for factor in HEADS.context]
    settings = found["meaf"]["settings"]
    assert settings["steps"] == 2 and settings["cfg"] == 5.0 and {"sampler", "seed", "hardware"} < settings.keys()
    assert found["meaf"]["strengths"].keys() == set(STREAMS)
    for sweep in found["meaf"]["strengths"].values():
        assert sweep.keys() == {"closeness", "monotonic", "rise", "side effect"}
        assert all(len(line) == 2 for line in sweep["closeness"].values())
    assert found["judge"]["pictures"] == {"jaw mae": 0.25}
    names = {*(f"strength-{stream}" for stream in STREAMS), *(name.replace(" ", "-") for name in rows)}
    assert {path.stem for path in tmp_path.glob("*.png") if path.stat().st_size > 200} == names
    text = (tmp_path / "results.md").read_text()
    assert "rendered heads" in text and "| one photo | 3 |" in text and "| jaw mae | 0.250 | 0.500 |" in text
    assert "nan" not in text.lower()
    seen = capsys.readouterr()
    assert text in seen.out
    told = [line.split("s  ")[1] for line in seen.err.splitlines() if " s  " in line]
    assert told[:2] == ["measuring the DSID", "drawing 3 pictures: one photo"]
    assert told[-1] == "drawing 3 pictures: pose at 1.0" and len(told) == 1 + 5 + 3 * 2, "it shows how far it is"


def test_dsid_alone_needs_no_judge(files, folder, tmp_path):
    given = options({"dsid": files["dsid"], "judge": tmp_path / "none"}, folder)
    run.main(["--out", str(tmp_path), *given, "--only", "dsid"])
    results = strict((tmp_path / "results.json").read_text())
    assert results.keys() == {"pictures", "dsid", "seconds"} and not list(tmp_path.glob("*.png"))
    assert list(results["dsid"]["expression"]) == ["reader", *FACTORS]
    for place in ("same clip", "other clip"):
        figures = results["dsid"]["pictures"][place]
        assert {f"{metric} {kind}" for metric in ("PSNR", "SSIM") for kind in ("self", "swap")} < figures.keys()


def test_the_files_that_are_measured_come_with_the_pack():
    assert all(path.is_file() for path in run.FILES.values())
    assert {name: path.stem for name, path in run.FILES.items()} == {
        "base": "heads-base", "meaf": "heads-meaf", "dsid": "photo-dsid", "judge": "judge-heads"
    }  # fmt: skip
    assert load_judge(run.FILES["judge"]).config.pictures == RENDERED


@pytest.mark.parametrize(
    ("given", "sentence"), [([], "required: --heads"), (["--heads", "nowhere"], "nowhere holds no rendered heads")]
)
def test_without_heads_there_is_nothing_to_measure(given, sentence, tmp_path, capsys):
    with pytest.raises(SystemExit) as stopped:
        run.main(["--out", str(tmp_path), *given])
    assert stopped.value.code == 2 and sentence in capsys.readouterr().err


def test_where_no_face_is_seen_the_report_still_stands(folder, pipeline, judge):
    with torch.no_grad():
        judge.readers["face"].head.bias.fill_(-1e3)
    found = measure_meaf(pipeline, judge, make_requests(HeadStore(folder), 2))
    for row in found["rows"].values():
        assert row["no face"] == 1 and row["POSE"] == 180 and row["SIM"] == 1 and row["ID"] == 2
        assert row["identity top-1"] == 0 and row["context, mean"] == 0 and row["expression correlation, main"] == 0
        assert row["SEMCHG"] == 0
    for sweep in found["strengths"].values():
        assert sweep["monotonic"] and sweep["rise"] == 0
        assert {line[0] for line in sweep["closeness"].values()} == {-1, 0}
    strict(as_json({name: found[name] for name in ("rows", "strengths", "settings")}))


def test_a_table_needs_true_pictures_to_compare_with(requests, pipeline, judge):
    with pytest.raises(ValueError, match="the row 'one photo' has no true pictures to compare with"):
        measure_meaf(pipeline, judge, replace(requests, compared="one photo"))


def test_without_strength_there_is_the_base_alone(pipeline, judge, two_photos):
    alone = draw(replace(pipeline, meaf=None), two_photos)
    off = draw(pipeline, two_photos, dict.fromkeys(STREAMS, 0.0))
    torch.testing.assert_close(off, alone, atol=1e-5, rtol=0)
    rows = [flattened(figures(two_photos, judged(judge, pictures), judge)) for pictures in (off, alone)]
    assert rows[0] == pytest.approx(rows[1], abs=1e-3, nan_ok=True)
    assert (draw(pipeline, two_photos) - alone).abs().max() > 1e-3, "at the defaults the streams show"
    assert torch.equal(draw(pipeline, two_photos), draw(pipeline, two_photos))


def test_guidance_gives_the_negative_half_null_tokens(pipeline, two_photos, monkeypatch):
    """The sampler's batch is negative first; at cfg 1 the negative half, and so its tokens, cannot matter."""
    seen = []
    condition = sampling.AttachedMEAF.condition

    def record(self, tokens, strengths=None, masks=None, latents=None):
        seen.append((tokens, strengths))
        condition(self, tokens, strengths, masks, latents)

    monkeypatch.setattr(sampling.AttachedMEAF, "condition", record)
    draw(pipeline, two_photos)
    codes = requested_codes(pipeline, two_photos)
    windows = [
        tuple(acts(DEFAULT_SETTINGS[name], step / pipeline.steps, pipeline.steps) for name in STREAMS)
        for step in range(pipeline.steps)
    ]
    sets, batches = 1 + sum(a != b for a, b in pairwise(windows)), -(-len(two_photos) // pipeline.batch)
    assert len(seen) == batches * sets, "laid out once for each set of acting streams"
    for name, tokens in seen[0][0].items():
        half = len(tokens) // 2
        assert torch.equal(tokens[:half], pipeline.meaf.null_tokens(name).expand(half, -1, -1))
        torch.testing.assert_close(tokens[half:], pipeline.meaf.tokens(name, codes[name])[:half])
    assert codes.keys() == pipeline.meaf.config.streams.keys()


def test_each_stream_reads_what_was_requested_of_it(pipeline, two_photos):
    """Identity from the person alone, expression and pose from their own photos."""
    codes = requested_codes(pipeline, two_photos)
    for changed, streams in (("person", {"identity"}), ("expression", {"expression"}), ("pose", {"pose"})):
        photos = getattr(two_photos, changed)
        other = replace(two_photos, **{changed: Photos(photos.store, photos.rows + FRAMES)})
        moved = {name for name, code in requested_codes(pipeline, other).items() if not torch.equal(code, codes[name])}
        assert moved == streams


def test_windows_are_those_of_the_sampling():
    """Of 11 steps the first is at 0 and the last at 1; the pose acts until 0.6, the expression until 0.9."""
    open_at = {name: [acts(DEFAULT_SETTINGS[name], i / 11, 11) for i in range(11)] for name in STREAMS}
    assert {name: sum(steps) for name, steps in open_at.items()} == {"identity": 11, "expression": 10, "pose": 7}
    assert all(steps == sorted(steps, reverse=True) for steps in open_at.values())
    assert acts(DEFAULT_SETTINGS["pose"], 0.0, 1)


class Oracle:
    """A judge that knows the people of a request."""

    config = TINY_JUDGE

    def __init__(self, photos: Photos):
        self.photos = photos

    def __call__(self, images):
        return seen_of(self.photos)


def seen_of(photos: Photos) -> Judgement:
    """What a judge without error sees."""
    identity = torch.nn.functional.one_hot(photos.rows // FRAMES, len(photos.store) // FRAMES).float()
    return Judgement(**vars(photos.shown), face=torch.ones(len(photos)), identity=identity)


def test_the_true_picture_has_no_error_and_the_person_s_own_has(two_photos):
    row = figures(two_photos, seen_of(two_photos.true), Oracle(two_photos.person))
    best = {
        "no face": 0,
        "POSE": 0,
        "yaw": 0,
        "SIM": 0,
        "SEMCHG": 1,
        "ID": 0,
        "EXP": 1,
        "identity top-1": 1,
        "context, mean": 1,
    }
    assert {name: row[name] for name in best} == pytest.approx(best, abs=1e-3) and row["context, mean"] == 1
    moved = {name for name, value in row["expression correlation"].items() if value}
    assert set(MAIN) <= moved and all(row["expression correlation"][name] == pytest.approx(1) for name in moved)
    assert row["expression correlation, main"] == pytest.approx(1)
    kept = figures(two_photos, seen_of(two_photos.person), Oracle(two_photos.person))
    assert kept["SEMCHG"] == 0 and kept["ID"] == pytest.approx(0) and kept["POSE"] > 10
    assert kept["expression correlation, main"] < 0.8 and kept["context, mean"] < 1


def test_main_factors_are_read_from_their_own_columns(two_photos):
    """Wrong in the smile alone: no other correlation falls."""
    seen = seen_of(two_photos.true)
    expression = seen.expression.clone()
    expression[:, list(FACTORS).index("smile")] *= -1
    whole, row = (figures(two_photos, made, Oracle(two_photos.person)) for made in (seen, replace(seen, expression=expression)))
    expected = {**whole["expression correlation"], "smile": -1}
    assert row["expression correlation"] == pytest.approx(expected)
    assert row["expression correlation, main"] == pytest.approx((-1 + 3) / 4)


def test_closeness(two_photos):
    seen = seen_of(two_photos.true)
    assert closeness(two_photos, seen, seen.identity) == pytest.approx([1, 1, 1], abs=1e-3)
    nothing = replace(seen, **{f.name: torch.full_like(getattr(seen, f.name), math.nan) for f in fields(seen)})
    assert closeness(two_photos, nothing, seen.identity) == pytest.approx([-1, 0, -1])


def test_captions_fit_the_text_encoder(files, requests):
    """No request's caption is cut off."""
    texts = [caption for request in requests.rows.values() for caption in request.captions]
    parts = load_starter(files["base"])
    ids = parts.tokenizer(texts).input_ids
    assert max(map(len, ids)) <= TINY_BASE.tokens
    assert encode_prompts(parts, texts[:1]).shape == (1, TINY_BASE.tokens, TINY_BASE.text_width)

"""MEAF's trainer on tiny real parts: a tiny base, a tiny DSID, one small shard of heads."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import public_adapters as published
from deepexpo_models.data.heads.captions import CAPTION_WORDS
from deepexpo_models.data.heads.shards import HeadStore
from deepexpo_models.dsid import CONFIGS, DSID, Identity, Semantics, encoder_id, load_dsid, public_encoder, save_dsid
from deepexpo_models.dsid.rotation import FRONTAL, matrix_to_euler, rotation_to_matrix
from deepexpo_models.evaluation.judges.judge import Judge, JudgeConfig, save_judge
from deepexpo_models.head import ARKIT52
from deepexpo_models.importers import KINDS, PublicFile, convert, recognise
from deepexpo_models.importers.sites import cross_attentions
from deepexpo_models.meaf import load_meaf, save_meaf, stream_codes, unet_sites
from deepexpo_models.pipeline.base import load_base
from deepexpo_models.starter import STARTER, build_vocabulary
from deepexpo_models.starter.diffusers_host import build_starter, load_starter, save_starter
from deepexpo_models.training import compare_meaf
from deepexpo_models.training.meaf.batches import read_codes
from deepexpo_models.training.meaf.clips import CaptionedFaces
from deepexpo_models.training.meaf.heads import HeadTargets
from deepexpo_models.training.train_meaf import SIZES, MEAFSettings, drops, train
from fake_heads import small_shards, write_fake_heads

STEPS = 3


@pytest.fixture(scope="module")
def parts(tmp_path_factory):
    """Folder with heads/, test/, dsid.safetensors and base.safetensors."""
    folder = tmp_path_factory.mktemp("parts")
    torch.manual_seed(0)
    with small_shards():
        write_fake_heads(folder / "heads")
        write_fake_heads(folder / "test", shards=3, split="test")
        narrow = dict.fromkeys(("identity_channels", "expression_channels", "pose_channels"), (8, 8, 8, 8))
        tiny = replace(CONFIGS["photo"], **narrow)
        dsid = DSID(tiny)
        save_dsid(folder / "dsid.safetensors", dsid, encoder_id("tiny", dsid))
        config = replace(
            STARTER, vae_channels=(32, 32, 32, 32), unet_channels=(32, 32, 32), text_width=32, text_layers=1,
            merges=build_vocabulary(CAPTION_WORDS),
        )  # fmt: skip
        save_starter(folder / "base.safetensors", build_starter(config), torch.float32)
        yield folder


def settings(parts, out, **changes) -> MEAFSettings:
    return MEAFSettings(
        **{
            "out": str(out), "dsid": str(parts / "dsid.safetensors"), "base": str(parts / "base.safetensors"),
            "heads": str(parts / "heads"), "steps": STEPS, "batch_size": 4, "expression_width": 16, "pose_width": 16,
            "warmup": 0, "schedule": "constant", "threads": 1, **changes,
        }
    )  # fmt: skip


def weights(path):
    return load_meaf(path).state_dict()


def test_it_learns_and_leaves_the_base_alone(parts, tmp_path):
    before = load_starter(parts / "base.safetensors").unet.state_dict()
    path = train(settings(parts, tmp_path))
    meaf = load_meaf(path)
    assert {p.dtype for p in meaf.parameters()} == {torch.float16} and meaf.trained_on == ("rendered heads",)
    gates = [p for name, p in meaf.named_parameters() if name.endswith("gate")]
    assert gates and all(p.abs() > 0 for p in gates)
    after = load_starter(parts / "base.safetensors").unet.state_dict()
    assert all(torch.equal(before[name], after[name]) for name in before)


def test_resume_equals_a_straight_run(parts, tmp_path):
    straight = weights(train(settings(parts, tmp_path / "a")))
    assert train(settings(parts, tmp_path / "b", steps=2)) is not None
    resumed = weights(train(settings(parts, tmp_path / "b")))
    assert all(torch.equal(straight[name], resumed[name]) for name in straight)


def test_samples_are_drawn_with_the_averaged_weights(parts, tmp_path):
    """At every `sample_every` steps: targets at the left, at the right what their codes give, which the codes move. The run is
    the one without them, bit by bit."""
    plain = weights(train(settings(parts, tmp_path / "plain", steps=2, sample_every=0)))
    shown = weights(train(settings(parts, tmp_path / "shown", steps=2, sample_every=1)))
    assert all(torch.equal(plain[name], shown[name]) for name in plain)
    sheets = [np.array(Image.open(path)) for path in sorted((tmp_path / "shown" / "samples").glob("meaf-*.png"))]
    left, right = ([half[:, side] for half in sheets] for side in (slice(0, 128), slice(130, None)))
    assert np.array_equal(*left) and not np.array_equal(*right) and left[0].std() > 1
    assert not list((tmp_path / "plain" / "samples").iterdir())


def test_frozen_streams_keep_their_weights(parts, tmp_path):
    first = train(settings(parts, tmp_path / "a"))
    second = weights(train(settings(parts, tmp_path / "b", init=str(first), freeze=("identity",))))
    before = weights(first)
    same = {name: torch.equal(before[name], second[name]) for name in before}
    assert all(equal for name, equal in same.items() if name.startswith("streams.identity."))
    assert not all(equal for name, equal in same.items() if name.startswith("streams.pose."))


def test_streams_that_go_on_with_another_dsid_name_that_one(parts, tmp_path):
    """Its codes are what they learned last; a stream that stays as it was needs the DSID before, and so do other widths."""
    first, kept = train(settings(parts, tmp_path / "a")), load_dsid(parts / "dsid.safetensors")
    torch.manual_seed(1)
    for name, changed in {"other": kept.config, "wider": replace(kept.config, expression_width=32)}.items():
        dsid = DSID(changed)
        save_dsid(tmp_path / f"{name}.safetensors", dsid, encoder_id(name, dsid))
    on = {"init": str(first), "dsid": str(tmp_path / "other.safetensors"), "name": "next"}
    found = load_meaf(train(settings(parts, tmp_path / "b", **on))).config
    assert found.encoder == load_dsid(tmp_path / "other.safetensors").encoder != kept.encoder and found.name == "next"
    told = r"of MEAF 'meaf' was trained on DSID 'tiny' .*; give that as --dsid"
    with pytest.raises(ValueError, match=f"the pose stream {told}"):
        train(settings(parts, tmp_path / "c", freeze=("pose",), **on))
    with pytest.raises(ValueError, match=f"the expression stream {told}"):
        train(settings(parts, tmp_path / "d", **{**on, "dsid": str(tmp_path / "wider.safetensors")}))


@pytest.fixture(scope="module")
def imported(parts) -> Path:
    """A FaceID adapter for the tiny base, through the importer."""
    shape = load_base(str(parts / "base.safetensors"), torch.device("cpu")).shape
    channels = unet_sites(shape)
    numbers = {n: (path.removesuffix(".attn2"), channels[path]) for n, path in cross_attentions(shape).items()}
    width = shape.context_width
    file = published.random_file(published.adapter_shapes(numbers, width, published.mlp(width), lora=True), dtype=torch.float16)
    found = PublicFile(Path("faceid.bin"), {name: tuple(x.shape) for name, x in file.items()})
    tiny = {"faceid": replace(KINDS["faceid"], bases=("starter",))}
    path = parts / "imported.safetensors"
    save_meaf(path, convert(recognise(found, "faceid", tiny, {"starter": shape}), file, "faceid-starter"))
    return path


def test_semantic_streams_are_trained_beside_an_imported_identity(parts, imported, tmp_path):
    path = train(settings(parts, tmp_path, init=str(imported), freeze=("identity",), name="both", image_rows=2))
    meaf, before, after = load_meaf(path), weights(imported), weights(path)
    assert all(torch.equal(before[name], after[name]) for name in before), "the imported stream is what it was"
    assert meaf.trained_on == ("rendered heads", "photographs"), "those that the imported stream knows stay"
    for stream in ("expression", "pose"):
        gates = [x for name, x in after.items() if name.startswith(f"streams.{stream}.") and name.endswith("gate")]
        assert gates and all(gate.abs() > 0 for gate in gates)
    dsid = load_dsid(parts / "dsid.safetensors")
    assert meaf.config.name == "both" and meaf.config.encoder == dsid.encoder
    face = Identity(torch.eye(512)[:1], public_encoder("buffalo_l"))
    codes = dsid.float().encode_semantics(torch.zeros(1, 3, 128, 128))
    assert set(stream_codes(meaf.config, face, Semantics(**codes, encoder=dsid.encoder))) == {"identity", "expression", "pose"}
    lines = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    assert all("identity" not in line for line in lines), "no loss asks the semantic streams for the person"


def test_an_imported_stream_must_be_frozen(parts, imported, tmp_path):
    with pytest.raises(ValueError, match=r"public encoder 'buffalo_l', which these data do not have; .* --freeze identity"):
        train(settings(parts, tmp_path, init=str(imported)))


def test_the_printed_formula_and_picture_losses_run(parts, tmp_path):
    assert train(settings(parts, tmp_path / "paper", fusion="paper")) is not None
    assert train(settings(parts, tmp_path / "pictures", image_rows=2)) is not None


@pytest.mark.parametrize(("size", "light_too"), [("control", False), ("full", True)])
def test_a_branch_learns_and_resumes(parts, tmp_path, size, light_too):
    path = train(settings(parts, tmp_path / "a", size=size, light_too=light_too))
    meaf, straight = load_meaf(path), weights(path)
    assert meaf.config.size == size and all(x.isfinite().all() for x in straight.values())
    base = load_starter(parts / "base.safetensors").unet.state_dict()
    copied = {name.removeprefix("branch.copy."): x for name, x in straight.items() if name.startswith("branch.copy.")}
    assert all((base[name] - x).abs().max() < 0.05 for name, x in copied.items()), "the copy began as the base"
    assert any((base[name].half() - x).abs().max() > 1e-4 for name, x in copied.items()), "and learns"
    assert all(join.weight.abs().max() > 0 for join in meaf.branch.joins)
    assert meaf.branch.null_text.shape == (77, 32) and meaf.branch.null_text.abs().max() > 0
    train(settings(parts, tmp_path / "b", steps=2, size=size, light_too=light_too))
    resumed = weights(train(settings(parts, tmp_path / "b", size=size, light_too=light_too)))
    assert all(torch.equal(straight[name], resumed[name]) for name in straight)


@pytest.mark.parametrize("size", SIZES)
def test_checkpointing_changes_no_gradient(parts, tmp_path, size):
    """The backward pass runs layers again: with the streams and residuals of the forward pass."""
    found = [weights(train(settings(parts, tmp_path / str(on), size=size, checkpointing=on))) for on in (False, True)]
    assert all(torch.allclose(found[0][name], found[1][name], atol=1e-3) for name in found[0])


def test_a_branch_on_top_of_trained_streams(parts, tmp_path):
    first = train(settings(parts, tmp_path / "a"))
    both = {"size": "control", "light_too": True, "lr": 1e-9}
    second = weights(train(settings(parts, tmp_path / "b", init=str(first), **both)))
    before = weights(first)
    assert all(torch.allclose(before[name], second[name], atol=1e-3) for name in before)
    gates = [x for name, x in second.items() if ".sites.branch." in name and name.endswith("gate")]
    assert gates and all(gate.abs() < 1e-3 for gate in gates)
    with pytest.raises(ValueError, match=r"of size light and has weights that --size control has no place for; .* --light-too"):
        train(settings(parts, tmp_path / "c", init=str(first), size="control"))


def test_an_imported_identity_is_silent_in_a_new_branch(parts, imported, tmp_path):
    kept = {"init": str(imported), "freeze": ("identity",), "size": "control", "light_too": True}
    after = weights(train(settings(parts, tmp_path, **kept)))
    gates = {name: x for name, x in after.items() if ".sites.branch." in name and name.endswith("gate")}
    for name, gate in gates.items():
        assert (gate == 0) == name.startswith("streams.identity.")


def test_comparison_of_sizes_and_formulas(parts, tmp_path, capsys):
    save_judge(tmp_path / "judge.safetensors", Judge(JudgeConfig(64, 32, 32, (16, 16), (16, 16), 16)))
    given = {
        **{name: parts / f"{name}.safetensors" for name in ("dsid", "base")}, "judge": tmp_path / "judge.safetensors",
        "heads": parts / "heads", "test": parts / "test", "out": tmp_path / "out", "steps": 2, "batch-size": 4, "threads": 1,
        "pictures": 3,
    }  # fmt: skip
    command = [str(part) for name, value in given.items() for part in (f"--{name}", value)]
    compare_meaf.main(command)
    table = {row.pop("row"): row for row in json.loads((tmp_path / "out" / "sizes.json").read_text())}
    assert list(table) == [*compare_meaf.ROWS, "base alone"]
    light, control, full = (table[name] for name in ("light", "control", "full"))
    for figure in ("weights, millions", "MiB kept for backward", "MiB of weights, gradients, optimizer"):
        assert light[figure] < control[figure] < full[figure]
    assert table["base alone"]["ms per drawing step"] > 0 and light["s per training step"] > 0
    kept = {"-".join(path.name.split("-")[:2]) for path in (tmp_path / "out" / "cache").iterdir()}
    assert kept == {"head-latents", "head-identities", "head-semantics"}
    with pytest.raises(SystemExit):
        compare_meaf.main([*command, "--pictures", "50"])
    assert "people for 50 requests; render more shards of the test split" in capsys.readouterr().err


@pytest.fixture(scope="module")
def photos(parts, tmp_path_factory):
    """Three pictures each of four people, captioned, and a folder of frames with one caption for all."""
    root, store = tmp_path_factory.mktemp("photos"), HeadStore(parts / "heads")
    for person in range(5):
        frames = store.read("images", 3 * person + torch.arange(3)).numpy()
        for number, frame in enumerate(frames):
            path = root / ("clips/p4#film" if person == 4 else f"stills/p{person}") / f"{number}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(frame).save(path)
            if person < 4:
                path.with_suffix(".txt").write_text(f"a person, smiling, picture {number}")
    (root / "clips/p4#film/caption.txt").write_text("a person in a film")
    return root


def test_captioned_clips_and_stills(parts, photos, tmp_path):
    """Cross-identity rows have no target: they count in the picture losses and the prior alone."""
    real = {"heads": "", "clips": str(photos / "clips"), "stills": str(photos / "stills")}
    path = train(settings(parts, tmp_path, **real, image_rows=4, without_target=0.5, log_every=1))
    before = load_meaf(path)
    assert all(p.isfinite().all() for p in before.parameters())
    lines = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    assert all({"noise", "prior", "identity", "expression", "pose"} <= set(line) for line in lines)
    asked = settings(parts, tmp_path, **real, image_rows=1, without_target=0.5)
    dsid, base = load_dsid(parts / "dsid.safetensors").float().eval(), load_base(asked.base, torch.device("cpu"))
    faces = CaptionedFaces(asked, dsid, base, say=lambda text: None)
    batch, again = (faces.encoded(faces.sample(8, torch.Generator().manual_seed(0))) for _ in range(2))
    assert batch.captions == again.captions and torch.equal(batch.latents, again.latents)
    assert 0 < batch.has_target.sum() < 8
    assert "a person in a film" in batch.captions and any("smiling" in told for told in batch.captions)
    assert any("smiling" not in told and "picture" in told for told in batch.captions)
    own = read_codes(dsid, batch.images, batch.images)["rotation"]
    follows = (own - batch.codes["rotation"]).abs().amax(1) < 1e-5
    assert follows[batch.has_target].all() and not follows.all(), "where there is a target, expression and pose are its own"


@pytest.mark.parametrize("with_identity", [True, False], ids=["identity by a DSID", "no DSID"])
def test_semantics_by_arkits_numbers(parts, tmp_path, with_identity):
    """Expression and pose read the public code arkit52, which the nodes make of landmarks; resumed, they go on alike."""
    how = {"semantics": "arkit52", "save_every": 2, "log_every": 1}
    how |= {} if with_identity else {"dsid": ""}
    path = train(settings(parts, tmp_path, **how))
    config, straight = load_meaf(path).config, weights(path)
    read = {name: stream.face_model for name, stream in config.streams.items()}
    assert read == {**({"identity": ""} if with_identity else {}), "expression": "arkit52", "pose": "arkit52"}
    for name in read:
        gates = [value for key, value in straight.items() if key.startswith(f"streams.{name}.") and key.endswith("gate")]
        assert gates and all(gate.abs().max() > 0 for gate in gates), name
    frontal, place = torch.tensor([FRONTAL] * 2), (torch.zeros(2, 2), torch.zeros(2, 1))
    codes = stream_codes(config, None, Semantics(torch.rand(2, 52), frontal, *place, public_encoder("arkit52")))
    assert codes["expression"].shape == (2, 52) and codes["pose"].shape == (2, 6)
    path.unlink()
    (tmp_path / "states" / f"state-{STEPS:08d}").rename(tmp_path / "put-away")
    again = weights(train(settings(parts, tmp_path, **how)))
    assert all(torch.equal(straight[name], again[name]) for name in straight)


def test_semantics_by_the_dsid(parts, tmp_path):
    """Expression and pose are what the DSID reads in pictures of other people who play the same, or of the target; identity in
    another picture of the person; so the MEAF reads the DSID's own codes. Resumed, a run goes on alike."""
    asked = settings(parts, tmp_path, save_every=2)
    dsid, base = load_dsid(parts / "dsid.safetensors").float(), load_base(asked.base, torch.device("cpu"))
    targets = HeadTargets(asked.heads, tmp_path, dsid, base, labelled=False, say=lambda text: None)
    labels = targets.store.heads(torch.arange(len(targets.store)))
    read = read_codes(dsid, labels.images[:8], labels.images[:8])
    semantics = torch.cat([read["expression"], read["rotation"]], 1)
    for kept, made in ((targets.semantics, semantics), (targets.identities, read["identity"])):
        torch.testing.assert_close(torch.from_numpy(kept[:8]), made, atol=1e-4, rtol=1e-4)
    targets.semantics = np.arange(len(targets.store))[:, None].repeat(semantics.shape[1], 1)  # so that a code says whose it is
    targets.identities = targets.semantics
    batch = targets.sample(64, torch.Generator().manual_seed(0))
    target = torch.cdist(batch.images.flatten(1), labels.images.flatten(1)).argmin(1)
    whose = {name: code[:, 0].long() for name, code in batch.codes.items()}
    assert torch.equal(labels.units[whose["expression"]], labels.units[target])
    assert torch.equal(labels.rotation[whose["rotation"]], labels.rotation[target])
    assert torch.equal(labels.person[whose["identity"]], labels.person[target]) and (whose["identity"] != target).all()
    own, strange = whose["expression"] == target, labels.person[whose["expression"]] != labels.person[target]
    assert (own | strange).all() and 0.1 < own.float().mean() < 0.4 and torch.equal(own, whose["rotation"] == target)
    path = train(asked)
    config, straight = load_meaf(path).config, weights(path)
    assert {stream.face_model for stream in config.streams.values()} == {""} and config.encoder == dsid.encoder
    path.unlink()
    (tmp_path / "states" / f"state-{STEPS:08d}").rename(tmp_path / "put-away")
    again = weights(train(asked))
    assert all(torch.equal(straight[name], again[name]) for name in straight)


def test_semantics_by_labels_of_clips(parts, photos, tmp_path):
    """Frames with blendshapes and a pose teach the streams; where a label is missing they rest."""
    real = {"heads": "", "dsid": "", "semantics": "arkit52", "clips": str(tmp_path / "clips")}
    shutil.copytree(photos / "clips", tmp_path / "clips")
    with pytest.raises(ValueError, match="none of the clips and pictures has blendshapes beside it"):
        train(settings(parts, tmp_path / "without", **real))
    label = {"pose": [10.0, 0.0, 0.0], "blendshapes": dict.fromkeys(ARKIT52, 0.25)}
    (tmp_path / "clips/p4#film/labels.json").write_text(json.dumps({"frames": {0: label}}))
    asked = settings(parts, tmp_path / "out", **real)
    faces = CaptionedFaces(asked, None, load_base(asked.base, torch.device("cpu")), say=lambda text: None)
    codes = faces.encoded(faces.sample(16, torch.Generator().manual_seed(0))).codes
    known = codes["expression"].isfinite().all(1)
    assert 0 < known.sum() < 16 and (codes["expression"][known] == 0.25).all()
    assert (matrix_to_euler(rotation_to_matrix(codes["rotation"][known]))[:, 0] - 10).abs().max() < 1e-3
    assert not codes["rotation"][~known].isfinite().any()
    assert load_meaf(train(asked)).config.streams.keys() == {"expression", "pose"}


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"dsid": ""}, "name the DSID whose codes"),
        ({"semantics": "arkit52", "image_rows": 2}, "leave --image-rows out"),
        ({"heads": ""}, "give either --heads, or --clips and --stills"),
        ({"stills": "photos"}, "give either --heads, or --clips and --stills"),
    ],
)
def test_semantics_that_the_data_cannot_have_are_refused(parts, tmp_path, changes, sentence):
    with pytest.raises(ValueError, match=sentence):
        settings(parts, tmp_path, **changes)


def test_faces_without_any_caption_are_refused(parts, photos, tmp_path):
    (tmp_path / "p0#film").mkdir()
    for number in range(2):
        (tmp_path / f"p0#film/{number}.png").write_bytes((photos / f"stills/p0/{number}.png").read_bytes())
    with pytest.raises(ValueError, match=r"has a caption; put name\.txt beside"):
        train(settings(parts, tmp_path / "out", heads="", clips=str(tmp_path)))
    with pytest.raises(ValueError, match="give either --heads, or --clips"):
        settings(parts, tmp_path, clips=str(tmp_path))


def test_shares_of_drops(parts, tmp_path):
    kept = drops(4000, ("identity", "pose"), settings(parts, tmp_path), torch.Generator().manual_seed(0))
    assert kept["text"].float().mean() == pytest.approx(0.9 * 0.95, abs=0.02)
    assert kept["identity"].float().mean() == pytest.approx(0.9 * 0.95 * 0.95, abs=0.02)


def test_what_is_wrong_is_said_in_one_sentence(parts, tmp_path):
    with pytest.raises(ValueError, match="there is no base model at nowhere"):
        load_base("nowhere", torch.device("cpu"))
    (tmp_path / "text.safetensors").write_text("no weights")
    with pytest.raises(ValueError, match="not readable as a Stable Diffusion model"):
        load_base(str(tmp_path / "text.safetensors"), torch.device("cpu"))
    with pytest.raises(ValueError, match="--freeze keeps streams of --init"):
        settings(parts, tmp_path, freeze=("identity",))

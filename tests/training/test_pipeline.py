"""The door: the same job as a Python object and as a command, on the starter's own weights and on tiny Stable Diffusion."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from deepexpo_models.dsid import EncoderId, Identity, public_encoder
from deepexpo_models.faces import recognisers
from deepexpo_models.meaf import FAMILIES, load_meaf
from deepexpo_models.pipeline import Pipeline, generate, sampling
from deepexpo_models.pipeline.__main__ import main
from deepexpo_models.pipeline.photos import read_photos, sheet
from deepexpo_models.starter import load_starter_tensors, save_starter_tensors
from random_weights import DSID_FILE, write_dsid, write_meaf
from test_bases import SHAPES, folders, tiny_families  # noqa: F401

ROOT = Path(__file__).parents[2]
SAMPLES = ROOT / "workflows" / "samples"
SIZE = "photo-generator"  # of the DSIDs that are made up here
QUICK = ("--steps", "1", "--detector", "none")


def level(value: int, side: int = 40) -> np.ndarray:
    return np.full((side, side + 10, 3), value, dtype=np.uint8)


@pytest.fixture(scope="module")
def starter() -> Pipeline:
    return Pipeline.load(device="cpu", steps=2, detector="none")


@pytest.fixture
def faces(tmp_path, starter) -> dict[str, Path]:
    """Two photos that the starter's encoders tell apart, as files."""
    found = {}
    for number, name in enumerate(("person", "reference")):
        found[name] = tmp_path / f"{name}.png"
        noise = np.random.default_rng(number).integers(0, 255, (8, 8, 3), dtype=np.uint8)
        Image.fromarray(noise).resize((128, 128), Image.Resampling.BICUBIC).save(found[name])
    return found


def pixels(picture: Image.Image) -> np.ndarray:
    return np.array(picture).astype(int)


def test_a_picture_follows_prompt_person_reference_and_seed(starter, faces):
    """Each of the four changes the picture, and the same four give the same one."""
    job = {"prompt": "a person, green background", "identity": faces["person"], "reference": faces["reference"], "seed": 3}
    (picture,) = starter(**job)
    assert picture.size == (128, 128) and np.array_equal(pixels(picture), pixels(starter(**job)[0]))
    changes = {"prompt": "a person, red background", "identity": faces["reference"], "reference": faces["person"], "seed": 4}
    for name, value in changes.items():
        assert np.abs(pixels(picture) - pixels(starter(**{**job, name: value})[0])).max() > 2, name


def test_strength_zero_is_the_base_alone(starter, faces):
    off = starter(
        "a person", faces["person"], faces["reference"], strengths=dict.fromkeys(("identity", "expression", "pose"), 0.0)
    )
    assert np.array_equal(pixels(off[0]), pixels(starter("a person")[0]))


def test_rows_of_a_batch_are_those_drawn_alone(starter, faces):
    """References make a picture each, of one noise; how many are drawn at once changes nothing."""
    job = {"prompt": "a person", "identity": [faces["person"]], "seed": 1}
    both = starter(**job, reference=[faces["reference"], faces["person"]])
    for name, picture in zip(("reference", "person"), both):
        assert np.abs(pixels(picture) - pixels(starter(**job, reference=faces[name])[0])).max() <= 1
    starter.batch, usual = 1, starter.batch
    try:
        one_by_one = starter(**job, reference=[faces["reference"], faces["person"]])
    finally:
        starter.batch = usual
    assert all(np.abs(pixels(a) - pixels(b)).max() <= 1 for a, b in zip(both, one_by_one))


def test_several_photos_of_a_person_are_averaged(starter, faces):
    """And a code is as good as its photo."""
    codes = [starter.identity(faces[name]).embedding for name in faces]
    mean = torch.nn.functional.normalize(sum(codes), dim=-1)
    torch.testing.assert_close(starter.identity(list(faces.values())).embedding, mean, atol=1e-5, rtol=0)
    code = starter.identity(faces["person"])
    assert np.array_equal(pixels(starter("a", code)[0]), pixels(starter("a", faces["person"])[0])), (
        "a code is as good as its photo"
    )


def test_progress_goes_from_nothing_to_all(starter):
    shares = []
    starter("a person", progress=shares.append)
    assert shares == [0.0, 0.5, 1.0]


def test_command_draws_a_sheet_of_people_and_references(faces, tmp_path, capsys):
    out = tmp_path / "new" / "sheet.png"
    people = [part for path in faces.values() for part in ("--identity", str(path))]
    main(["--prompt", "a person", *people, "--reference", *map(str, faces.values()), "--out", str(out), *QUICK])
    assert Image.open(out).size == (3 * 130 - 2, 3 * 130 - 2)
    seen = capsys.readouterr()
    assert f"4 pictures: {out}" in seen.out and "100%" in seen.err
    corner = pixels(Image.open(out))[:128, :128]
    assert (corner == 255).all(), "nothing stands where people and references meet"
    first = pixels(Image.open(out))[130:258, :128]
    assert np.abs(first - pixels(Image.open(faces["person"]))).max() <= 2, "people stand at the left"


def test_command_turns_a_clip_into_a_clip(tmp_path):
    av = pytest.importorskip("av")
    film, out = tmp_path / "film.mp4", tmp_path / "out.mp4"
    from deepexpo_models.pipeline.photos import write_clip

    write_clip(film, [Image.fromarray(level(shade, 64)[:, :64]) for shade in (0, 120, 250)], 12.0)
    main(["--prompt", "a person", "--reference", str(film), "--out", str(out), *QUICK])
    with av.open(str(out)) as container:
        stream = container.streams.video[0]
        assert float(stream.average_rate) == 12 and (stream.width, stream.height) == (128, 128)
        assert len(list(container.decode(video=0))) == 3


@pytest.mark.parametrize(
    "others, sentence",
    [
        (["--identity", "nobody.png"], "there is no picture at nobody.png; check its path"),
        (["--identity", "broken.png"], "broken.png is not a readable picture"),
        (["--reference", "film.mp4"], "one clip as the reference makes one clip; give --out the ending .mp4"),
        (["--out", "out.mp4"], "one clip as the reference makes one clip"),
        (["--steps", "0"], "--steps and --batch are at least 1"),
        (["--base", "nothing.safetensors"], "there is no base model at nothing.safetensors"),
        (["--width", "100"], "a picture of 100 x 128 cannot be drawn; give multiples of 8"),
        (["--out", "broken.png/picture.png"], "cannot be written"),
    ],
)
def test_what_cannot_be_done_is_one_sentence(others, sentence, tmp_path, monkeypatch, capsys):
    (tmp_path / "broken.png").write_bytes(b"no picture")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as stopped:
        main(["--prompt", "a person", "--steps", "1", *others])
    assert stopped.value.code == 2
    told = [line for line in capsys.readouterr().err.splitlines() if line.startswith("python -m")]
    assert len(told) == 1 and sentence in told[0]


@pytest.fixture(scope="module")
def files(tmp_path_factory) -> dict[str, Path]:
    """family -> a MEAF on the tiny U-Nets of test_bases, and its DSID."""
    folder = tmp_path_factory.mktemp("weights")
    encoder = write_dsid(folder, SIZE)
    with pytest.MonkeyPatch.context() as patch:
        for family, shape in SHAPES.items():
            patch.setitem(FAMILIES, family, shape)
        found = {family: write_meaf(folder, family, SIZE, encoder) for family in SHAPES}
    return {**found, "dsid": folder / DSID_FILE.format(SIZE)}


@pytest.mark.parametrize("family", SHAPES)
def test_stable_diffusion_with_a_meaf(folders, files, faces, family):  # noqa: F811
    pipeline = Pipeline.load(folders[family], files[family], files["dsid"], device="cpu", steps=2, detector="none")
    assert pipeline.cfg == 7.0
    job = {"prompt": "a face", "reference": faces["reference"], "width": 64, "height": 128}
    (picture,), (other,) = pipeline(**job, identity=faces["person"]), pipeline(**job, identity=faces["reference"])
    assert picture.size == (64, 128) and np.abs(pixels(picture) - pixels(other)).max() > 0
    assert pipeline("a face", negative="face")[0].size == (128, 128)


def test_codes_of_another_encoder_are_refused(folders, files, faces, tmp_path):  # noqa: F811
    write_dsid(tmp_path, SIZE, seed=5)
    dsid = tmp_path / DSID_FILE.format(SIZE)
    other = Pipeline.load(folders["sd15"], files["sd15"], dsid, device="cpu", detector="none")
    with pytest.raises(
        ValueError, match=rf"reads identity of DSID '{SIZE}' .*, and DSID '{SIZE}' .* was given; give that DSID"
    ):
        other.identity(faces["person"])
    with pytest.raises(ValueError, match=f"reads semantics of DSID '{SIZE}'"):
        other.semantics(faces["person"])
    bare = Pipeline.load(folders["sd15"], device="cpu")
    with pytest.raises(ValueError, match=r"there is no MEAF to fuse photos with this base; give one made for it \(--meaf\)"):
        bare("a face", faces["person"])
    assert bare("a face")[0].size == (128, 128), "the base alone draws"


def test_a_public_identity_is_read_by_its_recogniser(starter, monkeypatch):
    """A MEAF whose identity stream reads buffalo_l: its unit embeddings, their mean, and the length they had."""
    encoder = public_encoder("buffalo_l")
    monkeypatch.setattr(Pipeline, "_encoder", lambda self, stream: encoder)
    vectors = iter(torch.tensor([[3.0, 4.0], [0.0, 10.0]]))
    found = lambda image: recognisers.RecognisedFaces(next(vectors)[None], image)  # noqa: E731
    monkeypatch.setattr(generate, "open_recogniser", lambda name, root: found)
    identity = starter.identity(torch.zeros(2, 8, 8, 3))
    expected = torch.nn.functional.normalize(torch.tensor([[0.3, 0.9]]), dim=-1)
    torch.testing.assert_close(identity.embedding, expected)
    assert identity.encoder == encoder and identity.norm.tolist() == [[7.5]]
    assert isinstance(identity, Identity) and EncoderId(encoder.name, encoder.sha256) == encoder


def test_the_starter_has_its_own_habits():
    pipeline = Pipeline.load(device="cpu")
    assert pipeline.cfg == 5.0 and pipeline.detector == "auto" and pipeline.batch == 25


def test_a_meaf_of_another_starter_is_refused(starter, tmp_path):
    """Their U-Nets are of one shape, so that it could be joined, and would draw nonsense."""
    config, parts = load_starter_tensors(generate.STARTER["base"])
    save_starter_tensors(tmp_path / "other.safetensors", replace(config, name="other"), parts)
    with pytest.raises(ValueError, match="MEAF 'heads' is for heads models, the connected model is other; connect"):
        Pipeline.load(**{**generate.STARTER, "base": tmp_path / "other.safetensors"}, device="cpu")


def test_null_tokens_stand_on_the_negative_half(starter):
    meaf = load_meaf(generate.STARTER["meaf"]).float()
    code = torch.randn(3, meaf.config.streams["pose"].input_width)
    tokens = sampling._guided(meaf, "pose", code)
    assert torch.equal(tokens[:3], meaf.null_tokens("pose", code).expand(3, -1, -1))
    assert torch.equal(tokens[3:], meaf.tokens("pose", code))


def test_guidance_one_is_the_positive_half_alone(starter):
    """out = negative + cfg (positive - negative): with cfg 1 the negative prompt cannot matter, with cfg 0 the prompt."""
    base = starter.base
    noise, texts = starter.noise(0), {word: base.text([word]) for word in ("a person", "forest", "")}
    one = [sampling.sample(base, texts["a person"], texts[word], noise, 2, 1.0) for word in ("", "forest")]
    none = [sampling.sample(base, texts[word], texts[""], noise, 2, 0.0) for word in ("a person", "forest")]
    for pair in (one, none):
        torch.testing.assert_close(*pair, atol=1e-3, rtol=0)
    assert (one[0] - none[0]).abs().max() > 1e-2


def test_sheets_cut_the_middle_square_of_photos():
    photo = torch.zeros(20, 60, 3)
    photo[:, 20:40] = 1
    (page,) = [sheet([photo], [photo], [Image.fromarray(level(128, 40)[:, :40])])]
    assert page.shape == (82, 82, 3) and (page[42:, :40] == 255).all()
    assert read_photos(photo[None])[0].equal(photo)

"""Judges of photographs and their table: with judges of the tests' own, a tiny CLIP and a tiny judge of rendered heads."""

import importlib.util
import json
import sys

import numpy as np
import pytest
import torch

from deepexpo_models.dsid.rotation import euler_to_matrix
from deepexpo_models.evaluation import photos
from deepexpo_models.evaluation.judges.judge import Judge, JudgeConfig, save_judge
from deepexpo_models.evaluation.judges.photos import JUDGES, JudgeFiles, moving, open_judge, pose_of_matrix, rows, to_rgb_levels

PACKAGES = {"insightface": "insightface", "antelopev2": "insightface", "mediapipe": "mediapipe", "hsemotion": "onnxruntime",
            "clip": "transformers", "inception": "cleanfid", "dlib": "dlib"}  # fmt: skip


class ColourJudge:
    """Red is who, green is the expression, blue the yaw; a black picture holds no face."""

    name = "colours"

    def __init__(self, files):
        self.files = files

    def measure(self, images):
        assert images.shape[:2] == (1, 3) and images.min() >= -1 and images.max() <= 1
        red, green, blue = ((images.mean((2, 3)) + 1) / 2).T
        lost = red + green + blue < 0.01
        turn = red * torch.pi / 2
        found = {
            "identity": torch.stack([turn.cos(), turn.sin()], dim=1),
            "blendshapes": green[:, None].repeat(1, 2),
            "emotion": (green[:, None] > 0.5).float(),
            "pose": torch.stack([blue * 90, 0 * blue, 0 * blue], dim=1),
        }
        return {name: values.masked_fill(lost[:, None], torch.nan) for name, values in found.items()}


class WholeJudge:
    """Prompts are answered by their length; features of whole pictures for FID and KID."""

    name = "whole"

    def __init__(self, files):
        pass

    def measure(self, images):
        shade = (images.mean((2, 3))[:, :1] + 1) / 2
        return {"clip": torch.cat([shade, 1 - shade], dim=1), "inception": shade}

    def read(self, prompts):
        return torch.tensor([[1.0, 0.0] if prompt == "bright" else [0.0, 1.0] for prompt in prompts])


@pytest.fixture
def folders(tmp_path, monkeypatch):
    """(folder, name, red, green, blue of 255, size, suffix); returns the arguments for the folders."""
    image = pytest.importorskip("PIL.Image")
    monkeypatch.setitem(JUDGES, "colours", ColourJudge)
    monkeypatch.setitem(JUDGES, "whole", WholeJudge)

    def draw(folder, name, colour, size=(12, 10), suffix="png"):
        (tmp_path / folder).mkdir(exist_ok=True)
        image.new("RGB", size, colour).save(tmp_path / folder / f"{name}.{suffix}")

    for name, person in (("anna", 255), ("ben", 51)):
        draw("identity", name, (person, 0, 0), suffix="bmp")
        draw("reference", name, (0, 255, 51), (7, 9))
        draw("made", name, (person, 255, 51), (20, 20))
        draw("other", name, (255 - person, 51, 0))
    return tmp_path, draw


def arguments(root, *others):
    roles = [part for role in ("made", "identity", "reference") for part in (f"--{role}", str(root / role))]
    return [*roles, *others]


def table(root, *others) -> list[dict]:
    photos.main(arguments(root, "--out", str(root / "out"), *others))
    return json.loads((root / "out" / "photos.json").read_text())["rows"]


def test_what_was_asked_for_gets_the_best_figures(folders, capsys):
    (row,) = table(folders[0], "--judges", "colours", "--note", "25 steps, cfg 3")
    assert row == pytest.approx({
        "judge": "colours", "N": 2, "failures": 0, "CSIM": 1, "ID": 0, "SIM": 0, "SEMCHG": 1, "EXP": 1,
        "POSE": 0, "yaw": 0, "pitch": 0, "roll": 0,
    }, abs=1e-4)  # fmt: skip
    text = (folders[0] / "out" / "photos.md").read_text()
    assert text.startswith("25 steps, cfg 3") and "| judge | N | failures | CSIM |" in text
    assert text in capsys.readouterr().out


def test_failures_count_as_the_worst_and_are_told(folders):
    root, draw = folders
    draw("made", "ben", (0, 0, 0))
    (row,) = table(root, "--judges", "colours")
    assert row["N"] == 2 and row["failures"] == 1
    expected = {"CSIM": 0, "ID": 1, "SIM": 0.5, "SEMCHG": 0.5, "EXP": 0.5, "POSE": 90, "yaw": 90}
    assert {name: row[name] for name in expected} == pytest.approx(expected, abs=1e-4)


def test_a_failure_in_a_reference_is_told_and_kept(folders):
    root, draw = folders
    draw("reference", "ben", (0, 0, 0))
    (row,) = table(root, "--judges", "colours")
    assert row["failures"] == 0 and row["failures in reference"] == 1
    assert row["CSIM"] == pytest.approx(1) and row["SIM"] == pytest.approx(0.5) and row["SEMCHG"] == pytest.approx(0.5)


def test_copy_paste_needs_another_photo(folders):
    (row,) = table(folders[0], "--judges", "colours", "--other", str(folders[0] / "other"))
    turns = torch.tensor([1.0, 0.6]) * torch.pi / 2  # between the person and the other photo
    assert row["CopyPaste"] == pytest.approx(1 - turns.cos().mean().item(), abs=1e-3)


def test_prompts_and_real_pictures(folders):
    """FID of one feature needs more than one picture; means 0.5 apart at no spread are 0.25 apart."""
    root, draw = folders
    for i in range(3):
        draw("real", f"any-{i}", (128, 0, 0))
    for name, colour in (("anna", (255, 0, 0)), ("ben", (255, 0, 0))):
        draw("made", name, colour)
    (root / "prompts.json").write_text(json.dumps({"anna": "bright", "ben": "dark"}))
    first, second = table(
        root, "--judges", "colours, whole", "--prompts", str(root / "prompts.json"), "--real", str(root / "real")
    )
    assert "FID" not in first and "CSIM" not in second
    assert second["CLIP-T"] == pytest.approx(0.5) and second["FID"] == pytest.approx(0.248, abs=1e-3)
    assert second["KID"] == pytest.approx(8 + (1 + 0.502**2) ** 3 - 2 * 1.502**3, abs=0.02)


def test_without_prompts_and_real_pictures_there_are_no_such_figures(folders):
    (row,) = table(folders[0], "--judges", "whole")
    assert row == {"judge": "whole", "N": 2, "failures": 0}


def spoil(root, draw, what):
    if what == "a picture without a partner":
        draw("made", "carl", (9, 9, 9))
    elif what == "no picture":
        (root / "text.json").write_text("{}")
        (root / "made" / "ben.png").write_bytes(b"no picture")
    elif what == "an empty folder":
        for path in (root / "reference").iterdir():
            path.unlink()
    elif what == "two of one name":
        draw("identity", "anna", (1, 1, 1))
    elif what == "a prompt too few":
        (root / "prompts.json").write_text('{"anna": "bright"}')


@pytest.mark.parametrize("what, words", [
    ("a picture without a partner", "identity has no picture for 1 of those made, the first is 'carl'"),
    ("no picture", "not a readable picture"),
    ("an empty folder", "holds no pictures"),
    ("two of one name", "holds two pictures named 'anna'"),
    ("a prompt too few", "has no prompt for 'ben'"),
])  # fmt: skip
def test_what_is_wrong_is_told_in_a_sentence(folders, capsys, what, words):
    root, draw = folders
    spoil(root, draw, what)
    prompts = ("--prompts", str(root / "prompts.json")) if "prompt" in what else ()
    with pytest.raises(SystemExit):
        photos.main(arguments(root, "--judges", "colours", *prompts))
    assert words in capsys.readouterr().err.splitlines()[-1]


@pytest.mark.parametrize("name, package", PACKAGES.items())
def test_a_missing_package_is_named(name, package, monkeypatch):
    for module in {package, *(name for name in sys.modules if name.startswith(f"{package}."))}:
        monkeypatch.setitem(sys.modules, module, None)
    listed = {"cleanfid": "clean-fid"}.get(package, package)
    words = f"the judge {name} cannot be used: this judge needs the Python package {listed} "
    with pytest.raises(ValueError, match=f"^{words}") as caught:
        open_judge(name, JudgeFiles())
    assert "\n" not in str(caught.value)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(ValueError, match=r"needs a judge made by .*, but none was given; give it with --rendered-path"):
        open_judge("rendered", JudgeFiles())
    with pytest.raises(ValueError, match=r"heads\.safetensors is not there"):
        open_judge("rendered", JudgeFiles(rendered=tmp_path / "heads.safetensors"))
    with pytest.raises(ValueError, match="unknown judge 'arcface'; known: insightface, antelopev2, dlib, mediapipe"):
        open_judge("arcface", JudgeFiles())


def test_dlibs_recogniser_knows_a_face_again():
    """scikit-image's astronaut, as she is and mirrored and darker, against no face at all."""
    pytest.importorskip("dlib")
    if importlib.util.find_spec("face_recognition_models") is None:
        pytest.skip("face_recognition_models is not installed")
    face = torch.from_numpy(pytest.importorskip("skimage.data").astronaut()[:256, 96:352].copy()).movedim(-1, 0) / 127.5 - 1
    found = open_judge("dlib", JudgeFiles()).measure(torch.stack([face, face.flip(-1), face * 0.6 - 0.3, face * 0]))["identity"]
    assert found.shape == (4, 128) and found[3].isnan().all()
    assert (found[0] - found[1:3]).norm(dim=1).max() < 0.4, "below 0.6 is one person, says its author"


def test_clip_judge(tmp_path):
    """A tiny CLIP in transformers' own format: pictures and prompts meet in one space."""
    transformers = pytest.importorskip("transformers")
    from deepexpo_models.starter.vocabulary import build_vocabulary, tokens, write_tokenizer

    merges = build_vocabulary(("red", "hat"))
    sizes = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    count = len(tokens(merges))
    words = {**sizes, "vocab_size": count, "max_position_embeddings": 12, "bos_token_id": count - 2, "eos_token_id": count - 1}
    picture = {**sizes, "image_size": 32, "patch_size": 16}
    config = transformers.CLIPConfig(text_config=words, vision_config=picture, projection_dim=8)
    torch.manual_seed(0)
    transformers.CLIPModel(config).save_pretrained(tmp_path)
    write_tokenizer(tmp_path, merges, 12)
    judge = open_judge("clip", JudgeFiles(clip=tmp_path))
    seen, read = judge.measure(torch.rand(2, 3, 40, 50) * 2 - 1)["clip"], judge.read(["red hat", "hat", "red hat"])
    assert seen.shape == (2, 8) and read.shape == (3, 8)
    assert torch.equal(read[0], read[2]) and not torch.allclose(read[0], read[1])
    with pytest.raises(ValueError, match="does not hold a CLIP model"):
        open_judge("clip", JudgeFiles(clip=tmp_path.parent))


def test_our_own_judge_measures_pictures(tmp_path):
    torch.manual_seed(0)
    tiny = Judge(JudgeConfig(64, 32, 32, (16, 16), (16, 16), 16))
    with torch.no_grad():
        tiny.readers["face"].head.bias.fill_(20)
    save_judge(tmp_path / "judge.safetensors", tiny)
    judge = open_judge("rendered", JudgeFiles(rendered=tmp_path / "judge.safetensors"))
    found = judge.measure(torch.rand(2, 3, 48, 48))
    assert {name: tuple(values.shape) for name, values in found.items()} == {
        "identity": (2, 16), "pose": (2, 3), "blendshapes": (2, 12)
    }  # fmt: skip
    assert ((found["blendshapes"] >= 0) & (found["blendshapes"] <= 1)).all()


def test_rows_are_nan_where_nothing_was_found():
    found = rows([np.array([1.0, 2.0]), None], 2)
    assert found[0].tolist() == [1, 2] and found[1].isnan().all() and found.dtype == torch.float32


def test_mediapipe_matrix_and_blendshapes():
    """At rest its matrix is a scaled identity; in its frame, y up and z to the viewer, a turn has the opposite sign."""
    assert pose_of_matrix(np.eye(4) * 3).tolist() == [0, 0, 0]
    angles = torch.tensor([20.0, -10.0, 5.0])
    frame = torch.diag(torch.tensor([1.0, -1.0, -1.0]))
    matrix = np.eye(4)
    matrix[:3, :3] = (frame @ euler_to_matrix(angles) @ frame).numpy() * 2
    assert pose_of_matrix(matrix).tolist() == pytest.approx(angles.tolist(), abs=1e-3)
    turned = pose_of_matrix(np.array([[0, 0, 1, 0], [0, 1, 0, 0], [-1, 0, 0, 0], [0, 0, 0, 1]], dtype=float) + 0.0)
    assert turned[0].abs().item() == pytest.approx(90)

    class Category:
        def __init__(self, name, score):
            self.category_name, self.score = name, score

    assert moving([Category("_neutral", 0.9), Category("jawOpen", 0.2)]) == [0.2]


def test_levels_are_rgb():
    assert to_rgb_levels(torch.tensor([[[1.0, 0.5, 0.0]]])).tolist() == [[[255, 128, 0]]]

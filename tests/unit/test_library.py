"""A library of saved codes: what files say of themselves, the shipped expressions, archives."""

import io
import random
import shutil
import stat
import zipfile
from pathlib import Path

import pytest
import torch

from deepexpo_models.dsid import (
    EncoderId,
    Identity,
    archive,
    arkit_semantics,
    load_identity,
    load_semantics,
    load_thumbnail,
    save_identity,
    save_semantics,
)
from deepexpo_models.dsid.archive import export_codes, import_codes, shared_name
from deepexpo_models.dsid.library import describe, write_expressions
from deepexpo_models.head.expressions import PRESETS, preset_units
from deepexpo_models.safetensors_file import SafetensorsFile
from deepexpo_models.weights import save_tensors
from deepexpo_models.whole_files import WriteError

EXPRESSIONS = Path(__file__).parents[2] / "expressions"


def person(seed: int = 0) -> Identity:
    draw = torch.randn(2, 8, generator=torch.Generator().manual_seed(seed))
    return Identity(torch.nn.functional.normalize(draw, dim=-1), EncoderId("somebody", "a" * 64))


def zipped(**files: bytes) -> bytes:
    written = io.BytesIO()
    with zipfile.ZipFile(written, "w", zipfile.ZIP_DEFLATED) as packed:
        for name, content in files.items():
            packed.writestr(name, content)
    return written.getvalue()


@pytest.fixture
def saved(tmp_path) -> Path:
    path = tmp_path / "ann.safetensors"
    save_identity(path, person(), tags=("friend", "friend", " blue eyes "))
    return path


def test_a_file_says_what_it_holds(saved):
    entry = describe(saved)
    assert (entry.kind, entry.encoder, entry.encoder_sha256, entry.count) == ("identity", "somebody", "a" * 64, 2)
    assert entry.tags == ("friend", "blue eyes") and not entry.has_picture
    assert torch.equal(load_identity(saved).embedding, person().embedding)


def test_a_description_is_of_the_header_alone(tmp_path, monkeypatch):
    """Nothing else is read, so that a large library is listed at once."""
    save_identity(tmp_path / "ann.safetensors", person(), torch.zeros(128, 128, 3, dtype=torch.uint8))
    save_identity(tmp_path / "bea.safetensors", person(), torch.zeros(64, 64, 3, dtype=torch.uint8))
    told = {name: load_thumbnail(tmp_path / f"{name}.safetensors") is not None for name in ("ann", "bea")}
    monkeypatch.delattr(SafetensorsFile, "_read")
    assert (
        {name: describe(tmp_path / f"{name}.safetensors").has_picture for name in told} == told == {"ann": True, "bea": False}
    )


def test_other_files_are_no_codes(tmp_path):
    path = tmp_path / "head.safetensors"
    save_tensors(path, "head", {"points": torch.zeros(1)}, name="head", config={})
    with pytest.raises(ValueError, match=r"head\.safetensors holds head data, no saved code"):
        describe(path)


def test_the_shipped_expressions_are_the_presets():
    names = {path.stem for path in EXPRESSIONS.glob("*.safetensors")}
    assert names == {"resting", *PRESETS}
    for name in PRESETS:
        code = load_semantics(EXPRESSIONS / f"{name}.safetensors")
        assert code.encoder.name == "arkit52" and torch.equal(code.expression[0], preset_units(name))


def test_the_command_makes_the_shipped_files(tmp_path):
    written = write_expressions(tmp_path)
    assert {path.name for path in written} == {path.name for path in EXPRESSIONS.glob("*.safetensors")}
    happy = tmp_path / "happy.safetensors"
    assert describe(happy) == describe(EXPRESSIONS / "happy.safetensors") and describe(happy).has_picture
    drawn, shipped = (load_thumbnail(folder / "happy.safetensors").int() for folder in (tmp_path, EXPRESSIONS))
    assert (drawn - shipped).abs().float().mean() < 1, "another OpenCV draws its edges a little differently"
    sad = load_thumbnail(EXPRESSIONS / "sad.safetensors").int()
    assert (sad - shipped).abs().float().mean() > 1


def test_out_of_a_library_and_into_another(tmp_path, saved):
    look = tmp_path / "smile.safetensors"
    save_semantics(look, arkit_semantics(torch.zeros(1, 52)))
    content = export_codes([("ann.safetensors", saved), ("looks/smile.safetensors", look)])
    folder = tmp_path / "other"
    paths = import_codes(content, folder)
    assert [path.relative_to(folder).as_posix() for path in paths] == ["ann.safetensors", "looks/smile.safetensors"]
    assert paths[0].read_bytes() == saved.read_bytes() and paths[1].read_bytes() == look.read_bytes()
    again = import_codes(content, folder)
    assert [path.name for path in again] == ["ann_2.safetensors", "smile_2.safetensors"], "nothing is overwritten"


BAD_NAMES = ["../ann.safetensors", "/ann.safetensors", "a/../../b.safetensors", "a\\b.safetensors", "C:x.safetensors", "ann.pt",
             "a/. /b.safetensors", "x" * 200 + ".safetensors", "a\nb.safetensors"]  # fmt: skip


@pytest.mark.parametrize("name", BAD_NAMES)
def test_names_that_leave_the_folder_are_refused(tmp_path, saved, name):
    refused(zipped(**{name: saved.read_bytes()}), tmp_path / "in", "no name of a saved code in a library")


def refused(content: bytes, folder: Path, words: str) -> None:
    with pytest.raises(ValueError, match=words) as caught:
        import_codes(content, folder)
    assert "\n" not in str(caught.value) and not list(folder.rglob("*")), "nothing is written"


def test_links_are_refused(tmp_path):
    entry = zipfile.ZipInfo("ann.safetensors")
    entry.external_attr = (stat.S_IFLNK | 0o777) << 16
    written = io.BytesIO()
    with zipfile.ZipFile(written, "w") as packed:
        packed.writestr(entry, "/etc/passwd")
    refused(written.getvalue(), tmp_path / "in", "no name of a saved code")


def test_one_bad_file_stops_all(tmp_path, saved):
    good = saved.read_bytes()
    refused(zipped(**{"a.safetensors": good, "b.safetensors": good[:-9]}), tmp_path / "in", r"b\.safetensors is truncated")
    refused(zipped(**{"b.safetensors": b"nothing"}), tmp_path / "in", r"b\.safetensors")


@pytest.mark.parametrize(
    "content, words", [(b"", "no archive"), (b"PK\x05\x06" + bytes(18), "holds no files"), (b"x" * 99, "no archive")]
)
def test_what_is_no_archive_is_one_sentence(tmp_path, content, words):
    refused(content, tmp_path / "in", words)


COMPRESSIONS = {
    "stored": zipfile.ZIP_STORED,
    "deflated": zipfile.ZIP_DEFLATED,
    "bzip2": zipfile.ZIP_BZIP2,
    "lzma": zipfile.ZIP_LZMA,
}


@pytest.mark.parametrize("compression", COMPRESSIONS)
def test_damaged_archives_are_one_sentence(tmp_path, saved, compression):
    """However packed, and wherever a byte is another or the rest is missing: refused, or read as it was, and nothing else."""
    written = io.BytesIO()
    with zipfile.ZipFile(written, "w", COMPRESSIONS[compression]) as packed:
        packed.write(saved, "looks/ann.safetensors")
    whole, draw, folder, bad = written.getvalue(), random.Random(0), tmp_path / "in", 0
    for number in range(300):
        place = draw.randrange(len(whole))
        content = whole[:place] if number % 10 == 0 else whole[:place] + bytes([draw.randrange(256)]) + whole[place + 1 :]
        try:
            paths = import_codes(content, folder)
        except ValueError as error:
            bad += 1
            assert str(error) and "\n" not in str(error) and not folder.exists()
        else:
            assert [path.read_bytes() for path in paths] == [saved.read_bytes()]
            shutil.rmtree(folder)
    assert bad > 100


def test_all_or_none_even_where_the_disk_refuses(tmp_path, saved):
    """The second name needs a folder where the first one's file is."""
    good, folder = saved.read_bytes(), tmp_path / "in"
    content = zipped(**{"looks/ann.safetensors": good, "looks/ann.safetensors/bea.safetensors": good})
    with pytest.raises(WriteError, match=r"bea\.safetensors could not be written"):
        import_codes(content, folder)
    assert not folder.exists()
    (folder / "looks").mkdir(parents=True)
    (folder / "looks" / "cat.safetensors").write_bytes(good)
    with pytest.raises(WriteError):
        import_codes(content, folder)
    assert [path.name for path in folder.rglob("*")] == ["looks", "cat.safetensors"], "what was there stays"


def test_archives_are_bounded(tmp_path, saved, monkeypatch):
    monkeypatch.setattr(archive, "MOST_FILES", 2)
    refused(
        zipped(**{f"{n}.safetensors": b"" for n in range(3)}),
        tmp_path / "in",
        "3 files are too many for one archive .at most 2.; split it",
    )
    with pytest.raises(ValueError, match="3 files are too many"):
        export_codes([(name, saved) for name in "abc"])
    refused(
        zipped(**{"bomb.safetensors": bytes(17 << 20)}), tmp_path / "in", r"bomb\.safetensors' has 17 MB, a code at most 16"
    )
    monkeypatch.setattr(archive, "LARGEST_ARCHIVE", 3 << 20)
    twice = zipped(**{f"{n}.safetensors": bytes(2 << 20) for n in range(2)})
    refused(twice, tmp_path / "in", "unpacks to 4 MB, at most 3")


def test_an_export_is_bounded_as_an_import_is(tmp_path, saved, monkeypatch):
    """Whatever is exported can be imported: one file of the largest size, all of them together, and the zip file itself."""
    size = saved.stat().st_size
    files = [(f"{number}.safetensors", saved) for number in range(3)]
    for bound, most, words in (
        ("LARGEST_FILE", size, r"'0\.safetensors' has \d+ MB, a code at most"),
        ("LARGEST_ARCHIVE", 3 * size, "the archive unpacks to"),
    ):
        with monkeypatch.context() as patch:
            patch.setattr(archive, bound, most)
            assert len(import_codes(export_codes(files), tmp_path / bound)) == 3
            patch.setattr(archive, bound, most - 1)
            with pytest.raises(ValueError, match=words):
                export_codes(files)
    longest = "/".join(7 * ["d" * 120]) + f"/{'n' * 120}.safetensors"
    content = export_codes([(longest, saved)] * 3)
    assert len(content) - 3 * size < 3 * (archive.LARGEST_PACKED - archive.LARGEST_ARCHIVE) / archive.MOST_FILES
    monkeypatch.setattr(archive, "LARGEST_PACKED", len(content) - 1)
    refused(content, tmp_path / "in", "the archive has 0 MB, at most 0 are taken; split it")


FACE = "\U0001f600"  # four bytes
STEMS = ["ann", "ANN", "ann", 'what? "ann": <a|b>*', "a\\b\x07", "/abs/a", "my [face]", "../../up", 250 * "n", 251 * "n",
         60 * FACE, "bad\udcff", "", "1/2/3/4/5/6/7/8/9/ann", "a/./b//c"]  # fmt: skip
ODD_NAMES = [*(f"{stem}.safetensors" for stem in STEMS), "b.SAFETENSORS", "no suffix", "..", ""]


def test_every_name_can_be_shared(tmp_path, saved):
    """Whatever files are called, they all come out of one library and into another, under names that no system refuses."""
    paths = import_codes(export_codes([(name, saved) for name in ODD_NAMES]), tmp_path / "in")
    names = [path.relative_to(tmp_path / "in").as_posix() for path in paths]
    assert len({name.casefold() for name in names}) == len(ODD_NAMES)
    stems = ["ann", "ANN_2", "ann_3", "what_ _ann__ _a_b__", "a_b_", "abs/a", "my [face]", "up"]
    assert names[: len(stems)] == [f"{stem}.safetensors" for stem in stems]
    assert all(len(part) <= 120 and len(part.encode()) <= 240 for name in names for part in name.split("/"))


def test_a_shared_name_stays_as_it_is():
    draw = random.Random(0)
    letters = 'abcABC.. //\\:*?"<>|\x00\n\t_[]é猫\U0001f600\udc80'
    for length in (*range(30), *range(100, 400, 7)):
        name = "".join(draw.choices(letters, k=length)) + draw.choice(("", ".safetensors"))
        shared = shared_name(name)
        assert shared_name(shared) == shared and shared.lower().endswith(".safetensors")
        assert shared_name(shared_name(name, 20), 20) == shared_name(name, 20) == shared_name(shared_name(name, 20))


def test_nothing_to_export_is_one_sentence():
    with pytest.raises(ValueError, match="there is nothing to export"):
        export_codes([])


def test_the_command_exports_and_imports(tmp_path, saved, capsys):
    packed, folder = tmp_path / "all.zip", tmp_path / "in"
    archive.main(["export", str(packed), str(tmp_path)])
    archive.main(["import", str(packed), str(folder)])
    assert "1 codes in" in capsys.readouterr().out and (folder / "ann.safetensors").read_bytes() == saved.read_bytes()

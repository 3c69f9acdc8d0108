"""Files that users, other programs and links put into ComfyUI's folders: no schema fails, no stale file is used, nothing that
is listed is refused."""

import os
import shutil
import time
from pathlib import Path

import pytest
import torch

import random_weights
from rig.pack import DSID_CONFIG, the_pack, weights_folder

BAD = {
    "metadata": b'\x14\0\0\0\0\0\0\0{"__metadata__":[1]}',  # 28 bytes that took all nodes away
    "deep": (400_000).to_bytes(8, "little") + b"[" * 200_000 + b"]" * 200_000,
    "empty": b"",
    "pickle": b"\x80\x04pickle",
}
LOADERS = {"DeepExPoLoadDSID": "dsid_name", "DeepExPoLoadMEAF": "meaf_name"}
CODES = ("DeepExPoLoadIdentity", "DeepExPoLoadSemantics")


def folder(which: str) -> Path:
    import folder_paths

    roots = {"output": folder_paths.get_output_directory(), "input": folder_paths.get_input_directory()}
    path = Path(roots[which], "deepexpo") if which in roots else weights_folder()
    path.mkdir(parents=True, exist_ok=True)
    return path


def options(pack, node: str) -> list[str]:
    return pack.loaded.nodes[node].define_schema().inputs[0].options


@pytest.fixture(scope="module")
def pack():
    return the_pack()


@pytest.fixture
def clean(pack):
    """No saved codes before and after."""
    paths = [folder(which) for which in ("output", "input")]
    for path in paths:
        path.unlink() if path.is_symlink() else shutil.rmtree(path)
    yield
    for path in paths:
        path.unlink() if path.is_symlink() else shutil.rmtree(path, ignore_errors=True)


@pytest.fixture(scope="module")
def person(pack):
    return pack.run("DeepExPoEncodeIdentity", image=torch.rand(1, 64, 64, 3), dsid=pack.dsid())


def forget_lists() -> None:
    import folder_paths

    folder_paths.filename_list_cache.clear()


@pytest.mark.parametrize("name", BAD)
@pytest.mark.parametrize("where", ["models", "output", "input"])
def test_a_bad_file_never_fails_a_schema(pack, clean, caplog, where, name):
    pack.dsid()
    path = folder(where) / f"0-{name}-{where}.safetensors"
    path.write_bytes(BAD[name])
    forget_lists()
    try:
        with caplog.at_level("WARNING"):
            for node in (*LOADERS, *CODES):
                listed = options(pack, node)
                if (node in LOADERS) == (where == "models"):
                    assert path.name in listed[-1], "it is listed last"
                    with pytest.raises(ValueError, match=path.name) as caught:
                        pack.run(node, **{LOADERS.get(node, "name"): listed[-1]})
                    assert "\n" not in str(caught.value) and str(path.parent) not in str(caught.value)
            for node in (*LOADERS, *CODES):
                options(pack, node)
        assert sum(path.name in record.getMessage() for record in caplog.records) == 1, "one log line"
    finally:
        path.unlink()
        forget_lists()


def test_a_named_pipe_does_not_block(pack, clean):
    if not hasattr(os, "mkfifo"):
        pytest.skip("no named pipes here")
    os.mkfifo(folder("output") / "pipe.safetensors")
    started = time.monotonic()
    assert "pipe" in options(pack, "DeepExPoLoadIdentity")[-1]
    with pytest.raises(ValueError, match="pipe"):
        pack.run("DeepExPoLoadIdentity", name="deepexpo/pipe.safetensors [output]")
    assert time.monotonic() - started < 5


def test_thousands_of_codes_cost_a_schema_little_once_known(pack, clean, person):
    first = pack.run("DeepExPoSaveIdentity", filename_prefix="deepexpo/me", identity=person).removesuffix(" [output]")
    source = folder("output").parent / first
    for number in range(3000):
        os.link(source, source.with_name(f"copy{number}.safetensors"))
    names = options(pack, "DeepExPoLoadIdentity")
    assert len(names) == 3001 and not set(names) & set(options(pack, "DeepExPoLoadSemantics"))
    time.sleep(0.15)
    options(pack, "DeepExPoLoadIdentity")
    costs = []
    for _ in range(5):
        started = time.process_time()
        assert len(options(pack, "DeepExPoLoadIdentity")) == 3001
        costs.append(time.process_time() - started)
    assert min(costs) < 0.010
    source.unlink()
    assert len(options(pack, "DeepExPoLoadIdentity")) == 3000, "a change is seen at once"


def test_a_repaired_file_is_listed_as_what_it_is(pack, clean, person):
    name = pack.run("DeepExPoSaveIdentity", filename_prefix="deepexpo/me", identity=person)
    path = folder("output").parent / name.removesuffix(" [output]")
    good = path.read_bytes()
    path.write_bytes(good[:20])
    assert name in options(pack, "DeepExPoLoadSemantics")
    time.sleep(0.15)
    options(pack, "DeepExPoLoadSemantics")
    path.write_bytes(good)
    assert name not in options(pack, "DeepExPoLoadSemantics") and name in options(pack, "DeepExPoLoadIdentity")


@pytest.mark.parametrize("node", LOADERS)
def test_a_replaced_weight_file_is_another_and_a_deleted_one_is_told(pack, node):
    pack.dsid()
    source = (
        weights_folder()
        / {
            "DeepExPoLoadDSID": random_weights.DSID_FILE.format(DSID_CONFIG),
            "DeepExPoLoadMEAF": random_weights.MEAF_FILE.format("tiny-sd15", "light"),
        }[node]
    )
    pack.meaf("sd15")
    path, loader = weights_folder() / "mine.safetensors", pack.loaded.nodes[node]
    shutil.copy(source, path)
    before, status = loader.fingerprint_inputs(path.name), path.stat()
    assert before == loader.fingerprint_inputs(path.name) and loader.validate_inputs(path.name) is True
    changed = bytearray(path.read_bytes())
    changed[-1] ^= 1
    path.write_bytes(changed)
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
    assert loader.fingerprint_inputs(path.name) != before, "size and time of change are the same"
    path.unlink()
    assert "mine.safetensors' is in none of the deepexpo model folders" in loader.validate_inputs(path.name)
    assert loader.validate_inputs() is True, "a linked name is judged when it is there"


def test_a_loaded_model_outlives_its_file(pack):
    pack.dsid()
    path = weights_folder() / "cut.safetensors"
    shutil.copy(weights_folder() / random_weights.DSID_FILE.format(DSID_CONFIG), path)
    image = torch.rand(1, 64, 64, 3)
    dsid = pack.run("DeepExPoLoadDSID", dsid_name=path.name)
    os.truncate(path, 1000)
    after = pack.run("DeepExPoEncodeIdentity", dsid=dsid, image=image).embedding
    path.unlink()
    assert torch.equal(after, pack.run("DeepExPoEncodeIdentity", dsid=pack.dsid(), image=image).embedding)


def follows_links() -> bool:
    """ComfyUI from 0.28 refuses links that lead out of its folders."""
    import folder_paths

    return not hasattr(folder_paths, "is_within_directory")


def test_what_is_listed_is_read_whatever_is_a_link(pack, clean, person, tmp_path):
    pack.run("DeepExPoSaveIdentity", filename_prefix="deepexpo/plain", identity=person)
    saved = next(folder("output").glob("plain*"))
    for name in ("a", "b", "c"):
        (tmp_path / name).mkdir()
        shutil.copy(saved, tmp_path / name / "x.safetensors")
    (folder("output") / "inside").mkdir()
    shutil.copy(saved, folder("output") / "inside" / "y.safetensors")
    (folder("output") / "again").symlink_to(folder("output") / "inside", target_is_directory=True)
    (folder("output") / "loop").symlink_to(folder("output"), target_is_directory=True)
    (folder("output") / "inside" / "loop").symlink_to(folder("output"), target_is_directory=True)
    (folder("output") / "shared").symlink_to(tmp_path / "a", target_is_directory=True)
    (folder("output") / "file.safetensors").symlink_to(tmp_path / "b" / "x.safetensors")
    folder("input").rmdir()
    (folder("output").parents[1] / "input" / "deepexpo").symlink_to(tmp_path / "c", target_is_directory=True)
    listed = options(pack, "DeepExPoLoadIdentity")
    outside = {"deepexpo/shared/x.safetensors [output]", "deepexpo/file.safetensors [output]", "deepexpo/x.safetensors"}
    inside = {f"deepexpo/{name} [output]" for name in (saved.name, "inside/y.safetensors", "again/y.safetensors")}
    assert set(listed) == (inside | outside if follows_links() else inside) and len(listed) == len(set(listed))
    for name in listed:
        assert pack.loaded.nodes["DeepExPoLoadIdentity"].validate_inputs(name) is True
        assert torch.equal(pack.run("DeepExPoLoadIdentity", name=name).embedding, person.embedding)


OUTSIDE = ("../x.safetensors", "deepexpo/../../x.safetensors", "/etc/passwd", "../outputs/x.safetensors [output]")


@pytest.mark.parametrize("name", [*OUTSIDE, 5, "a\0b", "deepexpo/gone.safetensors", "\ud800"])
def test_names_that_are_no_codes_are_one_sentence(pack, name):
    said = pack.loaded.nodes["DeepExPoLoadIdentity"].validate_inputs(name)
    assert isinstance(said, str) and "\n" not in said and len(said) < 200
    assert ("outside" in said) == (name in OUTSIDE)


@pytest.mark.parametrize("prefix", ["x" * 300, "deepexpo/" + "ä" * 130, "a\0b", "\ud800", "../../x", 5])
def test_prefixes_that_can_be_no_name_are_one_sentence(pack, clean, person, prefix):
    with pytest.raises(ValueError) as caught:
        pack.run("DeepExPoSaveIdentity", filename_prefix=prefix, identity=person)
    said = str(caught.value)
    assert "\n" not in said and len(said) < 200 and str(folder("output").parent) not in said


def test_a_name_as_long_as_can_be_is_saved_and_loaded(pack, clean, person):
    name = pack.run("DeepExPoSaveIdentity", filename_prefix="deepexpo/" + "x" * 236, identity=person)
    assert name in options(pack, "DeepExPoLoadIdentity")
    assert torch.equal(pack.run("DeepExPoLoadIdentity", name=name).embedding, person.embedding)


def test_with_nothing_saved_the_loader_says_so(pack, clean):
    (only,) = options(pack, "DeepExPoLoadIdentity")
    assert "no identity is saved yet" in pack.loaded.nodes["DeepExPoLoadIdentity"].validate_inputs(only)
    assert pack.loaded.nodes["DeepExPoLoadIdentity"].validate_inputs() is True


def test_the_saved_name_links_to_the_loader(pack):
    from comfy_execution.validation import validate_node_input

    saved = pack.loaded.nodes["DeepExPoSaveIdentity"].RETURN_TYPES[0]
    assert validate_node_input(saved, "COMBO") and validate_node_input(saved, "STRING")


def test_a_saved_code_with_bad_values_names_its_file(pack, clean, person):
    name = pack.run("DeepExPoSaveIdentity", filename_prefix="deepexpo/me", identity=person)
    save, path = pack.module("deepexpo_models.weights").save_tensors, folder("output").parent / name.removesuffix(" [output]")
    save(path, "identity", {"identity": person.embedding * torch.nan}, name="x", config={}, encoder_sha256="0")
    with pytest.raises(ValueError, match=f"{path.name} cannot be used: embedding holds values that are not finite"):
        pack.run("DeepExPoLoadIdentity", name=name)

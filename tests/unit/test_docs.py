"""README and docs say what is so: snippets run or are parsed, tables name what is there, links lead somewhere."""

import argparse
import json
import re
import runpy
import shlex
import shutil
import sys
import xml.etree.ElementTree as ET
from pathlib import Path

import pytest
import torch
from PIL import Image

from test_layout import HEAVY_ALLOWED, LIBRARY, MODULES, ROOT, imports, room

README = ROOT / "README.md"
HELP = sorted((ROOT / "web" / "docs").glob("*.md"))
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md"), ROOT / "weights" / "README.md", *HELP])
WORDS = 1050  # of the README at most
BLOCK = re.compile(r"^```(\w*)\n(.*?)^```$", re.M | re.S)
LINK = re.compile(r"!?\[[^\]]*\]\(([^)\s]+)\)")
ROW = re.compile(r"^\| (.+?) \| (.+) \|$", re.M)
SVG = "{http://www.w3.org/2000/svg}"
# Commands whose tests are elsewhere, or that are others' own.
ELSEWHERE = {
    "python demo.py": "test_commands",
    "python tests/run.py": "test_commands",
    "python tests/check_types.py": "test_commands",
    "python ComfyUI-DeepExPo/install.py": "test_package",
    "python tests/comfy/main_job.py": "test_workflows",
}
RUNS = "deepexpo_models.pipeline"  # without --base it needs no file but the pack's, and takes seconds
OTHERS = ("cd", "dask", "git", "pip")
TOOLS = ("pytest", "ruff")
SET = re.compile(r"^(\w+=\S+ )+")  # variables before a command


def read(path: Path) -> str:
    return path.read_text(encoding="utf-8")


def blocks(*languages: str) -> list:
    found = [(page, text) for page in PAGES for language, text in BLOCK.findall(read(page)) if language in languages]
    counted: dict[Path, int] = {}
    return [
        pytest.param(text, id=f"{page.parent.name}-{page.stem}-{counted.setdefault(page, 0)}")
        for page, text in found
        if [counted.update({page: counted.get(page, -1) + 1})]
    ]


def commands(text: str) -> list[list[str]]:
    """A shell block -> the words of each command; comments and line ends joined as a shell does, variables left out."""
    lines = text.replace("\\\n", " ").splitlines()
    parts = [part for line in lines for part in re.split(r"[;&]+ ", line)]
    found = [shlex.split(SET.sub("", part.strip()), comments=True) for part in parts]
    return [words for words in found if words]


class Parsed(Exception):
    """The options were accepted; nothing was run."""


def module_and_options(words: list[str]) -> tuple[str, list[str]]:
    """A module's name or a script's path, and what it is given."""
    if "-m" not in words:
        return words[1], words[2:]
    at = words.index("-m")
    return words[at + 1], words[at + 2 :]


def run_module(module: str, options: list[str], monkeypatch) -> None:
    monkeypatch.setattr(sys, "argv", [module, *options])
    if module.endswith(".py"):
        monkeypatch.syspath_prepend((ROOT / module).parent)
        runpy.run_path(str(ROOT / module), run_name="__main__")
        return
    monkeypatch.delitem(sys.modules, module, raising=False)
    monkeypatch.delitem(sys.modules, f"{module}.__main__", raising=False)
    runpy.run_module(module, run_name="__main__", alter_sys=False)


@pytest.fixture
def clone(tmp_path, monkeypatch) -> Path:
    """A folder that holds what a clone ships for the snippets."""
    shutil.copytree(ROOT / "workflows" / "samples", tmp_path / "workflows" / "samples")
    (tmp_path / "weights").symlink_to(ROOT / "weights")
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize("text", blocks("python"))
def test_python_runs_as_written(text, clone):
    torch.manual_seed(0)
    exec(compile(text, "snippet", "exec"), {})
    for saved in re.findall(r'save\("(.+?)"\)', text):
        assert Image.open(saved).size == (128, 128)


@pytest.mark.parametrize("text", blocks("bash", "sh"))
def test_commands_run_or_are_parsed_as_written(text, clone, monkeypatch):
    """The pipeline's run; of the others, which need files of the user's or hours, every option and value is accepted."""
    parse = argparse.ArgumentParser.parse_args

    def only_parse(self, args=None, namespace=None):
        parse(self, args, namespace)
        raise Parsed

    for words in commands(text):
        if words[0] in OTHERS or any(known in " ".join(words) for known in ELSEWHERE):
            continue
        module, options = module_and_options(words)
        assert words[0].removeprefix(".venv/bin/") in ("python", "accelerate"), words
        if module in TOOLS:
            assert all((ROOT / word).exists() for word in options if "/" in word)
            continue
        with monkeypatch.context() as patch:
            if module == RUNS and "--base" not in options:
                run_module(module, options, patch)
                assert Image.open(options[options.index("--out") + 1]).size == (128, 128)
                continue
            patch.setattr(argparse.ArgumentParser, "parse_args", only_parse)
            with pytest.raises(Parsed):
                run_module(module, options, patch)


@pytest.mark.parametrize("text", blocks("json"))
def test_the_label_format_is_read_as_written(text, clone):
    from deepexpo_models.data.clips.labels import read_labels

    (clone / "labels.json").write_text(text)
    skipped: list = []
    labels, fps, _ = read_labels(clone / "labels.json", skipped)
    assert not skipped and fps == json.loads(text)["fps"] and labels.keys() == {0}
    assert labels[0][:13] == (96, 110, 160, 110, 128, 150, 104, 180, 152, 180, 12.5, -3.0, 1.0)


@pytest.mark.parametrize("text", blocks("yaml"))
def test_accelerate_takes_its_settings_as_written(text, clone):
    from accelerate.commands.config.config_args import ClusterConfig

    (clone / "fsdp.yaml").write_text(text)
    settings = ClusterConfig.from_yaml_file("fsdp.yaml")
    assert settings.num_processes == 2 and settings.fsdp_config["fsdp_version"] == 2


@pytest.mark.parametrize("page", PAGES, ids=lambda page: f"{page.parent.name}-{page.stem}")
def test_every_block_says_what_it_is(page):
    """So that a test above reads it; what is shown alone is text."""
    found = BLOCK.findall(read(page))
    assert {language for language, _ in found} <= {"bash", "sh", "python", "json", "yaml", "text"}
    assert 2 * len(found) == sum(line.lstrip().startswith("```") for line in read(page).splitlines())


@pytest.mark.parametrize("command", ELSEWHERE)
def test_the_commands_tested_elsewhere_are_there(command):
    assert (ROOT / command.split()[1].removeprefix("ComfyUI-DeepExPo/")).is_file()


@pytest.mark.parametrize("page", PAGES, ids=lambda page: f"{page.parent.name}-{page.stem}")
def test_links_lead_somewhere(page):
    targets = [target for target in LINK.findall(BLOCK.sub("", read(page))) if not target.startswith("http")]
    broken = []
    for target in targets:
        name, _, section = target.partition("#")
        path = (page.parent / name) if name else page
        headings = [re.sub(r"[^\w -]", "", line.lstrip("# ").lower()).replace(" ", "-")
                    for line in read(path).splitlines() if line.startswith("#")] if section else []  # fmt: skip
        if not path.exists() or (section and section not in headings):
            broken.append(target)
    assert not broken


def test_every_page_is_reached_from_the_readme():
    """Help pages are reached from their nodes."""
    seen, todo = set(), [README]
    while todo:
        page = todo.pop()
        seen.add(page.resolve())
        links = [(page.parent / target.partition("#")[0]).resolve() for target in LINK.findall(read(page))]
        todo += [link for link in links if link.suffix == ".md" and link.is_file() and link not in seen]
    assert not {page.resolve() for page in PAGES if page not in HELP} - seen


def test_the_readme_is_short_and_its_pictures_are_small():
    assert len(read(README).split()) <= WORDS
    pictures = [ROOT / target for target in LINK.findall(read(README)) if target.endswith((".webp", ".jpg", ".png", ".svg"))]
    assert pictures and all(path.stat().st_size < 200_000 for path in pictures)


def section(title: str) -> str:
    """The text of the README below a heading."""
    return read(README).split(f"\n## {title}\n", 1)[1].split("\n## ", 1)[0]


def first_cells(title: str) -> list[str]:
    return [name for first, _ in ROW.findall(section(title)) for name in first.split(", ")][1:]


def test_the_table_of_nodes_names_each_node_once():
    """By the titles of their help pages, of which tests/comfy/test_nodes.py says that each node has one, named as it is."""
    pages = [read(path).splitlines()[0].removeprefix("# ") for path in HELP]
    assert sorted(first_cells("Nodes")) == sorted(pages)


def test_the_table_of_templates_names_each_file_once():
    named = [name.strip("`") for name in first_cells("Templates")]
    assert sorted(named) == sorted(path.stem for path in (ROOT / "workflows").glob("*.json"))


def test_the_downloads_are_those_of_the_template():
    template = json.loads(read(ROOT / "workflows" / "02_photo_sd15.json"))
    files = [file for node in template["nodes"] for file in node["properties"].get("models", [])]
    rows = ROW.findall(section("First picture of a photograph"))
    assert files
    for file in files:
        (row,) = [row for row in rows if file["name"] in row[0]]
        assert f"models/{file['directory']}" in row[1]
        owner = "/".join(file["url"].split("/")[3:5])
        assert owner in row[0] or "checkpoint" in row[0]


def rooms() -> dict[str, ET.Element]:
    return {group.get("id"): group for group in ET.parse(ROOT / "docs" / "pictures" / "rooms.svg").getroot().iter(f"{SVG}g")}


def test_the_picture_of_the_rooms_shows_the_folders_and_who_imports_whom():
    drawn = {name: group.find(f"{SVG}rect") for name, group in rooms().items()}
    folders = {path.name for path in LIBRARY.iterdir() if path.is_dir() and not path.name.startswith("_")}
    assert drawn.keys() == folders | {"shared_blocks", "nodes", "comfy_host"}
    heights = {name: float(box.get("y")) for name, box in drawn.items()}
    edges = {(path.relative_to(LIBRARY).parts[0], room(name)) for path in MODULES for name in imports(path)}
    edges = {(one, other) for one, other in edges if one != other and {one, other} <= folders}
    assert edges and not [(one, other) for one, other in edges if heights[one] >= heights[other]]
    assert all(heights["shared_blocks"] > heights[name] for name in folders)
    colours = {name: box.get("fill") for name, box in drawn.items() if name in folders}
    heavy = {name for name in folders if f"{name}/" in HEAVY_ALLOWED}
    assert {colours[name] for name in heavy}.isdisjoint({colours[name] for name in folders - heavy})


def test_the_head_of_the_sizes_is_the_one_that_the_benchmark_writes():
    import benchmark_sizes

    assert read(ROOT / "docs" / "sizes.md").startswith(benchmark_sizes.HEAD)

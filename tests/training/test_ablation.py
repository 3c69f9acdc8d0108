"""The ablation of DSID end to end, on tiny runs."""

import json

import pytest
import torch

from deepexpo_models.dsid.rotation import euler_to_matrix
from deepexpo_models.evaluation.real_frames import RealFrames, save_frames
from deepexpo_models.training import ablation
from fake_heads import write_fake_heads


@pytest.fixture
def frames(tmp_path):
    turns, units = euler_to_matrix(torch.randn(12, 3) * 10), torch.rand(12, 52)
    twice = torch.stack([turns, turns], 1), torch.stack([units, units], 1)
    crops = torch.randint(256, (12, 3, 256, 256), dtype=torch.uint8)
    kept = RealFrames(crops, turns, units, torch.zeros(12, 5, 2), torch.arange(12), *twice, tuple("abcdefghijkl"))
    save_frames(tmp_path / "frames.npz", kept)
    return tmp_path / "frames.npz"


def test_rows_reach_their_runs_and_are_kept(frames, tmp_path, monkeypatch):
    """Without labels none is learned from, whatever the shards hold; all rows are measured on the same real frames."""
    heads = write_fake_heads(tmp_path / "heads", size=64)
    rows = ("labels alone", "pairs and swaps alone")
    monkeypatch.setattr(ablation, "ROWS", {name: ablation.ROWS[name] for name in rows})
    small = ("--out", tmp_path / "out", "--steps", 2, "--batch-size", 4, "--threads", 1)
    command = [str(part) for part in [*small, "--heads", heads, "--frames", frames]]
    ablation.main(command)
    table = json.loads((tmp_path / "out" / "ablation.json").read_text())
    assert [row["row"] for row in table] == ["untrained", *rows] and all(-1 <= row["jaw"] <= 1 for row in table)
    logged = [(tmp_path / "out" / name.replace(" ", "-") / "log.jsonl").read_text() for name in rows]
    assert '"label"' in logged[0] and '"picture"' not in logged[0]
    assert '"picture"' in logged[1] and not any(f'"{name}"' in logged[1] for name in ("label", "traits", "pose"))
    trained = lambda: {path: path.stat().st_mtime_ns for path in (tmp_path / "out").glob("*/dsid.safetensors")}  # noqa: E731
    before = trained()
    ablation.main(command)
    assert trained() == before and len(before) == 2


@pytest.mark.parametrize("left_out", ["--heads", "--frames"])
def test_what_is_missing_is_said(frames, tmp_path, capsys, left_out):
    given = {"--out": tmp_path / "out", "--heads": tmp_path, "--frames": frames}
    with pytest.raises(SystemExit):
        ablation.main([str(part) for name, value in given.items() if name != left_out for part in (name, value)])
    assert left_out in capsys.readouterr().err


def test_frames_that_are_not_there_are_named(tmp_path, capsys):
    with pytest.raises(SystemExit):
        ablation.main(["--out", str(tmp_path / "out"), "--heads", str(tmp_path), "--frames", str(tmp_path / "gone.npz")])
    assert "gone.npz is no file; evaluation.real_faces makes it" in capsys.readouterr().err

"""The laws every training run rests on: exact resume, whole states or none, clean ends, one gradient for any process count."""

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from safetensors.torch import load_file

import toy_run
from deepexpo_models.data.clips.index import index_clips
from deepexpo_models.dsid.precision import CPU_UNITS
from deepexpo_models.image import image_grid
from deepexpo_models.training.engine import checkpoint
from deepexpo_models.training.engine.checkpoint import TrainingError, latest_state, load_state, prune, save_state
from deepexpo_models.training.engine.ema import EMA
from deepexpo_models.training.engine.engine import Engine, gather_with_grad, make_scheduler
from deepexpo_models.training.engine.settings import PACKAGE, parse_settings, run_command
from deepexpo_models.whole_files import WriteError
from toy_run import OtherSettings, Run, Toy, ToySettings, settings, state

needs_posix = pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork and POSIX signals")


def assert_equal(left, right, path="state"):
    """Bit-equal trees."""
    assert type(left) is type(right), path
    if isinstance(left, dict):
        assert list(left) == list(right), path
        for key in left:
            assert_equal(left[key], right[key], f"{path}.{key}")
    elif isinstance(left, list | tuple):
        assert len(left) == len(right), path
        for index, (a, b) in enumerate(zip(left, right)):
            assert_equal(a, b, f"{path}.{index}")
    elif isinstance(left, torch.Tensor | np.ndarray):
        assert left.dtype == right.dtype and left.shape == right.shape and (left == right).all(), path
    else:
        assert left == right, path


def log_lines(out: Path) -> list[dict]:
    return [json.loads(line) for line in (out / "log.jsonl").read_text().splitlines()]


# Precision


def test_bf16_on_a_cpu_leaves_attention_in_fp32(tmp_path):
    """Its result has the queries' format, masks by name too, with gradients; all else as ever; outside nothing is changed."""
    engine, generator = Engine(settings(tmp_path, precision="bf16")), torch.Generator().manual_seed(0)
    q, k, v = torch.randn(3, 1, 2, 5, 8, generator=generator).bfloat16()
    mask = torch.randn(5, 5, generator=generator).bfloat16()
    fine = F.scaled_dot_product_attention(q.float(), k.float(), v.float(), attn_mask=mask.float())
    q.requires_grad_()
    with engine.autocast():
        found, product = F.scaled_dot_product_attention(q, k, v, attn_mask=mask), torch.ones(4, 4) @ torch.ones(4, 4)
    found.float().sum().backward()
    assert torch.equal(found, fine.bfloat16()) and q.grad is not None and product.dtype == torch.bfloat16
    assert not torch.equal(F.scaled_dot_product_attention(q, k, v, attn_mask=mask), found), "else this test could not fail"


# Exact resume


@pytest.mark.parametrize("units", [True, False])
def test_bf16_without_units_is_said(tmp_path, monkeypatch, capsys, units):
    for name in CPU_UNITS:
        monkeypatch.setattr(torch.cpu, name, lambda: units, raising=False)
    Engine(settings(tmp_path, precision="bf16"))
    assert ("has no units for bfloat16" in capsys.readouterr().out) is not units


@pytest.mark.parametrize("how", [{}, {"precision": "bf16"}, {"accumulate": 2}, {"schedule": "constant", "grad_clip": 0.0}])
def test_half_resume_half_is_the_whole(tmp_path, how):
    """Weights, optimizer, schedule, EMA and all random generators, bit by bit."""
    Run(settings(tmp_path / "whole", **how)).train()
    stopped = Run(settings(tmp_path / "halves", **how))
    stopped.train(lambda step: step == 2 and os.kill(os.getpid(), signal.SIGTERM))
    assert not stopped.engine.finished and not (tmp_path / "halves/states/state-00000008").exists()
    torch.rand(7), np.random.rand(7)  # the second half may start in any state
    resumed = Run(settings(tmp_path / "halves", **how)).train()
    assert resumed.engine.finished
    assert_equal(state(tmp_path / "whole", 8), state(tmp_path / "halves", 8))


def test_the_toy_run_depends_on_every_part(tmp_path):
    """The law above would hold of a run that uses nothing: this one moves weights and draws from each generator."""
    Run(settings(tmp_path)).train()
    first, second = state(tmp_path, 4), state(tmp_path, 8)
    for part in ("model", "optimizer", "schedule", "ema"):
        with pytest.raises(AssertionError):
            assert_equal(first["things"][part], second["things"][part])
    for name in ("python", "numpy", "torch"):
        with pytest.raises(AssertionError):
            assert_equal(first["random"][0][name], second["random"][0][name])


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@needs_posix
def test_signals_finish_the_step_and_save(tmp_path, number, capsys):
    seen, before = [], signal.getsignal(number)
    run = Run(settings(tmp_path)).train(lambda step: (seen.append(step), step == 1 and os.kill(os.getpid(), number)))
    assert seen == [0, 1] and latest_state(run.engine.folder.states).name == "state-00000002"
    assert "stopped after step 2 of 8" in capsys.readouterr().out
    assert signal.getsignal(number) is before


def test_max_minutes_stops_with_a_state(tmp_path, capsys):
    run = Run(settings(tmp_path, max_minutes=1e-9)).train()
    assert not run.engine.finished and latest_state(run.engine.folder.states).name == "state-00000001"
    assert "out of time" in capsys.readouterr().out


def test_a_finished_run_has_nothing_to_do(tmp_path):
    Run(settings(tmp_path)).train()
    seen = []
    assert Run(settings(tmp_path)).train(seen.append).engine.finished
    assert not seen


def test_a_resumed_run_takes_the_new_learning_rate(tmp_path):
    """The advice after a diverged run is a lower --lr: the state must not bring the old one back."""
    Run(settings(tmp_path, steps=4, schedule="constant")).train()
    rates = []
    run = Run(settings(tmp_path, lr=1e-4, schedule="constant"))
    run.train(lambda step: rates.append(run.plain_optimizer.param_groups[0]["lr"]))
    assert rates == [1e-4] * 4
    start = Run(settings(tmp_path / "other", steps=4, schedule="constant"))
    start.train()
    again = Run(settings(tmp_path / "other", steps=5, lr=1e-4, schedule="constant"))
    assert again.engine.restore() == 4 and again.plain_optimizer.param_groups[0]["lr"] == 1e-4


# States: whole or not there


def test_a_state_comes_back_as_it_was(tmp_path):
    tied = torch.randn(3, 4)
    held = {
        "tensors": [torch.arange(6).view(2, 3).t(), torch.tensor(True), torch.empty(0, 2), torch.ones(2, dtype=torch.bfloat16)],
        "tied": {"a": tied, "b": tied, "slice": tied[1:]},
        "numpy": np.arange(3, dtype=np.uint32),
        "numbers": (1, 2.5, float("inf"), 1 / 3, -(2**70), None, True, "text"),
        3: {"int keys": {0: [], 1.5: {}}},
        "optimizer": torch.optim.AdamW(torch.nn.Linear(2, 2).parameters(), betas=(0.9, 0.99)).state_dict(),
    }
    assert_equal(load_state(save_state(tmp_path, 5, held)), held)


def test_what_cannot_be_written_is_named(tmp_path):
    with pytest.raises(ValueError, match=r"state\.a\.0 is a Linear"):
        save_state(tmp_path, 1, {"a": [torch.nn.Linear(1, 1)]})
    assert not list(tmp_path.iterdir())


@needs_posix
@pytest.mark.parametrize("stall, expected", [(1, 1), (2, 1), (3, 1), (4, 1), (5, 2)])
def test_killed_in_the_middle_of_a_save(tmp_path, stall, expected):
    """A real process, killed with SIGKILL at each point where data reach the disk: the new state is there after its rename."""
    save_state(tmp_path, 1, {"x": torch.ones(4)})
    child = os.fork()
    if child == 0:
        real, calls = os.fsync, []

        def fsync(handle):
            calls.append(handle)
            if len(calls) == stall:
                (tmp_path / "stalled").touch()
                time.sleep(60)
            real(handle)

        try:
            checkpoint.os.fsync = fsync
            save_state(tmp_path, 2, {"x": torch.zeros(4)})
        finally:
            os._exit(0)  # never back into pytest
    deadline = time.monotonic() + 30
    while not (tmp_path / "stalled").exists() and time.monotonic() < deadline:
        time.sleep(0.01)
    os.kill(child, signal.SIGKILL)
    assert os.WTERMSIG(os.waitpid(child, 0)[1]) == signal.SIGKILL
    (tmp_path / "stalled").unlink()
    path = latest_state(tmp_path)
    assert checkpoint.step_of(path) == expected
    assert load_state(path)["x"].sum() == (4 if expected == 1 else 0)
    save_state(tmp_path, 3, {"x": torch.zeros(4)})
    prune(tmp_path, 1)
    assert [entry.name for entry in tmp_path.iterdir()] == ["state-00000003"], "what the killed run left is cleared away"


def flip(path: Path):
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)


DAMAGE = {
    "a flipped bit": (lambda path: flip(path / "tensors.safetensors"), "damaged"),
    "another structure": (lambda path: flip(path / "structure.json"), "damaged"),
    "cut short": (lambda path: os.truncate(path / "tensors.safetensors", 100), "incomplete"),
    "no manifest": (lambda path: (path / "manifest.json").unlink(), "incomplete"),
    "a garbled manifest": (lambda path: (path / "manifest.json").write_text("{"), "incomplete"),
    "a manifest without sums": (
        lambda path: (path / "manifest.json").write_text('{"files": {"tensors.safetensors": {"bytes": 1}}}'),
        "incomplete",
    ),
    "a manifest of another kind": (lambda path: (path / "manifest.json").write_text('{"files": [1]}'), "incomplete"),
    "a deep manifest": (lambda path: (path / "manifest.json").write_text("[" * 100_000), "incomplete"),
    "no tensors": (lambda path: (path / "tensors.safetensors").unlink(), "incomplete"),
}


@pytest.mark.parametrize("what", DAMAGE)
def test_a_damaged_state_is_passed_over(tmp_path, what):
    for step in (1, 2):
        save_state(tmp_path, step, {"x": torch.full((4,), float(step))})
    damage, word = DAMAGE[what]
    damage(tmp_path / "state-00000002")
    said = []
    assert latest_state(tmp_path, said.append).name == "state-00000001"
    assert len(said) == 1 and "state-00000002" in said[0] and word in said[0]
    with pytest.raises(ValueError, match=word):
        load_state(tmp_path / "state-00000002")
    save_state(tmp_path, 2, {"x": torch.zeros(4)})
    assert latest_state(tmp_path).name == "state-00000002", "a new state replaces a damaged one of the same step"


def test_a_run_goes_on_from_the_state_before_a_damaged_one(tmp_path, capsys):
    Run(settings(tmp_path / "whole")).train()
    Run(settings(tmp_path / "damaged")).train()
    flip(tmp_path / "damaged/states/state-00000008/tensors.safetensors")
    seen = []
    Run(settings(tmp_path / "damaged")).train(seen.append)
    assert seen == [4, 5, 6, 7] and "state-00000008 is damaged" in capsys.readouterr().out
    assert_equal(state(tmp_path / "whole", 8), state(tmp_path / "damaged", 8))
    assert [line["step"] for line in log_lines(tmp_path / "damaged")] == [2, 4, 6, 8], "lines are written anew, not twice"


@pytest.mark.parametrize("content", [b"", b"[1, 2]", b"{", b"[" * 100_000, b"\xff\xfe", b'{"earlier": 3}', b'{"step": "2"}\n'])
@pytest.mark.parametrize("name", ["settings.json", "log.jsonl"])
def test_records_that_are_damaged_stop_no_run(tmp_path, name, content):
    Run(settings(tmp_path, steps=2)).train()
    (tmp_path / name).write_bytes(content)
    (tmp_path / "states" / "state-\u00b2").mkdir()
    seen = []
    Run(settings(tmp_path, steps=4)).train(seen.append)
    assert seen == [2, 3] and log_lines(tmp_path)[-1]["step"] == 4
    assert json.loads((tmp_path / "settings.json").read_text())["settings"]["steps"] == 4


def test_incomplete_states_never_take_the_place_of_complete_ones(tmp_path):
    for step in range(1, 5):
        save_state(tmp_path, step, {"x": torch.ones(1)})
    for step in (3, 4):
        (tmp_path / f"state-{step:08d}/manifest.json").unlink()
    prune(tmp_path, 1)
    assert latest_state(tmp_path, lambda said: None).name == "state-00000002"
    assert not (tmp_path / "state-00000001").exists()


def test_keep(tmp_path):
    Run(settings(tmp_path, save_every=1, keep=3)).train()
    assert sorted(path.name for path in (tmp_path / "states").iterdir()) == [f"state-{n:08d}" for n in (6, 7, 8)]


@needs_posix
def test_a_disk_that_takes_no_more(tmp_path):
    """A real refusal by the system (a file size limit), in a process of its own."""
    save_state(tmp_path, 1, {"x": torch.ones(4)})
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        import resource

        resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))
        try:
            save_state(tmp_path, 2, {"x": torch.zeros(10_000)})
            os.write(writer, b"nothing raised")
        except BaseException as error:
            os.write(writer, f"{type(error).__name__}: {error}".encode())
        os._exit(0)
    os.close(writer)
    os.waitpid(child, 0)
    message = os.read(reader, 4096).decode()
    assert message.startswith("TrainingError: the state of step 2 could not be written") and "intact" in message
    assert [entry.name for entry in tmp_path.iterdir()] == ["state-00000001"]
    assert load_state(tmp_path / "state-00000001")["x"].sum() == 4


def test_a_full_disk_ends_a_run_in_one_sentence(tmp_path, monkeypatch):
    run = Run(settings(tmp_path))

    def full(handle):
        raise OSError(28, "No space left on device")

    with pytest.raises(TrainingError, match=r"step 8 could not be written .*the disk is full") as caught:
        run.train(lambda step: step == 5 and monkeypatch.setattr(checkpoint.os, "fsync", full))
    assert "\n" not in str(caught.value)
    monkeypatch.undo()
    assert [entry.name for entry in (tmp_path / "states").iterdir()] == ["state-00000004"]
    assert Run(settings(tmp_path)).train().engine.finished


# What stops a run


def test_a_loss_that_is_not_finite(tmp_path):
    run = Run(settings(tmp_path))
    weights = []

    def poison(step):
        if step == 4:
            weights.extend(p.detach().clone() for p in run.module.parameters())
            run.module.register_forward_hook(lambda module, inputs, output: output * float("nan"))

    with pytest.raises(TrainingError, match=r"loss is not finite at step 5 in square; .*state-00000004.*lower --lr"):
        run.train(poison)
    assert_equal(weights, [p.detach() for p in run.module.parameters()])


def test_a_gradient_that_is_not_finite(tmp_path):
    """sqrt at zero: the loss is 0, its gradient is not."""
    engine = Engine(settings(tmp_path))
    weight = torch.nn.Parameter(torch.zeros(3))
    for _ in engine.steps(engine.restore()):
        engine.backward((weight**2).sum().sqrt())
        with pytest.raises(TrainingError, match="gradient norm is not finite at step 0; there is no state yet"):
            engine.clip([weight])
        break


@pytest.mark.parametrize("deeper", ["", "below"])
def test_a_folder_that_cannot_be_written(tmp_path, deeper):
    (tmp_path / "file").touch()
    with pytest.raises(ValueError, match=r"run folder .* cannot be written .* choose another --out"):
        Engine(settings(tmp_path / "file" / deeper))


@pytest.mark.parametrize(
    "other, words",
    [
        (lambda out: settings(out, width=9), r"model\.net\.0\.weight is \(8, 4\) there and \(9, 4\) here"),
        (lambda out: settings(out, depth=2), "depth was 1, now 2"),
        (lambda out: settings(out, seed=5), "seed was 0, now 5"),
        (lambda out: OtherSettings(out=str(out)), "it is of ToySettings, this is OtherSettings"),
    ],
)
def test_a_state_of_another_run_is_refused(tmp_path, other, words):
    Run(settings(tmp_path)).train()
    run = Run(other(tmp_path))
    before = {name: tensor.clone() for name, tensor in run.module.state_dict().items()}
    with pytest.raises(ValueError, match=f"state-00000008 .* does not fit this run .{words}") as caught:
        run.engine.restore()
    assert "\n" not in str(caught.value)
    assert_equal(before, dict(run.module.state_dict()))


def test_a_state_with_other_parts_is_refused(tmp_path):
    Run(settings(tmp_path)).train()
    run = Run(settings(tmp_path))
    run.engine.register("discriminator", Toy(4))
    with pytest.raises(ValueError, match="has no 'discriminator'"):
        run.engine.restore()


TWO = """
import sys
sys.path[:0] = [{tests!r}]
from toy_run import Run, settings
run = Run(settings(sys.argv[1], steps=2))
run.train(lambda step: (print("training", flush=True), sys.stdin.readline()))
"""


def test_a_second_training_in_a_folder_is_refused_and_the_first_goes_on(tmp_path):
    """And where the first one has ended, however it ended, the next one may."""
    command = [sys.executable, "-c", TWO.format(tests=str(Path(__file__).parent)), str(tmp_path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as first:
        assert "training" in first.stdout.readline()
        before = (tmp_path / "settings.json").read_bytes()
        with pytest.raises(ValueError, match=f"is being written by process {first.pid} .* choose another --out"):
            Engine(settings(tmp_path, steps=2))
        assert (tmp_path / "settings.json").read_bytes() == before
        first.communicate("\n\n")
    assert first.returncode == 0 and Run(settings(tmp_path, steps=2)).train().engine.finished
    Run(settings(tmp_path, steps=4)).train(lambda step: None)
    assert latest_state(tmp_path / "states").name == "state-00000004"


# Gradients


def test_accumulated_parts_have_the_gradient_of_the_whole(tmp_path):
    torch.manual_seed(0)
    net, batch = torch.nn.Linear(4, 4), torch.randn(8, 4)
    net(batch).square().mean().backward()
    whole = net.weight.grad.clone()
    net.zero_grad()
    engine = Engine(settings(tmp_path, steps=1, accumulate=2))
    for _ in engine.steps(0):
        for part in batch.chunk(2):
            engine.backward(net(part).square().mean())
    assert torch.allclose(net.weight.grad, whole, atol=1e-7)


def test_a_loop_that_forgets_accumulation_is_told(tmp_path):
    engine, weight = Engine(settings(tmp_path, accumulate=2)), torch.nn.Parameter(torch.ones(1))
    with pytest.raises(TrainingError, match="1 backward passes while accumulate is 2"):
        for _ in engine.steps(0):
            engine.backward(weight.sum())


def test_clip(tmp_path):
    engine, weight = Engine(settings(tmp_path, grad_clip=1.0)), torch.nn.Parameter(torch.zeros(4))
    weight.grad = torch.full((4,), 2.0)
    assert engine.clip([weight]) == 4 and torch.allclose(weight.grad.norm(), torch.tensor(1.0), atol=1e-5)


def test_two_processes_are_one(tmp_path):
    """Under torch's launcher with gloo: one gradient, one batch, streams of their own, and the same resume law."""
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2", toy_run.__file__, tmp_path]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, env={**os.environ, "OMP_NUM_THREADS": "1"})
    assert done.returncode == 0, done.stderr[-2000:]
    batch = torch.linspace(-1, 1, 32).reshape(8, 4).sin()
    alone = toy_run.contrast_gradient(Engine(settings(tmp_path / "alone")), batch)
    together = load_file(tmp_path / "gradient.safetensors")
    assert alone.keys() == together.keys() and alone["weight"].abs().max() > 1e-3
    for name in alone:
        assert torch.allclose(alone[name], together[name], atol=1e-6), name
    ranks = [(tmp_path / f"rank{rank}.txt").read_text().split() for rank in (0, 1)]
    assert [rank[0] for rank in ranks] == ["2", "2"]
    assert ranks[0][1] != ranks[1][1] and ranks[0][2] != ranks[1][2], "each process draws its own noise"
    assert_equal(state(tmp_path / "halves", 4), state(tmp_path / "constant", 4))
    last = log_lines(tmp_path / "halves")[-1]
    assert last["rank"] == 0.5, "logged numbers are means over processes"
    assert last["only 0"] == 0 and last["only 1"] == 1, "a process may log what another does not"


def test_gather_alone_is_nothing():
    tensor = torch.ones(2)
    assert gather_with_grad(tensor) is tensor


# Data stream, schedule, averaged weights


def test_generator_is_a_function_of_its_place(tmp_path):
    engine, other = Engine(settings(tmp_path)), Engine(settings(tmp_path, seed=1))
    draws = [torch.rand(4, generator=e.generator(*place)) for e in (engine, other) for place in ((0,), (1,), (0, 1))]
    assert len({tuple(draw.tolist()) for draw in draws}) == 6
    assert torch.equal(torch.rand(4, generator=engine.generator(1)), draws[1])


def test_schedules(tmp_path):
    for schedule, middle, last in (("cosine", 0.5, 0.0), ("constant", 1.0, 1.0)):
        optimizer = torch.optim.SGD([torch.nn.Parameter(torch.ones(1))], lr=2.0)
        scheduler = make_scheduler(optimizer, settings(tmp_path, steps=14, warmup=4, schedule=schedule, lr=2.0))
        rates = []
        for _ in range(15):
            rates.append(optimizer.param_groups[0]["lr"])
            optimizer.step()
            scheduler.step()
        assert rates[:5] == pytest.approx([0.4, 0.8, 1.2, 1.6, 2.0])
        assert rates[9] == pytest.approx(2 * middle) and rates[14] == pytest.approx(2 * last)


def test_averaged_weights():
    module = Toy(4)
    start = {name: p.detach().clone() for name, p in module.named_parameters()}
    ema = EMA(module, 0.999)
    for step in range(5):
        ema.update(module, step)
    assert_equal(ema.shadow, {**start, **dict(module.named_buffers())})
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(1)
        module.net[1].running_mean.add_(1)
        module.net[1].num_batches_tracked.add_(1)
    ema.update(module, 8)  # (1 + 8) / (10 + 8) = 0.5
    assert torch.allclose(ema.shadow["net.0.weight"], start["net.0.weight"] + 0.5)
    assert torch.equal(ema.shadow["net.1.running_mean"], module.net[1].running_mean)
    assert ema.shadow["net.1.num_batches_tracked"] == 1


def test_averaged_weights_are_lent_and_given_back():
    module = Toy(4).to(torch.bfloat16)
    ema = EMA(module, 0.9)
    with torch.no_grad():
        module.net[0].weight.add_(0.5)
    own = {name: tensor.clone() for name, tensor in module.state_dict().items()}
    assert ema.shadow["net.0.weight"].dtype is torch.float32
    with pytest.raises(KeyError), ema.applied(module):
        assert torch.equal(module.net[0].weight, ema.shadow["net.0.weight"].bfloat16())
        raise KeyError
    assert_equal(own, dict(module.state_dict()))


def test_averaged_weights_of_another_model_are_refused():
    with pytest.raises(ValueError, match=r"of another model: net\.0\.bias is \(5,\), expected \(4,\)"):
        EMA(Toy(4), 0.9).load_state_dict(EMA(Toy(5), 0.9).state_dict())


# The run folder


def test_log_lines_are_means(tmp_path):
    engine = Engine(settings(tmp_path, steps=5))
    for step in engine.steps(engine.restore()):
        engine.log(step, {"loss": torch.tensor(float(step))})
        if step == 1:
            engine.log(step, {"validation": 7.0})
    engine.log(5, {"after": float("nan")})
    lines = log_lines(tmp_path)
    assert [line["step"] for line in lines] == [2, 4, 5, 5]
    assert [line.get("loss") for line in lines] == [0.5, 2.5, 4.0, None]
    assert [line.get("validation") for line in lines] == [7.0, None, None, None]
    assert lines[0]["samples/s"] == pytest.approx(4 * lines[0]["steps/s"]) and lines[-1]["after"] is None


def test_the_folder_says_what_was_run(tmp_path):
    Run(settings(tmp_path, steps=2)).train()
    Run(settings(tmp_path, steps=4)).train()
    record = json.loads((tmp_path / "settings.json").read_text())
    assert record["settings"]["steps"] == 4 and record["earlier"][0]["settings"]["steps"] == 2
    assert record["versions"]["torch"] and record["git"] and record["command"] and record["trainer"] == "ToySettings"
    assert log_lines(tmp_path)[-1]["lr"] >= 0


def test_pictures(tmp_path):
    images = torch.stack([torch.full((3, 4, 6), value) for value in (-1.0, 0.0, 5.0)])
    Engine(settings(tmp_path)).images(12, "faces", images, columns=2)
    picture = np.asarray(Image.open(tmp_path / "samples/faces-00000012.png"))
    assert picture.shape == (10, 14, 3) and np.array_equal(picture, image_grid(images, 2).numpy())
    assert (picture[0, 0] == 0).all() and (picture[0, 8] == 128).all() and (picture[6, 0] == 255).all()
    with pytest.raises(ValueError, match=r"\(B, 3, H, W\)"):
        image_grid(images[0], 2)


def test_tensorboard(tmp_path):
    pytest.importorskip("tensorboard")
    Run(settings(tmp_path, tensorboard=True)).train()
    assert list((tmp_path / "tensorboard").glob("events*"))


# Settings


def test_a_command_line_makes_settings():
    line = "--out run --steps 5 --lr 1e-3 --no-tensorboard --checkpointing --scales 0.5 2 --data faces --schedule constant"
    assert parse_settings(ToySettings, line.split()) == ToySettings(
        out="run", steps=5, lr=1e-3, checkpointing=True, scales=(0.5, 2.0), data="faces", schedule="constant"
    )
    assert parse_settings(ToySettings, ["--out", "run"]) == ToySettings(out="run")


@pytest.mark.parametrize(
    "line, words",
    [
        ("", "--out"),
        ("--out run --steps 0", "steps is 0; it must be at least 1"),
        ("--out run --steps many", "invalid int value: 'many'"),
        ("--out run --ema 1", "ema is 1.0; a decay lies in"),
        ("--out run --lr nan", "lr is nan"),
        ("--out run --precision fp8", "choose from"),
        ("--out run --stepz 4", "unrecognized arguments: --stepz 4"),
        ("--out run --scales 1 x", "invalid float value: 'x'"),
    ],
)
def test_a_wrong_command_line_is_told_in_one_line(line, words, capsys):
    with pytest.raises(SystemExit) as caught:
        parse_settings(ToySettings, line.split())
    said = capsys.readouterr().err
    assert caught.value.code == 2 and words in said and said.count("\n") == 1


def test_help_names_every_option(capsys):
    with pytest.raises(SystemExit) as caught:
        parse_settings(ToySettings, ["--help"], "Trains a toy.")
    said = " ".join(capsys.readouterr().out.split())
    assert caught.value.code == 0 and "Trains a toy." in said and "--out TEXT [options]" in said
    for words in ("--batch-size N", "--checkpointing, --no-checkpointing", "(default: off)", "100 % by default", "1.0 2.0"):
        assert words in said


def test_what_a_training_refuses_is_one_sentence_and_other_errors_keep_their_traceback(tmp_path, capsys):
    def missing(settings):
        index_clips(tmp_path / "gone")

    with pytest.raises(SystemExit) as end:
        run_command(missing, ToySettings, ["--out", "run"])
    said = capsys.readouterr().err
    assert end.value.code == 2 and said.endswith("gone is not a folder; give one that holds clips\n") and said.count("\n") == 1
    with pytest.raises(ValueError, match="invalid literal"):
        run_command(lambda settings: int("x"), ToySettings, ["--out", "run"])


def in_the_package(line: str):
    """A training of one line, as if it stood in the package's own code."""
    names = {"TrainingError": TrainingError, "WriteError": WriteError}
    exec(compile(f"def train(settings):\n    {line}", str(PACKAGE / "made_up.py"), "exec"), names)
    return names["train"]


@pytest.mark.parametrize("kind", ["ValueError", "TrainingError", "WriteError"])
def test_refusals_of_the_package_are_one_sentence(capsys, kind):
    with pytest.raises(SystemExit) as end:
        run_command(in_the_package(f"raise {kind}('the disk is full')"), ToySettings, ["--out", "run"])
    said = capsys.readouterr().err
    assert end.value.code == 2 and said.endswith(": the disk is full\n") and said.count("\n") == 1


MISTAKES = {
    "int('x')": ValueError,
    "a, b = 1,": ValueError,
    "{}['x']": KeyError,
    "raise RuntimeError('odd')": RuntimeError,
}


@pytest.mark.parametrize("line", MISTAKES)
def test_mistakes_of_the_package_keep_their_traceback(line):
    with pytest.raises(MISTAKES[line]):
        run_command(in_the_package(line), ToySettings, ["--out", "run"])


def test_settings_that_cannot_work_are_refused(tmp_path):
    with pytest.raises(ValueError, match="schedule is 'linear'; choose from cosine, constant"):
        replace(settings(tmp_path), schedule="linear")
    if not torch.cuda.is_available():
        with pytest.raises(ValueError, match="fp16 needs a GPU; choose bf16 or fp32"):
            Engine(settings(tmp_path, precision="fp16"))

"""Benchmarks: they run, end stdout with one JSON object, and their plain twin computes what the package computes."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from tiny import synthetic_batch, tiny_run

from thinwire.data import Tokens
from thinwire.train.step import new_state, train_step

BENCHMARKS = Path(__file__).parent.parent / "benchmarks"


def last_line(name: str, *arguments: str) -> dict:
    """The JSON object at the end of a benchmark's stdout."""
    command = [sys.executable, str(BENCHMARKS / name), *arguments, "--json"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return json.loads(done.stdout.splitlines()[-1])


def test_abstopk_is_exact_and_faster() -> None:
    found = last_line("abstopk.py", "--rounds", "1")
    assert found["exact"] is True
    assert found["speedup"] == pytest.approx(found["plain_ms"] / found["ours_ms"])
    assert found["speedup"] > 5  # far below what an idle machine gives


@pytest.mark.slow
def test_train_step_compares_three_kinds() -> None:
    (row,) = last_line("train_step.py", "--rounds", "1", "--widths", "32")["widths"]
    times = row["milliseconds"]
    assert row["sparse_over_dense"] == pytest.approx(times["sparse"] / times["dense"])
    assert row["plain_over_sparse"] == pytest.approx(times["plain"] / times["sparse"])
    assert all(0.1 < peak < 4 for peak in row["peak_gb"].values())


@pytest.mark.slow
def test_sparse_training_keeps_what_it_has_run(tiny_tokens: Tokens, tmp_path: Path) -> None:
    places = ["--work", str(tmp_path), "--tokens", str(tiny_tokens.artifact.path)]
    size = ["--width", "32", "--context", "16", "--batch", "4", "--steps", "20", "--periods", "4"]
    found = last_line("sparse_training.py", *places, *size)
    assert set(found["runs"]) == {"exact, late", "exact, early", "m = 4"}
    assert found["runs"]["exact, late"]["speedup_to_late"] == 1
    assert found["runs"]["m = 4"]["sparse_ms"] > 0
    for path in tmp_path.glob("*.json"):
        assert json.loads(path.read_text())["steps"][-1] == 20
    assert last_line("sparse_training.py", *places, *size) == found


def test_a_loss_counts_as_reached_once_annealed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(BENCHMARKS)
    from sparse_training import Curve

    config = tiny_run(steps=40, anneal_stop=0.5, anneal_start=0.0, density=0.1)
    curve = Curve(config.to_json(), [10, 20, 30, 40], [3.0, 5.0, 4.0, 3.5], [1.0, 2.0, 3.0, 5.0], 100.0, None)
    assert curve.seconds_to(4.5) == pytest.approx(2.5)  # between 20 and 30, not at 10, while it is dense
    assert curve.seconds_to(3.75) == pytest.approx(4.0)
    assert curve.seconds_to(3.0) is None
    assert curve.seconds_to(6.0) == 2.0


@pytest.mark.parametrize("sink", [False, True])
def test_plain_twin_takes_the_same_steps(sink: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(BENCHMARKS)
    from plain import PlainTrainer

    config = tiny_run(steps=12, floor=1)  # a row of few nonzeros passes other gradients: only the first steps agree
    config = config.replace(model=config.model.replace(sink=sink))
    ours, plain = new_state(config), PlainTrainer(config)
    for step in range(3):
        batch = synthetic_batch(step, config)
        assert plain.step(batch) == pytest.approx(train_step(ours, batch, config).loss, rel=2e-3)
    for name, parameter in ours.model.named_parameters():
        if name.startswith("blocks.") and name.endswith("weight") and parameter.ndim == 2:
            twin = plain.model.get_parameter(name.replace("attn.", "attn.ours."))
            assert int(twin.count_nonzero()) == int(parameter.count_nonzero()), name


@pytest.mark.slow
def test_engine_compares_and_tells(tmp_path: Path) -> None:
    out = tmp_path / "engine.json"
    size = ["--layers", "2", "--width", "128", "--rounds", "1", "--threads", "1"]
    found = last_line("engine.py", *size, "--only", "forward", "prune", "shipped", "--out", str(out))
    assert json.loads(out.read_text()) == found
    parts = found["parts"]
    times = parts["forward"]["milliseconds"]
    assert found["forward_speedup"] == pytest.approx(times["plain"] / times["sparse"], rel=1e-2)
    assert parts["forward"]["tokens_apart"] < 10
    times = parts["prune"]["milliseconds"]
    assert parts["prune"]["late_speedup"] == pytest.approx(times["plain"] / times["late"], rel=1e-2)
    for row in (parts["prune"], *parts["shipped"]["tasks"].values()):
        assert row["gradient_cosine"] > 0.9
        assert sum(row["shares"].values()) == pytest.approx(1, abs=1e-2)


@pytest.mark.slow
def test_bridge_counts_passes_and_times_monitors() -> None:
    found = last_line("bridge.py", "--rounds", "3", "--batch", "2", "--threads", "1")
    assert (found["passes_naive"], found["passes_shared"]) == (48, 28)
    assert found["losses_apart"] < 1e-4, "both kinds compute the same losses"
    times = found["fitting_ms"]
    assert found["naive_over_shared"] == pytest.approx(times["naive"] / times["shared"])
    assert len(found["nodes"]) == 16
    assert found["monitor_over_dense"] < 1.5  # far above what an idle machine gives

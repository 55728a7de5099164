"""thinwire plan and doctor --measure: what they answer, write and refuse."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from cli_workspace import Thinwire

from thinwire.train import PRESETS, TrainConfig
from thinwire.train.plan import plan
from thinwire.train.rates import find_device, read_rates


def test_plan_of_a_preset(thinwire: Thinwire) -> None:
    ran = thinwire("plan", "small", "--device", "h200", "--ranks", "4", "--json")
    made = plan(PRESETS["small"](), *find_device("h200"), ranks=4)
    found = ran.json
    assert ran.code == 0
    assert (found["config"], found["device"], found["ranks"], found["parallel"]) == ("small", "h200", 4, "ddp")
    assert found["parameters"] == made.parameters == sum(group["entries"] for group in found["groups"])
    assert found["tokens_per_second"] == made.tokens_per_second
    assert found["memory"]["total"] == made.memory.total
    assert (found["fits"], found["advice"], found["measured"]) == (True, None, False)
    assert sum(found["seconds"].values()) == pytest.approx(found["step_seconds"])


def test_options_change_a_preset_and_a_file(thinwire: Thinwire, tmp_path: Path) -> None:
    path = tmp_path / "run.json"
    path.write_text(PRESETS["small"]().replace(steps=7).to_json())
    options = ["--device", "a100", "--model.d-model", "512", "--recompute", "--json"]
    of_file = thinwire("plan", path, *options).json
    config = PRESETS["small"]().replace(steps=7, recompute=True)
    config = config.replace(model=config.model.replace(d_model=512))
    made = plan(config, *find_device("a100"))
    assert (of_file["parameters"], of_file["hours"]) == (made.parameters, made.hours)
    of_preset = thinwire("plan", "small", *options, "--steps", "7").json
    assert of_preset | {"config": ""} == of_file | {"config": ""}


def test_table(thinwire: Thinwire, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    shown = thinwire("plan", "paper", "--device", "h100", "--batch-size", "2048", "--ranks", "2").out
    assert max(map(len, shown.splitlines())) <= 80
    for said in (
        "paper on h100, 2 ranks, ddp, bf16",
        "bigram table",
        "DOES NOT FIT",
        "--recompute",
        "tokens per second",
    ):
        assert said in shown
    assert "assumed" in shown
    assert "Times are assumed, not measured: NVIDIA H100 data sheet" in " ".join(shown.split())
    fitting = thinwire("plan", "tiny", "--device", "h100").out
    assert "fits" in fitting
    assert "DOES NOT FIT" not in fitting


REFUSALS: list[tuple[list[str], str]] = [
    ([], "Name a preset or a JSON config first"),
    (["--ranks", "2", "tiny"], "Name a preset or a JSON config first"),
    (["tinny"], "'tinny' is neither a file nor a preset; the presets are tiny, "),
    (["tiny", "--device", "tpu"], "There is no device 'tpu'; give --device as one of h200, h100, a100"),
    (["tiny", "--device", "h200", "--ranks", "3"], "A batch of 16 sequences cannot be shared equally by 3 ranks"),
    (["tiny", "--device", "h200", "--ranks", "0"], "A run needs at least one rank"),
    (["tiny", "--device", "h200", "--parallel", "fsdp"], "fsdp spreads a model over several ranks"),
    (["tiny", "--device", "h200", "--model.d-model", "7"], "d_model 7 is not a multiple of d_head 16"),
    (["tiny", "--device", "h200", "--floor", "40"], "A floor of 40 needs"),
    (["tiny", "--device", "h200", "--batch-size", "0"], "batch_size: input should be greater"),
    (["tiny", "--device", "h200", "--rates", "nowhere.json"], "nowhere.json cannot be read"),
    (["tiny", "--device", "h200", "--steps", "x"], "Error parsing --steps"),
]


def test_refusals(thinwire: Thinwire, tmp_path: Path) -> None:
    for words, said in REFUSALS:
        thinwire("plan", *words).refused(said)
    (tmp_path / "run.json").write_text('{"stepz": 3}')
    thinwire("plan", tmp_path / "run.json", "--device", "h200").refused("unknown key 'stepz'")


def test_measuring_and_planning_with_it(thinwire: Thinwire, tmp_path: Path) -> None:
    out = tmp_path / "rates.json"
    ran = thinwire("doctor", "--measure", "--quick", "--out", out, "--json")
    assert ran.code == 0
    name = ran.json["device"]
    assert ran.json["out"] == str(out)
    assert name.endswith("core")
    (found,) = read_rates(out).values()
    assert ran.json["kernels"] == len(found.kernels) > 20
    planned = thinwire("plan", "tiny", "--rates", out, "--device", name, "--precision", "fp32", "--json").json
    assert (planned["device"], planned["measured"], planned["notes"]) == (name, True, [])
    assert planned["capacity"] == found.memory_bytes
    thinwire("plan", "tiny", "--rates", out, "--device", name, "--ranks", "2").refused("lack all_reduce; measure")
    thinwire("doctor", "--measure", "--quick", "--device", "tpu", "--out", out).refused("no device 'tpu' to measure")


def test_plan_does_not_wait_for_torch(tmp_path: Path) -> None:
    program = "import sys; from thinwire.cli.main import run; run(sys.argv[1:]); print('torch' in sys.modules)"
    config = TrainConfig().replace(model={"n_layers": 96, "d_model": 12288, "d_head": 128, "context": 2048})
    (tmp_path / "large.json").write_text(config.to_json())
    words = ["plan", str(tmp_path / "large.json"), "--device", "h200", "--json"]
    done = subprocess.run([sys.executable, "-c", program, *words], capture_output=True, text=True, check=True)
    answer, torch_loaded = done.stdout.splitlines()
    assert torch_loaded == "False"
    assert not json.loads(answer)["fits"]

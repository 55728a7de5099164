"""Every sparsifier learns, meets the budget, resumes bit for bit, and refuses in one sentence."""

import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from cases import case
from tiny import synthetic_batch, tiny_run

import thinwire
from thinwire.cli.main import run
from thinwire.data import Tokens
from thinwire.errors import UserError
from thinwire.model.weights import count_nonzeros, sparse_parameters
from thinwire.train import Monitoring, Sources, TrainConfig, read_result, train
from thinwire.train.l0 import budget
from thinwire.train.sparsity import OPTIONS, SPARSIFIERS
from thinwire.train.step import State, new_state, train_step

NAMES = sorted(SPARSIFIERS)
FREE = [sparsifier for sparsifier in NAMES if not OPTIONS[sparsifier].needs_start]
GLOBAL = ["hardconcrete", "l1", "group_lasso"]


def run_of(sparsifier: str, **changes: object) -> TrainConfig:
    return tiny_run(sparsity=sparsifier, floor=0, **changes)


def trained(config: TrainConfig) -> tuple[State, list[float]]:
    state = new_state(config)
    losses = [train_step(state, synthetic_batch(step, config), config).loss for step in range(config.steps)]
    return state, losses


@pytest.fixture(scope="module")
def sparse_start(tiny_tokens: Tokens, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A trained sparse model."""
    out = tmp_path_factory.mktemp("start") / "model"
    train(run_of("topk", seed=1), tiny_tokens, out)
    return out


def test_the_config_and_the_options_name_every_sparsifier() -> None:
    described = TrainConfig.model_fields["sparsity"].description
    assert described is not None
    listed = described.split(":")[1].split(".")[0].replace(" or ", " ").replace("(the paper)", "")
    assert sorted(re.findall(r"\w+", listed)) == NAMES == sorted(OPTIONS)
    assert set(re.findall(r"[a-z0-9]+_[a-z0-9]+|hardconcrete|frozen|l1", described)) <= set(NAMES)


@pytest.mark.parametrize("sparsifier", FREE)
def test_it_learns_and_meets_the_budget(sparsifier: str) -> None:
    shape = tiny_run().model.replace(n_layers=1)
    config = run_of(sparsifier, steps=100, learning_rate=0.1, density=1 / 8, model=shape)
    state, losses = trained(config)
    model, allowed = state.model, sum(budget(state.model, config.steps, config).values())
    state.objective.sparsifier.materialize(model, config.steps)
    assert sum(losses[-10:]) / 10 < sum(losses[:10]) / 10 - 0.5
    assert 0.75 * allowed < count_nonzeros(model) <= allowed


def test_dense_biases_are_left_alone() -> None:
    for sparsifier in FREE:
        with case(sparsifier):
            config = run_of(sparsifier, steps=12, learning_rate=0.1, density=1 / 8, sparse_biases=False)
            state, _ = trained(config)
            state.objective.sparsifier.materialize(state.model, config.steps)
            kept = budget(state.model, config.steps, config)
            biases = {name: p for name, p in sparse_parameters(state.model) if name.endswith(".bias")}
            assert all(kept[name] == p.numel() for name, p in biases.items())
            assert sum(int(p.count_nonzero()) for p in biases.values()) > 0.9 * sum(p.numel() for p in biases.values())
            weights = [
                (kept[name], int(p.count_nonzero())) for name, p in sparse_parameters(state.model) if name not in biases
            ]
            assert sum(count for _, count in weights) <= sum(allowed for allowed, _ in weights)


def test_density_1_is_the_dense_run() -> None:
    """The same weights as without sparsity, to the last bit."""
    models = {}
    for sparsifier in FREE:
        config = run_of(sparsifier, density=1.0, steps=4)
        state, _ = trained(config)
        state.objective.sparsifier.materialize(state.model, 4)
        models[sparsifier] = state.model
    for sparsifier, model in models.items():
        for name, parameter in models["topk"].named_parameters():
            assert torch.equal(model.get_parameter(name), parameter), (sparsifier, name)


def test_a_look_at_the_materialized_model_changes_nothing() -> None:
    for sparsifier in FREE:
        with case(sparsifier):
            config = run_of(sparsifier, anneal_start=0.0, anneal_stop=0.1)
            ends = []
            for looking in (False, True):
                state = new_state(config)
                for step in range(6):
                    train_step(state, synthetic_batch(step, config), config)
                    if looking:
                        before = {name: p.clone() for name, p in state.objective.named_parameters()}
                        with state.objective.materialized(state.step) as model:
                            assert count_nonzeros(model) > 0
                        assert all(torch.equal(before[name], p) for name, p in state.objective.named_parameters())
                        assert all(module.training for module in state.objective.modules())
                ends.append(dict(state.objective.named_parameters()))
            assert all(torch.equal(value, ends[1][name]) for name, value in ends[0].items())


def test_recomputed_activations_have_the_same_gradients() -> None:
    """Recomputed with the weights of the forward pass, also where these are not the parameters."""
    for sparsifier in FREE:
        with case(sparsifier):
            config = run_of(sparsifier, anneal="none", density=1 / 8, steps=3)
            ends = [trained(config.replace(recompute=recompute)) for recompute in (False, True)]
            assert ends[1][1] == ends[0][1]
            for name, parameter in ends[0][0].objective.named_parameters():
                torch.testing.assert_close(
                    ends[1][0].objective.get_parameter(name), parameter, rtol=1e-5, atol=1e-7, msg=name
                )


@pytest.mark.parametrize("sparsifier", NAMES)
def test_interrupted_run_resumes_bit_for_bit(
    sparsifier: str, tiny_tokens: Tokens, sparse_start: Path, tmp_path: Path
) -> None:
    config = run_of(sparsifier, learning_rate=0.1, validate_every=6, checkpoint_every=4)
    start = sparse_start if OPTIONS[sparsifier].needs_start else None
    train(config, tiny_tokens, tmp_path / "whole", Sources(start))

    def interrupt(done: int, total: int, status: str) -> None:
        if done in (7, 20):
            os.kill(os.getpid(), signal.SIGINT)

    for _ in range(2):
        with pytest.raises(KeyboardInterrupt):
            train(config, tiny_tokens, tmp_path / "cut", Sources(start), Monitoring(interrupt))
    torch.manual_seed(7)  # a run depends on no random state but its own
    result = train(config, tiny_tokens, tmp_path / "cut", Sources(start))
    for name in ("weights.safetensors", "metrics.jsonl"):
        assert (tmp_path / "cut" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes(), name
    model = thinwire.load(tmp_path / "cut")
    allowed = sum(budget(model, config.steps, config).values())
    assert result.nonzeros == count_nonzeros(model) <= allowed
    assert read_result(tmp_path / "whole").val_losses == result.val_losses
    lines = [json.loads(line) for line in (tmp_path / "cut" / "metrics.jsonl").read_text().splitlines()]
    last = next(line for line in lines if line["step"] == 20 and "nonzeros" in line)
    assert last["nonzeros"] == result.nonzeros


def test_a_floor_that_nothing_would_keep_is_refused() -> None:
    for sparsifier in [*GLOBAL, "frozen"]:
        with case(sparsifier):
            config = tiny_run(sparsity=sparsifier, floor=1)
            with pytest.raises(UserError, match=rf"The sparsifier {sparsifier} keeps no floor; set floor to 0\."):
                new_state(config, new_state(tiny_run()).model)
            new_state(config.replace(density=1.0), new_state(tiny_run()).model)


def test_wrong_names_and_options_are_refused() -> None:
    for sparsifier, options, match in [
        ("topkk", {}, "sparsity is 'topkk' and has to be one of frozen, group_lasso"),
        ("topk", {"temperature": 1}, "sparsity_options of topk: unknown key 'temperature'"),
        ("hardconcrete", {"temperature": 0}, "sparsity_options of hardconcrete: temperature: .* greater than 0"),
        ("soft_topk", {"backward_factor": 0.5}, "sparsity_options of soft_topk: backward_factor: "),
        ("group_lasso", {"l1_fraction": 2}, "sparsity_options of group_lasso: l1_fraction: "),
        ("l1", {"l1_fraction": 1}, "sparsity_options of l1: unknown key 'l1_fraction'"),
    ]:
        with case(sparsifier, options, match), pytest.raises(UserError, match=match):
            tiny_run(sparsity=sparsifier, sparsity_options=options)


SMALL = "--model.d-model 16 --model.context 16 --model.vocab-size 300 --steps 2 --batch-size 2 --validation-tokens 64"


def test_command_line(tiny_tokens: Tokens, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    common = ["train", str(tiny_tokens.artifact.path), "--out", str(tmp_path / "model"), *SMALL.split()]
    for wrong in ("--sparsity no_way", "--sparsity hardconcrete --sparsity-options warmth 1", "--sparsity frozen"):
        assert run([*common, *wrong.split()]) == 2
        said = capfd.readouterr().err.strip()
        assert "\n" not in said
        assert said.endswith(".")
        assert not (tmp_path / "model").exists()
    assert run([*common, "--sparsity", "hardconcrete", "--sparsity-options", "temperature", "0.5"]) == 0
    stored = TrainConfig.load(tmp_path / "model" / "config.json")
    assert (stored.sparsity, stored.sparsity_options) == ("hardconcrete", {"temperature": 0.5})
    tuned = ["train", str(tiny_tokens.artifact.path), "--out", str(tmp_path / "tuned"), *SMALL.split()]
    models = ["--start", str(tmp_path / "model"), "--teacher", str(tmp_path / "model")]
    assert run([*tuned, *models, "--sparsity", "frozen"]) == 0
    meta = json.loads((tmp_path / "tuned" / "meta.json").read_text())
    assert set(meta["parents"]) == {"tokens", "start", "teacher"}


def test_help_does_not_wait_for_torch() -> None:
    program = (
        "import sys\nfrom thinwire.cli.main import run\ncode = run(['train', '--help'])\n"
        "sys.stderr.write(str((code, 'torch' in sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stderr == "(0, False)"
    assert "--sparsity-options" in done.stdout

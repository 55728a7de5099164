"""An objective besides the default one: its loss, its parameter group, what is logged, resumption and refusals."""

import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from penalized import Penalized, PenalizedObjective
from safetensors.torch import load_file
from tiny import synthetic_batch, tiny_run
from torch import nn

import thinwire
from thinwire import artifact
from thinwire.data import Tokens
from thinwire.errors import UserError
from thinwire.model import next_token_loss
from thinwire.stages import train_stage
from thinwire.train import (
    LanguageModeling,
    LanguageObjective,
    Losses,
    Monitoring,
    Objective,
    ObjectiveFactory,
    Sources,
    train,
)
from thinwire.train.loop import CHECKPOINT
from thinwire.train.ranks import Ranks
from thinwire.train.result import OBJECTIVE
from thinwire.train.step import new_state, train_step

CONFIG = tiny_run()
FACTORY = Penalized(strength=0.5)


@pytest.fixture(scope="module")
def whole(tiny_tokens: Tokens, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The uninterrupted run of CONFIG with FACTORY."""
    out = tmp_path_factory.mktemp("objective") / "model"
    train(CONFIG, tiny_tokens, out, Sources(objective=FACTORY))
    return out


def lines(out: Path) -> list[dict]:
    return [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]


def test_the_docs_show_the_objective_that_is_tested() -> None:
    page = (Path(__file__).parents[2] / "docs/training.md").read_text(encoding="utf-8")
    (shown,) = re.findall(r"```python\n(.*?)\n\ntrain\(", page, re.DOTALL)
    source = Path(__file__).with_name("penalized.py").read_text(encoding="utf-8")
    imports, _, classes = source.partition('"""\n\n')[2].partition("\n\n\n")
    for block in (imports, classes.rstrip("\n")):
        assert block in shown


@pytest.mark.parametrize(
    "changes", [{}, {"compute": "sparse", "density": 1 / 16, "anneal_stop": 0.3}, {"floor": 0, "sparsity": "soft_topk"}]
)
def test_own_parameters_have_a_group_of_their_own(changes: dict) -> None:
    """Adam's first update moves the scale by its rate, against its gradient; the gradient's norm leaves it out."""
    config = tiny_run(warmup=0, support_every=4, **changes)
    state, twin = new_state(config, factory=FACTORY), new_state(config, factory=FACTORY)
    batch = synthetic_batch(0, config)
    losses = twin.objective(batch)
    losses.total.backward()
    assert losses.total.item() == pytest.approx((losses.parts["loss"] + losses.parts["activation"]).item())
    with torch.no_grad(), twin.objective.materialized(0) as model:
        assert losses.parts["loss"].item() == pytest.approx(next_token_loss(model(batch[:, :-1]), batch[:, 1:]).item())
    raw = torch.cat([p.grad.flatten() for p in twin.model.parameters() if p.grad is not None])
    assert isinstance(twin.objective, PenalizedObjective)
    assert isinstance(state.objective, PenalizedObjective)
    done = train_step(state, batch, config)
    assert done.gradient_rms == pytest.approx(raw.square().mean().sqrt().item(), rel=1e-4)
    assert done.parts == {name: losses.parts[name].item() for name in ("activation", "scale")}
    assert twin.objective.log_scale.grad is not None
    sign = twin.objective.log_scale.grad.sign().item()
    assert state.objective.log_scale.item() == pytest.approx(-0.01 * sign, rel=1e-3)
    scales = [train_step(state, synthetic_batch(step, config), config).parts["scale"] for step in range(1, 20)]
    assert len(set(scales)) == 19, "it is trained in every step, on the support too"
    assert state.optimizer.param_groups[-1]["lr"] == pytest.approx(0.01 / 20), "the rate decays, without the L0 factor"


def test_parts_are_logged_and_the_penalty_acts(whole: Path, tiny_tokens: Tokens, tmp_path: Path) -> None:
    steps = [line for line in lines(whole) if "loss" in line]
    assert [set(line) for line in steps] == [
        {"step", "nonzeros", "turnover", "loss", "gradient_rms", "learning_rate", "density", "activation", "scale"}
    ] * 20
    train(CONFIG, tiny_tokens, tmp_path / "free", Sources(objective=FACTORY.replace(strength=0.0)))
    free = [line for line in lines(tmp_path / "free") if "loss" in line]
    assert [line["activation"] for line in free] == [0.0] * 20
    model, other = thinwire.load(whole), thinwire.load(tmp_path / "free")
    batch = torch.from_numpy(tiny_tokens.validation("idioms", 256, 16))
    magnitudes = [PenalizedObjective(m, CONFIG, 1.0)(batch).parts["activation"].item() for m in (model, other)]
    assert magnitudes[0] < 0.95 * magnitudes[1]


def test_killed_run_resumes_bit_for_bit(whole: Path, tiny_tokens: Tokens, tmp_path: Path) -> None:
    out = tmp_path / "model"
    program = Path(__file__).with_name("killed_run.py")
    arguments = [CONFIG.to_json(), str(tiny_tokens.artifact.path), str(out), "13", "0.5"]
    killed = subprocess.run([sys.executable, str(program), *arguments], capture_output=True, text=True)
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    stored = load_file(out / CHECKPOINT)
    assert {name for name in stored if "scale" in name} == {
        f"{kind}/log_scale" for kind in ("value", "exp_avg", "exp_avg_sq", "step")
    }
    for other in (FACTORY.replace(strength=0.4), LanguageModeling()):
        with pytest.raises(UserError, match="holds an unfinished run with another objective"):
            train(CONFIG, tiny_tokens, out, Sources(objective=other))
    train(CONFIG, tiny_tokens, out, Sources(objective=FACTORY))
    for name in ("weights.safetensors", "metrics.jsonl", OBJECTIVE):
        assert (out / name).read_bytes() == (whole / name).read_bytes(), name


def test_finished_run_keeps_its_objective(whole: Path, tiny_tokens: Tokens) -> None:
    assert OBJECTIVE in artifact.open_artifact(whole, "model").meta.files
    assert json.loads((whole / OBJECTIVE).read_text()) == {"name": "penalized", "strength": 0.5}
    train(CONFIG, tiny_tokens, whole, Sources(objective=FACTORY))
    with pytest.raises(UserError, match="holds a model trained with another objective"):
        train(CONFIG, tiny_tokens, whole)


def test_the_stage_takes_an_objective_as_train_does(whole: Path, tiny_tokens: Tokens, tmp_path: Path) -> None:
    train_stage(CONFIG, tiny_tokens, tmp_path / "model", sources=Sources(objective=FACTORY))
    for name in ("weights.safetensors", OBJECTIVE):
        assert (tmp_path / "model" / name).read_bytes() == (whole / name).read_bytes(), name


def test_a_run_stopped_before_its_first_checkpoint_begins_again(tiny_tokens: Tokens, tmp_path: Path) -> None:
    def fail(done: int, total: int, status: str) -> None:
        raise RuntimeError

    config = CONFIG.replace(steps=2)
    with pytest.raises(RuntimeError):
        train(config, tiny_tokens, tmp_path, Sources(objective=FACTORY), Monitoring(fail))
    train(config, tiny_tokens, tmp_path)
    assert not (tmp_path / OBJECTIVE).exists()


def test_a_run_killed_while_it_resumes_keeps_its_objective(
    tiny_tokens: Tokens, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(done: int, total: int, status: str) -> None:
        os.kill(os.getpid(), signal.SIGINT)

    def killed(source: Path, target: Path) -> None:
        assert Path(target).name != OBJECTIVE, "killed"
        os.rename(source, target)

    config = CONFIG.replace(steps=2)
    with pytest.raises(KeyboardInterrupt):
        train(config, tiny_tokens, tmp_path, Sources(objective=FACTORY), Monitoring(interrupt))
    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", killed)
        with pytest.raises(AssertionError, match="killed"):
            train(config, tiny_tokens, tmp_path, Sources(objective=FACTORY))
    train(config, tiny_tokens, tmp_path, Sources(objective=FACTORY))


class Late(ObjectiveFactory):
    """An objective whose own parameter has no gradient in the first 10 steps."""

    name = "late"

    def build(self, model, config, teacher) -> Objective:
        return LateObjective(model, config)


class LateObjective(LanguageObjective):
    def __init__(self, model, config) -> None:
        super().__init__(model, config)
        self.shift = nn.Parameter(torch.ones(3))

    def groups(self):
        return (thinwire.train.ParameterGroup((self.shift,), 0.1),)

    def losses(self, batch, compiled=None) -> Losses:
        found = super().losses(batch, compiled)
        return Losses(found.total + self.shift.square().sum(), {}) if self.sparsifier.updates >= 10 else found


def test_parameters_that_start_late_resume_bit_for_bit(tiny_tokens: Tokens, tmp_path: Path) -> None:
    def interrupt(done: int, total: int, status: str) -> None:
        if done in (7, 13):
            os.kill(os.getpid(), signal.SIGINT)

    config = CONFIG.replace(steps=16)
    train(config, tiny_tokens, tmp_path / "whole", Sources(objective=Late()))
    for _ in range(2):
        with pytest.raises(KeyboardInterrupt):
            train(config, tiny_tokens, tmp_path / "cut", Sources(objective=Late()), Monitoring(interrupt))
    train(config, tiny_tokens, tmp_path / "cut", Sources(objective=Late()))
    assert (tmp_path / "cut/metrics.jsonl").read_bytes() == (tmp_path / "whole/metrics.jsonl").read_bytes()


class Forgetful(Penalized):
    """Its parameter is in no group."""

    def build(self, model, config, teacher) -> Objective:
        objective = super().build(model, config, teacher)
        objective.groups = lambda: ()
        return objective


def test_parameters_without_a_group_and_fsdp_are_refused() -> None:
    with pytest.raises(ValueError, match="log_scale belong to no group of the objective"):
        new_state(CONFIG, factory=Forgetful())
    with pytest.raises(UserError, match="objective penalized has parameters of its own"):
        new_state(CONFIG, ranks=Ranks(0, 2, "fsdp"), factory=FACTORY)

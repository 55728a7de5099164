"""Distillation from a teacher, and training that starts from a model."""

import math
import os
import signal
from pathlib import Path

import pytest
import torch
from cases import case
from tiny import synthetic_batch, tiny_model, tiny_run

import thinwire
from thinwire import artifact
from thinwire.data import Tokens
from thinwire.errors import UserError
from thinwire.model import next_token_loss
from thinwire.train import LanguageObjective, Monitoring, Sources, train
from thinwire.train.language import distillation_loss
from thinwire.train.step import new_state, train_step

CONFIG = tiny_run(density=1.0, steps=6, learning_rate=0.1)


@pytest.fixture(scope="module")
def models(tiny_tokens: Tokens, tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Two dense models from other seeds."""
    folders = [tmp_path_factory.mktemp("models") / f"model{seed}" for seed in (1, 2)]
    for seed, folder in enumerate(folders, 1):
        train(CONFIG.replace(seed=seed), tiny_tokens, folder)
    return folders


def test_divergence_by_hand() -> None:
    """Two tokens of vocabulary two; probabilities 1/4 and 1/2 against 1/2 and 1/2."""
    ours = torch.tensor([[[0.0, math.log(3)], [1.0, 1.0]]])
    guide = torch.tensor([[[2.0, 2.0], [5.0, 5.0]]])
    kl = 0.5 * math.log(0.5 / 0.25) + 0.5 * math.log(0.5 / 0.75)
    assert distillation_loss(ours, guide, 1.0).item() == pytest.approx(kl / 2)
    root = math.sqrt(3)  # at temperature 2 the odds 1 : 3 are 1 : √3
    kl = 0.5 * math.log(0.5 * (1 + root)) + 0.5 * math.log(0.5 * (1 + root) / root)
    assert distillation_loss(ours, guide, 2.0).item() == pytest.approx(4 * kl / 2)
    assert distillation_loss(guide, guide, 3.0).item() == 0


def test_divergence_is_from_the_teacher_to_the_student() -> None:
    """KL(p ‖ q) = Σ p log(p / q) with the teacher's p = (1/4, 3/4) and q = (1/2, 1/2)."""
    guide, ours = torch.tensor([[[0.0, math.log(3)]]]), torch.zeros(1, 1, 2)
    expected = 0.25 * math.log(0.5) + 0.75 * math.log(1.5)
    assert distillation_loss(ours, guide, 1.0).item() == pytest.approx(expected)


def test_total_is_the_weighted_sum() -> None:
    for weight in [0.0, 0.3, 1.0]:
        with case(weight):
            config = CONFIG.replace(distill_weight=weight, distill_temperature=1.5)
            student, teacher = tiny_model(vocab_size=300), tiny_model(vocab_size=300, seed=5)
            batch = synthetic_batch(0, config)
            losses = LanguageObjective(student, config, teacher)(batch)
            logits, guide = student(batch[:, :-1]), teacher(batch[:, :-1])
            assert losses.parts["loss"].item() == pytest.approx(next_token_loss(logits, batch[:, 1:]).item())
            assert losses.parts["divergence"].item() == pytest.approx(distillation_loss(logits, guide, 1.5).item())
            expected = (1 - weight) * losses.parts["loss"].item() + weight * losses.parts["divergence"].item()
            assert losses.total.item() == pytest.approx(expected)


@pytest.mark.parametrize("sparsifier", ["topk", "hardconcrete", "soft_topk"])
def test_student_comes_closer_and_the_teacher_stays(sparsifier: str) -> None:
    config = tiny_run(sparsity=sparsifier, density=1 / 2, floor=0, steps=40, distill_weight=1.0, learning_rate=0.1)
    teacher = tiny_model(vocab_size=300, seed=5).requires_grad_(False)
    before = {name: p.clone() for name, p in teacher.named_parameters()}
    state = new_state(config, teacher=teacher)
    divergences = [
        train_step(state, synthetic_batch(step % 3, config), config).parts["divergence"] for step in range(40)
    ]
    assert sum(divergences[-3:]) < 0.6 * sum(divergences[:3])
    assert all(torch.equal(before[name], p) and p.grad is None for name, p in teacher.named_parameters())
    trained = {id(p) for group in state.optimizer.param_groups for p in group["params"]}
    assert not trained & {id(p) for p in teacher.parameters()}
    assert not any("teacher" in name for name, _ in state.objective.named_parameters())


def test_teacher_moves_with_the_state() -> None:
    state = new_state(CONFIG, teacher=tiny_model(vocab_size=300))
    state.to(torch.device("meta"))
    assert {p.device.type for p in state.objective.references[0].parameters()} == {"meta"}


def test_parents_are_recorded_and_the_start_is_where_it_starts(
    models: list[Path], tiny_tokens: Tokens, tmp_path: Path
) -> None:
    start, teacher = models
    config = CONFIG.replace(steps=1, learning_rate=1e-9)
    train(config, tiny_tokens, tmp_path / "tuned", Sources(start, teacher))
    parents = artifact.open_artifact(tmp_path / "tuned", "model").meta.parents
    ids = {
        name: artifact.open_artifact(folder, "model").id
        for name, folder in zip(("start", "teacher"), models, strict=True)
    }
    assert parents == {"tokens": tiny_tokens.artifact.id, **ids}
    tuned = thinwire.load(tmp_path / "tuned")
    for name, parameter in thinwire.load(start).named_parameters():
        torch.testing.assert_close(tuned.get_parameter(name), parameter, rtol=0, atol=1e-7, msg=name)


def test_start_of_another_shape_is_refused(models: list[Path], tiny_tokens: Tokens, tmp_path: Path) -> None:
    config = CONFIG.replace(model=CONFIG.model.replace(n_layers=1))
    with pytest.raises(UserError, match="holds a model of another shape than this run's"):
        train(config, tiny_tokens, tmp_path / "tuned", Sources(models[0]))
    train(config.replace(steps=1), tiny_tokens, tmp_path / "tuned", Sources(teacher=models[0]))  # of any shape


def test_teacher_of_another_vocabulary_is_refused(tiny_tokens: Tokens, tmp_path: Path) -> None:
    from thinwire.data import DataConfig, build

    other = build(DataConfig(idioms=200, stdlib=False, vocab_size=301), tmp_path / "tokens")
    train(CONFIG.replace(model=CONFIG.model.replace(vocab_size=301), steps=1), other, tmp_path / "teacher")
    with pytest.raises(UserError, match="has another vocabulary than this run"):
        train(CONFIG, tiny_tokens, tmp_path / "student", Sources(teacher=tmp_path / "teacher"))
    assert not (tmp_path / "student").exists()


@pytest.mark.parametrize("role", ["start", "teacher"])
def test_resuming_with_another_parent_is_refused(
    role: str, models: list[Path], tiny_tokens: Tokens, tmp_path: Path
) -> None:
    def interrupt(done: int, total: int, status: str) -> None:
        if done == 3:
            os.kill(os.getpid(), signal.SIGINT)

    with pytest.raises(KeyboardInterrupt):
        train(CONFIG, tiny_tokens, tmp_path, Sources(**{role: models[0]}), Monitoring(interrupt))  # pyright: ignore
    for others in ({role: models[1]}, {}):
        with pytest.raises(UserError, match=f"was trained with other {role}; resume with that"):
            train(CONFIG, tiny_tokens, tmp_path, Sources(**others))  # pyright: ignore
    train(CONFIG, tiny_tokens, tmp_path, Sources(**{role: models[0]}))  # pyright: ignore
    with pytest.raises(UserError, match="was not made from"):
        train(CONFIG, tiny_tokens, tmp_path, Sources(**{role: models[1]}))  # pyright: ignore
    with pytest.raises(UserError, match=f"trained with a {role}; give --{role}, or choose another --out"):
        train(CONFIG, tiny_tokens, tmp_path)

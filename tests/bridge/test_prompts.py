"""Prompts of tasks among the tokens of a fit: how they are packed and drawn, and that the fit depends on them."""

import json
from copy import deepcopy
from pathlib import Path

import pytest
import torch
from cases import case
from tiny import tiny_run

from thinwire.bridge.config import BridgeConfig
from thinwire.bridge.crossings import Pair
from thinwire.bridge.prompts import NO_PROMPTS, Prompts, labels
from thinwire.data import Tokens
from thinwire.errors import UserError
from thinwire.model.weights import load
from thinwire.stages import Ends, bridge_stage
from thinwire.tasks import Task, find_task, task_from_file
from thinwire.train import train
from thinwire.train.config import TrainConfig

CONTEXT = 16
CONFIG = BridgeConfig(
    ridge_tokens=1_000, bridge_steps=2, joint_steps=0, batch_size=4, validation_tokens=200, task_share=0.5
)


def task_of(folder: Path, words: str) -> Task:
    """A task of one's own with short prompts, whose answers are the brackets that close them."""
    lines = [
        json.dumps({"prompts": [f"({word}{n}", f"[{word}{n}"], "answers": [")", "]"]})
        for word in words
        for n in range(60)
    ]
    folder.mkdir(exist_ok=True)
    (folder / "closing.jsonl").write_text("\n".join(lines))
    return task_from_file(folder / "closing.jsonl")


def test_rows_are_training_prompts_with_their_answers(tiny_tokens: Tokens, tmp_path: Path) -> None:
    task, tokenizer = task_of(tmp_path, "ab"), tiny_tokens.tokenizer
    found = Prompts.of([task], 0.5, tokenizer, CONTEXT, seed=0)
    assert found.rows.shape[1] == CONTEXT + 1
    documents = tokenizer.decode(found.rows.flatten().tolist()).split(tokenizer.decode([tokenizer.end_of_text]))
    batch = task.pairs(200, "train", 0, tokenizer, CONTEXT)
    prompts = [tokenizer.decode(row[1 : last + 1].tolist()) for row, last in zip(batch.tokens, batch.last, strict=True)]
    whole = {f"{prompt}{')' if prompt[0] == '(' else ']'}" for prompt in prompts}
    assert set(documents[1:-1]) <= whole, "the first and the last may be cut"
    assert len(documents) > len(whole) / 2
    other = Prompts.of([task], 0.5, tokenizer, CONTEXT, seed=1)
    assert not torch.equal(found.rows, other.rows), "their order is drawn"


def test_a_share_of_every_batch_is_prompts(tiny_tokens: Tokens, tmp_path: Path) -> None:
    task = task_of(tmp_path, "ab")
    batch = torch.full((8, CONTEXT + 1), -1)
    for share, n in ((0.0, 0), (0.25, 2), (0.5, 4), (1.0, 8)):
        with case(share):
            prompts = Prompts.of([task], share, tiny_tokens.tokenizer, CONTEXT, seed=0)
            mixed = prompts.among(batch, 3)
            assert mixed.shape == batch.shape
            assert int((mixed == -1).all(1).sum()) == 8 - n
            rows = {tuple(row) for row in prompts.rows.tolist()}
            assert {tuple(row) for row in mixed.tolist() if row[0] != -1} <= rows
            assert torch.equal(prompts.among(batch, 3), mixed), "a step has its own draw, so that a run can resume"
    assert NO_PROMPTS.among(batch, 3) is batch
    with pytest.raises(UserError, match=r"prompts of closing:\w+ fill no sequence of 5001 tokens"):
        Prompts.of([task], 0.5, tiny_tokens.tokenizer, 5000, seed=0)


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory, tiny_tokens: Tokens) -> tuple[Path, Path]:
    """A dense and a sparse model, trained a little."""
    folder = tmp_path_factory.mktemp("prompts")
    train(tiny_run(density=1.0, floor=0, steps=4), tiny_tokens, folder / "dense")
    train(tiny_run(seed=1, steps=6), tiny_tokens, folder / "sparse")
    return folder / "dense", folder / "sparse"


def test_a_fit_depends_on_its_tasks(models: tuple[Path, Path], tiny_tokens: Tokens, tmp_path: Path) -> None:
    """Both stages do, and a task of a file is known by its pairs."""
    plain = Ends.open(*models, tiny_tokens)
    tasks = [task_of(tmp_path / name, words) for name, words in (("one", "ab"), ("two", "xy"))]
    one, two = (plain.with_tasks([task], CONFIG.task_share, CONFIG.seed) for task in tasks)
    found = [bridge_stage(ends, tmp_path / f"{number}", CONFIG) for number, ends in enumerate((plain, one, two))]
    for stage in ("ridge", "maps"):
        assert len({fit[stage].artifact.id for fit in found}) == 3
    assert found[1]["maps"].artifact.config(BridgeConfig).tasks == labels(tasks[:1])
    with pytest.raises(UserError, match="ridge is finished and differs in its tasks"):
        bridge_stage(two, tmp_path / "1", CONFIG)
    again = bridge_stage(one, tmp_path / "1", CONFIG)
    assert again["maps"].artifact.id == found[1]["maps"].artifact.id
    assert labels([find_task("bracket_counting")]) == ("bracket_counting",)


def test_a_sparse_model_from_scratch(models: tuple[Path, Path], tiny_tokens: Tokens, tmp_path: Path) -> None:
    """It is trained as the given one was, from other weights, with the bridge's losses besides its own."""
    ends = Ends.open(*models, tiny_tokens)
    found = bridge_stage(ends, tmp_path / "work", CONFIG.replace(scratch_steps=8))
    assert list(found) == ["ridge", "scratch"]
    model, given = load(tmp_path / "work/runs/scratch"), load(models[1])
    assert model.config == given.config
    for name, weight in given.blocks.named_parameters():
        if "norm" not in name and not name.endswith("sink"):
            assert model.blocks.get_parameter(name).count_nonzero() == weight.count_nonzero(), name
    run = found["scratch"].artifact.meta.parents["sparse"]
    assert run != ends.sparse.id
    # the scales are those of the new model, which the sizes of moves go by
    bridge, tokens = found["scratch"].bridge, torch.from_numpy(tiny_tokens.validation("idioms", 200, CONTEXT))[:, :-1]
    pair = Pair.of(ends.pair.dense, model)
    sizes = torch.stack([h.square().mean().sqrt() for h in pair.own_sparse(bridge, tokens).streams])
    assert torch.allclose(bridge.sparse_scales, sizes, rtol=0.02)
    same, h = deepcopy(bridge), torch.randn(3, bridge.d_sparse)
    same.rescale_sparse(2 * sizes)
    for i in range(len(bridge.junctions)):
        assert torch.allclose(same.decode(i, h), bridge.decode(i, h), atol=1e-4)
        assert torch.allclose(same.encode(i, h), bridge.encode(i, h), atol=1e-4)
    profile, before = (found[stage].summary.profile for stage in ("scratch", "ridge"))
    assert profile.sparse != before.sparse
    config = TrainConfig.load(tmp_path / "work/runs/scratch/config.json")
    assert (config.steps, config.sparsity, config.density) == (8, "topk", 1 / 8)

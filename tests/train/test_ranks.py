"""Runs on two and three ranks against the same runs on one, stopped, killed and resumed in another number and mode."""

import json
import os
from pathlib import Path

import pytest
import torch
from penalized import Penalized
from ranks_pieces import CONFIG, HELPER, a_run, launch, metrics, run_all, same_course, weights

from thinwire import artifact
from thinwire.data import Tokens
from thinwire.errors import UserError
from thinwire.train import Monitoring, Sources, train
from thinwire.train.checkpoint import previous
from thinwire.train.loop import CHECKPOINT
from thinwire.train.ranks import SINGLE, Ranks

KEPT = {CHECKPOINT, previous(Path(CHECKPOINT)).name, "checkpoint.5.1-of-2.safetensors"}
"""Files of the last checkpoint and the one before, besides the shard of the last."""


@pytest.fixture(scope="module")
def folder(tiny_tokens: Tokens, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """CONFIG on one rank and on two in both modes, and on two that stop after step 7 and go on; then two mistakes."""
    folder = tmp_path_factory.mktemp("ranks")
    train(CONFIG, tiny_tokens, folder / "one")
    (folder / "foreign").mkdir()
    (folder / "foreign" / "thesis.txt").write_text("mine")
    runs = [
        a_run(folder / "ddp", "ddp"),
        a_run(folder / "fsdp", "fsdp"),
        a_run(folder / "half", "fsdp", stop_at=7),
        {"copy": [str(folder / "half"), str(folder / "half_one")]},
        a_run(folder / "half", "fsdp"),
        a_run(folder / "foreign", "ddp"),
        a_run(folder / "odd", "ddp", CONFIG.replace(batch_size=5)),
        a_run(folder / "ddp", "fsdp"),
    ]
    said = run_all(2, tiny_tokens, runs)
    assert said[0] == said[1]
    (folder / "said.json").write_text(json.dumps(said[0]))
    return folder


@pytest.mark.parametrize("mode", ["ddp", "fsdp"])
def test_two_ranks_equal_one(mode: str, folder: Path) -> None:
    same_course(folder / mode, folder / "one")
    assert artifact.open_artifact(folder / mode, "model").meta.files.keys() == (
        artifact.open_artifact(folder / "one", "model").meta.files.keys()
    )
    leftover = {path.name for path in (folder / mode).iterdir()} ^ {path.name for path in (folder / "one").iterdir()}
    assert leftover == set()


def test_stopped_ranks_go_on_bit_for_bit(folder: Path) -> None:
    assert weights(folder / "half") == weights(folder / "fsdp")
    assert metrics(folder / "half") == metrics(folder / "fsdp")


def test_a_run_of_two_goes_on_on_one(folder: Path, tiny_tokens: Tokens) -> None:
    seen = []
    shards = {path.name for path in (folder / "half_one").glob("checkpoint*")}
    assert shards == KEPT | {"checkpoint.7.1-of-2.safetensors"}
    train(CONFIG, tiny_tokens, folder / "half_one", monitoring=Monitoring(lambda done, *_: seen.append(done)))
    assert seen == list(range(8, 15))
    same_course(folder / "half_one", folder / "one")
    assert not list((folder / "half_one").glob("*checkpoint*"))


def test_errors_are_those_of_all_ranks(folder: Path) -> None:
    said = json.loads((folder / "said.json").read_text())
    assert dict(said)["foreign"] == f"{folder / 'foreign'} holds files that are not a thinwire artefact; " + (
        "choose another --out."
    )
    assert dict(said)["odd"] == (
        "A batch of 5 sequences cannot be shared equally by 2 ranks; make batch_size a multiple of 2."
    )
    assert next(what for name, what in said if name == "half") == "stopped"
    finished = [what for name, what in said if name == "ddp"]
    assert finished[0] == finished[1]
    assert finished[0].startswith("finished ")


def test_one_process_is_no_fsdp() -> None:
    with pytest.raises(UserError, match=r"fsdp needs several processes; start the command as torchrun"):
        SINGLE.placed("fsdp", "cpu", 0)
    with pytest.raises(UserError, match=r"give --device cuda instead of cuda:1"):
        Ranks(0, 2, "ddp").placed("ddp", "cuda:1", 0)


def test_shares_are_the_batch_in_order() -> None:
    batch = torch.arange(12).view(6, 2)
    for size in (1, 2, 3, 6):
        shares = [Ranks(rank, size, "ddp").share(batch) for rank in range(size)]
        assert torch.equal(torch.cat(shares), batch)
        assert {len(share) for share in shares} == {6 // size}


@pytest.fixture
def shards(folder: Path, tiny_tokens: Tokens, tmp_path: Path) -> Path:
    """A run of two ranks that hold rows, stopped after step 7."""
    out = tmp_path / "model"
    run_all(2, tiny_tokens, [a_run(out, "fsdp", stop_at=7)])
    return out


@pytest.mark.slow
def test_damaged_shards_are_refused(shards: Path, tiny_tokens: Tokens) -> None:
    (shard,) = shards.glob("checkpoint.7.*")
    previous(shards / CHECKPOINT).unlink()
    whole = shard.read_bytes()
    for damaged in (whole[:-1], whole[:40], b""):
        shard.write_bytes(damaged)
        with pytest.raises(UserError, match=r"checkpoint.safetensors is damaged; delete the folder"):
            train(CONFIG, tiny_tokens, shards)
    shard.unlink()
    with pytest.raises(UserError, match=r"checkpoint.safetensors is damaged; delete the folder"):
        train(CONFIG, tiny_tokens, shards)
    shard.write_bytes(whole)
    train(CONFIG, tiny_tokens, shards)


@pytest.mark.slow
def test_a_run_goes_on_in_any_mode_and_number(folder: Path, shards: Path, tiny_tokens: Tokens, tmp_path: Path) -> None:
    """From rows on two ranks to all on two and back, from rows on two to rows on four, from one to four to two."""
    stop = Monitoring(lambda done, *_: os.kill(os.getpid(), 15) if done == 7 else None)
    with pytest.raises(KeyboardInterrupt):
        train(CONFIG, tiny_tokens, tmp_path / "one", monitoring=stop)
    run_all(2, tiny_tokens, [{"copy": [str(shards), str(tmp_path / "four")]}, a_run(shards, "ddp", stop_at=12)])
    run_all(4, tiny_tokens, [a_run(tmp_path / "four", "fsdp"), a_run(tmp_path / "one", "fsdp", stop_at=13)])
    assert len(list((tmp_path / "one").glob("checkpoint*"))) == 8  # of steps 10 and 13
    run_all(2, tiny_tokens, [a_run(tmp_path / "one", "fsdp"), a_run(shards, "fsdp")])
    for out in (tmp_path / "four", tmp_path / "one", shards):
        same_course(out, folder / "one")


@pytest.mark.slow
def test_death_between_shards_and_head_leaves_the_checkpoint_before(
    folder: Path, tiny_tokens: Tokens, tmp_path: Path
) -> None:
    out = tmp_path / "model"
    runs = [a_run(out, "fsdp", die_in_save=10)]
    process = launch(2, HELPER, tiny_tokens.artifact.path, json.dumps(runs))
    _, err = process.communicate(timeout=300)
    assert process.returncode != 0, err
    found = {path.name for path in out.glob("checkpoint*")}
    assert found == {CHECKPOINT, "checkpoint.5.1-of-2.safetensors", "checkpoint.10.1-of-2.safetensors"}
    assert list(out.glob(".checkpoint*.tmp"))
    run_all(2, tiny_tokens, [a_run(out, "fsdp", stop_at=7)])
    assert {path.name for path in out.glob("*checkpoint*")} == KEPT | {"checkpoint.7.1-of-2.safetensors"}
    assert not list(out.glob(".checkpoint*"))
    run_all(2, tiny_tokens, [a_run(out, "fsdp")])
    assert weights(out) == weights(folder / "fsdp")
    assert metrics(out) == metrics(folder / "fsdp")


@pytest.mark.slow
@pytest.mark.parametrize(
    "changes",
    [
        {
            "floor": 2,
            "recompute": True,
            "model": {"n_layers": 2, "sink": True, "positions": "concatenated", "d_pos": 6},
        },
        {"floor": 0, "sparse_biases": False, "model": {"positions": "added", "bigram": False, "active_residual": True}},
    ],
)
def test_three_ranks_with_uneven_rows_equal_one(changes: dict, tiny_tokens: Tokens, tmp_path: Path) -> None:
    model = CONFIG.model.replace(**changes.pop("model"))
    config = CONFIG.replace(batch_size=6, model=model, **changes)
    train(config, tiny_tokens, tmp_path / "one")
    run_all(3, tiny_tokens, [a_run(tmp_path / mode, mode, config) for mode in ("ddp", "fsdp")])
    for mode in ("ddp", "fsdp"):
        same_course(tmp_path / mode, tmp_path / "one")


@pytest.mark.slow
@pytest.mark.parametrize("how", ["soft_topk", "hardconcrete"])
def test_other_sparsifiers_on_two_ranks(how: str, tiny_tokens: Tokens, tmp_path: Path) -> None:
    config = CONFIG.replace(sparsity=how, floor=0)
    train(config, tiny_tokens, tmp_path / "one")
    said = run_all(2, tiny_tokens, [a_run(tmp_path / mode, mode, config) for mode in ("ddp", "fsdp")])
    same_course(tmp_path / "ddp", tmp_path / "one")
    assert dict(said[1])["fsdp"] == f"The sparsifier {how} needs whole matrices on every rank; use ddp."


@pytest.mark.slow
def test_another_objective_on_two_ranks(tiny_tokens: Tokens, tmp_path: Path) -> None:
    train(CONFIG, tiny_tokens, tmp_path / "one", Sources(objective=Penalized(strength=0.5)))
    runs = [a_run(tmp_path / mode, mode, strength=0.5) for mode in ("ddp", "fsdp")]
    said = run_all(2, tiny_tokens, runs)
    same_course(tmp_path / "ddp", tmp_path / "one")
    ours, one = ([line["scale"] for line in metrics(tmp_path / m) if "scale" in line] for m in ("ddp", "one"))
    assert ours == pytest.approx(one, rel=1e-6)
    assert "penalized has parameters of its own" in dict(said[1])["fsdp"]


@pytest.mark.slow
@pytest.mark.parametrize("how", ["topk", "frozen"])
def test_teacher_and_start_on_two_ranks(how: str, folder: Path, tiny_tokens: Tokens, tmp_path: Path) -> None:
    config = CONFIG.replace(seed=3, sparsity=how, floor=0)
    given = {"start": str(folder / "one"), "teacher": str(folder / "fsdp")}
    train(config, tiny_tokens, tmp_path / "one", Sources(**given))
    run_all(2, tiny_tokens, [a_run(tmp_path / mode, mode, config, **given) for mode in ("ddp", "fsdp")])
    for mode in ("ddp", "fsdp"):
        assert "divergence" in metrics(tmp_path / mode)[0]
        same_course(tmp_path / mode, tmp_path / "one")


@pytest.mark.slow
def test_loss_that_is_not_finite_ends_all_ranks(tiny_tokens: Tokens, tmp_path: Path) -> None:
    config = CONFIG.replace(learning_rate=1e36, weight_decay=0, warmup=0)
    said = run_all(2, tiny_tokens, [a_run(tmp_path / mode, mode, config) for mode in ("ddp", "fsdp")])
    assert said[0] == said[1]
    assert all("stopped being finite" in what for _, what in said[0]), said

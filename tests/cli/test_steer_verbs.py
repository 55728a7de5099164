"""thinwire steer and thinwire transfer on tiny models, and how a bridge finds its models."""

import json
import shutil
from dataclasses import replace
from io import StringIO
from pathlib import Path

import pytest
from cases import case
from cli_workspace import SHAPE, TASK, Thinwire, with_nodes
from rich.console import Console
from test_bridge_verb import DENSE, FEW, OUT, QUICK, SPARSE, TOKENS

from thinwire import artifact
from thinwire.bridge.maps import Bridge, Junction
from thinwire.bridge.steer_config import SteerConfig, TransferConfig
from thinwire.bridge.steer_report import SteerReport
from thinwire.circuit import Circuit
from thinwire.cli.main import run
from thinwire.cli.transfer import table
from thinwire.errors import UserError
from thinwire.prune import PruneConfig
from thinwire.stages import Bridged, steer_stage, transfer_stage

CIRCUIT = f"runs/quickstart/circuits/{TASK}"
RIDGE, JOINT = f"{OUT}/ridge", f"{OUT}/joint"
SOME = ["--pairs", "4", "--draws", "2"]


@pytest.fixture(scope="module")
def made(finished: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a workspace whose circuit has nodes, a dense model, and a bridge; not to be written in."""
    home = tmp_path_factory.mktemp("steer")
    shutil.copytree(finished, home / "runs" / "quickstart")
    with_nodes(home / "runs" / "quickstart")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(home)
        assert run(["train", TOKENS, "--out", DENSE, *SHAPE, "--model.vocab-size", "600", *QUICK]) == 0
        assert run(["bridge", DENSE, SPARSE, "--out", OUT, *FEW, "--bridge-steps", "0"]) == 0
    return home


def test_steer_measures_and_writes(home: Path, thinwire: Thinwire) -> None:
    files = ["--out", "new/found.json", "--plot", "new/found.svg"]
    ran = thinwire("steer", RIDGE, CIRCUIT, *SOME, "--strengths", "0", "1", *files, "--json")
    assert ran.code == 0, ran.err
    found = ran.json
    assert (found["task"], found["split"], found["n"], found["draws"], found["stage"]) == (
        TASK,
        "heldout",
        4,
        2,
        "ridge",
    )
    assert found["reads"] == ["h_0:1", "h_1:3", "h_2:3"]
    assert found["ratio"] == min(found["ratios"])
    doses = [(curve["dose"], curve["part"]) for curve in found["curves"]]
    assert doses == [(d, p) for d in ("sparse/dense", "dense/sparse") for p in ("all", "h_0", "later")]
    assert found["curves"][0]["steps"][0]["sides"][0]["ratio"] == {"value": 1, "interval": {"low": 1, "high": 1}}
    report = SteerReport.load(Path("new/found.json"))
    assert report.reference.smaller == pytest.approx(found["ratio"])
    assert json.loads(Path("new/found.json").read_text("utf-8"))["seed"] == 0
    before = Path("new/found.svg").read_bytes()
    assert before.startswith(b"<?xml")
    shown = thinwire("steer", RIDGE, CIRCUIT, *SOME, "--strengths", "0", "1", *files)
    assert Path("new/found.svg").read_bytes() == before, "the same result gives the same picture"
    assert max(map(len, shown.out.splitlines())) <= 80
    for words in ("held-out pairs", "sparse/dense", "dense/sparse", "random nodes", "h_1 on", "only h_1"):
        assert words in " ".join(shown.out.split()), words


def test_choices_of_reads(home: Path, thinwire: Thinwire) -> None:
    few = [*SOME, "--strengths", "1", "--json"]
    assert thinwire("steer", RIDGE, CIRCUIT, *few, "--reads", "nodes").json["reads"] == ["h_0:1", "h_1:3"]
    assert thinwire("steer", RIDGE, CIRCUIT, *few, "--first-point", "1").json["reads"] == ["h_1:3", "h_2:3"]
    scanned = thinwire("steer", RIDGE, CIRCUIT, *few, "--reads", "scan", "--top", "5", "--first-point", "1").json
    assert len(scanned["reads"]) == 5
    assert not any(read.startswith("h_0") for read in scanned["reads"])
    other = thinwire("steer", RIDGE, CIRCUIT, *few, "--dose", "dense/sparse").json
    assert other["curves"][0]["dose"] == "dense/sparse"


def test_transfer_measures_and_writes(home: Path, thinwire: Thinwire) -> None:
    for ablation in ("mean", "exchange"):
        ran = thinwire("transfer", RIDGE, CIRCUIT, *SOME, "--ablation", ablation, "--out", "found.json", "--json")
        assert ran.code == 0, ran.err
        (row,) = ran.json["rows"]
        assert (row["task"], row["ablation"], row["n"], row["reads"], row["split"]) == (TASK, ablation, 4, 3, "heldout")
        assert row["over_random"] == pytest.approx(row["circuit"]["loss"] / row["random_nodes_p90"])
        ends = row["circuit"]["loss_interval"]
        assert ends["low"] <= row["circuit"]["loss"] <= ends["high"]
        assert json.loads(Path("found.json").read_text("utf-8"))["rows"][0]["random_nodes"] == row["random_nodes"]
    shown = thinwire("transfer", RIDGE, "runs/quickstart", *SOME)
    assert TASK in shown.out, "a workspace stands for its circuits"
    assert max(map(len, shown.out.splitlines())) <= 80


def test_the_table_of_transfer_takes_names_of_tasks_on_one_line(home: Path) -> None:
    found = transfer_stage(Bridged.open(RIDGE), [Circuit.load(CIRCUIT)], TransferConfig(pairs=4, draws=1))
    shown, name = StringIO(), "single_double_quote"
    rows = (replace(found.rows[0], task=name),)
    Console(file=shown, width=80).print(table(replace(found, rows=rows)))
    assert name in shown.getvalue()
    assert max(map(len, shown.getvalue().splitlines())) <= 80


def test_circuits_that_read_nothing_are_left_out(home: Path, thinwire: Thinwire) -> None:
    empty = Path("runs/quickstart/circuits/empty")
    circuit, config = Circuit.load(CIRCUIT), artifact.open_artifact(Path(CIRCUIT), "circuit").config(PruneConfig)
    replace(circuit, nodes=()).save(empty, config, artifact.open_artifact(Path(SPARSE), "model"))
    ran = thinwire("transfer", RIDGE, "runs/quickstart", *SOME, "--json")
    assert (len(ran.json["rows"]), ran.json["without_reads"]) == (1, [TASK])
    thinwire("transfer", RIDGE, empty, *SOME).refused("None of the circuits reads a channel")
    thinwire("steer", RIDGE, empty, *SOME).refused("no reads to steer by", "--reads scan")


def test_reads_without_a_counterpart_in_the_dense_model_are_left_out(home: Path) -> None:
    bridged, circuit = Bridged.open(RIDGE), Circuit.load(CIRCUIT)
    whole = bridged.stored.bridge
    few = Bridge((Junction(0, 0), Junction(1, 2)), whole.d_dense, whole.d_sparse).requires_grad_(False)
    few = replace(bridged, stored=replace(bridged.stored, bridge=few))
    for choice, points in (("circuit", {"h_0", "h_2"}), ("scan", {"h_0", "h_2"}), ("nodes", {"h_0"})):
        config = SteerConfig().replace(reads=choice, strengths=(1.0,), pairs=4, draws=1)
        assert {read.partition(":")[0] for read in steer_stage(few, circuit, config).reads} == points, choice
    assert transfer_stage(few, [circuit], TransferConfig(pairs=4, draws=1)).rows[0].reads == 2


def test_a_joint_bridge_has_a_sparse_model_of_its_own(home: Path, thinwire: Thinwire) -> None:
    bridged = Bridged.open(JOINT)
    assert bridged.sparse.artifact.path == Path(OUT, "runs", "joint").absolute()
    assert bridged.stored.artifact.meta.parents["dense"] == bridged.dense.artifact.id
    for verb in ("steer", "transfer"):
        thinwire(verb, JOINT, CIRCUIT, *SOME).refused("circuit of another model", f"{OUT}/runs/joint", f"--task {TASK}")


def test_models_are_found_and_checked(home: Path, thinwire: Thinwire) -> None:
    assert Bridged.open(RIDGE).dense.artifact.path == Path(DENSE).absolute()
    thinwire("steer", RIDGE, CIRCUIT, *SOME, "--dense", SPARSE).refused("is not the dense model that", "--dense")
    thinwire("steer", RIDGE, CIRCUIT, *SOME, "--sparse", DENSE).refused("is not the sparse model that", "--sparse")
    Path("far/away").mkdir(parents=True)
    Path(DENSE).rename("far/away/dense")
    thinwire("transfer", RIDGE, CIRCUIT, *SOME).refused("The dense model of", "with --dense")
    assert Bridged.open(RIDGE, dense=Path("far/away/dense")).stage == "ridge"
    Path("runs/damaged").mkdir()
    Path("runs/damaged/meta.json").write_text("{", "utf-8")  # another folder's damage is no obstacle
    Path("far/away/dense").rename("runs/zzz")
    assert Bridged.open(RIDGE).dense.artifact.path == Path("runs/zzz").absolute()
    with pytest.raises(UserError, match="not a folder"):
        Bridged.open("nowhere")


def test_what_does_not_fit_is_refused_before_any_work(home: Path, thinwire: Thinwire) -> None:
    Path("folder.json").mkdir()
    cases = [
        (["steer", RIDGE, CIRCUIT, "--out", "found.txt"], ".json"),
        (["steer", RIDGE, CIRCUIT, "--out", "folder.json"], "folder.json is a folder"),
        (["steer", RIDGE, CIRCUIT, "--plot", "found.gif"], ".svg, .png or .pdf"),
        (["steer", RIDGE, CIRCUIT, "--out", f"{RIDGE}/found.json"], "lies in the artefact"),
        (["steer", RIDGE, CIRCUIT, "--strengths", "0"], "at least one above 0"),
        (["steer", RIDGE, CIRCUIT, "--strengths", "-1"], "strengths"),
        (["steer", RIDGE, CIRCUIT, "--reads", "all"], "--reads"),
        (["steer", RIDGE, CIRCUIT, "--pairs", "0"], "pairs"),
        (["steer", CIRCUIT, RIDGE], "is a bridge artefact where a circuit artefact is needed"),
        (["transfer", RIDGE], "Name at least one circuit"),
        (["transfer", RIDGE, CIRCUIT, "--out", "found.txt"], ".json"),
        (["transfer", RIDGE, RIDGE], "is a bridge artefact where a circuit artefact is needed"),
    ]
    for words, said in cases:
        with case(words):
            thinwire(*words).refused(said)
            assert not Path("found.txt").exists()

"""The report of a bridge: its numbers are those of the stages, and its curves go on from one run to the next."""

import base64
import gzip
import json
import shutil
from pathlib import Path

import pytest
from tiny import tiny_run

from thinwire.bridge.config import BridgeConfig
from thinwire.bridge.store import StoredBridge
from thinwire.cli.main import run
from thinwire.data import Tokens
from thinwire.errors import UserError
from thinwire.stages import Ends, bridge_stage
from thinwire.train import read_metrics, train
from thinwire.view.bridge_report import fits_in, report_of, write_bridge_report

CONFIG = BridgeConfig(ridge_tokens=2_000, bridge_steps=20, joint_steps=10, batch_size=4, validation_tokens=200)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory, tiny_tokens: Tokens) -> tuple[Path, dict[str, StoredBridge]]:
    """A workspace with all stages, and the bridges in it."""
    folder = tmp_path_factory.mktemp("bridge")
    train(tiny_run(density=1.0, floor=0), tiny_tokens, folder / "dense")
    train(tiny_run(seed=1), tiny_tokens, folder / "sparse")
    found = bridge_stage(Ends.open(folder / "dense", folder / "sparse", tiny_tokens), folder / "<work>", CONFIG)
    return folder / "<work>", {str(stage): stored for stage, stored in found.items()}


def test_the_profile_is_that_of_every_stage(made: tuple[Path, dict[str, StoredBridge]]) -> None:
    work, stored = made
    report = report_of(fits_in(work))
    charts = {chart.plan.title: {line.name: line for line in chart.lines} for chart in report.profile}
    lines = charts["Crossings, dense → sparse"]
    assert list(lines) == ["ridge", "maps", "joint", "dense by itself"]
    for stage, each in stored.items():
        assert lines[stage].steps == (0, 1, 2, 3, 4)
        assert list(lines[stage].values) == each.summary.profile.to_sparse
        agreed = each.summary.agreement
        assert agreed is not None
        assert list(charts["Variance explained, decoder"][stage].values) == agreed.explained_decode
    last = stored["joint"].summary
    facts = {fact.name: fact.value for fact in report.facts}
    assert facts["largest gap, sparse → dense"] == f"{last.profile.gap_to_dense:.3f}"
    assert last.agreement is not None
    (table,) = report.tables
    assert table.rows[0][3].startswith(f"{last.agreement.to_sparse[2].r:.3f} (")
    assert "h_2 " not in report.profile[0].described.partition(":")[0]


def test_crossings_are_drawn_over_training(made: tuple[Path, dict[str, StoredBridge]]) -> None:
    work, _ = made
    charts = {chart.plan.curves: chart for chart in report_of(fits_in(work)).training}
    assert set(charts) == {"kl_to_sparse/*", "kl_to_dense/*", "nmse", "sparse_loss"}
    lines = {line.name: line for line in charts["kl_to_sparse/*"].lines}
    assert list(lines) == [f"h_{point}" for point in range(5)]
    assert lines["h_3"].steps == (10, 20, 30), "the joint run follows the run of the maps"
    curves = read_metrics(work / "runs" / "maps")
    mean = sum(curves[f"kl_to_sparse/h_{point}"].values[0] for point in range(5)) / 5
    assert curves["kl_to_sparse"].values[0] == pytest.approx(mean, rel=1e-5)


def test_the_page_is_written_beside_the_stages(made: tuple[Path, dict[str, StoredBridge]], tmp_path: Path) -> None:
    work = Path(shutil.copytree(made[0], tmp_path / "work"))
    path = write_bridge_report(work / "maps")
    assert path == work.absolute() / "report.html"
    text = path.read_text()
    assert write_bridge_report(work).read_text() == text, "the same bridges give the same bytes"
    packed = text.split('<script type="text/plain" id="data">', 1)[1].split("</", 1)[0]
    assert json.loads(gzip.decompress(base64.b64decode(packed)), parse_constant=pytest.fail)["profile"]
    assert run(["view", str(work), "--out", str(tmp_path / "page.html")]) == 0
    assert (tmp_path / "page.html").read_text() == text
    with pytest.raises(UserError, match="lies in the artefact"):
        write_bridge_report(work, work / "maps" / "page.html")
    with pytest.raises(UserError, match="no finished bridge"):
        write_bridge_report(tmp_path)

"""The same thing has the same number wherever it is shown: README's table, info, the verdict, the page, the text."""

import base64
import gzip
import json
import re
import runpy
from pathlib import Path

import pytest
from cli_workspace import PRUNE, TASK, VERIFY, Thinwire

from thinwire.prune.config import PruneConfig
from thinwire.verify.config import VerifyConfig

ROOT = Path(__file__).parents[2]
SHOWN = {
    "circuit alone": ("sufficiency.loss", "loss"),
    "accuracy": ("sufficiency.accuracy", "accuracy"),
    "uncalibrated loss": ("uncalibrated.loss", "uncalibrated_loss"),
    "uncalibrated accuracy": ("uncalibrated.accuracy", "uncalibrated_accuracy"),
    "AUC": ("uncalibrated.AUC", "auc"),
    "whole model": ("unpruned.loss", "unpruned_loss"),
}
"""Title in tables, name in the verdict, and name among the flat values of a circuit and of a verdict."""


def recipe() -> dict:
    """The names of the recipe that writes README's table."""
    return runpy.run_path(str(ROOT / "recipes/quickstart_results.py"))


def data_of(page: Path) -> dict:
    """What a page or a report has packed in it."""
    packed = page.read_text("utf-8").split('<script type="text/plain" id="data">', 1)[1].split("</", 1)[0]
    return json.loads(gzip.decompress(base64.b64decode(packed)))


def test_pruning_and_the_checks_report_on_one_draw() -> None:
    """By default; and whatever seed the masks have."""
    assert VerifyConfig().pairs == PruneConfig().heldout_pairs


@pytest.mark.parametrize("seed", ["0", "3"])
def test_one_circuit_has_one_set_of_numbers(seed: str, work: Path, thinwire: Thinwire) -> None:
    circuit = work / "circuits" / TASK
    pruned = thinwire("prune", work / "model", "-t", TASK, *PRUNE, "--seed", seed, "--force", "--json").json
    info = thinwire("info", circuit, "--json").json
    checked = thinwire("verify", circuit, *VERIFY, "--json").json
    verdict = thinwire("info", work / "verdicts" / TASK, "--json").json
    rows = {row["name"]: row for row in checked["rows"]}
    for title, (name, key) in SHOWN.items():
        assert rows[name]["column"] == title
        assert rows[name]["n"] == info["heldout_pairs"] == 16
        for found in (pruned, info, checked, verdict):
            assert found[key] == pytest.approx(rows[name]["value"], abs=1e-6), (title, key)
    scored = thinwire("tasks", "score", work / "model", "--task", TASK, "--pairs", "16", "--json").json["tasks"]
    (whole,) = (row["loss"] for row in scored if row["split"] == "heldout")
    assert whole == pytest.approx(info["unpruned_loss"], abs=1e-6)
    assert pruned["unpruned_accuracy"] == pytest.approx(rows["unpruned.accuracy"]["value"], abs=1e-6)

    assert thinwire("view", circuit, "--out", work / "page.html").code == 0
    task = data_of(work / "page.html")["payload"]["tasks"][0]
    views = {f"{one['check']}.{one['quantity']}": one for one in task["measurements"]}
    assert {name: views[name]["value"] for name in rows} == {name: row["value"] for name, row in rows.items()}
    assert {name: views[name]["status"] for name in rows} == {name: row["status"] for name, row in rows.items()}
    assert (task["counts"]["nodes"], task["counts"]["edges"]) == (info["nodes"], info["edges"])

    results = {"weights": "", "seconds": 1.0, "tasks": [{"task": TASK, **checked}]}
    lines = recipe()["table"](results).splitlines()
    shown = " ".join(thinwire("verify", circuit, *VERIFY, "--every").out.split())
    text = thinwire("view", circuit, "--text").out
    for title, (name, key) in SHOWN.items():
        number = f"{info[key]:.3f}"
        assert f"| {title} | {number} |" in lines
        assert f"{name.partition('.')[2]} {number}" in shown
        assert title == "whole model" or number in text
    assert (f"| nodes | {info['nodes']} |" in lines, f"| edges | {info['edges']} |" in lines) == (True, True)


def test_one_model_has_one_count_of_weights(work: Path, thinwire: Thinwire) -> None:
    counts = thinwire("info", work / "model", "--json").json
    words = counts["weights"]
    assert re.fullmatch(r"[\d,]+ of [\d,]+ weights nonzero, plus a dense bigram table of 360,000", words)
    assert words.startswith(f"{counts['nonzeros']:,} of {counts['entries']:,} weights")
    assert counts["nonzeros"] == sum(value for name, value in counts.items() if name.startswith("nonzeros "))
    assert words in thinwire("info", work / "model").out
    trained = json.loads((work / "model/summary.json").read_text())
    assert (trained["nonzeros"], trained["entries"]) == (counts["nonzeros"], counts["entries"])
    card = data_of(work / "index.html")["payload"]["model"]
    assert {key: card[key] for key in ("weights", "nonzeros", "entries", "bigram")} == {
        key: counts[key] for key in ("weights", "nonzeros", "entries", "bigram")
    }
    assert words in json.dumps(data_of(work / "model/report.html"))


def test_readme_shows_the_stored_results() -> None:
    """README's table is what the recipe makes of the stored results, and these agree with each other."""
    names = recipe()
    measured = json.loads((ROOT / names["RESULTS"]).read_text("utf-8"))
    readme = (ROOT / "README.md").read_text("utf-8")
    start, end = names["MARKS"]
    assert readme.split(start)[1].split(end)[0].strip() == names["table"](measured)
    for task in measured["tasks"]:
        rows = {row["name"]: row["value"] for row in task["rows"]}
        assert {key: task[key] for _, key in SHOWN.values()} == {key: rows[name] for name, key in SHOWN.values()}
        assert "edges_paper_loss" in task

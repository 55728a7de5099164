"""A new check is one file: nothing else is touched, and it reaches the verdict, the tables, their JSON and the page."""

import base64
import gzip
import json
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from cli_workspace import TASK, VERIFY, Thinwire

from thinwire.cli import quickstart, verify
from thinwire.model.counts import WeightCounts
from thinwire.train.result import TrainResult
from thinwire.verify import CHECKS, Verdict, checks

BROWSERS = ("chromium", "chromium-browser", "google-chrome", "chrome")
NAMES = ("halves.loss", "halves.agreement")
MODULE = """
from dataclasses import replace

from thinwire.verify import Curve, Headline, Interval, Measurement, check


@check("halves", order=25)
def halves(inputs):
    n = len(inputs.heldout)
    one = Measurement(
        "halves.loss", "half a circuit", 0.4321, "nats", n, Interval(0.4, 0.5), "heldout", "resample", "Half of it.",
        "7 steps", "warn", "not enough", Headline("half circuit", "half_loss"), Curve("step", (1.0, 2.0), (0.6, 0.4)),
    )
    other = Measurement("halves.agreement", one.title, 0.25, "fraction", n, None, "train", "none", "Agreement.")
    return [one, other]
"""


@pytest.fixture
def new_check(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The file among the modules of the checks, for one test."""
    (tmp_path / "checks").mkdir()
    (tmp_path / "checks/halves.py").write_text(MODULE)
    checks.all_checks()
    monkeypatch.setattr(CHECKS, "_entries", dict(CHECKS._entries))
    monkeypatch.setattr(checks, "__path__", [*checks.__path__, str(tmp_path / "checks")])
    yield
    sys.modules.pop("thinwire.verify.checks.halves", None)


@pytest.mark.usefixtures("new_check")
def test_a_new_check_is_one_file(work: Path, thinwire: Thinwire) -> None:
    circuit, folder = work / "circuits" / TASK, work / "verdicts" / TASK
    thinwire("verify", circuit, *VERIFY).refused("is finished and differs in its set of checks;")
    found = thinwire("verify", circuit, *VERIFY, "--force", "--json").json  # the finished verdict lacks the check
    named = [row["name"] for row in found["rows"]]
    first = named.index(NAMES[0])
    assert named[first : first + 2] == list(NAMES)
    assert named.index("unpruned.loss") < first < named.index("necessity.loss"), "by its order"
    assert found["rows"][first] == {
        "name": "halves.loss",
        "ablation": "resample",
        "split": "heldout",
        "value": 0.4321,
        "unit": "nats",
        "n": 16,
        "low": 0.4,
        "high": 0.5,
        "status": "warn",
        "threshold": None,
        "budget": "7 steps",
        "column": "half circuit",
    }
    assert found["half_loss"] == 0.4321
    verdict = Verdict.load(folder)
    assert [one.name for one in verdict.measurements] == named
    shown = " ".join(thinwire("verify", circuit, *VERIFY).out.split())
    assert "warn half a circuit loss 0.432 0.400 … 0.500 16" in shown
    assert "agreement" not in shown
    assert "agreement 0.250 16" in " ".join(thinwire("verify", circuit, *VERIFY, "--every").out.split())

    assert thinwire("view", circuit, "--out", work / "page.html").code == 0
    text = (work / "page.html").read_text("utf-8")
    packed = text.split('<script type="text/plain" id="data">', 1)[1].split("</", 1)[0]
    task = json.loads(gzip.decompress(base64.b64decode(packed)))["payload"]["tasks"][0]
    views = {f"{one['check']}.{one['quantity']}": one for one in task["measurements"]}
    assert list(views) == named
    assert views["halves.loss"]["curve"] == {"x_label": "step", "x": [1.0, 2.0], "y": [0.6, 0.4], "labels": []}
    assert (views["halves.loss"]["status"], views["halves.loss"]["reason"]) == ("warn", "not enough")

    trained = TrainResult(1.0, {}, 1, 1, 1, 1.0, 1.0)
    table = quickstart.table(None, trained, WeightCounts(1, 1, 0), [quickstart.Outcome(TASK, verdict=verdict)])
    names, values = (list(column.cells) for column in table.columns)
    assert values[names.index("half circuit")] == "0.432"
    assert verify.rows(verdict)["rows"] == found["rows"]


@pytest.mark.browser
@pytest.mark.filterwarnings("default")
@pytest.mark.usefixtures("new_check")
def test_a_browser_draws_the_new_check(work: Path, thinwire: Thinwire) -> None:
    found = next(filter(None, map(shutil.which, BROWSERS)), None)
    if found is None:
        pytest.skip("no browser is installed")
    sync_api = pytest.importorskip("playwright.sync_api", reason="the playwright package is not installed")
    assert thinwire("verify", work / "circuits" / TASK, *VERIFY, "--force").code == 0
    assert thinwire("view", work / "circuits" / TASK, "--out", work / "page.html").code == 0
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=found, args=["--no-sandbox"])
        sheet = browser.new_page()
        sheet.goto((work / "page.html").as_uri())
        sheet.wait_for_selector(".panel h2")
        assert sheet.locator('[data-dot="halves"].warn').count() == 1
        sheet.locator(".every > summary").click()
        shown = sheet.locator('[data-name="halves.loss"]')
        assert shown.locator(".dot.warn, .sparkline").count() == 2
        assert "0.432 nats" in shown.inner_text()
        assert "25.0 % agreement" in sheet.locator('[data-name="halves.agreement"]').inner_text()
        assert "! loss: not enough" in sheet.locator(".evidence").inner_text()
        browser.close()

"""The report of a run: its numbers are those of the run, and the page is self-contained."""

import base64
import gzip
import json
import re
import shutil
from pathlib import Path

import pytest
from tiny import tiny_run

from thinwire import artifact
from thinwire.cli.main import run
from thinwire.data import Tokens
from thinwire.errors import UserError
from thinwire.stages import train_stage
from thinwire.train import Monitoring, TrainConfig, read_metrics, read_result, train
from thinwire.train.metrics import Curve, Metrics
from thinwire.view import report
from thinwire.view.charts import MOST_LINES, MOST_POINTS, PLANS, Line, charts_of, spread, thinned
from thinwire.view.report import REPORT, report_of, settings_of, write_report

CONFIG = tiny_run(validate_every=5)
BROWSERS = ("chromium", "chromium-browser", "google-chrome", "chrome")


@pytest.fixture(scope="module")
def model(tiny_tokens: Tokens, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run with its report."""
    out = tmp_path_factory.mktemp("report") / "<model>"
    train_stage(CONFIG, tiny_tokens, out)
    return out


def data(page: Path) -> dict:
    packed = page.read_text().split('<script type="text/plain" id="data">', 1)[1].split("</", 1)[0]
    return json.loads(gzip.decompress(base64.b64decode(packed)), parse_constant=pytest.fail)


def test_the_report_lies_in_the_model_and_is_no_part_of_it(model: Path) -> None:
    assert REPORT not in artifact.open_artifact(model, "model").meta.files
    text = (model / REPORT).read_text()
    (model / REPORT).unlink()
    assert write_report(model) == model / REPORT
    assert (model / REPORT).read_text() == text, "the same run gives the same bytes"


def test_facts_are_those_of_the_run(model: Path) -> None:
    result, made = read_result(model), report_of(model)
    facts = {fact.name: fact.value for fact in made.facts}
    assert (made.status, made.finished) == ("finished", True)
    assert facts["validation loss"] == f"{result.val_loss:.3f}"
    assert facts["nonzeros"] == f"{result.nonzeros:,}"
    assert facts["one weight in"] == f"{result.entries / result.nonzeros:.3g}"
    assert facts["tokens"] == f"{20 * 4 * 16:,}"
    assert facts["shape"] == "2 × 16"
    rows = [row for rows in made.fillings.values() for row in rows]
    assert list(made.fillings) == ["in and out", "layer 0", "layer 1"]
    assert sum(row.nonzeros for row in rows) == result.nonzeros
    assert sum(row.entries for row in rows) == result.entries


def test_charts_hold_what_was_measured(model: Path) -> None:
    charts = {chart["plan"]["title"]: chart for chart in data(model / REPORT)["charts"]}
    absent = ("tasks/", "forming/", "divergence", "penalty", "kl_to_", "nmse", "sparse_loss")
    assert list(charts) == [plan.title for plan in PLANS if not plan.curves.startswith(absent)]
    curves = read_metrics(model)
    (loss,) = charts["Training loss"]["lines"]
    assert (loss["steps"], loss["values"]) == (list(curves["loss"].steps), list(curves["loss"].values))
    (val,) = charts["Validation loss"]["lines"]
    assert (val["name"], val["steps"]) == ("idioms", [5, 10, 15, 20])
    dead = charts["Dead neurons"]["lines"]
    assert [line["name"] for line in dead] == ["layer 0", "layer 1"]
    assert dead[1]["values"] == [count / 32 for count in curves["dead/1.mlp.post_act"].values]
    channels = {line["name"]: line["values"] for line in charts["Dead channels"]["lines"]}
    both = zip(curves["dead/0.attn.v"].values, curves["dead/1.attn.v"].values, strict=True)
    assert channels["attn.v"] == [sum(counts) / 32 for counts in both]
    assert "mlp.post_act" not in channels
    assert [line["name"] for line in charts["Residual kurtosis"]["lines"]] == [f"h_{index}" for index in range(5)]
    assert (
        f"goes from {curves['loss'].values[0]:.4g} to {curves['loss'].last:.4g}" in charts["Training loss"]["described"]
    )


def test_every_plan_finds_its_curves() -> None:
    names = ["loss", "val_losses/a", "density", "learning_rate", "gradient_rms", "turnover", "divergence", "penalty"]
    names += ["kurtosis/h_0", "tasks/t/loss", "tasks/t/accuracy", "forming/t/nodes", "forming/t/edges"]
    names += ["dead/0.mlp.post_act", "unwired/0.mlp.post_act", "dead/0.attn.q"]
    names += ["kl_to_sparse/h_0", "kl_to_dense/h_0", "nmse", "sparse_loss"]
    curves = {name: Curve((1, 2), (0.5, 1.0)) for name in names}
    found = charts_of(curves, CONFIG.model.replace(n_layers=1))
    assert [chart.plan for chart in found] == list(PLANS)
    assert [line.name for line in found[1].lines] == ["a"]
    assert charts_of({}, CONFIG.model) == []


def test_long_runs_are_thinned_to_means_between_extremes() -> None:
    values = tuple(float(index % 2) for index in range(3 * MOST_POINTS))
    line = thinned("x", Curve(tuple(range(1, 3 * MOST_POINTS + 1)), values))
    assert len(line.steps) == len(line.values) == len(line.low) == len(line.high) == MOST_POINTS
    assert (line.steps[:2], line.low[0], line.high[0]) == ((2, 5), 0.0, 1.0)
    assert line.values[:2] == pytest.approx((1 / 3, 2 / 3))
    assert sum(line.values) * 3 == pytest.approx(sum(values))
    short = thinned("x", Curve((1, 2, 3), (1.0, float("nan"), 3.0)))
    assert short == Line("x", (1, 3), (1.0, 3.0)), "what is not finite cannot be drawn"


def test_many_lines_are_spread_evenly() -> None:
    lines = [Line(str(index), (1,), (1.0,)) for index in range(17)]
    assert [line.name for line in spread(lines, MOST_LINES)] == [str(index) for index in range(0, 17, 2)]
    assert spread(lines[:3], MOST_LINES) == lines[:3]


def test_every_setting_is_listed_with_its_meaning() -> None:
    settings = {setting.name: setting for setting in settings_of(CONFIG)}
    assert {name.split(".")[0] for name in settings} == set(TrainConfig.model_fields)
    assert settings["steps"].value == "20"
    assert settings["steps"].meaning == "Optimizer steps."
    assert not settings["steps"].default
    assert settings["model.bigram"].value == "yes"
    assert settings["model.bigram"].default
    assert all(setting.meaning for setting in settings.values())


def test_a_run_under_way_has_a_report(tiny_tokens: Tokens, tmp_path: Path) -> None:
    def stop(done: int, total: int, status: str) -> None:
        if done == 7:
            raise RuntimeError

    with pytest.raises(RuntimeError):
        train(CONFIG, tiny_tokens, tmp_path / "model", monitoring=Monitoring(stop))
    made = report_of(tmp_path / "model")
    assert (made.status, made.finished) == ("under way, at step 7 of 20", False)
    facts = {fact.name: fact.value for fact in made.facts}
    assert facts["tokens"] == f"{7 * 4 * 16:,}"
    assert "validation loss" not in facts
    train(CONFIG, tiny_tokens, tmp_path / "model")
    assert report_of(tmp_path / "model").finished


def test_a_run_with_fewer_measurements_has_fewer_charts(model: Path, tmp_path: Path) -> None:
    shutil.copyfile(model / "config.json", tmp_path / "config.json")
    Metrics(tmp_path / "metrics.jsonl", 0).add(1, loss=2.0, val_losses={"<script>": float("nan"), "b": 1.0})
    made = data(write_report(tmp_path, tmp_path / "deep/page.html"))
    assert [chart["plan"]["title"] for chart in made["charts"]] == ["Training loss", "Validation loss"]
    assert [line["name"] for line in made["charts"][1]["lines"]] == ["b"]
    assert made["fillings"] == {}


def test_the_page_is_self_contained_and_hostile_names_are_text(model: Path) -> None:
    text = (model / REPORT).read_text()
    assert "<title>Training of report" in text
    assert "&lt;model&gt;</title>" in text
    assert "<model>" not in text
    assert (text.count("<script"), text.count("</script>")) == (2, 2)
    assert not re.findall(r"https?://(?!www\.w3\.org/2000/svg)|@import|url\(", text)
    assert "{" not in re.search(r'Content-Security-Policy" content="([^"]*)"', text)[1]  # pyright: ignore
    assert set(report.ORDER) >= {"chart.js", "report.js"}


DEEP = "[" * 60_000
FOREIGN = ["null", "[1]", '{"step": "x"}', '{"step": [1]}', '{"step": NaN}', '{"step": true}', '{"step": -1}', DEEP]
FOREIGN += [f'{{"step": 1{"0" * 400}}}', f'{{"step": 1, "loss": 1{"0" * 5000}}}', "\ufffd"]
ODD = [f'{{"step": 19, "loss": 1{"0" * 400}}}', '{"step": 19, "loss": -1e308}', '{"step": 19, "loss": 1e308}']
ODD += ['{"step": 19, "nonzeros_of": {"embedding.weight": NaN}}', '{"step": 19, "dead": {"0.attn.q": 3}}']
ODD += ['{"step": 19, "val_losses": {"\\ud800": 1.0}}']


@pytest.mark.parametrize("line", [*FOREIGN, *ODD], ids=lambda line: line[:40])
def test_lines_that_no_run_writes_do_no_harm(line: str, model: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(model, tmp_path / "model"))
    metrics = folder / artifact.METRICS
    metrics.write_text(metrics.read_text() + line + "\n")
    with pytest.raises(UserError, match=r"metrics\.jsonl is missing, truncated or altered"):
        write_report(folder)
    (folder / "meta.json").unlink()  # as a run that has not ended
    made = data(write_report(folder))
    assert [chart["plan"]["title"] for chart in made["charts"]] == [
        chart.plan.title for chart in report_of(model).charts
    ]
    if line in FOREIGN:
        assert read_metrics(folder) == read_metrics(model)
        Metrics(metrics, CONFIG.steps)
        assert metrics.read_text() == (model / artifact.METRICS).read_text(), "a resumed run drops it"


def test_a_report_written_on_the_way_is_replaced_by_that_of_the_end(
    model: Path, tiny_tokens: Tokens, tmp_path: Path
) -> None:
    def look(done: int, total: int, status: str) -> None:
        if done == 10:
            write_report(tmp_path)

    train_stage(CONFIG, tiny_tokens, tmp_path, look)
    assert data(tmp_path / REPORT)["finished"]
    written = (tmp_path / REPORT).stat().st_mtime_ns
    train_stage(CONFIG, tiny_tokens, tmp_path)
    assert (tmp_path / REPORT).stat().st_mtime_ns == written


def test_a_report_that_cannot_be_written_leaves_the_run_finished(tiny_tokens: Tokens, tmp_path: Path) -> None:
    said = []
    (tmp_path / "model" / REPORT).mkdir(parents=True)
    (tmp_path / "model" / "config.json").write_text(CONFIG.to_json())
    result = train_stage(CONFIG, tiny_tokens, tmp_path / "model", lambda done, total, status: said.append(status))
    assert result == read_result(tmp_path / "model")
    assert "no report: " in said[-1]


def test_the_verb_writes_the_report_of_a_model_folder(model: Path, tmp_path: Path, capsys) -> None:
    assert run(["view", str(model), "-o", str(tmp_path / "x.html"), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["out"] == str(tmp_path / "x.html")
    assert (tmp_path / "x.html").read_bytes() == (model / REPORT).read_bytes()
    assert run(["view", str(model), "-o", str(tmp_path)]) == 2
    assert "is a folder; give the name of an HTML file" in capsys.readouterr().err


def test_a_folder_without_a_run_is_refused(model: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"config\.json cannot be read"):
        write_report(tmp_path)
    shutil.copyfile(model / "config.json", tmp_path / "config.json")
    with pytest.raises(UserError, match=r"metrics\.jsonl cannot be read"):
        write_report(tmp_path)


@pytest.mark.browser
@pytest.mark.filterwarnings("default")
@pytest.mark.parametrize("width", [360, 1600])
def test_the_page_draws_every_chart_and_tells_values(model: Path, width: int) -> None:
    found = next(filter(None, map(shutil.which, BROWSERS)), None)
    if found is None:
        pytest.skip("no browser is installed")
    sync_api = pytest.importorskip("playwright.sync_api", reason="the playwright package is not installed")
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=found, args=["--no-sandbox"])
        sheet = browser.new_page(viewport={"width": width, "height": 900})
        complaints: list[str] = []
        sheet.on("console", lambda message: complaints.append(message.text))
        sheet.on("pageerror", lambda error: complaints.append(str(error)))
        sheet.goto((model / REPORT).as_uri())
        sheet.wait_for_selector(".chart svg path")
        charts = sheet.locator(".chart svg[role=img]")
        assert charts.count() == len(report_of(model).charts)
        assert "goes from" in charts.first.get_attribute("aria-label")
        charts.first.focus()
        sheet.keyboard.press("ArrowRight")
        assert sheet.locator(".tip:not([hidden])").inner_text().startswith("step 20")
        sheet.keyboard.press("ArrowLeft")
        assert sheet.locator(".tip:not([hidden])").inner_text().startswith("step 19")
        sheet.evaluate("document.activeElement.blur()")
        charts.nth(1).hover()
        assert "idioms" in sheet.locator(".tip:not([hidden])").inner_text()
        assert sheet.evaluate("document.documentElement.scrollWidth") <= width
        assert complaints == []
        browser.close()

"""The page in the system's Chromium, opened from a file. Run with `pytest -m browser`; installs nothing."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from browsing import Visit
from view_examples import HOSTILE

pytestmark = [pytest.mark.browser, pytest.mark.filterwarnings("default")]


@pytest.fixture(params=["light", "dark"])
def visit(request: pytest.FixtureRequest, browser, folder: Path) -> Iterator[Visit]:
    sheet = browser.new_page(viewport={"width": 1440, "height": 900}, color_scheme=request.param)
    made = Visit(sheet, folder / "example.html")
    made.open()
    yield made
    assert made.complaints == []
    assert all(url.startswith((made.path.parent.as_uri(), "data:", "blob:")) for url in made.requests)
    sheet.close()


def test_the_strip_says_the_verdict_and_its_weakest_measurements(visit: Visit):
    strip = visit.sheet.locator(".strip")
    assert visit.texts(".word > *") == ["✓", "robust"]
    shown = " ".join(strip.locator(".said").inner_text().split())
    for words in ("3 of 3 checks pass", "12 nodes, 9 edges", "5 embedding, 2 unembedding"):
        assert words in shown
    assert visit.texts(".dots .sign") == ["✓", "·", "✓", "✓"]
    first, *_ = weakest = visit.texts(".weak")
    assert len(weakest) == 3
    for words in ("circuit alone", "0.141", "nats loss", "0.131 … 0.151", "passes ≤ 0.15"):
        assert words in first
    assert strip.locator(".weak .gauge").count() == 1, "only one of the three has a threshold"
    at, limit = (strip.locator(f".gauge .{name}").evaluate("e => parseFloat(e.style.left)") for name in ("at", "limit"))
    assert (at, limit) == (pytest.approx(47, abs=0.1), pytest.approx(50, abs=0.1))


def test_all_measurements_are_folded_by_check(visit: Visit):
    assert not visit.sheet.locator(".group").first.is_visible()
    visit.sheet.locator(".every > summary").click()
    groups = [" ".join(text.split()) for text in visit.sheet.locator(".group").all_inner_texts()]
    for group, words in zip(
        groups,
        (
            ("circuit alone", "0.141 nats loss", "0.131 … 0.151 ≤ 0.15", "98.4 % accuracy", "256 pairs, heldout"),
            ("whole model", "0.052 nats", "99.8 % accuracy"),
            ("circuit removed", "0.871 nats", "✓ loss: no better than guessing"),
            ("random circuits", "0.740 nats", "20 random circuits", "✓ loss: no better than guessing"),
        ),
        strict=True,
    ):
        for word in words:
            assert word in group
    assert visit.sheet.locator(".measurement .dot.pass").count() == 3
    assert visit.sheet.locator(".measurement .sparkline polyline").count() == 1


def test_a_dot_tells_what_decides_its_check_and_opens_it(visit: Visit):
    tip, dot = visit.sheet.locator(".evidence .tip"), visit.sheet.locator('[data-dot="necessity"]')
    assert not tip.is_visible()
    dot.hover()
    assert tip.inner_text().startswith("circuit removed, loss: 0.871 nats")
    assert dot.get_attribute("aria-label") == "circuit removed: pass"
    visit.sheet.locator(".word").hover()
    visit.sheet.locator('[data-dot="sufficiency"]').focus()
    for _ in range(2):
        visit.sheet.keyboard.press("Tab")
    assert tip.inner_text().startswith("circuit removed, loss: 0.871 nats")
    visit.sheet.keyboard.press("Enter")
    assert visit.sheet.evaluate("document.activeElement.dataset.check") == "necessity"
    assert visit.sheet.locator('[data-name="necessity.accuracy"]').is_visible()


def test_a_measurement_explains_itself_on_hover_and_on_focus(visit: Visit):
    tip = visit.sheet.locator(".evidence .tip")
    visit.sheet.locator(".every > summary").click()
    visit.sheet.locator('[data-name="random.loss"]').hover()
    for words in (
        "Task loss: random circuits.",
        "95 % interval 0.730 to 0.750",
        "256 pairs, heldout",
        "Curve: random circuit",
    ):
        assert words in tip.inner_text()
    visit.sheet.locator('[data-name="necessity.accuracy"]').focus()
    assert tip.inner_text().startswith("circuit removed, accuracy: 50.0 %.")
    visit.sheet.evaluate("document.activeElement.blur()")
    assert not tip.is_visible()


def test_a_head_shows_its_attention_in_the_circuit_and_in_the_model(visit: Visit):
    assert visit.texts(".layer .head.fail span") == ["✗ head 82"]
    visit.sheet.locator('[data-head="7.82"] summary').click()
    visit.sheet.wait_for_selector(".patterns .text")
    cells = visit.sheet.locator(".patterns .text")
    assert cells.count() == 6, "two prompts and their difference, in the circuit and in the model"
    names = [cells.nth(index).get_attribute("aria-label") for index in range(6)]
    assert names[::2] == [
        'opened with ("' + ", in the circuit",
        "opened with ('" + ", in the circuit",
        "difference, second less first, in the circuit",
    ]
    circuit, model = (cells.nth(index).locator("footer").inner_text() for index in range(2))
    assert "0.07 for every token" in circuit
    assert (cells.nth(0).locator(".peak").count(), cells.nth(1).locator(".peak").count()) == (0, 1)
    assert "0.88" in model
    assert "sink 0.10" in " ".join(model.split())
    assert cells.nth(4).locator(".differs").all_text_contents() == ['("', "('"]
    visit.node("7.attn.k:82.1").click()
    assert "✗ uniform in the circuit" in visit.sheet.locator(".panel .heads").inner_text()
    visit.sheet.get_by_role("button", name="Pair 3").click()
    assert "river" in "".join(visit.texts(".patterns .heatmap"))
    visit.node("0.mlp.post_act:419").click()
    assert visit.sheet.locator(".panel .heads").count() == 0


def test_tasks_switch(visit: Visit):
    assert visit.sheet.locator(".item.node").count() == 12
    visit.sheet.get_by_role("button", name="random_60").click()
    assert visit.sheet.locator(".item.node").count() == 60
    assert "not sufficient under mean ablation" in visit.texts(".word")[0]
    assert "misses the target of 0.150" in " ".join(visit.texts(".evidence"))
    assert visit.sheet.url.endswith("#task=random_60")
    visit.sheet.keyboard.press("]")
    assert "keeps no node" in " ".join(visit.texts(".graph"))
    visit.sheet.keyboard.press("[")
    assert visit.sheet.locator(".item.node").count() == 60


def test_a_node_shows_its_edges_and_heatmaps(visit: Visit):
    visit.node("0.mlp.post_act:419").click()
    assert visit.texts(".panel h2") == ["0.mlp.post_act:419"]
    assert visit.texts(".edges .weight") == ["+2.04", "−1.88", "+1.40"]
    assert visit.texts(".edges .jump") == ["0.mlp.act_in:104", "0.mlp.act_in:881", "0.mlp.resid_delta:985"]
    assert visit.texts(".side h4") == ["Strongest positive", "Strongest negative"]
    peak = visit.sheet.locator(".side.pos .token.peak").first
    assert peak.get_attribute("title").startswith("+")
    shade = peak.evaluate("e => getComputedStyle(e).backgroundColor")
    assert shade not in ("rgba(0, 0, 0, 0)", "transparent")
    visit.sheet.get_by_role("button", name="Task prompts").click()
    assert len(visit.texts(".texts .heatmap")) == 8
    visit.sheet.locator(".edges .jump").last.click()
    assert visit.texts(".panel h2") == ["0.mlp.resid_delta:985"]


def test_the_keyboard_suffices(visit: Visit):
    visit.node("0.mlp.post_act:419").focus()
    visit.sheet.keyboard.press("ArrowUp")
    visit.sheet.keyboard.press("Enter")
    assert visit.texts(".panel h2") == ["0.mlp.resid_delta:985"]
    visit.sheet.keyboard.press("ArrowLeft")
    visit.sheet.keyboard.press("Enter")
    assert visit.texts(".panel h2") == ["0.mlp.resid_delta:460"]
    visit.sheet.keyboard.press("Escape")
    assert visit.texts(".panel h2")[0] == "single_double_quote"
    visit.sheet.keyboard.press("?")
    assert visit.sheet.locator("dialog.help").is_visible()
    visit.sheet.keyboard.press("Escape")
    assert not visit.sheet.locator("dialog.help").is_visible()


def test_the_address_brings_back_the_place(visit: Visit):
    visit.open("single_double_quote", "7.attn.k:82.1")
    assert visit.texts(".panel h2") == ["7.attn.k:82.1"]
    assert visit.node("7.attn.k:82.1").get_attribute("aria-pressed") == "true"
    visit.open("no such task", "no such node")
    assert visit.texts(".panel h2")[0] == "single_double_quote"


def test_channels_and_tokens_open_too(visit: Visit):
    visit.node("embed:104").click()
    assert visit.texts(".panel h2") == ["channel 104"]
    assert '("' in visit.texts(".edges li .mono")[0]
    visit.sheet.locator(".item.answer").first.click()
    assert visit.texts(".edges .weight") == ["+1.42"]


def test_hostile_texts_stay_text(visit: Visit):
    visit.open(HOSTILE[2], "0.mlp.act_in:104")
    assert visit.sheet.evaluate("window.owned") is None
    assert visit.sheet.locator("#app img, #app script").count() == 0
    assert HOSTILE[0] in visit.texts(".text .heatmap")[0].replace("·", " ")
    assert HOSTILE[0] in visit.texts(".text footer")[0]
    visit.sheet.keyboard.press("Escape")
    assert visit.texts(".panel h2")[0] == HOSTILE[2]


@pytest.mark.parametrize("width", [1440, 800, 400])
@pytest.mark.parametrize("name", ["example", "checks"])
def test_nothing_runs_off_the_side(browser, folder: Path, width: int, name: str):
    sheet = browser.new_page(viewport={"width": width, "height": 900})
    made = Visit(sheet, folder / f"{name}.html")
    for node in ("", "0.mlp.post_act:419", "7.attn.k:82.1"):
        made.open("single_double_quote", node)
        assert sheet.evaluate("document.documentElement.scrollWidth") <= width
        sheet.locator(".every > summary").click()
        assert sheet.evaluate("document.documentElement.scrollWidth") <= width
    sheet.close()


def test_many_checks_leave_room_for_the_picture(browser, folder: Path):
    sheet = browser.new_page(viewport={"width": 1400, "height": 900})
    made = Visit(sheet, folder / "checks.html")
    made.open()
    assert sheet.locator(".dots .sign").count() == 25
    assert sheet.locator(".evidence").bounding_box()["height"] < 200
    sheet.locator(".every > summary").click()
    assert sheet.locator(".graph").bounding_box()["height"] >= 200
    sheet.locator('[data-dot="sufficiency24"]').click()
    assert sheet.evaluate("document.activeElement.dataset.check") == "sufficiency24"
    sheet.close()


def test_a_large_circuit_stays_usable(browser, folder: Path):
    sheet = browser.new_page(viewport={"width": 1440, "height": 900})
    made = Visit(sheet, folder / "large.html")
    made.open()
    assert sheet.locator(".item.node").count() == 500
    sheet.locator(".item.node").nth(250).focus()
    sheet.keyboard.press("Enter")
    assert sheet.locator(".edges li").count() > 0
    slow = sheet.evaluate("""async () => {
        const began = performance.now();
        const graph = document.querySelector('.graph');
        for (let i = 0; i < 20; i++) {
            graph.dispatchEvent(new WheelEvent('wheel', {deltaX: 5, deltaY: 5, cancelable: true}));
            await new Promise(requestAnimationFrame);
        }
        return (performance.now() - began) / 20;
    }""")
    assert slow < 250, "milliseconds a frame while panning"
    assert made.complaints == []
    sheet.close()


def test_a_page_without_circuits_says_so(browser, folder: Path):
    sheet = browser.new_page()
    sheet.goto((folder / "nothing.html").as_uri())
    assert "holds no circuit" in sheet.locator(".nothing").first.text_content()
    sheet.close()

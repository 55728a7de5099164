"""Pages in places and with numbers that are hard on them, in the system's Chromium. Run with `pytest -m browser`."""

from html import escape
from pathlib import Path

import numpy as np
import pytest
from browsing import Visit
from test_samples import HARD

from thinwire.view import page
from thinwire.view.config import SampleConfig
from thinwire.view.describe import activity_of
from thinwire.view.payload import Payload
from thinwire.view.samples import Texts, profile

pytestmark = [pytest.mark.browser, pytest.mark.filterwarnings("default")]
REFUSALS = """() => {
    const refuse = () => { throw new DOMException('refused', 'SecurityError'); };
    for (const [place, name] of [[History.prototype, 'replaceState'],
        [Element.prototype, 'setPointerCapture'],
        [Element.prototype, 'scrollIntoView'], [window, 'matchMedia'],
        [window, 'ResizeObserver']]) place[name] = refuse;
}"""
FRAMES = {
    "notebook": "srcdoc='{page}'",
    "notebook, sandboxed": "sandbox='allow-scripts' srcdoc='{page}'",
    "file, sandboxed": "sandbox='allow-scripts' src='example.html'",
}


@pytest.mark.parametrize("frame", FRAMES)
def test_a_frame_that_refuses_an_address_shows_the_page(frame: str, browser, folder: Path):
    text = escape((folder / "example.html").read_text(encoding="utf-8"))
    around = folder / "frame.html"
    around.write_text(
        f"<!doctype html><meta charset=utf-8><iframe width=1200 height=800 {FRAMES[frame].format(page=text)}></iframe>",
        encoding="utf-8",
    )
    sheet = browser.new_page(viewport={"width": 1300, "height": 900})
    complaints: list[str] = []
    sheet.on("pageerror", lambda error: complaints.append(str(error)))
    sheet.goto(around.as_uri())
    page = sheet.frame_locator("iframe")
    page.locator(".panel h2").first.wait_for()
    assert page.locator(".item.node").count() == 12
    page.locator('.item[data-id="0.mlp.post_act:419"]').click()
    assert page.locator(".panel h2").first.text_content() == "0.mlp.post_act:419"
    page.get_by_role("button", name="random_60").click()
    assert page.locator(".item.node").count() == 60
    assert complaints == []
    sheet.close()


def test_no_refused_convenience_takes_the_page_down(browser, folder: Path):
    sheet = browser.new_page(viewport={"width": 1440, "height": 900})
    sheet.add_init_script(f"({REFUSALS})()")
    made = Visit(sheet, folder / "example.html")
    made.open()
    made.node("0.mlp.post_act:419").click()
    assert made.texts(".panel h2") == ["0.mlp.post_act:419"]
    sheet.mouse.move(700, 400)
    sheet.mouse.wheel(0, 30)
    sheet.get_by_role("button", name="random_60").click()
    assert sheet.locator(".item.node").count() == 60
    assert made.complaints == []
    sheet.close()


def test_hard_activations_are_drawn(browser, folder: Path, example: Payload):
    """Every node opens with a histogram of whole numbers, whatever its activations are."""
    task = example.tasks[0]
    values = [np.array([HARD[name]] * 2, np.float32) for name in HARD]
    nodes = tuple(
        node.replace(activity=activity_of(profile(seen, Texts(np.zeros(seen.shape, int), ("x",) * 2), SampleConfig())))
        for node, seen in zip(task.nodes, values, strict=False)
    )
    edges = tuple(
        edge.replace(weight=weight) for edge, weight in zip(task.edges, (1e30, -1e30, 1e-40, 0.0) * 3, strict=False)
    )
    hard = task.replace(nodes=(*nodes, *task.nodes[len(nodes) :]), edges=edges)
    page.write(example.replace(tasks=(hard, hard.replace(name="no edges", edges=()))), folder / "hard.html")
    sheet = browser.new_page(viewport={"width": 1440, "height": 900})
    made = Visit(sheet, folder / "hard.html")
    for node, seen in zip(nodes, values, strict=False):
        made.open(hard.name, node.name)
        assert (sheet.locator(".histogram rect").count() > 0) == bool(np.count_nonzero(seen)), node
        for word in ("NaN", "Infinity"):
            assert word not in sheet.locator("#app").inner_html(), node
    made.open("no edges")
    assert sheet.locator(".item.node").count() == 12
    assert made.complaints == []
    sheet.close()

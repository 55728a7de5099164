import base64
import gzip
import hashlib
import json
import re
from importlib.resources import files
from pathlib import Path
from typing import get_args

import pytest
from view_examples import HOSTILE

from thinwire.errors import UserError
from thinwire.prune.config import Ablation
from thinwire.view import bridge_report, page, report
from thinwire.view.payload import Payload

STATIC = Path(str(files("thinwire.view").joinpath("static")))
MARKUP = re.compile(
    r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|DOMParser|createContextualFragment|\beval\("
)
NETWORK = re.compile(r"\bfetch\(|XMLHttpRequest|WebSocket|EventSource|sendBeacon|https?://(?!www\.w3\.org/2000/svg)")


@pytest.fixture(scope="module")
def text(example: Payload) -> str:
    return page.render(example)


def element(text: str, opening: str) -> str:
    return text.split(opening, 1)[1].split("</", 1)[0]


def test_the_same_payload_gives_the_same_bytes(example: Payload, text: str, tmp_path: Path):
    page.write(example, tmp_path / "deep" / "page.html")
    assert (tmp_path / "deep" / "page.html").read_bytes() == text.encode()


def test_the_data_comes_back(example: Payload, text: str):
    data = json.loads(gzip.decompress(base64.b64decode(element(text, '<script type="text/plain" id="data">'))))
    assert Payload.parse(json.dumps(data["payload"]), "it") == example
    assert len(data["drawings"]) == len(example.tasks)


def test_hostile_texts_are_nowhere_in_the_page(text: str):
    assert not [words for words in HOSTILE if words in text and words != "\u2028"]
    assert text.count("<script") == 2
    assert text.count("</script>") == 2


def test_a_hostile_title_is_text(example: Payload):
    made = page.render(example.replace(title="</title><script>1</script>"))
    assert "<title>&lt;/title&gt;" in made
    assert made.count("<script") == 2


def test_nothing_points_outside(text: str):
    body = text.replace("http://www.w3.org/2000/svg", "")
    assert not re.findall(r"https?://|//[a-z]+\.[a-z]", body)
    assert re.findall(r'\b(?:src|href)="([^"]*)"', body) == ["data:,"]
    assert "url(" not in element(text, "<style>")
    assert "@import" not in text


def test_the_policy_allows_exactly_this_script_and_style(text: str):
    policy = re.search(r'Content-Security-Policy" content="([^"]*)"', text)
    assert policy is not None
    rules = dict(rule.strip().split(" ", 1) for rule in policy[1].split(";"))
    assert rules["default-src"] == "'none'"
    for name, opening in (("script-src", '<script type="module">'), ("style-src", "<style>")):
        inline = text.split(opening, 1)[1].split("</script>" if "script" in name else "</style>", 1)[0]
        digest = base64.b64encode(hashlib.sha256(inline.encode()).digest()).decode()
        assert rules[name] == f"'sha256-{digest}'"


@pytest.mark.parametrize("path", sorted(STATIC.glob("*.js")), ids=lambda path: path.name)
def test_modules_make_no_markup_and_ask_no_network(path: Path):
    source = path.read_text(encoding="utf-8")
    assert not MARKUP.findall(source)
    assert not NETWORK.findall(source)
    assert len(source.splitlines()) < 250
    assert not re.search(r"</script|<!--", source)


def test_every_ablation_has_a_text() -> None:
    (shown,) = re.findall(r"const ABLATIONS = .*?\({(.*?)}\)", (STATIC / "measurements.js").read_text(), re.DOTALL)
    exchanges = {"resample", "other_side", "pretraining", "scattered"}
    assert set(re.findall(r'(\w+): "', shown)) >= {"none", *exchanges, *get_args(Ablation)}


def test_every_static_file_is_on_the_page(text: str):
    assert {path.name for path in STATIC.iterdir()} == {
        *page.ORDER,
        *page.STYLES,
        *report.ORDER,
        *report.STYLES,
        *bridge_report.ORDER,
    }
    joined = page.join_modules()
    assert not re.search(r"^(import|export)\b", joined, re.MULTILINE)


def test_a_path_that_cannot_be_written_is_refused(example: Payload, tmp_path: Path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot be created"):
        page.write(example, tmp_path / "file" / "page.html")


REFUSABLE = (
    r"history\.|location\.|localStorage|sessionStorage|indexedDB|document\.cookie|navigator\.|matchMedia|ResizeObserver"
    r"|IntersectionObserver|setPointerCapture|scrollIntoView|showModal|requestFullscreen|window\.open"
)
"""What a frame, a sandbox or an old browser may refuse."""


def test_what_a_browser_may_refuse_is_only_asked_for_under_the_guard():
    for path in sorted(STATIC.glob("*.js")):
        code = re.sub(r"^\s*(//|\*|/\*).*$", "", path.read_text(encoding="utf-8"), flags=re.MULTILINE)
        for number, line in enumerate(code.splitlines(), 1):
            asked = re.search(rf"(?<![\w.])(\w+\.)?({REFUSABLE})", line)
            assert asked is None or "attempt(" in line, f"{path.name}:{number}: {line.strip()}"

"""Records are one short line; what notebooks show is well-formed, without scripts, and escapes every foreign text."""

from dataclasses import replace
from html.parser import HTMLParser

import pytest
import torch
from tiny import tiny_model, tiny_run
from view_pieces import HOSTILE

from thinwire import TASKS, ModelConfig, Node, PruneConfig, ResidPoint, Site, TrainConfig, VerifyConfig
from thinwire.artifact import Artifact, FileEntry, Meta
from thinwire.circuit import Circuit, EdgeEnds
from thinwire.data import Tokenizer
from thinwire.data.tokenizer import BYTES, END_OF_TEXT
from thinwire.model.taps import record
from thinwire.sites import all_sites
from thinwire.tasks import PairBatch
from thinwire.verify import Curve, Headline, Interval, Measurement, Verdict
from thinwire.verify.measurement import Threshold
from thinwire.view import portrait
from thinwire.view.payload import Payload
from thinwire.view.samples import Texts

MODEL = tiny_model()
NAMES = ("0.attn.act_in:3", "0.attn.v:1.0", "0.attn.resid_delta:5", "1.mlp.act_in:5")
NODES = tuple(Node.parse(name, MODEL.config) for name in NAMES)
MEANS = {site: torch.zeros(site.width(MODEL.config)) for site in all_sites(MODEL.config)}
CIRCUIT = Circuit("quotes", MODEL.config, NODES, MEANS, prompt_tokens=tuple(range(40)), answer_tokens=(1, 2))
TOKENIZER = Tokenizer([END_OF_TEXT, *BYTES], [])
LOSS = Measurement("one.loss", "one", 0.1, "nats", 64, Interval(0.05, 0.2), "heldout", "mean", "It is. " * 99)
META = Meta(
    format="circuit",
    version=1,
    thinwire="0",
    seed=0,
    parents={"model": "0" * 16},
    files={f"{n}.json": FileEntry(bytes=1, sha256="0" * 64) for n in range(9)},
)


def verdict(word: str = "one") -> Verdict:
    curve = Curve("step", tuple(map(float, range(99))), tuple(map(float, range(99))))
    rows = [
        replace(LOSS, name=f"{word}{n}.loss", title=word, status="fail", reason=word, curve=curve) for n in range(20)
    ]
    return Verdict(word, 4, 2, 0.15, tuple(rows))


def test_reprs_are_one_short_line(example: Payload) -> None:
    many = tuple(Node(Site.of(1, "mlp.post_act"), index) for index in range(32))
    batch = PairBatch(*(torch.zeros(64, dtype=torch.long) for _ in range(4)))
    whole = replace(CIRCUIT, nodes=many, kept_edges=())
    records = (
        CIRCUIT,
        whole,
        MODEL,
        NODES[0],
        NODES[0].site,
        ResidPoint(3),
        verdict(),
        LOSS,
        verdict()["one3.loss"].curve,
    )
    records += (META, Artifact("/a" * 30, META), TOKENIZER, batch, record(), TASKS["else_elif"], CIRCUIT.to_tap())
    records += (
        example,
        example.tasks[0],
        example.tasks[0].nodes[0],
        example.model,
        portrait(MODEL, CIRCUIT, TOKENIZER),
    )
    records += (ModelConfig(), TrainConfig(), tiny_run(), PruneConfig(), VerifyConfig(), CIRCUIT.edges(MODEL)[0])
    records += (Texts(torch.zeros(2, 3).numpy(), ("text",) * 999), EdgeEnds(*NODES[:2]), CIRCUIT.calibration)
    for one in records:
        assert len(repr(one)) <= 300, type(one)
        assert "\n" not in repr(one), type(one)
        assert " object at 0x" not in repr(one).replace("draw=<", ""), type(one)
    assert str(NODES[0]) == "0.attn.act_in:3"
    assert repr(NODES[1]) == "Node('0.attn.v:4')"
    assert repr(CIRCUIT) == f"Circuit('quotes', 4 nodes: {', '.join(NAMES)})"
    assert repr(whole).startswith("Circuit('quotes', 32 nodes, 0 edges: 1.mlp.post_act:0, ")
    assert repr(ModelConfig(n_layers=3)) == "ModelConfig(n_layers=3)"


class Tags(HTMLParser):
    """Checks that elements are closed in order, and keeps their names, their attributes and the text."""

    VOID = ("meta", "br")

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.names: set[str] = set()
        self.text = ""
        self.feed(text)
        self.close()
        assert not self.open

    def handle_starttag(self, tag: str, attrs: list) -> None:
        self.names.add(tag)
        assert not any(name.startswith("on") or (value or "").startswith("javascript") for name, value in attrs), attrs
        self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list) -> None:
        self.names.add(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data


@pytest.mark.parametrize("word", ["quotes", *HOSTILE, "a\x1b[31m\nb"])
def test_what_notebooks_show_is_text_and_pictures_only(word: str) -> None:
    edges = (EdgeEnds(NODES[0], NODES[1]), EdgeEnds(NODES[1], NODES[2]))
    shown = {
        "circuit": replace(CIRCUIT, task=word),
        "with edges": replace(CIRCUIT, task=word, kept_edges=edges),
        "portrait": portrait(MODEL, replace(CIRCUIT, task=word), TOKENIZER),
        "no node": replace(CIRCUIT, nodes=()),
        "no node, portrait": portrait(MODEL, replace(CIRCUIT, nodes=()), TOKENIZER),
        "large": replace(CIRCUIT, nodes=tuple(Node(NODES[0].site, n) for n in range(16)) * 20),
        "verdict": verdict(word.replace(".", "") or "x"),
        "model": MODEL,
    }
    for name, one in shown.items():
        found = Tags(one._repr_html_())
        assert not found.names & {"script", "img", "style", "iframe", "object", "link"}, name
        assert "\x1b" not in found.text
        assert name != "with edges" or one._repr_html_().count("<title>") == 2
    assert "keeps no node" in shown["no node"]._repr_html_()
    assert "weights nonzero" in shown["model"]._repr_html_()


def test_a_notebook_shows_the_word_and_the_weakest_first() -> None:
    share = replace(LOSS, name="log_odds.share", title="the log-odds", unit="fraction", value=0.25)
    share = replace(share.held_against(Threshold(0.7, at_most=False)), headline=Headline("share", "share"))
    whole, fine = replace(LOSS, name="whole.loss", title="whole"), LOSS.held_against(Threshold(0.3))
    text = Tags(Verdict("quotes", 4, 2, 0.15, (whole, fine, share))._repr_html_()).text
    first, every = text.split("All 3 measurements")
    for words in ("! robust, except the log-odds", "share of the model's log-odds 0.250", "✗ below 0.7", "≥ 0.7"):
        assert words in first
    assert "whole" not in first
    assert "whole" in every

"""Parts of hand-made payloads: texts, windows, pairs, measurements."""

import math
import random
import re

from thinwire.view.payload import Activity, ModelCard, Pair, Prompt, Window
from thinwire.view.records import CurveView, HeadView, MeasurementView, VerdictView

MODEL = ModelCard(
    n_layers=8,
    d_model=2048,
    n_heads=128,
    d_head=16,
    d_mlp=8192,
    context=256,
    vocab_size=2048,
    weights="1,250,000 of 475,000,000 weights nonzero, plus a dense bigram table of 4,194,304",
    nonzeros=1_250_000,
    entries=475_000_000,
    bigram=4_194_304,
    val_loss=1.87,
    seed=0,
    model_id="3f2a9c01d4e5b677",
    tokenizer_id="aa10bb20cc30dd40",
    tokens_id="0123456789abcdef",
)
CODE = [
    'def greet(name):\n    message = ("hello", name)\n    print("hi")\n    return message\n',
    "words = ['ant', 'bee', 'cow']\nfor word in words:\n    print('a', word)\n",
    'class Box:\n    """A box."""\n\n    def __init__(self, size):\n        self.open = ("no")\n'
    "        self.size = size\n",
    "if mode == 'r':\n\tdata = open('notes.txt').read()\nelse:\n\tdata = ''\n",
    'rows = [[1, 2], [3, 4]]\ntotal = sum(sum(row) for row in rows)\nlog.info("total %d", total)\n',
]
HOSTILE = (
    "</script><script>window.owned = 1</script>",
    "<!--",
    "<img src=x onerror='window.owned = 2'>",
    "\u2028",
    "&amp;",
)


class Texts:
    """Token texts to vocabulary indices, as a payload holds them."""

    def __init__(self) -> None:
        self.ids: dict[str, int] = {}

    def __call__(self, text: str) -> int:
        return self.ids.setdefault(text, len(self.ids))

    def split(self, code: str) -> tuple[int, ...]:
        return tuple(self(piece) for piece in re.findall(r"\(?[\"']\)?\n?| ?\w+|\n[ \t]*|[^\w\s]| +|\t", code))

    @property
    def vocab(self) -> tuple[str, ...]:
        return tuple(self.ids)


def windows(texts: Texts, sign: int, wanted: str, rng: random.Random) -> tuple[Window, ...]:
    """Windows whose activation is high at tokens matching `wanted`."""
    found = []
    for number, code in enumerate(CODE):
        tokens = texts.split(code)
        names = list(texts.ids)
        values = [sign * round(rng.uniform(2, 4), 3) if re.search(wanted, names[t]) else 0.0 for t in tokens]
        values = [value or (round(rng.gauss(0, 0.4), 3) if rng.random() < 0.3 else 0.0) for value in values]
        peak = max(range(len(values)), key=lambda i: sign * values[i])
        window = Window(tokens=tokens, activations=tuple(values), peak=peak, source=f"held-out document {number * 37}")
        found.append(window)
    return tuple(sorted(found, key=lambda window: -sign * window.activations[window.peak]))


def activity(rng: random.Random, low: float, high: float) -> Activity:
    bins = 30
    bounds = tuple(round(low + (high - low) * i / bins, 3) for i in range(bins + 1))
    counts = tuple(
        int(20_000 * math.exp(-abs(i - bins * -low / (high - low)) / 2.2) * rng.uniform(0.6, 1)) for i in range(bins)
    )
    return Activity(low=low, high=high, nonzero=0.24, tokens=262_144, bounds=bounds, counts=counts)


def pairs(texts: Texts, rng: random.Random, count: int = 4) -> tuple[Pair, ...]:
    made = []
    for word in ("apple", "window", "river", "stone")[:count]:
        sides = []
        for quote in "\"'":
            tokens = texts.split(f"user = load(path)\n    print({quote}{word} table")
            answer, foil = (texts(f"{mark})\n") for mark in (quote, "\"'".replace(quote, "")))
            p = {"p_circuit": round(rng.uniform(0.8, 0.99), 3), "p_model": round(rng.uniform(0.95, 0.999), 3)}
            sides.append(Prompt(tokens=tokens, answer=answer, foil=foil, **p))
        made.append(Pair(first=sides[0], second=sides[1]))
    return tuple(made)


def measured(check: str, title: str, loss: float, accuracy: float, **fields: object) -> tuple[MeasurementView, ...]:
    """The loss and the accuracy of one check; further fields are of the loss."""
    both = {"check": check, "title": title, "n": 256, "split": "heldout", "ablation": "mean"}
    one = both | {"quantity": "loss", "value": loss, "unit": "nats", "low": loss - 0.01, "high": loss + 0.01}
    other = both | {"quantity": "accuracy", "value": accuracy, "unit": "fraction", "meaning": "Share of right answers."}
    one |= {"meaning": f"Task loss: {title}."} | fields
    return MeasurementView.model_validate(one), MeasurementView.model_validate(other)


def evidence(circuit: float = 0.141) -> dict[str, object]:
    """What the checks say of a task: fields of `TaskView`."""
    rng = random.Random(1)
    drawn = sorted(round(rng.uniform(0.62, 0.86), 4) for _ in range(20))
    curve = CurveView(x_label="random circuit", x=tuple(map(float, range(20))), y=tuple(drawn))
    met = circuit <= 0.15
    judged = {"status": "pass" if met else "fail", "reason": f"{'meets' if met else 'misses'} the target of 0.150"}
    judged |= {"limit": 0.15}
    needed = {"status": "pass", "reason": "no better than guessing"}
    return {
        "target_loss": 0.15,
        "guessing_loss": 0.6931,
        "measurements": (
            *measured("sufficiency", "circuit alone", circuit, 0.984, **judged),
            *measured("unpruned", "whole model", 0.052, 0.998),
            *measured("necessity", "circuit removed", 0.871, 0.5, **needed),
            *measured("random", "random circuits", 0.74, 0.5, budget="20 random circuits", curve=curve, **needed),
        ),
        "verdict": VerdictView(
            word="robust" if met else "not sufficient under mean ablation",
            status="pass" if met else "fail",
            weakest=(0, 4, 6),
            deciding=(0, 2, 4, 6),
        ),
    }


def attending(prompts: tuple[Pair, ...], head: int, layer: int = 7) -> HeadView:
    """A head that looks at the quotes in the model, and nowhere in particular in the circuit; a tenth is the sink's."""
    lengths = [len(side.tokens) for pair in prompts for side in (pair.first, pair.second)]
    even = tuple((*[round(0.9 / length, 3)] * length, 0.1) for length in lengths)
    model = tuple((*[0.0] * (length - 4), 0.88, *[0.02 / 3] * 3, 0.1) for length in lengths)
    return HeadView(
        layer=layer,
        head=head,
        status="fail",
        reason="uniform in the circuit, not in the whole model",
        distance=(0.83, 0.79),
        circuit_uneven=(0.0, 0.01),
        model_uneven=(0.9, 0.85),
        prompts=24,
        sink=True,
        circuit=even,
        model=model,
    )

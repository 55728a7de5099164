"""Hand-made payloads for tests of the page: the paper's quote circuit, random circuits of any size, hostile text."""

import random

from view_pieces import HOSTILE, MODEL, Texts, activity, attending, evidence, measured, pairs, windows

from thinwire.sites import KINDS
from thinwire.view.payload import (
    Counts,
    EdgeView,
    NodeView,
    Payload,
    TaskView,
    TokenEdgeView,
    Window,
)

QUOTE_NODES = (
    ("0.mlp.act_in:104", 0.02, 0.31, 2.1, 0.4, None),
    ("0.mlp.act_in:881", -0.01, 0.55, 0.3, 2.2, None),
    ("0.mlp.post_act:2790", 0.05, 0.42, 3.2, 2.9, -0.2),
    ("0.mlp.post_act:419", 0.01, 0.61, 3.4, -2.8, None),
    ("0.mlp.resid_delta:460", 0.1, 0.4, 1.9, 1.8, None),
    ("0.mlp.resid_delta:985", 0.0, 0.63, 2.6, -2.1, None),
    ("7.attn.act_in:460", 0.1, 0.22, 1.1, 1.0, None),
    ("7.attn.act_in:985", 0.0, 0.58, 1.6, -1.4, None),
    ("7.attn.q:82.1", 1.61, 0.02, 1.7, 1.6, 1.58),
    ("7.attn.k:82.1", 0.04, 0.37, 2.4, 2.2, None),
    ("7.attn.v:82.6", 0.0, 0.66, 2.2, -2.0, None),
    ("7.attn.resid_delta:1249", 0.0, 0.69, 1.9, -1.8, None),
)
"""Name, mean, strength, activation on double and on single quotes, bias."""
QUOTE_EDGES = (
    (0, 2, 1.31),
    (1, 2, 1.12),
    (0, 3, 2.04),
    (1, 3, -1.88),
    (2, 4, 0.93),
    (3, 5, 1.4),
    (6, 9, 1.77),
    (7, 10, 1.52),
    (10, 11, 2.26),
)
"""Source and target among the nodes, weight."""
QUOTE_TOKENS = (
    ('("', 104, 1.9),
    ('"', 104, 0.7),
    ("('", 881, 1.8),
    ("'", 881, 0.9),
    (" b", 104, -0.3),
)
"""Token, channel it writes, weight."""


def quote_task(texts: Texts) -> TaskView:
    """The quote circuit of Gao et al. 2025: 12 nodes, 9 edges."""
    rng = random.Random(0)
    prompts = pairs(texts, rng)
    names = {token: text for text, token in texts.ids.items()}

    def on_prompts(double: float, single: float) -> tuple[tuple[float, ...], ...]:
        rows = []
        for number, prompt in enumerate(prompt for pair in prompts for prompt in (pair.first, pair.second)):
            level = single if number % 2 else double
            hot = [('"' in names[t] or "'" in names[t]) for t in prompt.tokens]
            rows.append(tuple(round(level * rng.uniform(0.9, 1.1), 3) if h else 0.0 for h in hot))
        return tuple(rows)

    def node(name: str, mean: float, strength: float, double: float, single: float, bias: float | None) -> NodeView:
        site, _, place = name.partition(":")
        layer, _, kind = site.partition(".")
        head, channel = place.split(".") if "." in place else (None, place)
        wanted = r"[\"']" if double * single > 0 else r"\""
        return NodeView(
            name=name,
            layer=int(layer),
            kind=kind,
            head=int(head) if head else None,
            channel=int(channel),
            mean=mean,
            bias=bias,
            strength=strength,
            sides=(double, single),
            activity=activity(rng, min(-0.8, double, single) * 1.2, max(0.8, double, single) * 1.2),
            positive=windows(texts, 1, wanted, rng),
            negative=windows(texts, -1, "'" if double * single < 0 else "zzz", rng),
            on_prompts=on_prompts(double, single),
        )

    nodes = tuple(node(*row) for row in QUOTE_NODES)
    edges = tuple(EdgeView(source=s, target=t, weight=w) for s, t, w in QUOTE_EDGES)
    embedding = tuple(TokenEdgeView(token=texts(text), channel=c, weight=w) for text, c, w in QUOTE_TOKENS)
    unembedding = (
        TokenEdgeView(token=texts('")\n'), channel=1249, weight=1.42),
        TokenEdgeView(token=texts("')\n"), channel=1249, weight=-1.37),
    )
    return TaskView(
        name="single_double_quote",
        summary="Close a string with the quote it was opened with.",
        circuit_id="99aa88bb77cc66dd",
        sides=('opened with ("', "opened with ('"),
        **evidence(),
        counts=Counts(nodes=12, edges=9, embedding_edges=5, unembedding_edges=2),
        scale=1.8,
        shift=0.02,
        strength_label="rise of the task loss when this node is ablated too",
        nodes=nodes,
        edges=edges,
        embedding=embedding,
        unembedding=unembedding,
        pairs=prompts,
        heads=(attending(prompts, 82),),
    )


def random_task(texts: Texts, nodes: int, edges: int, name: str, n_layers: int = 4, documents: int = 2) -> TaskView:
    """A seeded random circuit with edges only where a transformer has them."""
    rng = random.Random(nodes)
    prompts = pairs(texts, rng, 2)
    made: dict[str, NodeView] = {}
    while len(made) < nodes:
        layer, kind = rng.randrange(n_layers), rng.choice(KINDS)
        headed = kind in ("attn.q", "attn.k", "attn.v")
        head, channel = (
            (rng.randrange(4 if nodes < 200 else 16) if headed else None),
            rng.randrange(16 if headed else nodes),
        )
        text = f"{layer}.{kind}:" + (f"{head}.{channel}" if headed else f"{channel}")
        rows = tuple(tuple(round(rng.gauss(0, 1), 2) for _ in p.tokens) for q in prompts for p in (q.first, q.second))
        made[text] = NodeView(
            name=text,
            layer=layer,
            kind=kind,
            head=head,
            channel=channel,
            mean=round(rng.gauss(0, 0.2), 3),
            strength=round(rng.random() ** 3, 3),
            sides=(round(rng.gauss(0, 1), 2), round(rng.gauss(0, 1), 2)),
            activity=activity(rng, -2.0, 3.0),
            positive=windows(texts, 1, "o", rng)[:documents],
            negative=windows(texts, -1, "a", rng)[:documents],
            on_prompts=rows,
        )
    views = tuple(made.values())
    allowed = {"attn.act_in": ("attn.q", "attn.k", "attn.v"), "attn.v": ("attn.resid_delta",)}
    allowed |= {"mlp.act_in": ("mlp.post_act",), "mlp.post_act": ("mlp.resid_delta",)}
    options = [
        (s, t)
        for s, a in enumerate(views)
        for t, b in enumerate(views)
        if a.layer == b.layer and b.kind in allowed.get(a.kind, ())
    ]
    ends = rng.sample(options, min(edges, len(options)))
    drawn = tuple(EdgeView(source=s, target=t, weight=round(rng.gauss(0, 1), 3)) for s, t in ends)
    read = sorted({v.channel for v in views if v.kind.endswith("act_in")})[:8]
    embedding = tuple(
        TokenEdgeView(token=rng.choice(prompts[0].first.tokens), channel=c, weight=rng.gauss(0, 1)) for c in read
    )
    answers = (prompts[0].first.answer, prompts[0].second.answer)
    last = [v.channel for v in views if v.kind == "mlp.resid_delta"][:3]
    unembedding = tuple(TokenEdgeView(token=a, channel=c, weight=rng.gauss(0, 1)) for c in last for a in answers)
    counts = Counts(nodes=nodes, edges=len(drawn), embedding_edges=len(embedding), unembedding_edges=len(unembedding))
    return TaskView(
        name=name,
        summary="A seeded random circuit.",
        **evidence(0.3),
        counts=counts,
        strength_label="rise of the task loss when this node is ablated too",
        nodes=views,
        edges=drawn,
        embedding=embedding,
        unembedding=unembedding,
        pairs=prompts,
    )


def empty_task() -> TaskView:
    bare = measured("sufficiency", "circuit alone", 0.69, 0.5)
    counts = Counts(nodes=0, edges=0, embedding_edges=0, unembedding_edges=0)
    return TaskView(name="empty", summary="Nothing was kept.", guessing_loss=0.6931, measurements=bare, counts=counts)


def hostile_task(texts: Texts) -> TaskView:
    """A quote task whose name, text and tokens try to be markup."""
    task = quote_task(texts)
    tokens = tuple(texts(text) for text in HOSTILE)
    window = Window(tokens=tokens, activations=(1.0, -1.0, 2.0, 0.0, 0.5), peak=2, source=HOSTILE[0])
    nodes = tuple(node.replace(positive=(window, *node.positive)) for node in task.nodes)
    embedding = tuple(TokenEdgeView(token=token, channel=104, weight=3.0) for token in tokens)
    return task.replace(name=HOSTILE[2], summary=HOSTILE[0], nodes=nodes, embedding=(*task.embedding, *embedding))


def example_payload() -> Payload:
    """Quotes, a middling random circuit, an empty one, and a hostile one."""
    texts = Texts()
    tasks = (quote_task(texts), random_task(texts, 60, 100, "random_60"), empty_task(), hostile_task(texts))
    return Payload(model=MODEL, vocab=texts.vocab, tasks=tasks)


def large_payload(nodes: int = 500, edges: int = 5000) -> Payload:
    texts = Texts()
    return Payload(model=MODEL, tasks=(random_task(texts, nodes, edges, "large"),), vocab=texts.vocab)


def with_checks(payload: Payload, count: int) -> Payload:
    """The same page with so many checks a task."""

    def more(task: TaskView) -> TaskView:
        checks = list(dict.fromkeys(one.check for one in task.measurements))
        names = [(checks[number % len(checks)], number) for number in range(len(checks), count)]
        again = [
            one.replace(check=f"{name}{number}", title=f"{one.title} of other prompts")
            for name, number in names
            for one in task.measurements
            if one.check == name
        ]
        return task.replace(measurements=(*task.measurements, *again))

    return payload.replace(tasks=tuple(map(more, payload.tasks)))

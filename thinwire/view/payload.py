"""The data of a page: plain, strict, versioned. Only this module defines the format.

A `Payload` holds facts and no drawing: the model, and per task the circuit's nodes and edges, what the checks measured,
example prompts, and for each node the texts where its activation is strongest. Token texts are stored once, in `vocab`;
everywhere else tokens are indices into it. Pages do not trust the texts: they show them as text, never as markup.
"""

from typing import Literal, Self

from pydantic import Field, model_validator

from thinwire.config import Config
from thinwire.sites import Site, SiteKind


class Record(Config):
    """Base of the payload's records: strict and frozen, without NaN and infinity, which JSON cannot carry."""


class ModelCard(Record):
    """The model of a page, so that a picture can be traced to its weights."""

    n_layers: int = Field(ge=0)
    d_model: int = Field(ge=1)
    n_heads: int = Field(ge=1)
    d_head: int = Field(ge=1)
    d_mlp: int = Field(ge=1)
    context: int = Field(ge=1)
    vocab_size: int = Field(ge=1)
    weights: str
    """How many weights there are and how many are nonzero, in words: `thinwire.model.counts.WeightCounts`."""
    nonzeros: int = Field(ge=0)
    entries: int = Field(ge=0)
    """Entries of the sparse parameters, zero or not."""
    bigram: int = Field(ge=0)
    """Entries of the dense bigram table."""
    val_loss: float | None = None
    """Cross-entropy on held-out pretraining text, in nats per token."""
    seed: int | None = None
    model_id: str
    """Content hash of the model artefact."""
    tokenizer_id: str
    tokens_id: str
    """Content hash of the token artefact the windows of text come from."""


class CurveView(Record):
    """The values behind a measurement."""

    x_label: str
    x: tuple[float, ...]
    y: tuple[float, ...]
    """One value per x, in the unit of the measurement."""
    labels: tuple[str, ...] = ()
    """What each x stands for, where that is no number."""

    @model_validator(mode="after")
    def _aligned(self) -> Self:
        if not self.x or len(self.x) != len(self.y) or len(self.labels) not in (0, len(self.x)):
            raise ValueError("a curve needs one y for each x, and at least one; and a label for each, or none")
        return self


class MeasurementView(Record):
    """One measured number of a verdict; `thinwire.verify.Measurement` describes the fields."""

    check: str
    """Measurements of the same check stand side by side and are shown together."""
    title: str
    quantity: str
    """What was measured: `loss`."""
    value: float
    unit: str
    """`nats`, `fraction` (shown in percent) or any other."""
    n: int = Field(ge=0)
    """Pairs that the value is measured on."""
    low: float | None = None
    """Lower end of the 95 % confidence interval."""
    high: float | None = None
    split: str
    ablation: str
    budget: str | None = None
    status: Literal["pass", "warn", "fail", "info"] = "info"
    reason: str = ""
    meaning: str
    curve: CurveView | None = None

    @model_validator(mode="after")
    def _whole_interval(self) -> Self:
        if (self.low is None) != (self.high is None):
            raise ValueError("an interval needs both ends")
        return self


class Counts(Record):
    """Sizes of a circuit; embedding and unembedding edges are not part of `edges`."""

    nodes: int = Field(ge=0)
    edges: int = Field(ge=0)
    embedding_edges: int = Field(ge=0)
    unembedding_edges: int = Field(ge=0)


class Window(Record):
    """An excerpt of text with one node's activation at every token."""

    tokens: tuple[int, ...]
    """Indices into `vocab`."""
    activations: tuple[float, ...]
    peak: int = Field(ge=0)
    """Position of the activation the window was chosen for."""
    source: str = ""
    """Where the text comes from, in a few words."""

    @model_validator(mode="after")
    def _aligned(self) -> Self:
        if len(self.tokens) != len(self.activations) or self.peak >= len(self.tokens):
            raise ValueError("a window needs one activation for each token, and its peak inside")
        return self


class Activity(Record):
    """How a node's activation is distributed over pretraining tokens; the histogram leaves exact zeros out."""

    low: float
    high: float
    nonzero: float = Field(ge=0, le=1)
    """Fraction of tokens at which the node is not exactly zero."""
    tokens: int = Field(ge=0)
    bounds: tuple[float, ...] = ()
    """Edges of the histogram's bins, one more than `counts`."""
    counts: tuple[int, ...] = ()

    @model_validator(mode="after")
    def _aligned(self) -> Self:
        if self.counts and len(self.bounds) != len(self.counts) + 1:
            raise ValueError("a histogram needs one more bound than counts")
        return self


class NodeView(Record):
    """One kept node."""

    name: str
    """As `thinwire.sites.Node` writes it: `10.attn.q:82.1`, `0.mlp.post_act:2790`."""
    layer: int = Field(ge=0)
    kind: SiteKind
    head: int | None = None
    channel: int = Field(ge=0)
    """Channel within the head for q, k and v; residual channel for act_in and resid_delta; neuron for post_act."""
    position: bool = False
    """Whether an act_in channel is one of the read-only position channels instead of a residual channel."""
    mean: float
    """Mean activation over pretraining text: the value the node is ablated to."""
    bias: float | None = None
    strength: float | None = None
    """How much the node matters; `TaskView.strength_label` says in what sense."""
    sides: tuple[float, float] | None = None
    """Per side of the task, the mean over prompts of the activation of largest magnitude within the prompt."""
    activity: Activity | None = None
    positive: tuple[Window, ...] = ()
    negative: tuple[Window, ...] = ()
    on_prompts: tuple[tuple[float, ...], ...] = ()
    """Activations at the tokens of the task's example prompts: first and second side of pair 0, then of pair 1, …"""

    @property
    def site(self) -> Site:
        return Site.of(self.layer, self.kind)


class EdgeView(Record):
    """A nonzero weight between two kept nodes, given by their indices in `TaskView.nodes`."""

    source: int = Field(ge=0)
    target: int = Field(ge=0)
    weight: float


class TokenEdgeView(Record):
    """A weight between a token and a residual channel, of the embedding or the unembedding."""

    token: int = Field(ge=0)
    channel: int = Field(ge=0)
    weight: float


class Prompt(Record):
    """One side of an example pair."""

    tokens: tuple[int, ...]
    answer: int | None = None
    """The right answer; None when every token but the foil is right."""
    foil: int | None = None
    """The wrong answer; None when every token but the answer is wrong."""
    p_circuit: float | None = Field(default=None, ge=0, le=1)
    """Probability of the right answer with only the circuit, among the answers of the task."""
    p_model: float | None = Field(default=None, ge=0, le=1)


class Pair(Record):
    """Two prompts that differ only in what decides the answer."""

    first: Prompt
    second: Prompt


class TaskView(Record):
    """One task and its circuit."""

    name: str
    """Of the task; where a page has several circuits of it, with what tells them apart."""
    summary: str
    circuit_id: str = ""
    """Content hash of the circuit artefact."""
    sides: tuple[str, str] = ("first side", "second side")
    """Names of the two sides of a pair."""
    target_loss: float | None = Field(default=None, ge=0)
    """The task loss that pruning had to reach, nats."""
    guessing_loss: float = Field(ge=0)
    """The task loss of guessing, nats: ln 2 for a choice of two."""
    measurements: tuple[MeasurementView, ...] = ()
    counts: Counts
    scale: float = 1.0
    """Calibration of the circuit's log-odds of the first answer over the second: times scale, plus shift."""
    shift: float = 0.0
    strength_label: str = ""
    nodes: tuple[NodeView, ...] = ()
    edges: tuple[EdgeView, ...] = ()
    embedding: tuple[TokenEdgeView, ...] = ()
    unembedding: tuple[TokenEdgeView, ...] = ()
    pairs: tuple[Pair, ...] = ()

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if any(max(edge.source, edge.target) >= len(self.nodes) for edge in self.edges):
            raise ValueError("an edge joins a node that is not listed")
        if len({node.name for node in self.nodes}) != len(self.nodes):
            raise ValueError("a node is listed twice")
        lengths = [len(prompt.tokens) for prompt in self.prompts]
        if any(node.on_prompts and [len(row) for row in node.on_prompts] != lengths for node in self.nodes):
            raise ValueError("on_prompts needs one activation for each token of each example prompt")
        return self

    @property
    def prompts(self) -> list[Prompt]:
        """Both sides of every pair, in the order of `NodeView.on_prompts`."""
        return [prompt for pair in self.pairs for prompt in (pair.first, pair.second)]


class Payload(Record):
    """Everything a page shows."""

    format: Literal["thinwire.page"] = "thinwire.page"
    version: Literal[3] = 3
    """Raised when an older reader could no longer understand the payload."""
    title: str = "thinwire"
    model: ModelCard
    vocab: tuple[str, ...] = ()
    """Texts of the tokens that occur on the page."""
    tasks: tuple[TaskView, ...] = ()

    @model_validator(mode="after")
    def _tokens_known(self) -> Self:
        if len({task.name for task in self.tasks}) != len(self.tasks):
            raise ValueError("a task is listed twice")
        used = {token for task in self.tasks for token in _tokens(task)}
        if used and not 0 <= min(used) <= max(used) < len(self.vocab):
            raise ValueError("a token index lies outside vocab")
        return self


def _tokens(task: TaskView) -> list[int]:
    found = [edge.token for edge in (*task.embedding, *task.unembedding)]
    for prompt in task.prompts:
        found += [*prompt.tokens, *(token for token in (prompt.answer, prompt.foil) if token is not None)]
    for node in task.nodes:
        for window in (*node.positive, *node.negative):
            found += window.tokens
    return found

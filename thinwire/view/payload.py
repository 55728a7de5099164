"""What a page is told: plain, strict, versioned data. This is the only place that knows the format.

A `Payload` holds facts and no drawing: the model, and per task the circuit's nodes, wires and losses, example prompts,
and for each node where its activation is strongest. Token texts live once in `vocab`; everywhere else tokens are
indices into it. Pages trust nothing in it: texts are shown as text, never as markup.
"""

from typing import Literal, Self

from pydantic import Field, model_validator

from thinwire.config import Config
from thinwire.sites import Site, SiteKind


class Record(Config):
    """Base of the payload's records: strict and frozen, without NaN and infinity, which JSON cannot carry."""


class ModelCard(Record):
    """The model a page is about, so that a picture can be traced to its weights."""

    n_layers: int = Field(ge=0)
    d_model: int = Field(ge=1)
    n_heads: int = Field(ge=1)
    d_head: int = Field(ge=1)
    d_mlp: int = Field(ge=1)
    context: int = Field(ge=1)
    vocab_size: int = Field(ge=1)
    parameters: int = Field(ge=0)
    nonzeros: int = Field(ge=0)
    val_loss: float | None = None
    """Cross-entropy on held-out pretraining text, in nats per token."""
    seed: int | None = None
    model_id: str
    """Content hash of the model artefact."""
    tokenizer_id: str
    tokens_id: str
    """Content hash of the token artefact the windows of text come from."""


class Losses(Record):
    """Task losses in nats, mean over both sides of every pair, on pairs that pruning never saw."""

    target: float | None = Field(default=None, ge=0)
    """The loss that pruning had to reach."""
    circuit: float
    """Every node outside the circuit frozen at its mean."""
    circuit_accuracy: float = Field(ge=0, le=1)
    model: float
    """Nothing removed."""
    model_accuracy: float = Field(ge=0, le=1)
    removed: float | None = None
    """The circuit's own nodes frozen at their means, everything else intact."""
    random: tuple[float, ...] = ()
    """Random circuits with as many nodes at every site, one loss a draw."""
    chance: float | None = None
    """Loss of guessing: ln 2 for a choice of two."""
    n_pairs: int | None = Field(default=None, ge=0)
    split: str = "held-out"


class Counts(Record):
    """Sizes of a circuit; embedding and unembedding edges are not part of `edges`."""

    nodes: int = Field(ge=0)
    edges: int = Field(ge=0)
    embedding_edges: int = Field(ge=0)
    unembedding_edges: int = Field(ge=0)


class Window(Record):
    """A stretch of text with one node's activation at every token."""

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
    """Mean activation over pretraining text: the value the node is frozen at when it is removed."""
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


class Wire(Record):
    """A nonzero weight between two kept nodes, given by their places in `TaskView.nodes`."""

    source: int = Field(ge=0)
    target: int = Field(ge=0)
    weight: float


class TokenWire(Record):
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
    summary: str
    circuit_id: str = ""
    """Content hash of the circuit artefact."""
    sides: tuple[str, str] = ("first side", "second side")
    """What the two sides of a pair are called."""
    losses: Losses
    counts: Counts
    scale: float = 1.0
    """Calibration of the circuit's log-odds of the first answer over the second: times scale, plus shift."""
    shift: float = 0.0
    strength_label: str = ""
    nodes: tuple[NodeView, ...] = ()
    wires: tuple[Wire, ...] = ()
    embedding: tuple[TokenWire, ...] = ()
    unembedding: tuple[TokenWire, ...] = ()
    pairs: tuple[Pair, ...] = ()

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if any(max(wire.source, wire.target) >= len(self.nodes) for wire in self.wires):
            raise ValueError("a wire joins a node that is not listed")
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
    version: Literal[1] = 1
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
    found = [wire.token for wire in (*task.embedding, *task.unembedding)]
    for prompt in task.prompts:
        found += [*prompt.tokens, *(token for token in (prompt.answer, prompt.foil) if token is not None)]
    for node in task.nodes:
        for window in (*node.positive, *node.negative):
            found += window.tokens
    return found

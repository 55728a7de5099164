"""From a model and its circuits to the payload of a page.

1. Run held-out pretraining text through the whole model for histograms and strongest texts (`samples`).
2. Per task, run held-out pairs through the whole model and the circuit, and ablate one more node at a time
   (`behaviour`).
3. Read the edges, biases and means, and store everything, with tokens as indices into one vocabulary.
"""

from collections.abc import Sequence
from dataclasses import astuple, dataclass

from thinwire.circuit import Circuit, circuit_task, embedding_edges, unembedding_edges
from thinwire.data import Tokens
from thinwire.display import one_line
from thinwire.errors import UserError
from thinwire.model.counts import WeightCounts
from thinwire.model.transformer import Transformer
from thinwire.progress import Report, silent
from thinwire.sites import Node
from thinwire.tasks import REST, PairBatch, Task
from thinwire.verify import Measurement, Verdict
from thinwire.verify.margins import GUESSING
from thinwire.view.behaviour import behaviour
from thinwire.view.config import PageConfig
from thinwire.view.describe import Vocabulary, node_view, prompt_view, short, token_edges
from thinwire.view.payload import (
    Counts,
    CurveView,
    EdgeView,
    MeasurementView,
    ModelCard,
    Pair,
    Payload,
    TaskView,
)
from thinwire.view.samples import Profile, profiles
from thinwire.view.sketch import visible

STRENGTH = "Rise of the circuit's held-out task loss, in nats, when this node is ablated too"


@dataclass(frozen=True)
class Origin:
    """Facts about a model that its weights do not hold."""

    model_id: str
    """Content hash of the model artefact."""
    val_loss: float | None = None
    """Cross-entropy on held-out pretraining text, nats per token."""
    seed: int | None = None


@one_line
@dataclass(frozen=True)
class Case:
    """A circuit with its verdict."""

    circuit: Circuit
    verdict: Verdict
    own: Task | None = None
    """The circuit's task where it is not a registered one."""
    title: str = ""
    """What the page calls the circuit; empty takes the name of its task. No two of a page are the same."""

    @property
    def name(self) -> str:
        """What the page calls the circuit."""
        return self.title or self.circuit.task

    @property
    def task(self) -> Task:
        """The circuit's task. Raises UserError when it cannot be found."""
        return circuit_task(self.circuit, self.own)


def payload_from(
    model: Transformer,
    tokens: Tokens,
    cases: Sequence[Case],
    origin: Origin,
    config: PageConfig | None = None,
    report: Report = silent,
) -> Payload:
    """The payload of one page with all circuits, each under a name of its own.

    Raises UserError when a circuit, its verdict and the model do not belong together.
    """
    config = config or PageConfig()
    for case in cases:
        case.circuit.check_model(model)
        if case.verdict.task != case.task.name:
            raise UserError(
                f"A verdict on {case.verdict.task} came with the {case.circuit.task} circuit; give its own."
            )
    known = profiles(model, tokens, [node for case in cases for node in case.circuit.nodes], config, report)
    word = Vocabulary()
    views = []
    for case in cases:
        views.append(_task_view(model, tokens, case, known, word, config))
        report(len(views), len(cases), f"measured {case.name}")
    texts = tuple(tokens.tokenizer.token(token) for token in word.indices)
    return Payload(model=_card(model, tokens, origin), vocab=texts, tasks=tuple(views))


def _card(model: Transformer, tokens: Tokens, origin: Origin) -> ModelCard:
    shape, counts = model.config, WeightCounts.of(model)
    return ModelCard(
        n_layers=shape.n_layers,
        d_model=shape.d_model,
        n_heads=shape.n_heads,
        d_head=shape.d_head,
        d_mlp=shape.d_mlp,
        context=shape.context,
        vocab_size=shape.vocab_size,
        weights=str(counts),
        nonzeros=counts.nonzeros,
        entries=counts.entries,
        bigram=counts.bigram,
        val_loss=origin.val_loss,
        seed=origin.seed,
        model_id=origin.model_id,
        tokenizer_id=tokens.tokenizer.id,
        tokens_id=tokens.artifact.id,
    )


def _task_view(
    model: Transformer, tokens: Tokens, case: Case, known: dict[Node, Profile], word: Vocabulary, config: PageConfig
) -> TaskView:
    circuit, task = case.circuit, case.task
    n_pairs = max(config.pairs, config.measured_pairs)
    batch = task.pairs(n_pairs, "heldout", config.seed, tokens.tokenizer, model.config.context)
    acts = behaviour(model, circuit, batch, config.most_ablations)
    shown = [row for pair in range(min(config.pairs, len(batch))) for row in (pair, pair + len(batch))]
    edges, index = circuit.edges(model), {node: index for index, node in enumerate(circuit.nodes)}
    read = embedding_edges(model, circuit.nodes, circuit.prompt_tokens)
    written = unembedding_edges(model, circuit.nodes, circuit.answer_tokens)
    prompts = [prompt_view(batch, acts, row, word) for row in shown]
    return TaskView(
        name=case.name,
        summary=task.summary,
        circuit_id=circuit.artifact.id if circuit.artifact else "",
        sides=_sides(batch, tokens),
        target_loss=case.verdict.target_loss,
        guessing_loss=GUESSING,
        measurements=tuple(map(_measurement, case.verdict.measurements)),
        counts=Counts(
            nodes=len(circuit.nodes), edges=len(edges), embedding_edges=len(read), unembedding_edges=len(written)
        ),
        scale=short(circuit.calibration.scale),
        shift=short(circuit.calibration.shift),
        strength_label=STRENGTH,
        nodes=tuple(node_view(model, circuit, node, known[node], acts, batch, shown, word) for node in circuit.nodes),
        edges=tuple(EdgeView(source=index[e.source], target=index[e.target], weight=short(e.weight)) for e in edges),
        embedding=token_edges(read, word),
        unembedding=token_edges(written, word),
        pairs=tuple(Pair(first=a, second=b) for a, b in zip(prompts[::2], prompts[1::2], strict=True)),
    )


def _measurement(found: Measurement) -> MeasurementView:
    low, high = astuple(found.interval) if found.interval else (None, None)
    curve = found.curve
    return MeasurementView(
        check=found.check,
        title=found.title,
        quantity=found.quantity,
        value=found.value,
        unit=found.unit,
        n=found.n,
        low=low,
        high=high,
        split=found.split,
        ablation=found.ablation,
        budget=found.budget,
        status=found.status,
        reason=found.reason,
        meaning=found.meaning,
        curve=CurveView(x_label=curve.x_label, x=curve.x, y=curve.y, labels=curve.labels) if curve else None,
    )


def _sides(batch: PairBatch, tokens: Tokens) -> tuple[str, str]:
    """Names of the two sides: their right answer, where it is the same for every pair."""
    names = []
    for name, target in zip(("first side", "second side"), batch.target.split(len(batch)), strict=True):
        found = {int(token) for token in target}
        answer = found.pop() if len(found) == 1 else REST
        names.append(name if answer == REST else f"answer {visible(tokens.tokenizer.token(answer))}")
    return names[0], names[1]

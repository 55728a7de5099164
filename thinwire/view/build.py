"""From a model and its circuits to the payload of a page.

1. Run held-out pretraining text through the whole model for histograms and strongest texts (`samples`).
2. Per task, run held-out pairs through the whole model and the circuit, and freeze one node at a time (`behaviour`).
3. Read the wires, biases and means, and write everything down with tokens as places in one vocabulary.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from pydantic import Field
from torch import Tensor

from thinwire.circuit import Circuit, TokenEdge, embedding_edges, unembedding_edges
from thinwire.circuit.edges import MATRICES
from thinwire.data import Tokens
from thinwire.errors import UserError
from thinwire.model.transformer import Transformer
from thinwire.model.weights import count_nonzeros
from thinwire.progress import Report, silent
from thinwire.sites import Node
from thinwire.tasks import REST, TASKS, PairBatch
from thinwire.verify import Verdict
from thinwire.view.behaviour import Behaviour, behaviour
from thinwire.view.payload import (
    Activity,
    Counts,
    Losses,
    ModelCard,
    NodeView,
    Pair,
    Payload,
    Prompt,
    TaskView,
    TokenWire,
    Window,
    Wire,
)
from thinwire.view.samples import Excerpt, Profile, SampleConfig, profiles
from thinwire.view.sketch import visible

STRENGTH = "Rise of the held-out task loss, in nats, when this node alone is frozen as well"
MATRIX_INTO = {target: name for name, (_, target) in MATRICES.items()}
"""Matrix that writes each kind of site, and so has its bias."""


class PageConfig(SampleConfig):
    """What a page holds."""

    pairs: int = Field(default=4, ge=1)
    """Example pairs shown."""
    measured_pairs: int = Field(default=64, ge=1)
    """Held-out pairs behind the strength and sides of each node."""
    most_ablations: int = Field(default=200, ge=0)
    """Nodes beyond which the strengths of a circuit's nodes are not measured."""
    seed: int = Field(default=2, ge=0)
    """Seed of the pairs."""


@dataclass(frozen=True)
class Origin:
    """What the weights do not tell about a model."""

    model_id: str
    """Content hash of the model artefact."""
    val_loss: float | None = None
    """Cross-entropy on held-out pretraining text, nats per token."""
    seed: int | None = None


@dataclass(frozen=True)
class Case:
    """A circuit with its verdict."""

    circuit: Circuit
    verdict: Verdict
    pairs: int | None = None
    """Held-out pairs behind the verdict."""


@dataclass
class Vocabulary:
    """Tokens that occur on the page, in order of first use."""

    places: dict[int, int] = field(default_factory=dict)

    def __call__(self, token: int) -> int:
        return self.places.setdefault(int(token), len(self.places))


def payload_from(
    model: Transformer,
    tokens: Tokens,
    cases: Sequence[Case],
    origin: Origin,
    config: PageConfig | None = None,
    report: Report = silent,
) -> Payload:
    """The payload of one page with all circuits, one a task. Raises UserError when things do not belong together."""
    config = config or PageConfig()
    for case in cases:
        case.circuit.check_model(model)
        if case.verdict.task != case.circuit.task:
            raise UserError(
                f"A verdict on {case.verdict.task} came with the {case.circuit.task} circuit; give its own."
            )
    known = profiles(model, tokens, [node for case in cases for node in case.circuit.nodes], config, report)
    word = Vocabulary()
    views = tuple(_task_view(model, tokens, case, known, word, config) for case in cases)
    texts = tuple(tokens.tokenizer.token(token) for token in word.places)
    return Payload(model=_card(model, tokens, origin), vocab=texts, tasks=views)


def _card(model: Transformer, tokens: Tokens, origin: Origin) -> ModelCard:
    shape = model.config
    return ModelCard(
        n_layers=shape.n_layers,
        d_model=shape.d_model,
        n_heads=shape.n_heads,
        d_head=shape.d_head,
        d_mlp=shape.d_mlp,
        context=shape.context,
        vocab_size=shape.vocab_size,
        parameters=sum(parameter.numel() for parameter in model.parameters()),
        nonzeros=count_nonzeros(model),
        val_loss=origin.val_loss,
        seed=origin.seed,
        model_id=origin.model_id,
        tokenizer_id=tokens.tokenizer.id,
        tokens_id=tokens.artifact.id,
    )


def _task_view(
    model: Transformer, tokens: Tokens, case: Case, known: dict[Node, Profile], word: Vocabulary, config: PageConfig
) -> TaskView:
    circuit, task = case.circuit, TASKS[case.circuit.task]
    n_pairs = max(config.pairs, config.measured_pairs)
    batch = task.pairs(n_pairs, "heldout", config.seed, tokens.tokenizer, model.config.context)
    acts = behaviour(model, circuit, batch, config.most_ablations)
    shown = [row for pair in range(config.pairs) for row in (pair, pair + n_pairs)]
    edges, place = circuit.edges(model), {node: index for index, node in enumerate(circuit.nodes)}
    read = embedding_edges(model, circuit.nodes, circuit.prompt_tokens)
    written = unembedding_edges(model, circuit.nodes, circuit.answer_tokens)
    prompts = [_prompt(batch, acts, row, word) for row in shown]
    return TaskView(
        name=circuit.task,
        summary=task.summary,
        circuit_id=circuit.artifact.id if circuit.artifact else "",
        sides=_sides(batch, tokens),
        losses=_losses(case),
        counts=Counts(
            nodes=len(circuit.nodes), edges=len(edges), embedding_edges=len(read), unembedding_edges=len(written)
        ),
        scale=short(circuit.calibration.scale),
        shift=short(circuit.calibration.shift),
        strength_label=STRENGTH,
        nodes=tuple(_node_view(model, circuit, node, known[node], acts, batch, shown, word) for node in circuit.nodes),
        wires=tuple(Wire(source=place[e.source], target=place[e.target], weight=short(e.weight)) for e in edges),
        embedding=_token_wires(read, word),
        unembedding=_token_wires(written, word),
        pairs=tuple(Pair(first=a, second=b) for a, b in zip(prompts[::2], prompts[1::2], strict=True)),
    )


def _losses(case: Case) -> Losses:
    verdict = case.verdict
    return Losses(
        target=None if math.isnan(verdict.target_loss) else verdict.target_loss,
        circuit=verdict["sufficiency"].loss,
        circuit_accuracy=verdict["sufficiency"].accuracy,
        model=verdict["unpruned"].loss,
        model_accuracy=verdict["unpruned"].accuracy,
        removed=verdict["necessity"].loss,
        random=verdict["random"].losses,
        chance=math.log(2),
        n_pairs=case.pairs,
    )


def _sides(batch: PairBatch, tokens: Tokens) -> tuple[str, str]:
    """Sides are called by their right answer where it is the same for every pair."""
    names = []
    for name, target in zip(("first side", "second side"), batch.target.split(len(batch)), strict=True):
        found = {int(token) for token in target}
        answer = found.pop() if len(found) == 1 else REST
        names.append(name if answer == REST else f"answer {visible(tokens.tokenizer.token(answer))}")
    return names[0], names[1]


def _node_view(
    model: Transformer,
    circuit: Circuit,
    node: Node,
    known: Profile,
    acts: Behaviour,
    batch: PairBatch,
    shown: list[int],
    word: Vocabulary,
) -> NodeView:
    site, shape = node.site, model.config
    head, channel = divmod(node.index, shape.d_head) if site.headed else (None, node.index)
    position = site.kind.endswith("act_in") and channel >= shape.d_model
    strength = acts.strengths.get(node)
    return NodeView(
        name=node.name(shape),
        layer=site.layer,
        kind=site.kind,
        head=head,
        channel=channel - shape.d_model if position else channel,
        position=position,
        mean=short(circuit.means[site][node.index].item()),
        bias=_bias(model, node),
        strength=None if strength is None else short(strength),
        sides=(short(acts.sides[node][0]), short(acts.sides[node][1])),
        activity=Activity(
            low=short(known.low),
            high=short(known.high),
            nonzero=short(known.nonzero),
            tokens=known.tokens,
            bounds=shorts(known.bounds),
            counts=tuple(known.counts.tolist()),
        ),
        positive=tuple(_window(excerpt, word) for excerpt in known.positive),
        negative=tuple(_window(excerpt, word) for excerpt in known.negative),
        on_prompts=tuple(shorts(acts.activations[node][row, : int(batch.last[row]) + 1]) for row in shown),
    )


def _bias(model: Transformer, node: Node) -> float | None:
    """The bias of the matrix that writes the node; None for reads of the residual stream and bias-free models."""
    name = MATRIX_INTO.get(node.site.kind)
    if name is None or not model.config.biases:
        return None
    sublayer = model.sublayers[node.site.sublayer]
    return short(sublayer.get_parameter(f"{name}.bias")[node.index].item())


def _prompt(batch: PairBatch, acts: Behaviour, row: int, word: Vocabulary) -> Prompt:
    answer, foil = int(batch.target[row]), int(batch.foil[row])
    return Prompt(
        tokens=_words(batch.tokens[row, : int(batch.last[row]) + 1], word),
        answer=None if answer == REST else word(answer),
        foil=None if foil == REST else word(foil),
        p_circuit=short(acts.p_circuit[row].item()),
        p_model=short(acts.p_model[row].item()),
    )


def _window(excerpt: Excerpt, word: Vocabulary) -> Window:
    return Window(
        tokens=_words(torch.from_numpy(excerpt.tokens), word),
        activations=shorts(excerpt.activations),
        peak=excerpt.peak,
        source=excerpt.source,
    )


def _token_wires(edges: list[TokenEdge], word: Vocabulary) -> tuple[TokenWire, ...]:
    return tuple(TokenWire(token=word(e.token), channel=e.channel, weight=short(e.weight)) for e in edges)


def _words(tokens: Tensor, word: Vocabulary) -> tuple[int, ...]:
    return tuple(word(token) for token in tokens.tolist())


def short(value: float) -> float:
    """Four significant digits: more than anyone reads, and a third of the bytes."""
    return float(f"{value:.4g}")


def shorts(values: np.ndarray) -> tuple[float, ...]:
    """`short` of every entry."""
    return tuple(short(value) for value in values.tolist())

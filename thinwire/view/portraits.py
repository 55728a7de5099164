"""A circuit as the picture of it needs it: nodes, edges, tokens and prompts, without a run of the model.

`thinwire.view.figure` draws the result. Its picture is that of the page.
"""

from dataclasses import dataclass

from thinwire.circuit import Circuit, embedding_edges, unembedding_edges
from thinwire.data import Tokenizer
from thinwire.display import Shown, plural
from thinwire.model.transformer import Transformer
from thinwire.tasks import REST, PairBatch, Task
from thinwire.verify.margins import GUESSING
from thinwire.view.config import PageConfig
from thinwire.view.describe import Vocabulary, plain_node, prompt_tokens, short, token_edges
from thinwire.view.payload import Counts, EdgeView, Pair, Prompt, TaskView


@dataclass(frozen=True)
class Portrait(Shown):
    """What `thinwire.view.figure.draw` takes."""

    task: TaskView
    vocab: tuple[str, ...]
    """Texts of the tokens."""

    def __repr__(self) -> str:
        return f"Portrait({self.task.name!r}, {self.sizes})"

    @property
    def sizes(self) -> str:
        """Its numbers of nodes and edges in words."""
        counts = self.task.counts
        return f"{plural(counts.nodes, 'node')}, {plural(counts.edges, 'edge')}"


def portrait(
    model: Transformer,
    circuit: Circuit,
    tokenizer: Tokenizer,
    task: Task | None = None,
    config: PageConfig | None = None,
) -> Portrait:
    """The portrait of a circuit. The task's prompts decide which tokens come first; without a task the weights do.

    Raises UserError when the circuit belongs to a model of another shape.
    """
    config, word = config or PageConfig(), Vocabulary()
    edges, index = circuit.edges(model), {node: index for index, node in enumerate(circuit.nodes)}
    read = embedding_edges(model, circuit.nodes, circuit.prompt_tokens)
    written = unembedding_edges(model, circuit.nodes, circuit.answer_tokens)
    view = TaskView(
        name=circuit.task,
        summary=task.summary if task else "",
        guessing_loss=GUESSING,
        counts=Counts(
            nodes=len(circuit.nodes), edges=len(edges), embedding_edges=len(read), unembedding_edges=len(written)
        ),
        nodes=tuple(plain_node(circuit, node) for node in circuit.nodes),
        edges=tuple(EdgeView(source=index[e.source], target=index[e.target], weight=short(e.weight)) for e in edges),
        embedding=token_edges(read, word),
        unembedding=token_edges(written, word),
        pairs=_pairs(model, task, tokenizer, config, word) if task else (),
    )
    return Portrait(view, tuple(tokenizer.token(token) for token in word.indices))


def _pairs(
    model: Transformer, task: Task, tokenizer: Tokenizer, config: PageConfig, word: Vocabulary
) -> tuple[Pair, ...]:
    """The page's example pairs."""
    n_pairs = max(config.pairs, config.measured_pairs)
    batch = task.pairs(n_pairs, "heldout", config.seed, tokenizer, model.config.context)
    return tuple(
        Pair(first=_prompt(batch, pair, word), second=_prompt(batch, pair + len(batch), word))
        for pair in range(min(config.pairs, len(batch)))
    )


def _prompt(batch: PairBatch, row: int, word: Vocabulary) -> Prompt:
    answer, foil = (None if token == REST else word(token) for token in (int(batch.target[row]), int(batch.foil[row])))
    return Prompt(tokens=prompt_tokens(batch, row, word), answer=answer, foil=foil)

"""The result of pruning: which nodes stay, what the others are held at, how the logits are read."""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path

import networkx as nx
from pydantic import BaseModel, Field, FiniteFloat, NonNegativeInt, with_config
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from thinwire import artifact
from thinwire.artifact import Artifact
from thinwire.circuit.calibration import Calibration
from thinwire.circuit.cut import held_weights
from thinwire.circuit.edges import Edge, Wire, channel_links, joined, keep_masks, weight_edges
from thinwire.config import STRICT, Config, read_record
from thinwire.errors import UserError
from thinwire.model.config import ModelConfig
from thinwire.model.norms import Norms
from thinwire.model.sparse import sharing, with_rows
from thinwire.model.taps import Tap, ablate
from thinwire.model.transformer import Transformer
from thinwire.sites import Node, Site, all_sites
from thinwire.tasks import PairBatch, norms_on

EMBEDDING = "embedding"
"""What the held embedding is called among the means of the sites."""


@with_config(STRICT)
@dataclass(frozen=True)
class Rung:
    """The smallest circuit of a ranking that meets one target; None where not even all of it does."""

    target: float
    """Loss that validation pairs must meet, nats."""
    nodes: int | None
    edges: int | None
    loss: float | None
    """Calibrated task loss on validation pairs."""


@with_config(STRICT)
@dataclass(frozen=True)
class PruneScores:
    """How a circuit came out, on pairs its masks never saw."""

    target_loss: float
    loss: float
    """Task loss on validation pairs, which chose the number of nodes."""
    loss_one_fewer: float
    """The least of such losses with one node or edge removed and the calibration refitted, or without the one ranked
    last where the circuit was not simplified; it misses the target."""
    heldout_loss: float
    """Task loss on held-out templates and names."""
    heldout_accuracy: float
    unpruned_loss: float
    """Held-out loss of the whole model."""
    unpruned_accuracy: float
    edges: int
    embedding_edges: int
    """Nonzero embedding weights from tokens of the task's prompts to channels that the circuit reads."""
    unembedding_edges: int
    """Nonzero unembedding weights from channels that the circuit writes to the answers."""
    seconds: float
    nodes_unsimplified: int | None = None
    """Nodes that bisecting alone left; unset in circuits that were written before this was kept."""
    edges_unsimplified: int | None = None
    """Edges that bisecting alone left; unset in circuits that were written before this was kept."""
    ladder: tuple[Rung, ...] = ()
    """Smaller circuits of the same ranking, not simplified, for further targets; strictest first."""


class Stored(BaseModel):
    """Contents of `circuit.json`."""

    model_config = STRICT
    task: str = Field(pattern=r"^\w[\w.-]{0,99}$")
    shape: ModelConfig
    calibration: Calibration
    nodes: dict[str, FiniteFloat | None]
    prompt_tokens: tuple[NonNegativeInt, ...]
    answer_tokens: tuple[NonNegativeInt, ...]
    wires: tuple[tuple[str, str], ...] | None = None
    task_source: str = ""
    frozen_norms: bool = False
    removed_tokens: tuple[NonNegativeInt, ...] = ()


@dataclass(frozen=True)
class Circuit:
    """Nodes and wires that carry one task, with everything needed to run the model with only them.

    To run it: `circuit.cut_model(model)` under `circuit.to_tap()`, with `circuit.norms(model, batch)`.
    Raises UserError for wires and tokens that cannot be.
    """

    task: str
    shape: ModelConfig
    nodes: tuple[Node, ...]
    """Kept nodes, in the order of the forward pass."""
    means: Mapping[Site, Tensor]
    """What removed nodes are held at, by default their mean over the pretraining distribution; float32 [width] each."""
    calibration: Calibration = field(default_factory=Calibration)
    strengths: Mapping[Node, float] = field(default_factory=dict)
    """What ranked each kept node, its mask parameter τ or a score: largest first is the order they were kept in."""
    prompt_tokens: tuple[int, ...] = ()
    """Tokens of the task's validation prompts whose embedding is kept, sorted."""
    answer_tokens: tuple[int, ...] = ()
    """The task's answers, sorted."""
    scores: PruneScores | None = None
    artifact: Artifact | None = None
    """Where the circuit was loaded from."""
    wires: tuple[Wire, ...] | None = None
    """Kept wires between kept nodes; None keeps every nonzero weight between them."""
    task_source: str = ""
    """What tells another file's task of this name apart, as in `Task.source`; empty for tasks made by code."""
    frozen_norms: bool = False
    """Whether the circuit runs with the scales of RMSNorm that the whole model has on the same prompts."""
    removed_tokens: tuple[int, ...] = ()
    """Tokens whose embedding is held at `held_embedding`, sorted."""
    held_embedding: Tensor | None = None
    """float32 [d_model], by default the mean over the task's training prompts; None where no token is removed."""

    def __post_init__(self) -> None:
        for wire in self.wires or ():
            names = " -> ".join(node.name(self.shape) for node in wire)
            if not set(wire) <= self._kept:
                raise UserError(f"Wire {names} joins a node that is not in the {self.task} circuit; prune again.")
            if not joined(wire):
                raise UserError(f"No matrix joins the ends of wire {names}; prune again.")
        if self.wires and len(set(self.wires)) != len(self.wires):
            raise UserError(f"The {self.task} circuit lists a wire twice; prune again.")
        self._check_tokens()

    def _check_tokens(self) -> None:
        removed, held = self.removed_tokens, self.held_embedding
        if list(removed) != sorted(set(removed)) or not all(0 <= token < self.shape.vocab_size for token in removed):
            raise UserError(f"The {self.task} circuit removes tokens that its model does not have; prune again.")
        fits = held is None or (held.shape == (self.shape.d_model,) and bool(held.isfinite().all()))
        if not fits or (held is None) == bool(removed):
            raise UserError(f"The {self.task} circuit does not say what removed tokens are held at; prune again.")

    @cached_property
    def _kept(self) -> frozenset[Node]:
        return frozenset(self.nodes)

    @cached_property
    def keep(self) -> dict[Site, Tensor]:
        """Which nodes stay: bool [width] for every site of the model."""
        return keep_masks(self.nodes, self.shape)

    def to_tap(self) -> Tap:
        """The tap under which `cut_model` runs with only this circuit, all other nodes held at their means."""
        return ablate(self.keep, self.means)

    def removed_tap(self) -> Tap:
        """The tap under which the model runs with this circuit's nodes held at their means and all others intact."""
        return ablate({site: ~mask for site, mask in self.keep.items()}, self.means)

    def norms(self, model: Transformer, batch: PairBatch) -> Norms:
        """The norms with which `last_logits` of a batch runs with this circuit; `model` is the whole one."""
        return norms_on(model, batch, self.frozen_norms)

    def cut_model(self, model: Transformer) -> Transformer:
        """The model with every weight between kept nodes that is not a kept wire held at its mean contribution.

        The embeddings of removed tokens are held too. It shares all other parameters, and is the given model where
        nothing is dropped. Raises UserError when the model has another shape. See `thinwire.circuit.cut` for what is
        exact.
        """
        self.check_model(model)
        held = {} if self.wires is None else held_weights(model, self.nodes, self.wires, self.means)
        if not held and self.held_embedding is None:
            return model
        cut = sharing(model, held)
        if self.held_embedding is not None:
            cut.set_submodule("embedding", with_rows(model.embedding, self.removed_tokens, self.held_embedding))
        return cut

    def edges(self, model: Transformer) -> list[Edge]:
        """Kept wires with their nonzero weights, in the order of the forward pass.

        Raises UserError when the model has another shape.
        """
        self.check_model(model)
        found = weight_edges(model, self.nodes)
        if self.wires is None:
            return list(found)
        wires = set(self.wires)
        return [edge for edge in found if (edge.source, edge.target) in wires]

    def check_model(self, model: Transformer) -> None:
        """Raise UserError unless the circuit's nodes exist in `model`."""
        if model.config != self.shape:
            raise UserError(
                f"The {self.task} circuit belongs to a model of another shape; give the model it was cut from."
            )

    def to_networkx(self, model: Transformer) -> nx.MultiDiGraph:
        """A graph of node names; edges have `kind` "weight" (with `weight`) or "channel" (same residual channel)."""
        graph = nx.MultiDiGraph(task=self.task)
        for node in self.nodes:
            graph.add_node(
                node.name(self.shape),
                site=str(node.site),
                layer=node.site.layer,
                index=node.index,
                mean=self.means[node.site][node.index].item(),
            )
        for edge in self.edges(model):
            names = edge.source.name(self.shape), edge.target.name(self.shape)
            graph.add_edge(*names, kind="weight", weight=edge.weight)
        for writer, reader in channel_links(self.nodes, self.shape.d_model):
            graph.add_edge(writer.name(self.shape), reader.name(self.shape), kind="channel")
        return graph

    def save(self, folder: Path | str, config: Config, model: Artifact, seed: int | None = None) -> Artifact:
        """Write the circuit as an artefact folder whose parent is the model's."""
        with artifact.replacing(Path(folder), "circuit") as scratch:
            artifact.write_text(scratch / "circuit.json", json.dumps(self._to_json(), indent=1))
            means = {str(site): mean.contiguous() for site, mean in self.means.items()}
            if self.held_embedding is not None:
                means[EMBEDDING] = self.held_embedding.contiguous()
            save_file(means, scratch / "means.safetensors")
            files = ["circuit.json", "means.safetensors"]
            if self.scores:
                artifact.write_text(scratch / artifact.SUMMARY, json.dumps(asdict(self.scores), indent=1))
                files.append(artifact.SUMMARY)
            made = artifact.finish(scratch, "circuit", config, {"model": model}, files, seed)
        return Artifact(Path(folder), made.meta)

    def _to_json(self) -> dict[str, object]:
        wires = {} if self.wires is None else {"wires": [[n.name(self.shape) for n in wire] for wire in self.wires]}
        return {
            "task": self.task,
            "shape": self.shape.model_dump(mode="json"),
            "calibration": asdict(self.calibration),
            "nodes": {node.name(self.shape): self.strengths.get(node) for node in self.nodes},
            "prompt_tokens": self.prompt_tokens,
            "answer_tokens": self.answer_tokens,
            **({"task_source": self.task_source} if self.task_source else {}),
            **({"frozen_norms": True} if self.frozen_norms else {}),
            **({"removed_tokens": self.removed_tokens} if self.removed_tokens else {}),
            **wires,
        }

    @classmethod
    def load(cls, folder: Path | str) -> "Circuit":
        """The circuit in an artefact folder. Raises UserError when it is not a whole circuit."""
        opened = artifact.open_artifact(Path(folder), "circuit")
        refusal = f"{folder} does not hold a readable circuit; prune again."
        stored = read_record(Stored, opened.path / "circuit.json", refusal)
        shape, prompts, answers = stored.shape, stored.prompt_tokens, stored.answer_tokens
        strengths = {Node.parse(name, shape): strength for name, strength in stored.nodes.items()}
        if max((*prompts, *answers), default=0) >= shape.vocab_size:
            raise UserError(refusal)
        try:
            tensors = {name: tensor.float() for name, tensor in load_file(opened.path / "means.safetensors").items()}
        except (SafetensorError, OSError):
            raise UserError(refusal) from None
        held = tensors.pop(EMBEDDING, None)
        means = {Site.parse(name): mean for name, mean in tensors.items()}
        if {site: mean.shape for site, mean in means.items()} != {s: (s.width(shape),) for s in all_sites(shape)}:
            raise UserError(f"{folder} holds means for other sites than its model has; prune again.")
        kept = {node: strength for node, strength in strengths.items() if strength is not None}
        nodes = tuple(sorted(strengths))
        summary = opened.path / artifact.SUMMARY
        scores = read_record(PruneScores, summary, refusal) if artifact.SUMMARY in opened.meta.files else None
        wires = None
        if stored.wires is not None:
            wires = tuple((Node.parse(source, shape), Node.parse(target, shape)) for source, target in stored.wires)
        told = stored.task_source, stored.frozen_norms, stored.removed_tokens, held
        return cls(
            stored.task, shape, nodes, means, stored.calibration, kept, prompts, answers, scores, opened, wires, *told
        )

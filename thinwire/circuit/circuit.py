"""The result of pruning: kept nodes and edges, the values that the others are ablated to, and the calibration."""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path

import networkx as nx
from pydantic import AliasChoices, BaseModel, Field, FiniteFloat, NonNegativeInt
from torch import Tensor

from thinwire import artifact
from thinwire.artifact import Artifact
from thinwire.artifact.tensors import read_tensors, write_tensors
from thinwire.circuit.calibration import Calibration
from thinwire.circuit.cut import ablated_weights
from thinwire.circuit.edges import Edge, EdgeEnds, channel_links, joined, keep_masks, weight_edges
from thinwire.circuit.scores import PruneScores
from thinwire.compiled.edit import sharing, with_rows
from thinwire.config import STRICT, Config, read_record
from thinwire.display import Shown, named, plural
from thinwire.errors import UserError
from thinwire.model.config import ModelConfig
from thinwire.model.norms import Norms
from thinwire.model.taps import Tap, ablate
from thinwire.model.transformer import Transformer
from thinwire.sites import Node, Site, all_sites
from thinwire.tasks import PairBatch, last_logits, margin, norms_on

artifact.FORMATS.register("circuit")(
    artifact.Format(version=1, files=("circuit.json", "means.safetensors", artifact.SUMMARY))
)
EMBEDDING = "embedding"
"""Name of the ablated embedding in the file of the means."""


class Stored(BaseModel):
    """Contents of `circuit.json`."""

    model_config = STRICT
    task: str = Field(pattern=r"^\w[\w.-]{0,99}$")
    shape: ModelConfig
    calibration: Calibration
    nodes: dict[str, FiniteFloat | None]
    prompt_tokens: tuple[NonNegativeInt, ...]
    answer_tokens: tuple[NonNegativeInt, ...]
    kept_edges: tuple[tuple[str, str], ...] | None = Field(
        default=None, validation_alias=AliasChoices("kept_edges", "wires")
    )
    """Names of source and target; older files call them `wires`."""
    task_source: str = ""
    frozen_norms: bool = False
    removed_tokens: tuple[NonNegativeInt, ...] = ()


@dataclass(frozen=True)
class Circuit(Shown):
    """The nodes and edges that a task needs, with everything needed to run the model with only them.

    To run it, use `circuit.cut_model(model)` under `circuit.to_tap()`, with `circuit.norms(model, batch)`.
    Raises UserError for invalid edges and tokens.
    """

    task: str
    shape: ModelConfig
    nodes: tuple[Node, ...]
    """Kept nodes, in the order of the forward pass."""
    means: Mapping[Site, Tensor]
    """Values that removed nodes are ablated to, by default their mean over the pretraining data; float32 [width]."""
    calibration: Calibration = field(default_factory=Calibration)
    strengths: Mapping[Node, float] = field(default_factory=dict)
    """Score by which each kept node was ranked, largest first: its mask parameter τ or its attribution."""
    prompt_tokens: tuple[int, ...] = ()
    """Tokens of the task's validation prompts whose embedding is kept, sorted."""
    answer_tokens: tuple[int, ...] = ()
    """The task's answers, sorted."""
    scores: PruneScores | None = None
    artifact: Artifact | None = None
    """Where the circuit was loaded from."""
    kept_edges: tuple[EdgeEnds, ...] | None = None
    """Source and target of each kept edge; None keeps every nonzero weight between the kept nodes."""
    task_source: str = ""
    """Identifies the task's file, as `Task.source` does; empty for tasks that are defined in code."""
    frozen_norms: bool = False
    """Whether the circuit runs with the RMSNorm scales of the whole model on the same prompts."""
    removed_tokens: tuple[int, ...] = ()
    """Tokens whose embedding is ablated to `ablated_embedding`, sorted."""
    ablated_embedding: Tensor | None = None
    """float32 [d_model], by default the mean over the task's training prompts; None if no token is removed."""

    def __post_init__(self) -> None:
        for edge in self.kept_edges or ():
            names = " -> ".join(node.name(self.shape) for node in edge)
            if not set(edge) <= self._kept:
                raise UserError(f"Edge {names} joins a node that is not in the {self.task} circuit; prune again.")
            if not joined(edge):
                raise UserError(f"No matrix joins the ends of edge {names}; prune again.")
        if self.kept_edges and len(set(self.kept_edges)) != len(self.kept_edges):
            raise UserError(f"The {self.task} circuit lists an edge twice; prune again.")
        self._check_tokens()

    def _check_tokens(self) -> None:
        removed, embedding = self.removed_tokens, self.ablated_embedding
        if list(removed) != sorted(set(removed)) or not all(0 <= token < self.shape.vocab_size for token in removed):
            raise UserError(f"The {self.task} circuit removes tokens that its model does not have; prune again.")
        valid = embedding is None or (embedding.shape == (self.shape.d_model,) and bool(embedding.isfinite().all()))
        if not valid or (embedding is None) == bool(removed):
            raise UserError(f"The {self.task} circuit has no valid embedding for its removed tokens; prune again.")

    def __repr__(self) -> str:
        return f"Circuit({self.task!r}, {self.sizes}: {named([n.name(self.shape) for n in self.nodes])})"

    @property
    def sizes(self) -> str:
        """Its numbers of nodes and edges in words; without those of edges where only the model knows them."""
        edges = len(self.kept_edges) if self.kept_edges is not None else self.scores.edges if self.scores else None
        return plural(len(self.nodes), "node") + ("" if edges is None else f", {plural(edges, 'edge')}")

    @cached_property
    def _kept(self) -> frozenset[Node]:
        return frozenset(self.nodes)

    @cached_property
    def keep(self) -> dict[Site, Tensor]:
        """Which nodes stay: bool [width] for every site of the model."""
        return keep_masks(self.nodes, self.shape)

    def to_tap(self) -> Tap:
        """The tap under which `cut_model` runs only this circuit: all other nodes are ablated to their means."""
        return ablate(self.keep, self.means)

    def removed_tap(self) -> Tap:
        """The tap under which the model runs without this circuit: only its nodes are ablated to their means."""
        return ablate({site: ~mask for site, mask in self.keep.items()}, self.means)

    def norms(self, model: Transformer, batch: PairBatch) -> Norms:
        """The `norms` argument of `last_logits` for this circuit on a batch; `model` is the whole model."""
        return norms_on(model, batch, self.frozen_norms)

    def cut_model(self, model: Transformer) -> Transformer:
        """The model in which weights between kept nodes that are not kept edges are ablated to their mean contribution.

        The embeddings of removed tokens are ablated too. All other parameters are shared with `model`, and the result
        is `model` itself where nothing is dropped. Raises UserError when the model has another shape.
        `thinwire.circuit.cut` says what is exact.
        """
        self.check_model(model)
        changed = {} if self.kept_edges is None else ablated_weights(model, self.nodes, self.kept_edges, self.means)
        if not changed and self.ablated_embedding is None:
            return model
        cut = sharing(model, changed)
        if self.ablated_embedding is not None:
            cut.set_submodule("embedding", with_rows(model.embedding, self.removed_tokens, self.ablated_embedding))
        return cut

    def margins(self, model: Transformer, batch: PairBatch) -> Tensor:
        """Log-odds of the right answers with only this circuit, not calibrated: float32 [2n] of a batch of n pairs.

        `model` is the whole model. Raises UserError when it has another shape.
        """
        norms = self.norms(model, batch)
        return margin(last_logits(self.cut_model(model), batch, self.to_tap(), norms=norms), batch)

    def edges(self, model: Transformer) -> list[Edge]:
        """The kept edges with their nonzero weights, in the order of the forward pass.

        Raises UserError when the model has another shape.
        """
        self.check_model(model)
        found = weight_edges(model, self.nodes)
        if self.kept_edges is None:
            return list(found)
        kept = set(self.kept_edges)
        return [edge for edge in found if edge.ends in kept]

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

    def save(
        self, folder: Path | str, config: Config, model: Artifact, seed: int | None = None, **also: Artifact
    ) -> Artifact:
        """Write the circuit as an artefact folder whose parents are the model's and those in `also`, by role."""
        with artifact.replacing(Path(folder), "circuit") as scratch:
            artifact.write_text(scratch / "circuit.json", json.dumps(self._to_json(), indent=1))
            means = {str(site): mean for site, mean in self.means.items()}
            if self.ablated_embedding is not None:
                means[EMBEDDING] = self.ablated_embedding
            write_tensors(scratch / "means.safetensors", means)
            files = ["circuit.json", "means.safetensors"]
            if self.scores:
                artifact.write_text(scratch / artifact.SUMMARY, json.dumps(asdict(self.scores), indent=1))
                files.append(artifact.SUMMARY)
            made = artifact.finish(scratch, "circuit", config, {"model": model, **also}, files, seed)
        return Artifact(Path(folder), made.meta)

    def _to_json(self) -> dict[str, object]:
        kept = self.kept_edges
        listed = {} if kept is None else {"kept_edges": [[node.name(self.shape) for node in edge] for edge in kept]}
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
            **listed,
        }

    @classmethod
    def load(cls, folder: Path | str) -> "Circuit":
        """The circuit in an artefact folder. Raises UserError when it is not a whole circuit."""
        opened = artifact.open_artifact(Path(folder), "circuit")
        refusal = f"{folder} does not hold a readable circuit; prune again."
        stored = read_record(Stored, opened.file("circuit.json"), refusal)
        shape, prompts, answers = stored.shape, stored.prompt_tokens, stored.answer_tokens
        strengths = {Node.parse(name, shape): strength for name, strength in stored.nodes.items()}
        if max((*prompts, *answers), default=0) >= shape.vocab_size:
            raise UserError(refusal)
        read = read_tensors(opened.file("means.safetensors"), refusal)
        tensors = {name: tensor.float() for name, tensor in read.values.items()}
        embedding = tensors.pop(EMBEDDING, None)
        means = {Site.parse(name): mean for name, mean in tensors.items()}
        if {site: mean.shape for site, mean in means.items()} != {s: (s.width(shape),) for s in all_sites(shape)}:
            raise UserError(f"{folder} holds means for other sites than its model has; prune again.")
        listed = artifact.SUMMARY in opened.meta.files
        scores = read_record(PruneScores, opened.file(artifact.SUMMARY), refusal) if listed else None
        kept_edges = None
        if stored.kept_edges is not None:
            kept_edges = tuple(EdgeEnds(*(Node.parse(name, shape) for name in ends)) for ends in stored.kept_edges)
        return cls(
            task=stored.task,
            shape=shape,
            nodes=tuple(sorted(strengths)),
            means=means,
            calibration=stored.calibration,
            strengths={node: strength for node, strength in strengths.items() if strength is not None},
            prompt_tokens=prompts,
            answer_tokens=answers,
            scores=scores,
            artifact=opened,
            kept_edges=kept_edges,
            task_source=stored.task_source,
            frozen_norms=stored.frozen_norms,
            removed_tokens=stored.removed_tokens,
            ablated_embedding=embedding,
        )

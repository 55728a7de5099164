"""Pruning: finds a small circuit of a model that does a task.

1. Choose the values that removed nodes are ablated to: their means over the pretraining data, or as the config says.
2. Rank nodes (or edges) by masks that are learned under pressure, several trials together, or by attribution.
3. For each trial, bisect for the fewest that meet the target on validation pairs, with a fitted calibration. A search
   over the hyper-parameters repeats 2 and 3.
4. Simplify the smallest circuits, take the one with the fewest edges, and score it on held-out pairs.
"""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor

from thinwire.circuit import Circuit, PruneScores, Rung, embedding_edges, unembedding_edges
from thinwire.compiled.compile import compile_sparse
from thinwire.data.tokenizer import Tokenizer
from thinwire.data.words import HELDOUT_SEED
from thinwire.display import plural
from thinwire.errors import UserError
from thinwire.model.precision import own_modes
from thinwire.model.transformer import Transformer
from thinwire.progress import Report, silent
from thinwire.prune.attribution import attribution_scores
from thinwire.prune.config import Point, PruneConfig
from thinwire.prune.discretize import Candidate, Evaluator, smallest_candidate
from thinwire.prune.edge_masks import EdgeMasks
from thinwire.prune.ladder import ladder_of
from thinwire.prune.learn import learn
from thinwire.prune.masks import NodeMasks, forced_nodes
from thinwire.prune.means import ablation_values, prompt_embeddings
from thinwire.prune.reach import TargetMissed, within_reach
from thinwire.prune.simplify import simplified
from thinwire.prune.trial import Trial
from thinwire.prune.tune import search
from thinwire.sites import Node, Site
from thinwire.tasks import REST, PairBatch, Task, accuracy_of, auc_of, last_logits, loss_of, margin

PATH_STEPS = 16
"""Points on the path of integrated gradients."""


@own_modes()
def prune(
    model: Transformer,
    task: Task,
    tokenizer: Tokenizer,
    means: Mapping[Site, Tensor],
    config: PruneConfig | None = None,
    report: Report = silent,
    folder: Path | None = None,
    subject: str = "",
) -> Circuit:
    """The smallest circuit found for a task; `means` are those of `mean_activations`, float32 [width] per site.

    A search writes its finished rounds to `folder`, if given, and continues from there. `subject` identifies the model,
    so that rounds of another model are refused.
    Raises TargetMissed, a UserError, when the whole model or every trial misses the target loss on validation pairs.
    """
    config = config or PruneConfig()
    began = time.perf_counter()
    pruning = PruningRun.of(compile_sparse(model), task, tokenizer, means, config)
    return pruning.smallest(began, report, folder, subject)


@dataclass(frozen=True)
class Final:
    """The final circuit of a trial."""

    candidate: Candidate
    unsimplified: Candidate
    """The trial's circuit after bisection."""
    strengths: Mapping[Node, float]
    """Score by which each node was ranked: τ or its attribution."""


@dataclass(frozen=True)
class PruningRun:
    """What the trials of one pruning run share: pairs, masks, and the evaluator of candidates."""

    task: Task
    config: PruneConfig
    """With an aim that the whole model meets."""
    train: PairBatch
    heldout: PairBatch
    masks: NodeMasks | EdgeMasks
    evaluator: Evaluator

    @classmethod
    def of(
        cls, model: Transformer, task: Task, tokenizer: Tokenizer, means: Mapping[Site, Tensor], config: PruneConfig
    ) -> "PruningRun":
        """Prepare a run; `means[site]` is float32 [width].

        Raises TargetMissed when the whole model misses the target, UserError for nodes that it does not have.
        """
        common = config.seed, tokenizer, model.config.context
        train = task.pairs(config.train_pairs, "train", *common)
        validation = task.pairs(config.validation_pairs, "validation", *common)
        heldout = task.pairs(config.heldout_pairs, "heldout", HELDOUT_SEED, *common[1:])
        if task.control is None:  # the whole model fails a control by design; the question is whether a circuit does it
            config = within_reach(model, task, validation, config)
        values = ablation_values(model, means, train, config.ablation)
        embeddings = prompt_embeddings(model, train, config.ablation) if config.mask_tokens else None
        masks = NodeMasks(model, values, config, embeddings)
        run = cls(task, config, train, heldout, masks, evaluator_of(masks, values, validation, config))
        return run.with_edge_masks() if config.granularity == "edges" else run

    def with_edge_masks(self, nodes: Sequence[Node] | None = None) -> "PruningRun":
        """The same run with a mask for every weight between these nodes, or between all nodes that are not dropped."""
        evaluator, config = self.evaluator, self.config
        dropped = forced_nodes(config.drop, evaluator.model.config)
        masks = EdgeMasks(evaluator.model, evaluator.means, nodes, self.masks.forced, dropped, config.frozen_norms)
        return replace(self, masks=masks, evaluator=evaluator_of(masks, evaluator.means, evaluator.validation, config))

    def smallest(self, began: float, report: Report, folder: Path | None = None, subject: str = "") -> Circuit:
        """The smallest circuit of all trials, scored; `began` is when the run began. See `prune`."""
        config = self.config
        trials = self.trials(folder, report, f"{subject} {self.task.name} {self.task.source}")
        met = sorted((trial for trial in trials if not trial.missed), key=lambda trial: trial.size)
        if not met:
            raise TargetMissed(
                f"None of {len(trials)} trials reached a loss of {config.validation_target:.3g} on validation "
                "pairs; raise target_loss, or train the masks longer."
            )
        rungs = ladder_of(met[0].columns, self.evaluator, config.ladder) if config.ladder else ()
        best = met[: config.finalists if config.finishes else 1]
        finals = []
        for index, trial in enumerate(best):
            report(index, len(best), f"finishing {plural(trial.edges or 0, 'edge')}")
            finals.append(self.final(trial, report))
        final = min(finals, key=lambda final: (final.candidate.edges, len(final.candidate.nodes)))
        report(len(best), len(best), plural(final.candidate.edges, "edge"))
        return self.circuit(final, rungs, began)

    def trials(self, folder: Path | None, report: Report, subject: str = "") -> list[Trial]:
        """All trials of the run, including those that missed the target."""
        config = self.config
        if config.method != "learned":
            return [self._attributed(report)]
        if config.search:
            found = search(self.learned, config, folder, report, subject)
            known = set(range(self.masks.n))
            if any(len(known.intersection(trial.columns)) < len(trial.columns) for trial in found):
                raise UserError(f"{folder} names masks that the model does not have; delete it to start a new search.")
            return found
        return self.learned([config.point] * config.trials, config.seed, report)

    def learned(self, points: Sequence[Point], seed: int, report: Report = silent) -> list[Trial]:
        """One trial for each of these hyper-parameters, trained together."""
        began = time.perf_counter()
        learned = learn(self.masks, self.train, self.config, points, seed, report)
        each = (time.perf_counter() - began) / len(points)
        return [
            _missed(point, each) if collapsed else self.evaluated(point, tau, each)
            for point, tau, collapsed in zip(points, learned.tau, learned.collapsed.tolist(), strict=True)
        ]

    def _attributed(self, report: Report) -> Trial:
        assert isinstance(self.masks, NodeMasks)
        began = time.perf_counter()
        steps = PATH_STEPS if self.config.method == "integrated_gradients" else 1
        scores = attribution_scores(self.masks, self.train, steps, report)
        return self.evaluated(self.config.point, scores, time.perf_counter() - began)

    def evaluated(self, point: Point, tau: Tensor, seconds: float) -> Trial:
        """The trial of a ranking by τ float32 [masks]; `seconds` is what the ranking took."""
        began = time.perf_counter()
        candidate = smallest_candidate(tau, self.evaluator, self.config.validation_target)
        seconds += time.perf_counter() - began
        if candidate is None:
            return _missed(point, seconds)
        strengths = tuple(tau[column].item() for column in candidate.columns)
        return Trial(
            point, candidate.columns, strengths, candidate.edges, len(candidate.nodes), candidate.loss, seconds
        )

    def candidate(self, trial: Trial) -> Candidate:
        """The circuit of a trial that met the target, after bisection."""
        fewer = self.evaluator.measure(trial.columns[:-1]).loss if trial.columns else float("nan")
        return self.evaluator.candidate(trial.columns, fewer)

    def final(self, trial: Trial, report: Report) -> Final:
        """The circuit of a trial after edge masks and simplification, as far as the config asks for them."""
        pruning, first = self, self.candidate(trial)
        candidate = first
        if self.config.granularity == "nodes_then_edges":
            pruning = self.with_edge_masks(candidate.nodes)
            found = pruning.learned([self.config.point] * self.config.trials, self.config.seed, report)
            met = [other for other in found if not other.missed]
            if met:
                candidate = pruning.candidate(min(met, key=lambda other: other.size))
            else:
                pruning = self
        if self.config.simplify:
            candidate = simplified(candidate, pruning.evaluator, self.config.validation_target, report)
        return Final(candidate, first, self._strengths(trial))

    def _strengths(self, trial: Trial) -> dict[Node, float]:
        strengths: dict[Node, float] = {}
        for column, strength in zip(trial.columns, trial.strengths, strict=True):
            for node in self.masks.units[column] if column < len(self.masks.units) else ():  # the rest are tokens
                strengths.setdefault(node, strength)
        return strengths

    def circuit(self, final: Final, rungs: tuple[Rung, ...], began: float) -> Circuit:
        """The resulting circuit, scored on held-out pairs."""
        candidate, validation = final.candidate, self.evaluator.validation
        answers = torch.cat([validation.target, validation.foil]).unique().tolist()
        prompt_tokens = tuple(sorted(set(validation.tokens.unique().tolist()).difference(candidate.removed_tokens)))
        answer_tokens = tuple(answer for answer in answers if answer != REST)
        circuit = Circuit(
            task=self.task.name,
            task_source=self.task.source,
            shape=self.evaluator.model.config,
            nodes=candidate.nodes,
            kept_edges=candidate.kept_edges,
            means=dict(self.evaluator.means),
            calibration=candidate.calibration,
            strengths={node: final.strengths[node] for node in candidate.nodes if node in final.strengths},
            prompt_tokens=prompt_tokens,
            answer_tokens=answer_tokens,
            frozen_norms=self.config.frozen_norms,
            removed_tokens=candidate.removed_tokens,
            ablated_embedding=self.evaluator.ablated_embedding if candidate.removed_tokens else None,
        )
        return replace(circuit, scores=self._scores(circuit, final, rungs, began))

    @torch.no_grad()
    def _scores(self, circuit: Circuit, final: Final, rungs: tuple[Rung, ...], began: float) -> PruneScores:
        model, candidate = self.evaluator.model, final.candidate
        whole = margin(last_logits(model, self.heldout), self.heldout)
        own = circuit.margins(model, self.heldout)
        margins = circuit.calibration.apply(own)
        return PruneScores(
            target_loss=self.config.target_loss,
            loss=candidate.loss,
            loss_one_fewer=candidate.loss_one_fewer,
            pairs=tuple(b.use for b in (self.train, self.evaluator.validation, self.heldout) if b.use is not None),
            heldout_loss=loss_of(margins).item(),
            heldout_accuracy=accuracy_of(margins).item(),
            unpruned_loss=loss_of(whole).item(),
            unpruned_accuracy=accuracy_of(whole).item(),
            edges=candidate.edges,
            nodes_unsimplified=len(final.unsimplified.nodes),
            edges_unsimplified=final.unsimplified.edges,
            ladder=rungs,
            embedding_edges=len(embedding_edges(model, circuit.nodes, circuit.prompt_tokens)),
            unembedding_edges=len(unembedding_edges(model, circuit.nodes, circuit.answer_tokens)),
            seconds=time.perf_counter() - began,
            heldout_pairs=len(self.heldout),
            uncalibrated_loss=loss_of(own).item(),
            uncalibrated_accuracy=accuracy_of(own).item(),
            auc=auc_of(own).item(),
        )


def _missed(point: Point, seconds: float) -> Trial:
    return Trial(point, (), (), None, None, None, seconds)


def evaluator_of(
    masks: NodeMasks | EdgeMasks,
    means: Mapping[Site, Tensor],
    validation: PairBatch,
    config: PruneConfig,
) -> Evaluator:
    """The evaluator of candidates for these masks; `means[site]` is float32 [width]."""
    common = masks.model, means, validation, masks.units, masks.forced, config.max_logit_scale, config.calibrates
    if isinstance(masks, EdgeMasks):
        return Evaluator(*common, edge_units=True, loose=masks.loose, frozen_norms=config.frozen_norms)
    ablated_embedding = None if masks.embeddings is None else masks.embeddings.ablated_to
    return Evaluator(
        *common, frozen_norms=config.frozen_norms, tokens=masks.tokens, ablated_embedding=ablated_embedding
    )

"""Pruning: from a model and a task to the smallest circuit that does it.

1. Find what removed nodes are held at: their means over the pretraining distribution, or another choice of the config.
2. Rank nodes (or weights): by masks learned under pressure, several trials side by side, or by attribution.
3. For each trial, bisect the fewest that meet the target on validation pairs, calibration fitted. A search over the
   hyper-parameters repeats 2 and 3.
4. Simplify the smallest circuits, take the one with the fewest edges, and report it on held-out pairs.
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
from thinwire.errors import UserError
from thinwire.model.transformer import Transformer
from thinwire.progress import Report, silent
from thinwire.prune.attribution import attribution_scores
from thinwire.prune.calibrate import fit_calibration
from thinwire.prune.config import Point, PruneConfig
from thinwire.prune.discretize import Cut, Judge, smallest_cut
from thinwire.prune.edge_masks import EdgeMasks
from thinwire.prune.ladder import ladder_of
from thinwire.prune.learn import learn
from thinwire.prune.masks import NodeMasks, forced_nodes
from thinwire.prune.means import held_values, prompt_embeddings
from thinwire.prune.simplify import simplified_cut
from thinwire.prune.trial import Trial
from thinwire.prune.tune import search
from thinwire.sites import Node, Site
from thinwire.tasks import REST, PairBatch, Task, last_logits, margin, margin_losses

PATH_STEPS = 16
"""Points on the path of integrated gradients."""


class TargetMissed(UserError):
    """No circuit reaches the target loss, perhaps because the whole model does not."""


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
    """The smallest circuit found for a task; `means` are those of `mean_activations`.

    A search keeps its finished rounds in `folder`, if given, and goes on from there; `subject` names the model, so
    that no rounds of another are taken up.
    Raises TargetMissed, a UserError, when the whole model misses the target loss on validation pairs.
    """
    config = config or PruneConfig()
    began = time.perf_counter()
    bench = Bench.of(compile_sparse(model), task, tokenizer, means, config)
    trials = bench.trials(folder, report, f"{subject} {task.name} {task.source}")
    met = sorted((trial for trial in trials if not trial.missed), key=lambda trial: trial.size)
    if not met:
        raise TargetMissed(
            f"None of {len(trials)} trials came below {bench.config.validation_target:.3g} on validation pairs; "
            "raise target_loss, or train the masks longer."
        )
    rungs = ladder_of(met[0].columns, bench.judge, config.ladder) if config.ladder else ()
    best = met[: config.finalists if config.finishes else 1]
    finals = []
    for place, trial in enumerate(best):
        report(place, len(best), f"finishing {trial.edges} edges")
        finals.append(bench.final(trial, report))
    final = min(finals, key=lambda final: (final.cut.edges, len(final.cut.nodes)))
    report(len(best), len(best), f"{final.cut.edges} edges")
    return bench.circuit(final, rungs, began)


@dataclass(frozen=True)
class Final:
    """What became of a trial's circuit."""

    cut: Cut
    unsimplified: Cut
    """The trial's own."""
    strengths: Mapping[Node, float]
    """τ, or what stands in for it, of each node of the trial."""


@dataclass(frozen=True)
class Bench:
    """What the trials of one pruning run share: the pairs, the masks, and the judge of candidates."""

    task: Task
    config: PruneConfig
    """With its aim within reach of the model."""
    train: PairBatch
    heldout: PairBatch
    masks: NodeMasks | EdgeMasks
    judge: Judge

    @classmethod
    def of(
        cls, model: Transformer, task: Task, tokenizer: Tokenizer, means: Mapping[Site, Tensor], config: PruneConfig
    ) -> "Bench":
        """Raises TargetMissed when the whole model misses the target, UserError for nodes it does not have."""
        asked = config.seed, tokenizer, model.config.context
        train = task.pairs(config.train_pairs, "train", *asked)
        validation = task.pairs(config.validation_pairs, "validation", *asked)
        heldout = task.pairs(config.heldout_pairs, "heldout", *asked)
        if task.control is None:  # a control is missed by design, and the question is whether a circuit does it
            config = within_reach(model, task, validation, config)
        held = held_values(model, means, train, config.ablation)
        embeddings = prompt_embeddings(model, train, config.ablation) if config.mask_tokens else None
        masks = NodeMasks(model, held, config, embeddings)
        bench = cls(task, config, train, heldout, masks, judge_of(masks, held, validation, config))
        return bench.wired() if config.granularity == "edges" else bench

    def wired(self, nodes: Sequence[Node] | None = None) -> "Bench":
        """The same run with a mask for every weight between these nodes, or between all that are not forced out."""
        judge, config = self.judge, self.config
        dropped = forced_nodes(config.drop, judge.model.config)
        masks = EdgeMasks(judge.model, judge.means, nodes, self.masks.forced, dropped, config.frozen_norms)
        judged = judge_of(masks, judge.means, judge.validation, config)
        return replace(self, masks=masks, judge=judged)

    def trials(self, folder: Path | None, report: Report, subject: str = "") -> list[Trial]:
        """All trials of the run, those that missed the target included."""
        config = self.config
        if config.method != "learned":
            return [self._attributed(report)]
        if config.search:
            found = search(self.learned, config, folder, report, subject)
            known = set(range(self.masks.n))
            if any(len(known.intersection(trial.columns)) < len(trial.columns) for trial in found):
                raise UserError(f"{folder} names masks that the model does not have; delete it to search anew.")
            return found
        return self.learned([config.point] * config.trials, config.seed, report)

    def learned(self, points: Sequence[Point], seed: int, report: Report = silent) -> list[Trial]:
        """Trials with these hyper-parameters, trained together."""
        began = time.perf_counter()
        learned = learn(self.masks, self.train, self.config, points, seed, report)
        each = (time.perf_counter() - began) / len(points)
        return [
            _missed(point, each) if collapsed else self._judged(point, tau, each)
            for point, tau, collapsed in zip(points, learned.tau, learned.collapsed.tolist(), strict=True)
        ]

    def _attributed(self, report: Report) -> Trial:
        assert isinstance(self.masks, NodeMasks)
        began = time.perf_counter()
        steps = PATH_STEPS if self.config.method == "integrated_gradients" else 1
        scores = attribution_scores(self.masks, self.train, steps, report)
        return self._judged(self.config.point, scores, time.perf_counter() - began)

    def _judged(self, point: Point, tau: Tensor, seconds: float) -> Trial:
        began = time.perf_counter()
        cut = smallest_cut(tau, self.judge, self.config.validation_target)
        seconds += time.perf_counter() - began
        if cut is None:
            return _missed(point, seconds)
        strengths = tuple(tau[column].item() for column in cut.columns)
        return Trial(point, cut.columns, strengths, cut.edges, len(cut.nodes), cut.loss, seconds)

    def cut(self, trial: Trial) -> Cut:
        """The circuit of a trial that met the target."""
        fewer = self.judge.measure(trial.columns[:-1])[0] if trial.columns else float("nan")
        return self.judge.cut(trial.columns, fewer)

    def final(self, trial: Trial, report: Report) -> Final:
        """What becomes of a trial's circuit once its weights have masks and it is simplified, as the config asks."""
        bench, first = self, self.cut(trial)
        cut = first
        if self.config.granularity == "nodes_then_edges":
            bench = self.wired(cut.nodes)
            found = bench.learned([self.config.point] * self.config.trials, self.config.seed, report)
            met = [other for other in found if not other.missed]
            if met:
                cut = bench.cut(min(met, key=lambda other: other.size))
            else:
                bench = self
        if self.config.simplify:
            cut = simplified_cut(cut, bench.judge, self.config.validation_target, report)
        return Final(cut, first, self._strengths(trial))

    def _strengths(self, trial: Trial) -> dict[Node, float]:
        strengths: dict[Node, float] = {}
        for column, strength in zip(trial.columns, trial.strengths, strict=True):
            for node in self.masks.units[column] if column < len(self.masks.units) else ():  # the rest are tokens
                strengths.setdefault(node, strength)
        return strengths

    def circuit(self, final: Final, rungs: tuple[Rung, ...], began: float) -> Circuit:
        """The result, scored on held-out pairs."""
        cut, validation = final.cut, self.judge.validation
        answers = torch.cat([validation.target, validation.foil]).unique().tolist()
        prompt_tokens = tuple(sorted(set(validation.tokens.unique().tolist()).difference(cut.removed_tokens)))
        answer_tokens = tuple(answer for answer in answers if answer != REST)
        return Circuit(
            task=self.task.name,
            task_source=self.task.source,
            shape=self.judge.model.config,
            nodes=cut.nodes,
            wires=cut.wires,
            means=dict(self.judge.means),
            calibration=cut.calibration,
            strengths={node: final.strengths[node] for node in cut.nodes if node in final.strengths},
            prompt_tokens=prompt_tokens,
            answer_tokens=answer_tokens,
            scores=self._scores(final, rungs, prompt_tokens, answer_tokens, began),
            frozen_norms=self.config.frozen_norms,
            removed_tokens=cut.removed_tokens,
            held_embedding=self.judge.held_embedding if cut.removed_tokens else None,
        )

    def _scores(
        self, final: Final, rungs: tuple[Rung, ...], prompts: tuple[int, ...], answers: tuple[int, ...], began: float
    ) -> PruneScores:
        model, cut = self.judge.model, final.cut
        with torch.no_grad():
            whole = margin(last_logits(model, self.heldout), self.heldout)
        margins = cut.calibration.apply(self.judge.margins(cut, self.heldout))
        return PruneScores(
            target_loss=self.config.target_loss,
            loss=cut.loss,
            loss_one_fewer=cut.loss_one_fewer,
            heldout_loss=margin_losses(margins).mean().item(),
            heldout_accuracy=(margins > 0).float().mean().item(),
            unpruned_loss=margin_losses(whole).mean().item(),
            unpruned_accuracy=(whole > 0).float().mean().item(),
            edges=cut.edges,
            nodes_unsimplified=len(final.unsimplified.nodes),
            edges_unsimplified=final.unsimplified.edges,
            ladder=rungs,
            embedding_edges=len(embedding_edges(model, cut.nodes, prompts)),
            unembedding_edges=len(unembedding_edges(model, cut.nodes, answers)),
            seconds=time.perf_counter() - began,
        )


def _missed(point: Point, seconds: float) -> Trial:
    return Trial(point, (), (), None, None, None, seconds)


def judge_of(
    masks: NodeMasks | EdgeMasks,
    held: Mapping[Site, Tensor],
    validation: PairBatch,
    config: PruneConfig,
) -> Judge:
    """What measures the candidates that masks choose from."""
    common = masks.model, held, validation, masks.units, masks.forced, config.max_logit_scale
    if isinstance(masks, EdgeMasks):
        return Judge(*common, wired=True, loose=masks.loose, frozen_norms=config.frozen_norms)
    held_embedding = None if masks.embeddings is None else masks.embeddings.held
    return Judge(*common, frozen_norms=config.frozen_norms, tokens=masks.tokens, held_embedding=held_embedding)


def within_reach(model: Transformer, task: Task, validation: PairBatch, config: PruneConfig) -> PruneConfig:
    """The config, its aim between the whole model's own loss and the target where that loss is above the aim.

    The loss is calibrated, as that of a circuit is. Raises TargetMissed when it is above the target: no circuit can be
    expected to meet it.
    """
    with torch.no_grad():
        margins = margin(last_logits(model, validation), validation)
    calibration = fit_calibration(margins, config.max_logit_scale)
    loss = margin_losses(calibration.apply(margins)).mean().item()
    if loss >= config.target_loss:
        raise TargetMissed(
            f"The whole model has loss {loss:.3f} on {task.name} and the target is {config.target_loss:g} on "
            "validation pairs; train it longer, or raise target_loss."
        )
    if loss <= config.validation_target:
        return config
    return config.replace(aim=(loss / config.target_loss + 1) / 2)

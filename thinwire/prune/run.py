"""Pruning: from a model and a task to the smallest circuit that does it.

1. Take mean activations over the pretraining distribution.
2. Train masks, several trials side by side, under pressure on the number of nodes.
3. For each trial, rank nodes by τ and bisect the fewest that meet the target on validation pairs, calibration fitted.
4. Take the trial with the fewest edges, drop nodes that turn out not to be needed, and report it on held-out pairs.
"""

import time
from collections.abc import Mapping

import torch
from torch import Tensor

from thinwire.circuit import Circuit, PruneScores, embedding_edges, unembedding_edges
from thinwire.data.tokenizer import Tokenizer
from thinwire.errors import UserError
from thinwire.model.transformer import Transformer
from thinwire.progress import Report, silent
from thinwire.prune.config import PruneConfig
from thinwire.prune.discretize import Cut, Judge, simplified_cut, smallest_cut
from thinwire.prune.search import train_masks
from thinwire.sites import Node, Site
from thinwire.tasks import REST, PairBatch, Task, last_logits, margin, margin_losses, task_loss


class TargetMissed(UserError):
    """No circuit reaches the target loss, perhaps because the whole model does not."""


def prune(
    model: Transformer,
    task: Task,
    tokenizer: Tokenizer,
    means: Mapping[Site, Tensor],
    config: PruneConfig | None = None,
    report: Report = silent,
) -> Circuit:
    """The smallest circuit found for a task; `means` are those of `mean_activations`.

    Raises TargetMissed, a UserError, when the whole model misses the target loss on validation pairs.
    """
    config = config or PruneConfig()
    began = time.perf_counter()
    context = model.config.context
    train = task.pairs(config.train_pairs, "train", config.seed, tokenizer, context)
    validation = task.pairs(config.validation_pairs, "validation", config.seed, tokenizer, context)
    heldout = task.pairs(config.heldout_pairs, "heldout", config.seed, tokenizer, context)
    config = within_reach(model, task, validation, config)
    masks = train_masks(model, means, train, config, report)
    fit = train.take(torch.arange(min(len(train), config.calibration_pairs)))
    judge = Judge(model, means, fit, validation, masks, config.max_logit_scale)
    tau, cut = best_cut(judge, config)
    every = masks.nodes()
    nodes = {every[column]: tau[column].item() for column in cut.columns}
    prompt_tokens = tuple(validation.tokens.unique().tolist())
    answers = torch.cat([validation.target, validation.foil]).unique().tolist()
    answer_tokens = tuple(answer for answer in answers if answer != REST)
    return Circuit(
        task=task.name,
        shape=model.config,
        nodes=tuple(sorted(nodes)),
        means=dict(means),
        calibration=cut.calibration,
        strengths=nodes,
        prompt_tokens=prompt_tokens,
        answer_tokens=answer_tokens,
        scores=_scores(judge, cut, heldout, config, nodes, (prompt_tokens, answer_tokens), began),
    )


def within_reach(model: Transformer, task: Task, validation: PairBatch, config: PruneConfig) -> PruneConfig:
    """The config, its aim between the whole model's own loss and the target where that loss is above the aim.

    Raises TargetMissed when the whole model misses the target: no circuit can be expected to meet it.
    """
    with torch.no_grad():
        loss = task_loss(last_logits(model, validation), validation).item()
    if loss >= config.target_loss:
        raise TargetMissed(
            f"The whole model has loss {loss:.3f} on {task.name} and the target is {config.target_loss:g} on "
            "validation pairs; train it longer, or raise target_loss."
        )
    if loss <= config.validation_target:
        return config
    return config.replace(aim=(loss / config.target_loss + 1) / 2)


def best_cut(judge: Judge, config: PruneConfig) -> tuple[Tensor, Cut]:
    """The trial whose circuit has the fewest edges (then nodes), simplified: its τ [nodes] and the circuit."""
    cuts = [(tau, smallest_cut(tau, judge, config.validation_target)) for tau in judge.masks.tau.detach()]
    found = [(tau, cut) for tau, cut in cuts if cut is not None]
    if not found:
        raise TargetMissed(
            "No trial met the target loss on validation pairs; raise target_loss or train the masks longer."
        )
    tau, cut = min(found, key=lambda pair: (pair[1].edges, len(pair[1].columns)))
    return tau, simplified_cut(cut, tau, judge, config.validation_target) if config.simplify else cut


def _scores(
    judge: Judge,
    cut: Cut,
    heldout: PairBatch,
    config: PruneConfig,
    nodes: Mapping[Node, float],
    tokens: tuple[tuple[int, ...], tuple[int, ...]],
    began: float,
) -> PruneScores:
    with torch.no_grad():
        whole = margin(last_logits(judge.model, heldout), heldout)
    margins = cut.calibration.apply(judge.margins(cut.keep, heldout))
    return PruneScores(
        target_loss=config.target_loss,
        loss=cut.loss,
        loss_one_fewer=cut.loss_one_fewer,
        heldout_loss=margin_losses(margins).mean().item(),
        heldout_accuracy=(margins > 0).float().mean().item(),
        unpruned_loss=margin_losses(whole).mean().item(),
        unpruned_accuracy=(whole > 0).float().mean().item(),
        edges=cut.edges,
        embedding_edges=len(embedding_edges(judge.model, nodes, tokens[0])),
        unembedding_edges=len(unembedding_edges(judge.model, nodes, tokens[1])),
        seconds=time.perf_counter() - began,
    )

"""What `benchmarks/engine.py` runs: a large model of random nonzeros, prompts, masks, and a circuit of twelve nodes."""

from collections.abc import Callable

import torch
from torch import Tensor

from thinwire.circuit import Circuit
from thinwire.compiled.edit import nonzeros
from thinwire.model import ModelConfig, Transformer
from thinwire.model.taps import ablate_masks, record
from thinwire.prune.config import PruneConfig
from thinwire.prune.learn import step_with_slope, task_losses
from thinwire.prune.masks import NodeMasks
from thinwire.sites import Node, Site
from thinwire.tasks import PairBatch, margin

WORDS = 200
"""Tokens that prompts are made of."""


def random_model(layers: int, d_model: int, density: float, embedding_density: float, seed: int = 0) -> Transformer:
    """A dense model whose matrices have this part of their entries nonzero, at random places; float32, not trained."""
    with torch.device("meta"):
        model = Transformer(ModelConfig(n_layers=layers, d_model=d_model))
    generator = torch.Generator().manual_seed(seed)
    state: dict[str, Tensor] = {}
    for name, parameter in model.state_dict().items():
        value = torch.zeros(parameter.numel())
        if "norm" in name:
            value += 1
        elif name == "bigram.weight":
            value.normal_(0, 0.02, generator=generator)
        else:
            part = embedding_density if "embedding" in name else density
            n = max(1, int(part * value.numel()))
            positions = torch.randint(value.numel(), (n,), generator=generator).unique()
            std = 0.1 if name.endswith(".bias") else (part * parameter.shape[1]) ** -0.5
            value[positions] = std * torch.randn(len(positions), generator=generator)
        state[name] = value.view(parameter.shape)
    model.load_state_dict(state, assign=True)
    return model.eval().requires_grad_(False)


def random_pairs(n: int, shortest: int, longest: int, seed: int = 0) -> PairBatch:
    """n pairs of prompts of random tokens and answers."""
    generator = torch.Generator().manual_seed(seed)
    tokens = torch.randint(WORDS, (2 * n, longest), generator=generator)
    last = torch.randint(shortest - 1, longest, (2 * n,), generator=generator)
    answer = torch.randint(8, (n,), generator=generator)
    other = (answer + 1) % 8
    return PairBatch(tokens, last, torch.cat([answer, other]), torch.cat([other, answer]))


def means_of(model: Transformer, pairs: PairBatch) -> dict[Site, Tensor]:
    """Mean activations over a few prompts."""
    seen = record()
    model(pairs.tokens[:4], tap=seen)
    return {site: x.mean((0, 1)).contiguous() for site, x in seen.values.items()}


def mask_step(
    model: Transformer,
    means: dict[Site, Tensor],
    pairs: PairBatch,
    config: PruneConfig,
    trials: int,
    whole: bool,
    kept: float = 1.0,
) -> Callable:
    """One step of mask training without the optimizer: forward, loss and backward to the masks of all nodes.

    `whole` runs all positions of the last layer too, and all logits, as the released code does. A part of the nodes is
    `kept`, as many as a run has come to.
    """
    masks = NodeMasks(model, means, config)
    chosen = torch.rand(trials, masks.n, generator=torch.Generator().manual_seed(0)) < kept
    tau = torch.where(chosen, 0.1, -0.1).requires_grad_()

    def margins(hard: Tensor) -> Tensor:
        if not whole:
            return masks.margins(hard, pairs)
        tap = ablate_masks(masks.split(hard), means)
        tokens = pairs.tokens.repeat(trials, 1)
        logits = model(tokens, tap=tap).unflatten(0, (trials, -1))
        last = logits[:, torch.arange(len(pairs.tokens)), pairs.last]
        return margin(last, pairs)

    def step() -> Tensor:
        tau.grad = None
        task_losses(margins(step_with_slope(tau, 1.0)), config).sum().backward()
        return tau.grad  # pyright: ignore

    return step


def twelve_nodes(model: Transformer) -> tuple[Node, ...]:
    """A circuit of one attention head in the first layer and two neurons in the last, joined by weights."""
    last = model.config.n_layers - 1

    def edges(layer: int, part: str, name: str) -> list[tuple[int, int]]:
        found = nonzeros(model, f"blocks.{layer}.{part}.{name}")
        return list(zip(found.columns.tolist(), found.rows.tolist(), strict=True))  # source, target

    written = {name: dict(reversed(pair) for pair in edges(0, "attn", name)) for name in ("w_q", "w_k", "w_v")}
    read: dict[int, list[int]] = {}
    for channel, neuron in edges(last, "mlp", "w_in"):
        read.setdefault(channel, []).append(neuron)
    outputs = dict(edges(last, "mlp", "w_out"))
    for v, channel in edges(0, "attn", "w_o"):
        neurons = [neuron for neuron in read.get(channel, []) if neuron in outputs][:2]
        if len(neurons) == 2 and all(v in of for of in written.values()):
            inputs = {Node(Site.of(0, "attn.act_in"), of[v]) for of in written.values()}
            head = {Node(Site.of(0, f"attn.{kind}"), v) for kind in "qkv"}
            mlp = {Node(Site.of(last, "mlp.post_act"), neuron) for neuron in neurons}
            mlp |= {Node(Site.of(last, "mlp.resid_delta"), outputs[neuron]) for neuron in neurons}
            joint = {Node(Site.of(0, "attn.resid_delta"), channel), Node(Site.of(last, "mlp.act_in"), channel)}
            nodes = inputs | head | mlp | joint
            if len(nodes) == 12:
                return tuple(sorted(nodes))
    raise AssertionError("no such circuit among these weights")


def twelve_node_circuit(model: Transformer, pairs: PairBatch) -> Circuit:
    """That circuit, all other nodes ablated to their means over some prompts."""
    return Circuit("benchmark", model.config, twelve_nodes(model), means_of(model, pairs))

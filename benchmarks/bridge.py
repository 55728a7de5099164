"""What sharing prefixes saves a bridge, and what a monitor costs a dense model: `python benchmarks/bridge.py [--json]`.

1. A step that fits a bridge's maps, forward and backward, with crossings at every residual point: they share prefixes
   and run their remainders as one batch, or run one by one, each from the embedding on. Passes of a sublayer over the
   batch are counted as they run.
2. A forward pass of the dense model with its logits, with and without a monitor of nodes spread over all points.

The shipped models, maps at random: neither depends on what the maps hold. Contenders take turns in one run; times are
medians over rounds, and ratios those of the medians.
"""

import argparse
import json
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from unittest.mock import patch

import torch
import torch.nn.functional as F
from timing import machine, medians, nothing
from torch import Tensor

from thinwire.bridge.crossings import Pair
from thinwire.bridge.losses import bridge_losses, divergence, nmse
from thinwire.bridge.maps import Bridge, matching_points
from thinwire.bridge.monitor import Monitor
from thinwire.bridge.targets import OwnTarget
from thinwire.bridge.watched import Watched
from thinwire.compiled.load import load_compiled
from thinwire.model.config import SampleConfig
from thinwire.model.sample import generate
from thinwire.model.transformer import Transformer
from thinwire.model.weights import load

DENSE, SPARSE = "python-2x256-dense", "python-2x256"
PLACES = (
    *("h_0", "0.attn.act_in", "0.mlp.act_in", "0.mlp.post_act"),
    *("1.attn.act_in", "1.mlp.act_in", "1.mlp.post_act", "h_4"),
)
"""Where a monitor reads two nodes each."""
DRAWN = SampleConfig(tokens=64, temperature=0.0)
Total = Callable[[Pair, Bridge, Tensor], Tensor]


def shared(pair: Pair, bridge: Bridge, tokens: Tensor) -> Tensor:
    """The losses of all crossings as training has them."""
    return _sum(bridge_losses(pair, bridge, tokens, pair.own(bridge, tokens), range(len(bridge.junctions))))


def naive(pair: Pair, bridge: Bridge, tokens: Tensor) -> Tensor:
    """The same losses, each crossing with a prefix of its own."""
    dense, sparse = pair.own(bridge, tokens)
    guide = F.log_softmax(dense.logits.float(), -1).detach()
    found: dict[str, list[Tensor]] = {"nmse": [], "kl_to_sparse": [], "kl_to_dense": []}
    models = {"kl_to_sparse": (pair.dense, pair.sparse), "kl_to_dense": (pair.sparse, pair.dense)}
    for i, points in enumerate(bridge.junctions):
        error = nmse(bridge.encode(i, dense.streams[i]), sparse.streams[i])
        found["nmse"].append(error + nmse(bridge.decode(i, sparse.streams[i]), dense.streams[i]))
        ends = {"kl_to_sparse": (points.dense, points.sparse), "kl_to_dense": (points.sparse, points.dense)}
        for name, (before, after) in models.items():
            convert = bridge.encode if name == "kl_to_sparse" else bridge.decode
            resid = convert(i, before.run(before.embed(tokens), 0, ends[name][0]))
            resid = after.run(resid, ends[name][1], pair.dense_points - 1)
            found[name].append(divergence(guide, after.unembed(resid, tokens)))
    return _sum({name: torch.stack(values).mean() for name, values in found.items()})


def _sum(losses: dict[str, Tensor]) -> Tensor:
    return torch.stack(list(losses.values())).sum()


@contextmanager
def counted(models: list[Transformer], batch: int) -> Iterator[list[int]]:
    """Within the block, a list of how often a sublayer runs over a batch of so many sequences, one number a run."""
    counts: list[int] = []

    def counting(model: Transformer) -> Callable[..., Tensor]:
        own = model._run_sublayers

        def run(resid: Tensor, start: int, stop: int, how: object) -> Tensor:
            counts.append((stop - start) * len(resid) // batch)
            return own(resid, start, stop, how)  # pyright: ignore

        return run

    with ExitStack() as stack:
        for model in models:
            stack.enter_context(patch.object(model, "_run_sublayers", counting(model)))
        yield counts


def fitting(dense: Transformer, sparse: Transformer, bridge: Bridge, tokens: Tensor, rounds: int) -> dict[str, object]:
    """Times and passes of a fitting step of both kinds, and how far apart their losses are."""
    pair = Pair.of(OwnTarget(dense), sparse)
    kinds: dict[str, Total] = {"naive": naive, "shared": shared}

    def step(total: Total) -> float:
        bridge.zero_grad()
        loss = total(pair, bridge, tokens)
        loss.backward()
        return loss.item()

    passes, losses = {}, {}
    for name, total in kinds.items():
        with counted([dense, sparse], len(tokens)) as counts:
            losses[name] = step(total)
        passes[name] = sum(counts)
    times = medians({name: (nothing, lambda t=total: step(t)) for name, total in kinds.items()}, rounds, tokens.device)
    return {
        "naive_over_shared": times["naive"] / times["shared"],
        **{f"passes_{name}": count for name, count in passes.items()},
        "fitting_ms": times,
        "losses_apart": abs(losses["naive"] - losses["shared"]) / losses["shared"],
    }


def monitoring(
    dense: Transformer, sparse: Transformer, bridge: Bridge, tokens: Tensor, rounds: int
) -> dict[str, object]:
    """Times of a dense forward pass with and without a monitor."""
    target = OwnTarget(dense)
    nodes = [Watched.parse(f"{place}:{channel}", sparse.config) for place in PLACES for channel in (7, 77)]
    probes, exact = Monitor(target, bridge, sparse, nodes), Monitor(target, bridge, sparse, nodes, exact=True)

    def plain() -> Tensor:
        with torch.no_grad():
            return target.unembed(target.run(target.embed(tokens), 0, target.n_points - 1), tokens)

    assert torch.allclose(plain(), probes.observe(tokens).logits, atol=1e-4)
    calls = {
        "dense": plain,
        "monitor": lambda: probes.observe(tokens),
        "exact": lambda: exact.observe(tokens),
    }
    times = medians({name: (nothing, call) for name, call in calls.items()}, rounds, tokens.device)
    prompt = tokens[:1, :16]
    drawing = {
        "dense": lambda: list(generate(dense, prompt, DRAWN)),
        "monitor": lambda: list(probes.generate(prompt, DRAWN)),
    }
    drawn = medians({name: (nothing, call) for name, call in drawing.items()}, rounds // 3, tokens.device)
    return {
        "monitor_over_dense": times["monitor"] / times["dense"],
        "exact_over_dense": times["exact"] / times["dense"],
        "generating_over_dense": drawn["monitor"] / drawn["dense"],
        "monitoring_ms": times,
        "generating_ms_per_token": {name: milliseconds / DRAWN.tokens for name, milliseconds in drawn.items()},
        "nodes": [node.name for node in nodes],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", action="store_true", help="end stdout with one JSON object")
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--batch", type=int, default=8, help="sequences of the whole context")
    parser.add_argument("--threads", type=int, help="threads of torch; by default its own choice")
    args = parser.parse_args()
    if args.threads:
        torch.set_num_threads(args.threads)
    dense, sparse = load(DENSE).requires_grad_(False), load_compiled(SPARSE)
    shape = sparse.config
    torch.manual_seed(0)
    bridge = Bridge(
        matching_points(2 * shape.n_layers + 1, 2 * shape.n_layers + 1), dense.config.d_model, shape.d_model
    )
    tokens = torch.randint(shape.vocab_size, (args.batch, shape.context))
    found = {"batch": args.batch, "context": shape.context, "layers": shape.n_layers}
    found |= fitting(dense, sparse, bridge, tokens, args.rounds)
    found |= monitoring(dense, sparse, bridge, tokens, 3 * args.rounds)
    print(f"{args.batch} sequences of {shape.context} tokens, {torch.get_num_threads()} threads")
    for kind in ("naive", "shared"):
        print(f"crossings {kind:<7} {found['fitting_ms'][kind]:>8.1f} ms a step, {found[f'passes_{kind}']} passes")
    print(f"one by one takes {found['naive_over_shared']:.2f} times the step with shared prefixes")
    for kind, what in (
        ("dense", "alone"),
        ("monitor", f"with {len(found['nodes'])} probes"),
        ("exact", "with exact values"),
    ):
        print(f"dense {what:<18} {found['monitoring_ms'][kind]:>8.1f} ms a forward pass")
    print(f"the monitor takes {found['monitor_over_dense'] - 1:.1%} of the dense forward pass")
    print(f"and {found['generating_over_dense'] - 1:.1%} of generating one text, a token at a time")
    if args.json:
        print(json.dumps(found | {"machine": machine()}))


if __name__ == "__main__":
    main()

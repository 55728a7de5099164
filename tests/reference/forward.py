"""The forward pass of one sequence in NumPy, float64, with a loop over positions and heads."""

from collections.abc import Callable
from math import erf

import numpy as np
from reference.selection import keep

from thinwire.model import Transformer

Seen = Callable[[str, int, np.ndarray], None]
Scale = Callable[[int, int, np.ndarray], float]
EPSILON = float(np.finfo(np.float32).eps)


def own_scale(point: int, position: int, row: np.ndarray) -> float:
    """What the norm that reads a residual point multiplies the row of a position by."""
    return 1 / np.sqrt((row**2).mean() + EPSILON)


def logits(
    model: Transformer, tokens: list[int], see: Seen = lambda site, position, x: None, scale: Scale = own_scale
) -> np.ndarray:
    """Logits [pos, vocab] of a model in float64.

    `see(site, position, channels)` is called for every site and may change its channels in place; `scale` is called for
    every norm.
    """
    weights = {name: value.detach().numpy() for name, value in model.named_parameters()}
    config = model.config
    resid = weights["embedding.weight"][tokens].copy()
    if config.positions == "added":
        resid = resid + weights["positions"][: len(tokens)]
    resid = _at_point(model, resid)
    for layer in range(config.n_layers):
        resid = _at_point(model, resid + _attention(model, weights, layer, resid, see, scale))
        resid = _at_point(model, resid + _mlp(model, weights, layer, resid, see, scale))
    normed = [row * scale(2 * config.n_layers, i, row) * weights["norm.weight"] for i, row in enumerate(resid)]
    out = np.stack([_linear(weights, "unembedding", row) for row in normed])
    return out + weights["bigram.weight"][tokens] if config.bigram else out


def _linear(weights: dict[str, np.ndarray], name: str, x: np.ndarray) -> np.ndarray:
    y = weights[f"{name}.weight"] @ x
    return y + weights[f"{name}.bias"] if f"{name}.bias" in weights else y


def _at(model: Transformer, layer: int, kind: str, x: np.ndarray, position: int, see: Seen) -> np.ndarray:
    k = len(x)
    if kind in model.config.active_sites:
        k = max(1, int(model.config.active_fraction * len(x)))
    x = np.array(keep(x.tolist(), k))
    see(f"{layer}.{kind}", position, x)
    return x


def _at_point(model: Transformer, resid: np.ndarray) -> np.ndarray:
    if not model.config.active_residual:
        return resid
    k = max(1, int(model.config.active_fraction * model.config.d_model))
    return np.array([keep(row.tolist(), k) for row in resid])


def _read(
    model: Transformer, weights: dict, layer: int, part: str, row: np.ndarray, position: int, scale: Scale
) -> np.ndarray:
    point = 2 * layer + ("attn", "mlp").index(part)
    x = row * scale(point, position, row) * weights[f"blocks.{layer}.{part}.norm.weight"]
    if model.config.positions == "concatenated":
        place = weights["positions"][position]
        place = place / np.sqrt((place**2).mean() + EPSILON) * weights[f"blocks.{layer}.{part}.norm_pos.weight"]
        x = np.concatenate([x, place])
    return x


def _attention(model: Transformer, weights: dict, layer: int, resid: np.ndarray, see: Seen, scale: Scale) -> np.ndarray:
    name, d_head = f"blocks.{layer}.attn", model.config.d_head
    q, k, v = [], [], []
    for position, row in enumerate(resid):
        x = _at(model, layer, "attn.act_in", _read(model, weights, layer, "attn", row, position, scale), position, see)
        for kind, rows in (("q", q), ("k", k), ("v", v)):
            rows.append(_at(model, layer, f"attn.{kind}", _linear(weights, f"{name}.w_{kind}", x), position, see))
    delta = np.zeros_like(resid)
    for query in range(len(resid)):
        mixed = np.zeros(model.config.n_heads * d_head)
        for head in range(model.config.n_heads):
            channels = slice(head * d_head, (head + 1) * d_head)
            scores = [np.exp(q[query][channels] @ k[key][channels] / np.sqrt(d_head)) for key in range(query + 1)]
            total = sum(scores) + (np.exp(weights[f"{name}.sink"][head]) if model.config.sink else 0.0)
            for key, score in enumerate(scores):
                mixed[channels] += score / total * v[key][channels]
        delta[query] = _at(model, layer, "attn.resid_delta", _linear(weights, f"{name}.w_o", mixed), query, see)
    return delta


def _mlp(model: Transformer, weights: dict, layer: int, resid: np.ndarray, see: Seen, scale: Scale) -> np.ndarray:
    name = f"blocks.{layer}.mlp"
    delta = np.zeros_like(resid)
    for position, row in enumerate(resid):
        x = _at(model, layer, "mlp.act_in", _read(model, weights, layer, "mlp", row, position, scale), position, see)
        x = np.array([_activate(model.config.activation, value) for value in _linear(weights, f"{name}.w_in", x)])
        x = _at(model, layer, "mlp.post_act", x, position, see)
        delta[position] = _at(model, layer, "mlp.resid_delta", _linear(weights, f"{name}.w_out", x), position, see)
    return delta


def _activate(name: str, x: float) -> float:
    return max(x, 0.0) if name == "relu" else x * 0.5 * (1 + erf(x / 2**0.5))

"""Measurements of a model against hand-computed numbers and slow obvious twins."""

import math

import pytest
import torch
from cases import case
from tiny import SHAPE, tiny_model, tiny_run

from thinwire.data import Tokens
from thinwire.model import Transformer
from thinwire.model.weights import sparse_parameters
from thinwire.sites import Site
from thinwire.train.metrics import Metrics, flatten, group, read_metrics
from thinwire.train.stats import kurtosis, measure, support, turnover, unwired, validation_losses

CONFIG = tiny_run(validation_tokens=160, batch_size=3)


def test_kurtosis_by_hand() -> None:
    """One of four channels carries all: mean 1/4, variance 3/16, fourth moment 21/256, kurtosis 7/3."""
    one, even, normal = [1.0, 0.0, 0.0, 0.0], [1.0, -1.0, 1.0, -1.0], torch.randn(200_000)
    assert kurtosis(torch.tensor([one, even])).tolist() == pytest.approx([7 / 3, 1.0])
    assert kurtosis(1e30 * torch.tensor(one)).item() == pytest.approx(7 / 3), "large streams do not overflow"
    assert kurtosis(normal).item() == pytest.approx(3, abs=0.1), "not the excess"
    assert math.isnan(kurtosis(torch.full((4,), 2.0)).item())


def test_measurement_is_that_of_the_plain_passes(tiny_tokens: Tokens) -> None:
    model = tiny_model(density=0.2, vocab_size=300)
    with torch.no_grad():
        model.embedding.weight[40:] = 0.5  # tokens whose stream has no spread, which the kurtosis leaves out
    found = measure(model, tiny_tokens, CONFIG)
    assert found.val_losses == validation_losses(model, tiny_tokens, CONFIG)
    rows = torch.from_numpy(tiny_tokens.validation("idioms", 160, 16))[:, :-1]
    seen: dict[str, set[int]] = {name: set() for name in found.dead}
    streams: dict[str, list[torch.Tensor]] = {name: [] for name in found.kurtosis}

    def tap(site: Site, x: torch.Tensor) -> torch.Tensor:
        for token in x.flatten(0, 1):
            seen[str(site)] |= set(token.nonzero().flatten().tolist())
        return x

    with torch.no_grad():
        for row in rows[:, None]:
            resid = model.embed(row)
            model.run(resid, tap=tap)
            for index in range(5):
                streams[f"h_{index}"] += list(model.run(resid, stop=index).flatten(0, 1).double())
    widths = {str(site): site.width(model.config) for site in (Site.parse(name) for name in seen)}
    assert found.dead == {name: widths[name] - len(alive) for name, alive in seen.items()}
    assert sum(found.dead.values()) > 0
    for name, tokens in streams.items():
        spread = [token for token in tokens if token.std() > 0]
        assert (len(spread) < len(tokens)) == (name == "h_0")
        each = [((t - t.mean()) ** 4).mean() / t.var(correction=0) ** 2 for t in spread]
        assert found.kurtosis[name] == pytest.approx(float(sum(each) / len(each)), rel=1e-4)
    assert found.nonzeros_of == {name: int((p != 0).sum()) for name, p in sparse_parameters(model)}


def test_a_stream_without_spread_has_no_kurtosis(tiny_tokens: Tokens) -> None:
    model = tiny_model(vocab_size=300)
    with torch.no_grad():
        model.embedding.weight.zero_()
    assert measure(model, tiny_tokens, CONFIG).kurtosis["h_0"] is None


def planted() -> Transformer:
    """All weights are 1, except: neuron 3 has no input, neurons 3 and 5 no output, v 2 none, resid 7 is not written,
    nor read but by k, and resid 9 is read by nothing."""
    model = Transformer(SHAPE)
    with torch.no_grad():
        for _, parameter in sparse_parameters(model):
            parameter.fill_(1)
        attn, mlp = model.sublayers[2:]
        mlp.w_in.weight[3] = 0
        mlp.w_out.weight[:, 3] = mlp.w_out.weight[:, 5] = 0
        attn.w_o.weight[:, 2] = 0
        attn.w_o.weight[7] = 0
        for matrix in (attn.w_q, attn.w_v):
            matrix.weight[:, [7, 9]] = 0
        attn.w_k.weight[:, 9] = 0
        attn.w_q.weight[[1, 4, 6]] = 0
    return model


def test_unwired_channels_are_counted_by_hand() -> None:
    for site, count in [
        ("1.attn.act_in", 1),
        ("1.attn.q", 3),
        ("1.attn.k", 0),
        ("1.attn.v", 1),
        ("1.attn.resid_delta", 1),
        ("1.mlp.act_in", 0),
        ("1.mlp.post_act", 2),
        ("1.mlp.resid_delta", 0),
        ("0.mlp.post_act", 0),
    ]:
        with case(site, count):
            assert unwired(planted(), Site.parse(site)) == count


def test_unwired_counts_the_position_channels_of_an_input() -> None:
    model = tiny_model(positions="concatenated")
    with torch.no_grad():
        model.sublayers[1].w_in.weight[:, -2:] = 0
    assert unwired(model, Site.parse("0.mlp.act_in")) == 2


def test_turnover_is_the_share_of_new_nonzeros() -> None:
    model = Transformer(SHAPE)
    with torch.no_grad():
        for _, parameter in sparse_parameters(model):
            parameter.zero_()
        weight = model.get_parameter("blocks.0.mlp.w_in.weight")
        weight[0, :8] = 1
        before = support(model)
        weight[0, :4] = 0  # four leave, two of the then six are new
        weight[1, :2] = -1
    assert turnover(before, model) == pytest.approx(2 / 6)
    assert turnover(support(model), model) == 0


def test_metrics_come_back_as_curves(tmp_path) -> None:
    metrics = Metrics(tmp_path / "metrics.jsonl", 0)
    metrics.add(1, loss=3.0, tasks={"a": {"loss": 0.5, "note": "x", "sure": True}})
    metrics.add(2, loss=2.0, nothing=None)
    metrics.add(2, tasks={"a": {"loss": 0.25}})
    metrics.add_once(2, loss=9.0)
    metrics.add_once(3, loss=1.0)
    with open(tmp_path / "metrics.jsonl", "a") as file:
        file.write('{"step": 4, "lo')
    curves = read_metrics(tmp_path)
    assert curves.keys() == {"loss", "tasks/a/loss"}
    assert (curves["loss"].steps, curves["loss"].values) == ((1, 2, 3), (3.0, 2.0, 1.0))
    assert group(curves, "tasks")["a/loss"].last == 0.25
    assert dict(flatten({"a": {"b": 1}})) == {"a/b": 1}

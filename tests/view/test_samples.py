from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import pytest
import torch

from thinwire.errors import UserError
from thinwire.model import ModelConfig, Transformer
from thinwire.model.taps import record
from thinwire.sites import Node, Site
from thinwire.view.config import SampleConfig
from thinwire.view.describe import distinct, short
from thinwire.view.samples import Profile, Texts, activations, held_out, profile, profiles, strongest

CONTEXT = 12
SHAPE = ModelConfig(n_layers=1, d_model=16, d_head=4, mlp_ratio=1.5, context=CONTEXT, vocab_size=50)


@dataclass
class Corpus:
    """Stands in for a tokens artefact: parts of seeded random tokens."""

    sizes: dict[str, int]

    @property
    def parts(self) -> tuple[str, ...]:
        return tuple(self.sizes)

    def n_tokens(self, part: str, split: str) -> int:
        assert split == "validation"
        return self.sizes[part]

    def validation(self, part: str, n_tokens: int, context: int) -> np.ndarray:
        rng = np.random.default_rng(len(part))
        return rng.integers(0, 50, (n_tokens // context, context + 1))


@pytest.fixture(scope="module")
def model() -> Transformer:
    return Transformer(SHAPE, seed=1).eval().requires_grad_(False)


NODES = [Node(Site.of(0, "attn.v"), 3), Node(Site.of(0, "mlp.post_act"), 20), Node(Site.of(0, "mlp.resid_delta"), 0)]


def test_activations_are_those_of_the_model(model: Transformer):
    tokens = held_out(Corpus({"idioms": 999}), 600, CONTEXT).tokens  # pyright: ignore[reportArgumentType]
    seen = activations(model, tokens, NODES)
    tap = record()
    model(torch.from_numpy(tokens), tap=tap)
    for place, node in enumerate(NODES):
        torch.testing.assert_close(torch.from_numpy(seen[place]), tap.values[node.site][..., node.index])


def test_strongest_windows_by_brute_force():
    rng = np.random.default_rng(0)
    seen = rng.normal(size=(30, CONTEXT)).astype(np.float32)
    texts = Texts(rng.permutation(30 * CONTEXT).reshape(30, CONTEXT), tuple(f"window {i}" for i in range(30)))
    for sign in (1, -1):
        found = strongest(seen, texts, SampleConfig(windows=7, before=2, after=3), sign)
        best = sorted(((sign * seen[row]).max() for row in range(30)), reverse=True)[:7]
        assert [sign * excerpt.activations[excerpt.peak] for excerpt in found] == pytest.approx(best)
        assert len({excerpt.source for excerpt in found}) == 7
        for excerpt in found:
            row = int(excerpt.source.split()[1])
            peak = int((sign * seen[row]).argmax())
            assert excerpt.peak == min(2, peak)
            np.testing.assert_array_equal(excerpt.activations, seen[row, max(0, peak - 2) : peak + 4])
            np.testing.assert_array_equal(excerpt.tokens, texts.tokens[row, max(0, peak - 2) : peak + 4])


def test_one_word_does_not_fill_the_list():
    seen = np.array([[9.0, 1.0], [8.0, 1.0], [7.0, 1.0], [1.0, 6.0]], dtype=np.float32)
    texts = Texts(np.array([[5, 1], [5, 2], [5, 3], [5, 4]]), ("x",) * 4)
    found = strongest(seen, texts, SampleConfig(windows=3), 1)
    assert [excerpt.activations[excerpt.peak] for excerpt in found] == [9.0, 8.0, 6.0]


def sampled(seen: np.ndarray) -> Profile:
    return profile(
        seen.astype(np.float32), Texts(np.zeros(seen.shape, np.int64), ("x",) * len(seen)), SampleConfig(bins=5)
    )


def test_the_histogram_counts_every_nonzero_once():
    found = sampled(np.array([[0.0, 0.0, 1.0], [2.0, -3.0, 2.0]]))
    assert (found.low, found.high, found.nonzero, found.tokens) == (-3.0, 2.0, 4 / 6, 6)
    assert found.counts.tolist() == [1, 0, 0, 0, 3]
    assert found.bounds.tolist() == [-3, -2, -1, 0, 1, 2]
    assert len(found.positive) == 2
    assert len(found.negative) == 1


@pytest.mark.parametrize(("value", "counts"), [(0.0, 0), (2.5, 6)])
def test_constant_nodes_have_a_profile(value: float, counts: int):
    found = sampled(np.full((2, 3), value))
    assert found.counts.sum() == counts
    assert (found.low, found.high) == (value, value)
    assert len(found.positive) == (2 if value else 0)
    assert found.negative == ()


def test_parts_share_the_text_evenly_and_short_parts_are_left_out(model: Transformer):
    corpus = Corpus({"idioms": 999, "stdlib": 400, "folders": CONTEXT})
    texts = held_out(corpus, 30 * CONTEXT, CONTEXT)  # pyright: ignore[reportArgumentType]
    assert [texts.sources.count(f"{part}, held out") for part in corpus.parts] == [10, 10, 0]
    assert texts.tokens.shape == (20, CONTEXT)
    with pytest.raises(UserError, match="larger corpus"):
        profiles(model, Corpus({"folders": CONTEXT}), NODES, SampleConfig())  # pyright: ignore[reportArgumentType]


def test_no_nodes_need_no_text(model: Transformer):
    assert profiles(model, Corpus({}), [], SampleConfig()) == {}  # pyright: ignore[reportArgumentType]


FINEST = np.nextafter(np.float32(1.2345678), np.float32(2))
HARD = {
    "two neighbouring floats": [1.2345678, FINEST, 0.0],
    "neighbours below zero": [-1.2345678, -FINEST, 0.0],
    "neighbours, huge": [1e30, np.nextafter(np.float32(1e30), np.float32(2e30)), 1e30],
    "one value, huge": [1e30, 1e30, 1e30],
    "the largest, of both signs": [3.4e38, -3.4e38, 1.0],
    "one denormal": [1e-45, 1e-45, 0.0],
    "neighbouring denormals": [1e-45, 3e-45, 0.0],
    "a denormal and one": [1e-45, 1.0, 1.0],
    "one value": [2.5, 2.5, 2.5],
    "minus zero": [-0.0, 0.0, -0.0],
    "a narrow range far from zero": [1000.0, 1000.01, 1000.02],
}


@pytest.mark.parametrize("name", HARD)
def test_every_finite_activation_has_a_histogram_that_can_be_drawn(name: str):
    values = np.array([HARD[name]] * 2, dtype=np.float32)
    found = sampled(values)
    assert found.counts.sum() == np.count_nonzero(values)
    bounds = distinct(found.bounds)
    assert len(bounds) == (len(found.counts) + 1 if len(found.counts) else 0)
    assert all(below < above for below, above in pairwise(bounds))
    if bounds:
        assert bounds == pytest.approx(found.bounds.tolist(), rel=1e-3)


def test_activations_that_are_not_finite_are_refused():
    for wrong in (np.nan, np.inf, -np.inf):
        with pytest.raises(UserError, match="not finite"):
            sampled(np.array([[1.0, wrong, 0.0]]))
        with pytest.raises(UserError, match="finite number"):
            short(float(wrong))

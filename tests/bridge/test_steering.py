"""Steering against oracles: a model bridged to itself, planted circuits, a shuffled bridge, finite differences."""

from dataclasses import replace
from pathlib import Path

import planted
import pytest
import torch
from bridge_pieces import identity_bridge, random_bridge
from tiny import tiny_model, tiny_prompts

from thinwire.bridge.curves import Curve, Step, measure_curves, measure_points, reads_in
from thinwire.bridge.reads import Decoder, Read, all_reads, circuit_reads
from thinwire.bridge.scan import best_reads, scan
from thinwire.bridge.steer import Steering, differences, moved_logits, other_answers, steered
from thinwire.bridge.steer_config import CONTROLS, NODES, SHUFFLED, SteerConfig
from thinwire.bridge.steer_report import SteerReport, control_of
from thinwire.bridge.targets import OwnTarget
from thinwire.errors import UserError
from thinwire.model import Transformer
from thinwire.tasks import PairBatch
from thinwire.tasks.batch import REST

CONFIG = SteerConfig(strengths=(0.0, 1.0, 2.0), draws=6)
Plant = tuple[planted.Planted, Steering, tuple[Read, ...]]


def to_itself(model: Transformer, batch: PairBatch) -> Steering:
    """Steering of a model that is bridged to itself."""
    bridge = identity_bridge(2 * model.config.n_layers + 1, model.config.d_model)
    return Steering.of(OwnTarget(model), model, Decoder(bridge, model, OwnTarget(model)), batch)


@pytest.fixture(scope="module", params=["mlp", "chain"])
def plant(request: pytest.FixtureRequest) -> Plant:
    """A planted circuit in a model that is bridged to itself, steered on held-out pairs by the circuit's reads."""
    found = planted.PLANTED[request.param]()
    steering = to_itself(found.model, found.planted.pairs(32, "heldout", 0))
    return found, steering, circuit_reads(found.nodes, found.model.config.n_layers, found.model.config.d_model)


def random_pairs(model: Transformer, n: int = 4, length: int = 9) -> PairBatch:
    tokens, answers = tiny_prompts(model, 2 * n, length), torch.arange(2 * n)
    return PairBatch(tokens, torch.full((2 * n,), length - 1), answers, answers.roll(n))


def test_all_reads_of_a_point_are_exchanged() -> None:
    model = tiny_model(0.3)
    batch = random_pairs(model)
    steering = to_itself(model, batch)
    swapped = batch.tokens.roll(4, 0)
    theirs = all_reads(model, swapped)
    for point in range(5):
        every = [Read(point, channel) for channel in range(16)]
        along = moved_logits(steering.target, batch, steering.moves(every))

        def exchanged(at: int, norm: torch.nn.Module, resid: torch.Tensor, point: int = point) -> torch.Tensor:
            return theirs[point] if at == point else norm(resid)

        assert torch.allclose(along, model(batch.tokens, norms=exchanged)[:, -1], atol=1e-5), point
        own = steering.own(every)  # the same, since the models are the same
        assert torch.allclose(own[point], differences(all_reads(model, batch.tokens), batch)[point])
        assert torch.allclose(moved_logits(steering.target, batch, own), along, atol=1e-5)


def test_the_last_tokens_alone_get_the_same_moves() -> None:
    model = tiny_model(0.3)
    batch = random_pairs(model)
    batch = replace(batch, last=torch.tensor([8, 3, 5, 8, 2, 8, 7, 4]))
    generator = torch.Generator().manual_seed(0)
    moves = {point: torch.randn(8, 9, 16, generator=generator) for point in range(5)}
    everywhere = model_logits(OwnTarget(model), batch, moves)
    assert torch.allclose(OwnTarget(model).moved_last(batch, moves), everywhere, atol=1e-5)


def model_logits(target: OwnTarget, batch: PairBatch, moves: dict[int, torch.Tensor]) -> torch.Tensor:
    return target.moved(batch.tokens, moves)[torch.arange(len(batch.last)), batch.last]


def test_a_planted_circuit_steers_and_controls_do_not(plant: Plant) -> None:
    _, steering, reads = plant
    curves = measure_curves({"sparse/dense": steering}, reads, CONFIG)
    whole = curves[0]
    assert (whole.part, whole.reads) == ("all", len(reads))
    nothing, one, two = whole.steps
    for side in nothing.sides:
        assert (side.log_odds.value, side.ratio.value, side.flips.value) == (0, 1, 0)
        assert side.log_odds.interval.low == side.log_odds.interval.high == 0
    assert nothing.controls == []
    assert [control.kind for control in one.controls] == list(CONTROLS)
    assert [control.kind for control in two.controls] == [NODES]
    assert [side.flips.value for side in one.sides] == [1, 1]
    for at, side in enumerate(one.sides):
        assert side.log_odds.interval.low > 1
        assert side.log_odds.interval.low <= side.log_odds.value <= side.log_odds.interval.high
        for kind in (NODES, SHUFFLED):
            control = control_of(one, kind)
            assert len(control.ratios[at]) == CONFIG.draws
            assert max(control.ratios[at]) < side.ratio.value


def test_the_whole_difference_is_reported(plant: Plant) -> None:
    _, steering, reads = plant
    points = measure_points(steering, reads)
    assert [one.point for one in points] == sorted({read.point for read in reads})
    for one in points:
        for ours, own in zip(one.sides, one.own, strict=True):
            # the prompts of a planted pair differ in nothing else that the answer depends on
            assert ours.log_odds.value == pytest.approx(own.log_odds.value, rel=0.05, abs=0.05), one.point


def test_parts_are_measured_apart() -> None:
    reads = (Read(0, 1), Read(0, 2), Read(3, 1))
    assert [reads_in(part, reads) for part in ("all", "h_0", "later")] == [reads, reads[:2], reads[2:]]
    model = tiny_model(0.3)
    steering = to_itself(model, random_pairs(model))
    config = SteerConfig(strengths=(1.0,), draws=2)
    passes = []
    curves = measure_curves(
        {"sparse/dense": steering, "dense/sparse": steering}, reads, config, lambda done, total, _: passes.append(total)
    )
    assert [(one.dose, one.part, one.reads) for one in curves] == [
        (dose, part, n)
        for dose in ("sparse/dense", "dense/sparse")
        for part, n in (("all", 3), ("h_0", 2), ("later", 1))
    ]
    assert set(passes) == {len(passes)}, "the progress ends at its total"
    assert [one.part for one in measure_curves({"sparse/dense": steering}, reads[:2], config)] == ["all"]


def test_the_same_seed_draws_the_same_controls(plant: Plant) -> None:
    _, steering, reads = plant
    config = CONFIG.replace(strengths=(1.0,), draws=2)
    assert measure_curves({"sparse/dense": steering}, reads, config) == measure_curves(
        {"sparse/dense": steering}, reads, config
    )
    other = measure_curves({"sparse/dense": steering}, reads, config.replace(seed=1))
    assert other[0].steps[0].sides[0].ratio.value == pytest.approx(
        measure_curves({"sparse/dense": steering}, reads, config)[0].steps[0].sides[0].ratio.value
    )


def test_a_scan_finds_planted_reads() -> None:
    found = planted.mlp()
    slopes = scan(to_itself(found.model, found.planted.pairs(32, "train", 0)))
    chosen = best_reads(slopes, 2)
    assert chosen == circuit_reads(found.nodes, 2, 16) == (Read(3, planted.SIGNAL), Read(4, planted.OUT))
    steering = to_itself(found.model, found.planted.pairs(32, "heldout", 1))
    assert all(side.flips.all() for side in steering.along(steering.moves(chosen)))


def test_slopes_of_a_scan_equal_finite_differences() -> None:
    dense, sparse = tiny_model(seed=1, active_fraction=1.0), tiny_model(0.3, seed=2)
    target, batch = OwnTarget(dense), random_pairs(dense)
    steering = Steering.of(target, sparse, Decoder(random_bridge(5, 16), sparse, target), batch)
    slopes = scan(steering)
    assert {point: found.shape for point, found in slopes.items()} == dict.fromkeys(range(5), (8, 16))
    step = 0.02
    for point, found in slopes.items():
        channel = int(found.abs().sum(0).argmax())
        moves = steering.moves([Read(point, channel)])
        above, below = (torch.cat([side.log_odds for side in steering.along(moves, s)]) for s in (step, -step))
        slope = (above - below) / (2 * step)
        assert float((slope - found[:, channel]).norm() / slope.norm()) < 0.003, point


def test_best_reads_by_hand() -> None:
    slopes = {0: torch.tensor([[3.0, -9.0], [1.0, 0.0]]), 2: torch.tensor([[1.0, 0.5], [1.0, 0.5]])}
    assert best_reads(slopes, 2) == (Read(0, 0), Read(2, 0))
    assert best_reads(slopes, 9) == (Read(0, 0), Read(2, 0), Read(2, 1)), "none that steers the other way"
    assert best_reads(slopes, 9, [2]) == (Read(2, 0), Read(2, 1))


def test_answers_that_are_any_other_token() -> None:
    batch = PairBatch(torch.zeros(2, 1, dtype=torch.int64), torch.zeros(2, dtype=torch.int64), *answers())
    before = torch.tensor([[0.5, 0.3, 0.2], [0.7, 0.2, 0.1]]).log()
    assert other_answers(before, batch).exp().tolist() == pytest.approx([0.5, 0.7])
    after = torch.tensor([[0.1, 0.3, 0.6], [0.9, 0.05, 0.05]]).log()
    one, two = steered(before, after, batch)
    assert (one.ratio, two.ratio) == pytest.approx((0.9 / 0.5, 0.9 / 0.7))


def answers() -> tuple[torch.Tensor, torch.Tensor]:
    """The first prompt's answer is token 0, the second's any other one."""
    return torch.tensor([0, REST]), torch.tensor([REST, 0])


def test_reports_are_read_as_they_were_written(plant: Plant, tmp_path: Path) -> None:
    found, steering, reads = plant
    curves = measure_curves({"sparse/dense": steering}, reads, CONFIG.replace(draws=2))
    names = [f"h_{read.point}:{read.channel}" for read in reads]
    report = SteerReport(
        task=found.planted.name,
        **dict.fromkeys(["bridge", "dense", "sparse", "circuit"], "0123456789abcdef"),
        stage="ridge",
        split="heldout",
        n=32,
        seed=0,
        draws=2,
        choice="circuit",
        reads=names,
        answers=("X", ""),
        curves=curves,
        points=measure_points(steering, reads),
    )
    (tmp_path / "found.json").write_text(report.to_json(), "utf-8")
    assert SteerReport.load(tmp_path / "found.json") == report
    assert report.reference.strength == 1
    assert report.random_high < report.reference.smaller
    assert isinstance(report.curve("sparse/dense", "all"), Curve)
    assert isinstance(report.reference, Step)
    (tmp_path / "found.json").write_text("{}", "utf-8")
    with pytest.raises(UserError, match="run thinwire steer again"):
        SteerReport.load(tmp_path / "found.json")


def test_strengths_that_change_nothing_are_refused() -> None:
    with pytest.raises(ValueError, match="at least one above 0"):
        SteerConfig(strengths=(0.0,))
    assert SteerConfig(strengths=(2.0, 0.5, 2.0)).strengths == (0.5, 2.0)

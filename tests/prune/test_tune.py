"""The search over hyper-parameters, on a made-up objective whose optimum is known."""

import itertools
import math
import random
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch

from thinwire import artifact
from thinwire.errors import UserError
from thinwire.progress import Report, silent
from thinwire.prune.config import Point, PruneConfig
from thinwire.prune.trial import Trial, best
from thinwire.prune.tune import HEAD, RANGES, TRIALS, coordinates, objectives, propose, round_seed, search

OPTIMUM = {"k_coef": 2e-3, "learning_rate": 0.012, "heaviside_temp": 2.0, "init_noise_bias": 0.3, "1-beta2": 0.03}
FEWEST = 9
CONFIG = PruneConfig(trials=4, search=16, patience=99, sampler="tpe")


def outcome(point: Point) -> Trial:
    """A bowl around OPTIMUM with FEWEST edges at its bottom; far up its walls the target is missed."""
    at = coordinates(point)
    height = sum(math.log10(at[name] / value) ** 2 for name, value in OPTIMUM.items())
    if height > 4:
        return Trial(point, (), (), None, None, None, 1.0)
    edges = round(FEWEST * math.exp(1.5 * height))
    return Trial(point, (2, 1), (0.5, 0.25), edges, edges + 3, 0.07, 2.0)


def evaluate(points: Sequence[Point], seed: int, report: Report = silent) -> list[Trial]:
    return [outcome(point) for point in points]


class Killed(Exception):
    """Stands for whatever ends a process."""


class Recorder:
    """Evaluates, notes what it was asked for, and dies in a given round."""

    def __init__(self, dies: int | None = None) -> None:
        self.asked: list[tuple[tuple[Point, ...], int]] = []
        self.dies = dies

    def __call__(self, points: Sequence[Point], seed: int, report: Report = silent) -> list[Trial]:
        if len(self.asked) == self.dies:
            raise Killed
        self.asked.append((tuple(points), seed))
        return evaluate(points, seed)


def fewest(**changes: object) -> float:
    """Edges of the smallest circuit a search finds."""
    smallest = best(search(evaluate, CONFIG.replace(**changes), None))
    assert smallest is not None
    assert smallest.edges is not None
    return smallest.edges


def test_ranges_hold_the_papers_centres_and_the_known_good_point() -> None:
    centres = Point(learning_rate=3e-3, warmup=0.05)
    elsewhere = Point(k_coef=8.2e-3, heaviside_temp=2.3, learning_rate=0.015, beta2=0.965, warmup=0.05)
    ours = Point(warmup=0.05)
    for point in (centres, elsewhere, ours):
        values = point.model_dump()
        values["1-beta2"] = 1 - values.pop("beta2")
        assert values == coordinates(point), "nothing was moved to the rim"
        assert all(1.5 * low < values[name] < high / 1.5 for name, (low, high) in RANGES.items())
    assert set(Point.model_fields) == {*RANGES, "beta2"} - {"1-beta2"}
    assert coordinates(Point(warmup=0, k_coef=1e3, init_noise_bias=-1)).items() >= {
        ("warmup", RANGES["warmup"][0]),
        ("k_coef", RANGES["k_coef"][1]),
        ("init_noise_bias", RANGES["init_noise_bias"][0]),
    }


@pytest.mark.parametrize("sampler", ["gp", "tpe", "random"])
def test_points_of_a_round_differ_and_are_are_reproducible(sampler: str) -> None:
    config = CONFIG.replace(trials=8, sampler=sampler, learning_rate=0.7, warmup=0.0)
    first = propose([], config, 8)
    assert first[0] == config.point, "as given, though outside the ranges"
    trials = evaluate(first, 0)
    second = propose(trials, config, 5)
    states = random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist()
    assert propose(trials, config, 5) == second
    assert states == (random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist())
    assert propose(trials, config, 2) == second[:2]
    assert propose(trials, config.replace(seed=1), 1)[0] != second[0]
    drawn = [*first[1:], *second]
    for name, (low, high) in RANGES.items():
        values = sorted(coordinates(point)[name] for point in drawn)
        assert low <= values[0]
        assert values[-1] <= high
        assert values[-1] / values[0] > (high / low) ** 0.5, "over all of a log scale"
    for a, b in itertools.pairwise(second):
        ours, theirs = coordinates(a), coordinates(b)
        gaps = [abs(math.log(ours[n] / theirs[n])) / math.log(RANGES[n][1] / RANGES[n][0]) for n in RANGES]
        assert max(gaps) > 0.02, "pending points are taken into account"


def test_search_beats_chance() -> None:
    """The same number of trials, over seeds: nearer the optimum, in log edges above it, than random points."""
    above = {
        sampler: sum(math.log(fewest(sampler=sampler, trials=8, search=96, seed=seed) / FEWEST) for seed in range(4))
        for sampler in ("tpe", "random")
    }
    assert above["tpe"] < 0.5 * above["random"]


def test_gaussian_process_comes_near_the_optimum() -> None:
    assert fewest(sampler="gp", trials=8, search=32) <= 1.6 * FEWEST


@pytest.mark.slow
def test_gaussian_process_beats_chance() -> None:
    for seed in range(3):
        assert fewest(sampler="gp", trials=8, search=64, seed=seed) <= 1.2 * FEWEST
        assert fewest(sampler="random", trials=8, search=64, seed=seed) > 1.2 * FEWEST


@pytest.mark.parametrize("sampler", ["tpe", "gp", "random"])
def test_search_that_was_cut_off_goes_on_as_if_it_had_not_been(sampler: str, tmp_path: Path) -> None:
    config = CONFIG.replace(sampler=sampler, search=15, seed=2**63 - 1)
    whole = Recorder()
    undisturbed = search(whole, config, tmp_path / "undisturbed")
    assert [len(points) for points, _ in whole.asked] == [4, 4, 4, 3]
    assert len({seed for _, seed in whole.asked}) == 4
    assert whole.asked[0][1] == config.seed
    for round_ in (0, 3) if sampler == "gp" else range(4):
        folder = tmp_path / f"cut_{round_}"
        with pytest.raises(Killed):
            search(Recorder(dies=round_), config, folder)
        rest = Recorder()
        assert search(rest, config, folder) == undisturbed
        assert rest.asked == whole.asked[round_:]
        assert (folder / TRIALS).read_bytes() == (tmp_path / "undisturbed" / TRIALS).read_bytes()
    assert search(Recorder(dies=0), config, tmp_path / "undisturbed") == undisturbed, "nothing is left to do"
    assert search(evaluate, config, None) == undisturbed


def test_writing_that_was_cut_off_anywhere_is_made_good(tmp_path: Path) -> None:
    config = CONFIG.replace(sampler="random", search=8)
    undisturbed = search(evaluate, config, tmp_path)
    data = (tmp_path / TRIALS).read_bytes()
    ends = [i + 1 for i, byte in enumerate(data) if byte == ord("\n")]
    assert len(ends) == 8
    for size in {0, 1, len(data) // 2, len(data) - 1, *ends, *(end - 1 for end in ends), *(end + 9 for end in ends)}:
        (tmp_path / TRIALS).write_bytes(data[:size])
        again = Recorder()
        assert search(again, config, tmp_path) == undisturbed
        assert (tmp_path / TRIALS).read_bytes() == data
        assert len(again.asked) == 2 - sum(size >= end for end in (ends[3], ends[7]))


def test_search_may_go_on_longer(tmp_path: Path) -> None:
    """A round that the shorter search left smaller is made again, whole."""
    undisturbed = search(evaluate, CONFIG.replace(search=12), None)
    assert len(search(evaluate, CONFIG.replace(search=6, patience=9), tmp_path)) == 6
    assert search(evaluate, CONFIG.replace(search=12), tmp_path) == undisturbed
    assert search(Recorder(dies=0), CONFIG.replace(search=6), tmp_path) == undisturbed[:6], "no more than asked for"


class Scripted:
    """Gives each trial of a round the same (edges, nodes), or a miss."""

    def __init__(self, rounds: Sequence[tuple[int, int] | None]) -> None:
        self.rounds = iter(rounds)

    def __call__(self, points: Sequence[Point], seed: int, report: Report = silent) -> list[Trial]:
        size = next(self.rounds)
        if size is None:
            return [Trial(point, (), (), None, None, None, 1.0) for point in points]
        return [Trial(point, (1,), (0.5,), *size, 0.07, 1.0) for point in points]


@pytest.mark.parametrize(
    ("rounds", "patience", "made"),
    [
        ([(9, 9)] * 8, 1, 2),
        ([(9, 9)] * 8, 3, 4),
        ([(9, 9), (9, 8), (9, 8), (8, 20), (9, 1), (8, 20), (8, 20)], 2, 6),
        ([(9, 9), None, (8, 9), None, None], 2, 5),
        ([None] * 8, 3, 3),
        ([None, None, (5, 5), (5, 5), (4, 4), None, None, None], 3, 8),
        ([(20 - i, 9) for i in range(8)], 1, 8),
    ],
)
def test_search_ends_when_nothing_improves(
    rounds: list[tuple[int, int] | None], patience: int, made: int, tmp_path: Path
) -> None:
    config = CONFIG.replace(search=16, trials=2, patience=patience, sampler="random")
    trials = search(Scripted(rounds), config, tmp_path)
    assert len(trials) == 2 * made
    assert search(Scripted([]), config, tmp_path) == trials, "and has ended for good"


@pytest.mark.parametrize("sampler", ["gp", "tpe"])
def test_samplers_bear_rounds_that_all_missed_or_all_came_out_alike(sampler: str) -> None:
    config = CONFIG.replace(sampler=sampler, trials=5)
    for size in (None, (0, 0), (7, 3)):
        trials = search(Scripted([size] * 4), config.replace(search=10), None)
        assert len(set(propose(trials, config, 2))) == 2


def test_missed_targets_count_as_worse_than_any_found() -> None:
    sizes = [(12, 4), None, (0, 0), (10**9, 5), None]
    trials = [Scripted([size])([Point()], 0)[0] for size in sizes]
    values = objectives(trials)
    assert values[2] == 0 < values[0] < values[3] < values[1] == values[4] < math.inf
    assert values[1] - values[3] == pytest.approx(math.log(2))
    assert len({*objectives([trials[1]] * 3)}) == 1
    assert objectives([]) == []


def test_progress_says_the_round_and_the_fewest_edges(tmp_path: Path) -> None:
    said: list[tuple[int, int, str]] = []
    config = CONFIG.replace(search=5, trials=2, sampler="random")
    script = Scripted([None, (14, 9), (20, 9)])
    search(script, config, tmp_path, lambda *words: said.append(words))
    assert said == [(2, 5, "round 1, target missed"), (4, 5, "round 2, 14 edges"), (5, 5, "round 3, 14 edges")]
    search(script, config, tmp_path, lambda *words: said.append(words))
    assert said[3:] == [(5, 5, "round 3, 14 edges")], "where a resumed search stands is said at once"


def test_folder_of_another_search_is_refused(tmp_path: Path) -> None:
    search(evaluate, CONFIG.replace(search=4), tmp_path, subject="quotes of model 01")
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    with pytest.raises(UserError, match=r"holds a search with another model or task; delete .* to start a new search"):
        search(evaluate, CONFIG, tmp_path, subject="quotes of model 02")
    with pytest.raises(UserError, match="holds a search with another learning_rate, seed; delete"):
        search(evaluate, CONFIG.replace(seed=1, learning_rate=0.1), tmp_path, subject="quotes of model 01")
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


@pytest.mark.parametrize("text", ["", "[]", "{", '{"version": 2}', '{"subject": "", "config": {"steps": 0}}', "\xff"])
def test_damaged_head_is_refused(text: str, tmp_path: Path) -> None:
    (tmp_path / HEAD).write_bytes(text.encode("latin-1"))
    with pytest.raises(UserError, match=r"search\.json is damaged; delete"):
        search(evaluate, CONFIG, tmp_path)


def test_damaged_records_are_named_by_line(tmp_path: Path) -> None:
    config = CONFIG.replace(search=8, sampler="random")
    search(evaluate, config, tmp_path)
    lines = (tmp_path / TRIALS).read_bytes().split(b"\n")
    for bad in (b"", b"{}", b"null", lines[2][:40], b"\xff" + lines[2], lines[2] + lines[2], b"\0" * 9):
        damaged = b"\n".join([*lines[:2], bad, *lines[3:]])
        (tmp_path / TRIALS).write_bytes(damaged)
        with pytest.raises(
            UserError, match=r"trials\.jsonl line 3 is damaged \(.*\); delete .* to start a new search\.$"
        ):
            search(evaluate, config, tmp_path)
        assert (tmp_path / TRIALS).read_bytes() == damaged, "left as it was found"
    (tmp_path / TRIALS).write_bytes(b"\n".join(lines[1:]))
    with pytest.raises(UserError, match="line 1 does not have the first point"):
        search(evaluate, config, tmp_path)


def test_places_that_cannot_hold_a_search_are_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="choose another"):
        search(evaluate, CONFIG, tmp_path / "file")
    (tmp_path / "headless").mkdir()
    (tmp_path / "headless" / TRIALS).write_text("{}\n")
    with pytest.raises(UserError, match=r"has no search\.json beside it"):
        search(evaluate, CONFIG, tmp_path / "headless")
    (tmp_path / "odd" / TRIALS).mkdir(parents=True)
    search_head = tmp_path / "whole"
    search(evaluate, CONFIG.replace(search=4), search_head)
    (tmp_path / "odd" / HEAD).write_bytes((search_head / HEAD).read_bytes())
    with pytest.raises(UserError, match=r"trials\.jsonl cannot be read \(it is a folder"):
        search(evaluate, CONFIG, tmp_path / "odd")
    with artifact.sole_writer(tmp_path / "held"), pytest.raises(UserError, match="Another process is writing"):
        search(evaluate, CONFIG, tmp_path / "held")


def test_optuna_is_imported_late_and_says_nothing(capfd: pytest.CaptureFixture[str]) -> None:
    program = "import thinwire.prune.tune, sys; print([n for n in ('optuna', 'scipy', 'torch') if n in sys.modules])"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
    import optuna

    before = optuna.logging.get_verbosity()
    search(evaluate, CONFIG, None)
    assert optuna.logging.get_verbosity() == before
    assert capfd.readouterr() == ("", "")


def test_seeds_of_rounds_are_small_and_differ() -> None:
    seeds = [round_seed(CONFIG.replace(seed=seed), number) for seed in (0, 1, 2**63 - 1) for number in range(50)]
    assert len(set(seeds)) == 150
    assert all(0 <= seed < 2**63 for seed in seeds)

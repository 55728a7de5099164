"""Timing for benchmarks: contenders take turns in one run, so that a ratio survives a noisy machine."""

import statistics
import time
from collections.abc import Callable, Mapping

import torch

from thinwire.train.rates import processor_model


def in_turns(contenders: Mapping[str, Callable[[], object]], rounds: int, warmup: int = 2) -> dict[str, float]:
    """Shortest seconds of each contender over `rounds` rounds of all, after `warmup` rounds that do not count."""
    seconds = dict.fromkeys(contenders, float("inf"))
    for round_ in range(warmup + rounds):
        for name, contender in contenders.items():
            began = time.perf_counter()
            contender()
            if round_ >= warmup:
                seconds[name] = min(seconds[name], time.perf_counter() - began)
    return seconds


Contender = tuple[Callable[[], object], Callable[[], object]]
"""What comes before each timed call, and the call."""


def medians(contenders: Mapping[str, Contender], rounds: int, device: torch.device) -> dict[str, float]:
    """Milliseconds of each contender; they take turns, and the first three rounds do not count."""
    times: dict[str, list[float]] = {name: [] for name in contenders}
    for round_ in range(3 + rounds):
        for name, (prepare, call) in contenders.items():
            prepare()
            took = _on_device(call) if device.type == "cuda" else on_host(call)
            if round_ >= 3:
                times[name].append(took)
    return {name: statistics.median(each) for name, each in times.items()}


def _on_device(call: Callable[[], object]) -> float:
    began, ended = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
    torch.cuda._sleep(2_000_000)  # cycles in which the host gets ahead, so that launching is not what is timed
    began.record()
    call()
    ended.record()
    ended.synchronize()
    return began.elapsed_time(ended)


def on_host(call: Callable[[], object]) -> float:
    """Milliseconds of a call by the wall clock."""
    began = time.perf_counter()
    call()
    return 1e3 * (time.perf_counter() - began)


def nothing() -> None:
    """What comes before a call that needs no preparation."""


def machine() -> dict[str, object]:
    """What a figure depends on: processor, threads, versions."""
    return {"processor": processor_model(), "threads": torch.get_num_threads(), "torch": torch.__version__}

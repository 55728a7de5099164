"""Timing for benchmarks: contenders take turns in one run, so that a ratio survives a noisy machine."""

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


def machine() -> dict[str, object]:
    """What a figure depends on: processor, threads, versions."""
    return {"processor": processor_model(), "threads": torch.get_num_threads(), "torch": torch.__version__}

"""What tests of training runs share: reading their metrics, comparing two runs, interrupting one."""

import json
import os
import signal
from dataclasses import replace
from pathlib import Path

from thinwire.train import Monitoring, read_result


def metrics(out: Path) -> list[dict]:
    return [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]


def same_run(out: Path, other: Path) -> None:
    """Both hold the same weights, bit for bit, and the same measurements."""
    assert (out / "weights.safetensors").read_bytes() == (other / "weights.safetensors").read_bytes()
    assert metrics(out) == metrics(other)
    results = [replace(read_result(f), out="", seconds=0, tokens_per_second=0) for f in (out, other)]
    assert results[0] == results[1]


def interrupting(at: int, number: signal.Signals = signal.SIGINT) -> Monitoring:
    """Monitoring that sends this process a signal at one step."""

    def report(done: int, total: int, status: str) -> None:
        if done == at:
            os.kill(os.getpid(), number)

    return Monitoring(report)

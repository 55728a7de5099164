"""One of several ranks that go through training runs together, in the order given.

Arguments: tokens folder, then a JSON list of runs: {"out", "config", "mode", "stop_at", "die_in_save", "start",
"teacher", "strength"}. At its step `stop_at` the last rank sends itself SIGTERM; rank 0 kills itself while it writes
the head of the checkpoint of step `die_in_save`; `strength` selects the objective `Penalized`. `{"copy": [from, to]}`
in place of a run copies a folder. The result of every run goes, a line of JSON each, to the file `RANK.jsonl` beside
the first `out`.
"""

import json
import os
import shutil
import signal
import sys
from collections.abc import Iterator
from pathlib import Path

from penalized import Penalized
from torch import Tensor

from thinwire.data import Tokens
from thinwire.errors import UserError
from thinwire.progress import Report, silent
from thinwire.train import LanguageModeling, Monitoring, Sources, TrainConfig, checkpoint, train
from thinwire.train.ranks import Ranks, joined
from thinwire.train.step import State


def stopping(at: int) -> Report:
    """A report that sends this process SIGTERM at one step."""

    def report(done: int, total: int, status: str) -> None:
        if done == at:
            os.kill(os.getpid(), signal.SIGTERM)

    return report


def die_in_save(step: int) -> None:
    """Have this process kill itself when it comes to write the head of the checkpoint of a step."""
    head = checkpoint._wholes

    def dying(state: State) -> Iterator[tuple[str, Tensor]]:
        if state.step == step:
            os.kill(os.getpid(), signal.SIGKILL)
        return head(state)

    checkpoint._wholes = dying


def outcome(run: dict, tokens: Tokens, ranks: Ranks) -> str:
    """What came of a run, in a word or in the sentence of its error."""
    stop_at = run.get("stop_at", 0)
    report = stopping(stop_at) if stop_at and ranks.rank == ranks.world_size - 1 else silent
    config = TrainConfig.parse(json.dumps(run["config"]), "argv")
    if "die_in_save" in run and ranks.first:
        die_in_save(run["die_in_save"])
    objective = Penalized(strength=run["strength"]) if "strength" in run else LanguageModeling()
    sources = Sources(run.get("start"), run.get("teacher"), objective)
    placed = ranks.placed(run["mode"], "cpu", 0)
    try:
        result = train(config, tokens, run["out"], sources, Monitoring(report), ranks=placed)
    except UserError as error:
        return str(error)
    except KeyboardInterrupt:
        return "stopped"
    return f"finished {result.val_loss:.6f}"


def main() -> None:
    runs = json.loads(sys.argv[2])
    tokens = Tokens.open(Path(sys.argv[1]))
    folder = Path(next(run["out"] for run in runs if "out" in run)).parent
    with joined() as ranks, open(folder / f"{ranks.rank}.jsonl", "w", encoding="utf-8") as file:
        for run in runs:
            if "copy" in run:
                if ranks.first:
                    shutil.copytree(*run["copy"])
                ranks.wait()
            else:
                file.write(json.dumps([Path(run["out"]).name, outcome(run, tokens, ranks)]) + "\n")


if __name__ == "__main__":
    main()

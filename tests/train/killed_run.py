"""A process that trains until its own step `die_at`, and there sends itself SIGKILL.

Arguments: config (JSON), tokens folder, out folder, die_at, and optionally the strength of the `Penalized` objective.
"""

import os
import signal
import sys
from pathlib import Path

from penalized import Penalized

from thinwire.data import Tokens
from thinwire.train import LanguageModeling, Monitoring, Sources, TrainConfig, train


def main() -> None:
    config, tokens, out, die_at, *strength = sys.argv[1:]

    def report(done: int, total: int, status: str) -> None:
        if done == int(die_at):
            os.kill(os.getpid(), signal.SIGKILL)

    objective = Penalized(strength=float(strength[0])) if strength else LanguageModeling()
    opened = Tokens.open(Path(tokens))
    train(TrainConfig.parse(config, "argv"), opened, out, Sources(objective=objective), Monitoring(report))


if __name__ == "__main__":
    main()

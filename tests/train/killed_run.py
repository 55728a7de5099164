"""A process that trains until its own step `die_at`, and there sends itself SIGKILL.

Arguments: config (JSON), tokens folder, out folder, die_at.
"""

import os
import signal
import sys
from pathlib import Path

from thinwire.data import Tokens
from thinwire.train import TrainConfig, train


def main() -> None:
    config, tokens, out, die_at = sys.argv[1:]

    def report(done: int, total: int, status: str) -> None:
        if done == int(die_at):
            os.kill(os.getpid(), signal.SIGKILL)

    train(TrainConfig.parse(config, "argv"), Tokens.open(Path(tokens)), Path(out), report)


if __name__ == "__main__":
    main()

"""thinwire train: train a weight-sparse model, or its dense twin."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated

import tyro

from thinwire.cli.common import chosen_config, emit, parse, progress, take_option
from thinwire.errors import UserError
from thinwire.train.config import TrainConfig
from thinwire.train.presets import PRESETS


@dataclass(frozen=True)
class Args:
    """Train a model. The same command resumes an interrupted run and returns a finished one; Ctrl-C saves first.

    --preset tiny|tiny_dense|small|paper or --config FILE sets the defaults of the options below (tiny unless given);
    options on the command line win.
    """

    tokens: tyro.conf.Positional[Path]
    """Tokens artefact to train on."""
    out: Annotated[Path, tyro.conf.arg(aliases=["-o"])]
    """Folder of the model artefact, such as runs/mine/model."""
    config: Annotated[TrainConfig, tyro.conf.arg(name="")]
    device: str = "cpu"
    """Where to train: cpu, cuda, cuda:1."""
    json: bool = False
    """End stdout with one JSON object."""


def run(argv: Sequence[str]) -> None:
    """Run the verb."""
    rest = list(argv)
    preset = take_option(rest, "--preset")
    default, remaining = chosen_config(TrainConfig, rest, PRESETS[preset or "tiny"]())
    if preset and len(remaining) < len(rest):
        raise UserError("Give either --preset or --config, not both; options on the command line change either.")
    args = parse(Args, remaining, "train", Args(tyro.MISSING, tyro.MISSING, default))
    from thinwire.data import Tokens
    from thinwire.train.loop import train

    tokens = Tokens.open(args.tokens)
    with progress("training") as report:
        result = train(args.config, tokens, args.out, report, args.device)
    emit(asdict(result), args.json)

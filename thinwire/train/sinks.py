"""Where a run's numbers go besides metrics.jsonl: TensorBoard or Weights & Biases, packages of the extra `[track]`."""

import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from importlib import import_module
from pathlib import Path
from typing import Literal, Protocol, Self

from thinwire import artifact
from thinwire.config import Config
from thinwire.errors import UserError
from thinwire.files import read_text
from thinwire.registry import Registry

SinkName = Literal["tensorboard", "wandb"]


class Sink(Protocol):
    """Takes the numbers of one line of metrics.jsonl, flattened to paths such as `val_losses/idioms`."""

    @classmethod
    def open(cls, folder: Path, config: Config, step: int) -> Self:
        """A sink for the run in `folder`, resumed at `step`; values that were logged after that step are dropped."""
        ...

    def write(self, step: int, values: Mapping[str, float]) -> None:
        """Take the numbers of one line."""
        ...

    def close(self) -> None:
        """Write out what is buffered."""
        ...


SINKS: Registry[type[Sink]] = Registry("sink")
"""Sinks by name."""


@contextmanager
def open_sinks(names: Sequence[str], folder: Path, config: Config, step: int) -> Iterator[list[Sink]]:
    """The named sinks, closed when the block ends. Raises UserError for unknown names and missing packages."""
    with ExitStack() as stack:
        sinks = []
        for name in names:
            sink = SINKS[name].open(folder, config, step)
            stack.callback(sink.close)
            sinks.append(sink)
        yield sinks


def check_sinks(names: Sequence[str]) -> None:
    """Raise UserError, before a run is opened, when a sink is unknown or its package is missing."""
    for name in names:
        _ = SINKS[name]
        _package(name)


def _package(name: str):
    try:
        return import_module(name)
    except ImportError:
        raise UserError(f"The package {name} is not installed; run pip install 'thinwire[track]'.") from None


@SINKS.register("tensorboard")
class TensorBoard:
    """Event files in `tensorboard/` of the model's folder; show them with `tensorboard --logdir FOLDER`."""

    def __init__(self, folder: Path, step: int) -> None:
        _package("tensorboard")
        from torch.utils.tensorboard.writer import SummaryWriter

        # hides what was logged past `step` before a crash: the resumed run logs it again
        self._writer = SummaryWriter(str(folder / "tensorboard"), purge_step=step + 1 if step else None)

    @classmethod
    def open(cls, folder: Path, config: Config, step: int) -> Self:
        """A writer of one more event file."""
        sink = cls(folder, step)
        if step == 0:
            sink._writer.add_text("config", f"```json\n{config.to_json()}\n```", 0)
        return sink

    def write(self, step: int, values: Mapping[str, float]) -> None:
        """One scalar a number."""
        for name, value in values.items():
            self._writer.add_scalar(name, value, step)

    def close(self) -> None:
        """Write out what is buffered."""
        self._writer.close()


@SINKS.register("wandb")
class WeightsAndBiases:
    """A run of the W&B project `thinwire`; its id is stored in the model's folder, so that a resumed run stays one run.

    W&B ignores steps before its latest, so lines that a resumed run writes again change nothing.
    """

    ID = "wandb-id"
    """File that holds the run's id."""

    def __init__(self, folder: Path, config: Config) -> None:
        wandb = _package("wandb")
        path = folder / self.ID
        if not path.exists():
            artifact.write_text(path, uuid.uuid4().hex[:16])
        try:
            self._run = wandb.init(
                project="thinwire",
                id=read_text(path),
                name=f"{folder.absolute().parent.name}/{folder.name}",
                dir=str(folder),
                config=config.model_dump(mode="json"),
                resume="allow",
            )
        except wandb.Error as error:
            reason = " ".join(str(error).split()).rstrip(".")
            raise UserError(
                f"W&B cannot start a run ({reason}); run wandb login, or leave out --track wandb."
            ) from None

    @classmethod
    def open(cls, folder: Path, config: Config, step: int) -> Self:
        """Begin or go on with the run."""
        return cls(folder, config)

    def write(self, step: int, values: Mapping[str, float]) -> None:
        """One history row; lines of the same step join."""
        self._run.log(dict(values), step=step)

    def close(self) -> None:
        """Upload what is buffered."""
        self._run.finish()

"""Dispatch to a verb, and turn every error into one sentence and an exit code.

Exit codes: 0 done, 2 bad usage or bad input, 1 failure or interruption.
"""

import errno
import logging
import os
import re
import sys
from difflib import get_close_matches
from importlib import import_module

from pydantic import ValidationError
from safetensors import SafetensorError

from thinwire.config import explain
from thinwire.errors import UserError
from thinwire.interrupt import as_interrupt

VERBS = {
    "quickstart": "prune three tasks of the shipped model, check them, write a page",
    "data": "gather a corpus, train a tokenizer, write token shards",
    "train": "train a weight-sparse model, or its dense twin",
    "plan": "estimate the memory, arithmetic, speed and hours of a training run",
    "tasks": "list the tasks, show example pairs, score a model on them",
    "prune": "find the smallest circuit of a task in a model",
    "verify": "run the faithfulness checks on a circuit",
    "generate": "sample text from a model, or from a circuit alone",
    "view": "write circuits, or the report of a training run, as an HTML page",
    "info": "describe an artefact folder, or list the shipped models",
    "doctor": "check the installation and this machine",
}

NO_MEMORY = re.compile("can't allocate memory|not enough memory|out of memory")
"""What torch writes in errors that mean so, on CPUs and GPUs."""


def main(argv: list[str] | None = None) -> None:
    """Run the command line and exit with its code."""
    # Python sets them to None where they were closed before it started, as with >&-
    sys.stdout = sys.stdout or open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115
    sys.stderr = sys.stderr or open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115
    notes = logging.getLogger("thinwire")
    notes.addHandler(_Notes())
    notes.setLevel(logging.INFO)
    sys.exit(run(sys.argv[1:] if argv is None else argv))


class _Notes(logging.Handler):
    """Writes each log record of the library as a line on the current stderr."""

    def emit(self, record: logging.LogRecord) -> None:
        sys.stderr.write(record.getMessage() + "\n")
        sys.stderr.flush()


def run(argv: list[str]) -> int:
    """Run the command line; returns the exit code. Nothing that a user can cause leaves it as an exception."""
    if not argv or argv[0] in ("-h", "--help", "help"):
        sys.stdout.write(overview())
        return 0 if argv else 2
    if argv[0] == "--version":
        from thinwire.artifact import version

        sys.stdout.write(f"thinwire {version()}\n")
        return 0
    verb, rest = argv[0], argv[1:]
    if verb not in VERBS:
        close = get_close_matches(verb, VERBS, n=1)
        return complain(
            f"There is no verb '{verb}'; " + (f"did you mean {close[0]}?" if close else "see thinwire --help.")
        )
    try:
        with as_interrupt():
            import_module(f"thinwire.cli.{verb}").run(rest)
            sys.stdout.flush()
    except SystemExit as stop:
        return stop.code if isinstance(stop.code, int) else 0
    except UserError as error:
        return complain(str(error))
    except ValidationError as error:
        return complain(f"{error.title}: {explain(error)}.")
    except KeyboardInterrupt as stopped:
        complain(str(stopped) or "Interrupted; finished artefacts are intact, and the same command continues.")
        return 1
    except BrokenPipeError:
        os.dup2(
            os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno()
        )  # the reader of stdout has gone: write nothing more
        return 1
    except SafetensorError as error:
        complain(f"A file of weights could not be written: {error}; finished artefacts are intact.")
        return 1
    except OSError as error:
        if error.errno == errno.ENAMETOOLONG:
            return complain(f"{error.filename}: this path is too long; choose a shorter one.")
        complain(f"{error.filename or 'The system'}: {error.strerror or error}; finished artefacts are intact.")
        return 1
    except (MemoryError, RuntimeError) as error:
        if isinstance(error, RuntimeError) and not NO_MEMORY.search(str(error)):
            raise
        complain("There is not enough memory for this; finished artefacts are intact, so run it with smaller sizes.")
        return 1
    return 0


def complain(sentence: str) -> int:
    """Print what is wrong in one line on stderr; returns the exit code for bad input."""
    from thinwire.cli.common import visible

    sys.stderr.write(f"thinwire: {visible(sentence)}\n")
    return 2


def overview() -> str:
    """The text of `thinwire --help`."""
    width = max(map(len, VERBS))
    verbs = "\n".join(f"  {verb:<{width}}  {summary}" for verb, summary in VERBS.items())
    return (
        "usage: thinwire VERB [OPTIONS]\n\n"
        "Train weight-sparse transformers, prune and check their circuits, and show them.\n\n"
        f"{verbs}\n\n"
        "thinwire VERB --help lists a verb's options. Progress goes to stderr, results to\n"
        "stdout; with --json the last line of stdout is one JSON object.\n"
    )

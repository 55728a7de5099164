"""Dispatch to a verb, and turn every error into one sentence and an exit code.

Exit codes: 0 done, 2 bad usage or bad input, 1 failure or interruption. THINWIRE_TRACEBACK=1 shows tracebacks.
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

from thinwire.artifact.place import unwritable
from thinwire.cli.terminal import bound_size, give_up_stdout, prepare_streams
from thinwire.config import explain
from thinwire.display import visible
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
    "bridge": "fit maps between a dense and a sparse model",
    "steer": "steer a dense model through a circuit of the sparse one",
    "transfer": "test circuits of the sparse model in the dense one",
    "generate": "sample text from a model, or from a circuit alone",
    "monitor": "read sparse nodes from a dense model through a bridge",
    "view": "write circuits, or the report of a training run, as an HTML page",
    "info": "describe an artefact folder, or list the shipped models",
    "doctor": "check the installation and this machine",
}

NO_MEMORY = re.compile("can't allocate memory|not enough memory|out of memory")
"""What torch writes in errors that mean so, on CPUs and GPUs."""

TRACEBACK = "THINWIRE_TRACEBACK"
"""Environment variable that asks for the traceback of an unexpected error."""
LONGEST = 1200
"""Characters of a sentence that are printed: paths and foreign texts in it have no bound."""


def main(argv: list[str] | None = None) -> None:
    """Run the command line and exit with its code."""
    try:
        prepare_streams()
    except OSError as error:
        complain(f"{error}, so results would be lost; redirect it to a file, or to {os.devnull}.")
        sys.exit(1)
    notes = logging.getLogger("thinwire")
    notes.addHandler(_Notes())
    notes.setLevel(logging.INFO)
    code = run(sys.argv[1:] if argv is None else argv)
    try:
        sys.stdout.flush()
    except OSError as error:
        code = code or _report(error)
        give_up_stdout()
    sys.exit(code)


class _Notes(logging.Handler):
    """Writes each log record of the library as a line on the current stderr."""

    def emit(self, record: logging.LogRecord) -> None:
        sys.stderr.write(visible(record.getMessage()) + "\n")
        sys.stderr.flush()


def run(argv: list[str]) -> int:
    """Run the command line; returns the exit code. Nothing that a user can cause leaves it as an exception."""
    try:
        return _dispatch(argv)
    except SystemExit as stop:
        if isinstance(stop.code, int | None):
            return stop.code or 0
        complain(str(stop.code))
        return 1
    except BaseException as error:
        return _report(error)


def _dispatch(argv: list[str]) -> int:
    """Run what the words ask for; returns the exit code."""
    bound_size()
    try:
        os.getcwd()
    except OSError:
        raise UserError("The current folder no longer exists; change to another one.") from None
    for word in argv:
        if word != word.encode("utf-8", "replace").decode():
            raise UserError(f"'{word}' is not UTF-8 text; rename what it names, or give other text.")
    if not argv or argv[0] in ("-h", "--help", "help"):
        sys.stdout.write(overview())
        sys.stdout.flush()
        return 0 if argv else 2
    if argv[0] == "--version":
        from thinwire.artifact import version

        sys.stdout.write(f"thinwire {version()}\n")
        sys.stdout.flush()
        return 0
    verb, rest = argv[0], argv[1:]
    if verb not in VERBS:
        close = get_close_matches(verb, VERBS, n=1)
        raise UserError(
            f"There is no verb '{verb}'; " + (f"did you mean {close[0]}?" if close else "see thinwire --help.")
        )
    with as_interrupt():
        import_module(f"thinwire.cli.{verb}").run(rest)
        sys.stdout.flush()
    return 0


def _report(error: BaseException) -> int:
    """Say on stderr, in one sentence, why the run ended; returns the exit code."""
    if isinstance(error, KeyboardInterrupt):
        complain(str(error) or "Interrupted; finished artefacts are intact, and the same command continues.")
        return 1
    if isinstance(error, UserError):
        return complain(str(error))
    if isinstance(error, ValidationError):
        return complain(f"{error.title}: {explain(error)}.")
    if isinstance(error, BrokenPipeError):
        give_up_stdout()  # its reader has gone
        return 1
    if isinstance(error, OSError) and error.errno == errno.ENAMETOOLONG:
        return complain(str(unwritable(error.filename, error, "path")))
    if isinstance(error, SafetensorError):
        complain(f"A file of weights could not be written: {error}; finished artefacts are intact.")
    elif isinstance(error, OSError):
        complain(f"{error.filename or 'The system'}: {error.strerror or error}; finished artefacts are intact.")
    elif isinstance(error, MemoryError) or (isinstance(error, RuntimeError) and NO_MEMORY.search(str(error))):
        complain("There is not enough memory for this; finished artefacts are intact, so run it with smaller sizes.")
    else:
        _unexpected(error)
    return 1


def _unexpected(error: BaseException) -> None:
    """Print the sentence for a fault of the program; with THINWIRE_TRACEBACK set, its traceback before."""
    shown = bool(os.environ.get(TRACEBACK))
    if shown:
        import traceback

        for line in "".join(traceback.format_exception(error)).splitlines():
            sys.stderr.write(visible(line) + "\n")
    what = " ".join(str(error).split())
    hint = "please report it" if shown else f"set {TRACEBACK}=1 to see where"
    complain(f"This is a fault in thinwire: {type(error).__name__}{f' ({what})' if what else ''}; {hint}.")


def complain(sentence: str) -> int:
    """Print what is wrong in one line on stderr; returns the exit code for bad input."""
    shown = visible(sentence)
    if len(shown) > LONGEST:
        shown = f"{shown[: LONGEST // 2]} … {shown[-LONGEST // 2 :]}"
    sys.stderr.write(f"thinwire: {shown}\n")
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
